# Every target sets up what it needs; a second call does not install again. `make help` lists the targets.
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
FORKS  ?= .venv-forks
JOBS   ?= 2
PYTHON ?=
export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-forks nightly lint format bench data chromium clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) data ## compare ways of learning five tasks in a row (about 5 minutes), with a report
	@$(BIN)/mtpeft demo

test: lint data chromium ## lint, types, and every test that is not slow
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(JOBS)

test-forks: $(FORKS)/.installed data chromium ## the tests that are not slow, with the maintained forks of the OpenMMLab packages
	@OMP_NUM_THREADS=1 $(FORKS)/bin/python -m pytest -m "not slow" -n $(JOBS)

nightly: lint data chromium ## lint, types, and all tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

lint: $(STAMP) ## ruff (rules and format), mypy, and the layers of the package
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache >$(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }

format: $(STAMP) ## put the sources into ruff's format
	@$(BIN)/ruff check -q --fix .
	@$(BIN)/ruff format -q .

bench: $(STAMP) data ## speed and memory, as ratios; one file of benchmarks/ after the other
	@for file in $(filter-out benchmarks/methods.py benchmarks/learned.py,$(wildcard benchmarks/[a-z]*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

data: ## the Fashion-MNIST files in data/
	@tools/setup_system.sh data

chromium: ## the browser for the tests of the report
	@tools/setup_system.sh chromium

clean: ## remove the virtual environments, caches and build products; data/ and runs/ stay
	@rm -rf $(VENV) $(FORKS) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.py constraints.txt
	@tools/setup_system.sh python
	@echo "setting up $(VENV), a few minutes the first time ..."
	@$(BIN)/python -c "" 2>/dev/null || "$$(tools/find_python.sh)" -m venv --clear $(VENV)
	@$(BIN)/pip install -qq -c constraints.txt -e '.[dev,sim,bench,dense,mtl,video,export,hf,log,ray]'
	@touch $@

$(FORKS)/.installed: setup.py constraints.txt constraints-forks.txt tools/fork_requirements.py
	@tools/setup_system.sh python
	@echo "setting up $(FORKS), a few minutes the first time ..."
	@$(FORKS)/bin/python -c "" 2>/dev/null || "$$(tools/find_python.sh)" -m venv --clear $(FORKS)
	@$(FORKS)/bin/python tools/fork_requirements.py $(FORKS)
	@$(FORKS)/bin/pip install -qq -c $(FORKS)/constraints.txt -r $(FORKS)/requirements.txt
	@$(FORKS)/bin/pip install -qq --no-deps -r $(FORKS)/alone.txt -e .
	@touch $@

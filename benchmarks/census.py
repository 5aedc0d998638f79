"""Which timm models take which methods: attach, forward and backward on a fixed draw over all families.

    python benchmarks/census.py --count 30                 # a small sample
    python benchmarks/census.py                            # the 300 of the table in CENSUS.md
    python benchmarks/census.py --models samvit_base_patch16 nest_tiny --methods lora vqt

Every (model, method) ends as `works` (the forward is finite and of the right shape, and `backward` gives every weight of the
method a gradient), `refused` (a one-line `ConfigError` at attach that names the method, the backbone as before) or `raw`
(anything else). Weights are random. A model runs in a process of its own with a limit on memory and CPU time, at the smallest
of `SIZES` it takes, else at its own size. Results are JSON lines, one a model; a run that was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import model_entrypoint

import mtpeft
from mtpeft.backbones.fingerprint import fingerprint
from mtpeft.errors import ConfigError

METHODS = ("lora", "adaptformer", "vpt_deep", "ssf", "prefix_tuning")
SIZES = (64, 96, 128)
#: bytes of address space and seconds of CPU time that one model may take; a busy machine does not lengthen them
MEMORY, SECONDS = 16 * 2**30, 300
CLASSES = 3


def family(name: str) -> str:
    """The timm module that defines a model."""
    return model_entrypoint(name).__module__.rsplit(".", 1)[-1]


def drawn(seed: int) -> Iterator[str]:
    """All timm names in a fixed order that goes round the families, each family's members shuffled."""
    generator = random.Random(seed)
    families: dict[str, list[str]] = defaultdict(list)
    for name in sorted(timm.list_models()):
        families[family(name)].append(name)
    for members in families.values():
        generator.shuffle(members)
    while families:
        for key in sorted(families):
            yield families[key].pop()
            if not families[key]:
                del families[key]


def weights_of(name: str) -> int:
    """Number of weights, without memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())


def created(name: str) -> tuple[Any, tuple[int, int, int]]:
    """The model at the smallest input it takes, and that input (channels, height, width)."""
    for size in SIZES:
        try:
            model: Any = timm.create_model(name, num_classes=0, img_size=size).eval()
            with torch.no_grad():
                model(torch.zeros(2, 3, size, size))
        except Exception:  # whatever a model says to a size it does not take
            continue
        return model, (3, size, size)
    model = timm.create_model(name, num_classes=0).eval()
    return model, model.default_cfg["input_size"]


def try_method(model: Any, method: str, size: tuple[int, int, int]) -> tuple[str, str]:
    """`works`, `refused` or `raw`, and what there is to say."""
    before = fingerprint(model), _hooked(model)
    try:
        manager = mtpeft.attach(model, method)
    except ConfigError as error:
        message = str(error)
        if "\n" in message or method not in message:
            return "raw", f"a refusal that is not one line or does not name the method: {message!r}"
        changed = (fingerprint(model), _hooked(model)) != before
        return ("raw", f"refused and left a trace: {message}") if changed else ("refused", message)
    except Exception as error:
        return "raw", f"attach: {type(error).__name__}: {error}"
    try:
        return _train(manager, size)
    except Exception as error:
        return "raw", f"{type(error).__name__}: {error}"
    finally:
        manager.detach()


def _hooked(model: Any) -> list[str]:
    """Modules with hooks or a forward of their own; some models come with such."""
    return [
        path for path, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m)
    ]


def _train(manager: Any, size: tuple[int, int, int]) -> tuple[str, str]:
    manager.add_task("probe", num_classes=CLASSES)
    manager.train()
    output = manager(torch.randn(2, *size), "probe")
    if tuple(output.shape) != (2, CLASSES) or not output.isfinite().all():
        return "raw", f"output of shape {tuple(output.shape)}, finite: {bool(output.isfinite().all())}"
    output.square().sum().backward()
    lost = [name for name, p in manager.trainable_parameters("probe") if p.grad is None or not p.grad.isfinite().all()]
    return ("raw", f"no finite gradient for {lost[:3]}") if lost else ("works", "")


def _examine(name: str, methods: list[str], most: int, queue: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    torch.manual_seed(0)
    start = time.monotonic()
    try:
        weights = weights_of(name)
        if weights > most:
            queue.put({"model": name, "family": family(name), "weights": weights, "skipped": "too large"})
            return
        model, size = created(name)
        results = {method: try_method(model, method, size) for method in methods}
    except Exception as error:
        queue.put({"model": name, "family": family(name), "skipped": f"{type(error).__name__}: {error}"})
        return
    seconds = round(time.monotonic() - start, 1)
    row = {"model": name, "family": family(name), "class": type(model).__name__, "weights": weights, "size": size}
    queue.put({**row, "seconds": seconds, "results": results})


def examine(name: str, methods: list[str], most: int) -> dict[str, Any]:
    """One model in a process of its own."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_examine, args=(name, methods, most, queue))
    process.start()
    process.join()
    if queue.empty():
        return {"model": name, "family": family(name), "skipped": f"the process ended with {process.exitcode}"}
    row: dict[str, Any] = queue.get()
    return row


def table(rows: list[dict[str, Any]], methods: list[str]) -> str:
    """Families by methods in markdown: how many members work / are refused / raise something else."""
    rows = [row for row in rows if "results" in row]
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        for method in methods:
            for key in (row["family"], "all"):
                counts[key][method][row["results"][method][0]] += 1
    lines = [f"| family | models | {' | '.join(methods)} |", "|---|---|" + "---|" * len(methods)]
    for key in [*sorted(k for k in counts if k != "all"), "all"]:
        cells = []
        for method in methods:
            found = counts[key][method]
            cells.append(f"{found['works']} / {found['refused']} / {found['raw']}")
        lines.append(f"| {key} | {sum(counts[key][methods[0]].values())} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Draw, examine, write; print the table and every error that is no refusal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="models in the sample (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--models", nargs="+", help="these models in place of a draw")
    parser.add_argument("--most-weights", type=int, default=100_000_000, help="larger models are passed over")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/census.jsonl"))
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    rows = {row["model"]: row for row in done}
    sample: list[dict[str, Any]] = []
    for name in options.models or drawn(options.seed):
        if len(sample) == options.count:
            break
        if name not in rows:
            rows[name] = examine(name, options.methods, options.most_weights)
            with options.out.open("a") as file:
                file.write(json.dumps(rows[name]) + "\n")
        row = rows[name]
        if "results" in row:
            sample.append(row)
        short = row.get("skipped") or " ".join(row["results"][m][0] for m in options.methods)
        print(f"{len(sample):4d} {name}: {short}", flush=True)
    for row in sample:
        for method, (result, detail) in row["results"].items():
            if result == "raw":
                print(f"RAW {row['model']} {method}: {detail}")
    print(table(sample, options.methods))
    if options.markdown is not None:
        options.markdown.write_text(table(sample, options.methods) + "\n")


if __name__ == "__main__":
    main()

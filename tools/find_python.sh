#!/bin/sh
# Prints the Python that makes the virtual environment: $PYTHON if set, else python3.11 (which constraints.txt was
# resolved for), else any other supported one. It must start, be 3.10 to 3.13, and be able to make environments.
set -eu
for python in ${PYTHON:-python3.11 python3 python3.12 python3.10 python3.13}; do
    if "$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
        command -v "$python"
        exit 0
    fi
done
echo "error: found no Python 3.10 to 3.13 with venv; install one, or name it: make PYTHON=/path/to/python3.11" >&2
exit 1

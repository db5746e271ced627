#!/usr/bin/env bash
# Set up huref with what its tests need, then lint, type-check and test. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh dev

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
# Two processes of one thread each: two cores are what CI has.
OMP_NUM_THREADS=1 "$python" -m pytest -n 2 "$@"

#!/usr/bin/env bash
# Install huref with the packages that its tests need, then lint, check types and run the tests, but
# for those marked "slow", which .ci/run runs in a step of its own.
# Arguments are passed to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh dev

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
# Two processes of one thread each, since CI has two cores.
OMP_NUM_THREADS=1 "$python" -m pytest -n 2 "$@"

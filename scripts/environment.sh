# Sourced by demo.sh and test.sh: creates .venv in the root of the repository where there is none, and
# installs huref and its dependencies into it.
# Usage: . scripts/environment.sh [EXTRA]     sets $python

python=.venv/bin/python
cpu_index=${HUREF_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

# The torch that pip finds on Linux brings 3 GB of CUDA. Where there is no NVIDIA GPU and PyTorch's own
# index answers, its CPU build is installed first; elsewhere pip takes what it finds.
install_cpu_torch() {
    if [ "$(uname -sm)" != "Linux x86_64" ] || command -v nvidia-smi > /dev/null; then
        return
    fi
    "$python" - "$cpu_index" <<'PYTHON' || return 0
import sys
from importlib.util import find_spec
from urllib.request import urlopen

try:
    answers = find_spec("torch") is None and urlopen(f"{sys.argv[1]}/torch/", timeout=5).status == 200
except OSError:
    answers = False
sys.exit(not answers)
PYTHON
    echo "installing torch for CPUs into .venv ..." >&2
    "$python" -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --index-url "$cpu_index" torch || true
}

if [ ! -x "$python" ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "huref needs Python 3.11 or newer as python3" >&2
        exit 1
    }
    python3 -m venv .venv
fi
install_cpu_torch
echo "installing huref${1:+[$1]} into .venv ..." >&2
"$python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".${1:+[$1]}"

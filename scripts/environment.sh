# Sourced by demo.sh and test.sh: creates .venv in the root of the repository where there is none, and
# installs huref and its dependencies into it.
# Usage: . scripts/environment.sh [EXTRA]     sets $python

python=.venv/bin/python
if [ ! -x "$python" ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "huref needs Python 3.11 or newer as python3" >&2
        exit 1
    }
    python3 -m venv .venv
fi
echo "installing huref${1:+[$1]} into .venv ..." >&2
"$python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".${1:+[$1]}"

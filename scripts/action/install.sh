#!/usr/bin/env bash
# A step of action.yml: installs huref from SOURCE into an environment at PLACE, with a torch for CPUs.
# Usage: scripts/action/install.sh SOURCE PLACE
set -euo pipefail
source=$1 place=$2
python3 -m venv "$place"
pip=("$place/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" --index-url https://download.pytorch.org/whl/cpu torch || true
"${pip[@]}" "$source"

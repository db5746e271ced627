#!/usr/bin/env bash
# Starts transformers' own OpenAI-compatible server over a model's folder, on the loopback address,
# for tests/test_blackbox_server.py. Its packages go into an environment of their own.
#
#     scripts/start_probe_server.sh FOLDER [PORT] [ENVIRONMENT]
#     HUREF_PROBE_URL=http://127.0.0.1:8123/v1 HUREF_PROBE_MODEL=FOLDER pytest tests/test_blackbox_server.py
set -euo pipefail
folder=$(cd "$1" && pwd)
port=${2:-8123}
environment=${3:-${TMPDIR:-/tmp}/huref-probe-server}
here=$(cd "$(dirname "$0")/.." && pwd)

if [ ! -x "$environment/bin/transformers" ]; then
    python -m venv --system-site-packages "$environment"
    "$environment/bin/pip" install --quiet -c "$here/constraints.txt" "transformers[serving]"
fi
echo "serving $folder at http://127.0.0.1:$port/v1" >&2
HF_HUB_OFFLINE=1 exec "$environment/bin/transformers" serve \
    --host 127.0.0.1 --port "$port" --device cpu --dtype float32 "$folder"

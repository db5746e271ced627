#!/usr/bin/env bash
# Set up huref and show what it is for: the pictures of three language models from the zoo, a contact
# sheet, and the table of their similarities. Writes into demo/.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

mkdir -p demo
zoo=checkpoints/zoo
models=(llama-a llama-a-finetune llama-b)
for model in "${models[@]}"; do
    .venv/bin/huref fingerprint "$zoo/$model" -o "demo/$model.png"
    echo
done
.venv/bin/huref compare "${models[@]/#/$zoo/}" -o demo/sheet.png

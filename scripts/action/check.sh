#!/usr/bin/env bash
# A step of action.yml: checks $MODELS, one a line, and shows the result on GitHub.
# Also reads $ACTION (this repository), $PLACE (an environment with huref), $BASES, $UNREACHABLE and what GitHub sets:
# $GITHUB_OUTPUT, $GITHUB_STEP_SUMMARY, $RUNNER_TEMP.
set -uo pipefail
report=${RUNNER_TEMP:-/tmp}/huref-check.jsonl
bases=()
while IFS= read -r base; do
    [ -z "$base" ] || bases+=(--base "$base")
done <<< "${BASES:-}"
"$PLACE/bin/huref" check - --jsonl ${bases[@]+"${bases[@]}"} <<< "$MODELS" > "$report"
code=$?
echo "report=$report" >> "$GITHUB_OUTPUT"
PYTHONPATH=$ACTION "$PLACE/bin/python" -m scripts.action annotate "$report" || exit 1
if [ "$code" = 1 ] && [ "${UNREACHABLE:-fail}" = warn ]; then
    exit 0
fi
exit "$code"

"""Lists the causal language models of the installed transformers, with reasons for refusals.

    python -m scripts.evaluate architectures [--markdown]

Every class of transformers' auto mapping and every other `*ForCausalLM` is listed once by its
model_type: read, or refused with a reason. The share refers to decoder-only models with softmax
attention. Encoders, decoders of encoder-decoders and models without softmax attention are listed
separately and not counted.
"""

from collections import defaultdict

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from huref.architecture.layout_files import load_layouts
from scripts import make_parser

# Models that are not decoder-only with softmax attention.
OUT_OF_SCOPE = {
    "encoder, used as a decoder": """bert bert-generation big_bird camembert data2vec-text electra
        ernie megatron-bert rembert roberta roberta-prelayernorm roc_bert roformer xlm xlm-roberta
        xlm-roberta-xl xmod git""",
    "decoder of an encoder-decoder": """bart bigbird_pegasus blenderbot blenderbot-small marian
        mbart mvp pegasus plbart prophetnet trocr whisper musicgen musicgen_melody
        csm_depth_decoder_model clvp_decoder kosmos_2_text_model kosmos_2_5_text_model""",
    "no softmax attention": """mamba mamba2 falcon_mamba rwkv xlstm reformer xlnet""",
    "another name or a wrapper of a listed model": """fuyu gemma3 gemma3n gemma4
        gemma4_unified
        got_ocr2 moss_transcribe_diarize mllama llama4 emu3 qwen3_5 qwen3_5_moe dots3_note
        inkling_mm_model qwen4_exp minimax_m3_vl gpt-sw3""",
}
_DRAFTER = "drafts for another model and reads its keys and values; it has none of its own"
REASONS = {
    "blt": "reads bytes through three models; there is no vocabulary for anchors",
    "gemma4_assistant": _DRAFTER,
    "gemma4_unified_assistant": _DRAFTER,
    "inkling2_text": "convolutions whose weights are computed from the token, and clipped queries",
    "zaya": "convolutions across queries and keys, half of each value from the token before",
}


HEADING = """# Architectures

Of the decoder-only language models with softmax attention in transformers {version}, huref reads
**{share}**, each by a layout file in `huref/architecture/layouts/`. Each layout is tested:
`tests/architecture/test_architecture.py` makes a tiny random model (with random gains), saves it as
transformers does, and compares the terms qk, vo and ffn of our block with those that the real
module computes on embeddings, to 1e-6 in float64 (up to a constant factor, where a model multiplies
the output of attention or of the feed-forward network by a constant). Families whose code is not in
transformers (Baichuan, ChatGLM 2 and 3, InternLM 1 and 2, Qwen 1, EXAONE 3, MiniCPM, DeepSeek 1,
Falcon's first files) are compared with a reimplementation of their layer in
`tests/support/remote_cases.py`, which is weaker evidence.

A model of an unknown `model_type` is read by the layout that its tensors fit; stderr names that
layout. If none fits, or several fit and differ in their result, the model is refused. Every case of
the table is also tested under an unknown type: its own layout must be found, or it must be refused.

To add a family, add a file to `huref/architecture/layouts/` (the keys are explained in
`huref/architecture/layout.py`) and a line to `tests/support/architecture_cases.py`.

The terms do not include what is no product of embeddings and weights: biases, positions of every
kind, softmax and activations (also clamps and the "+ 1" of gpt-oss), output gates of attention and
gates of shared experts (taken as open), routers (all experts have equal weight), indexers that
select positions for attention, compressed keys of DeepSeek V4, AltUp, LAuReL and per-layer
embeddings of Gemma 3n and 4, prompts of CPM-Ant, adapters of Phi-4-multimodal, and the coefficients
by which hyper-connections mix several streams (the streams' common space is read). Blocks that
reuse an earlier block's keys are skipped, and so are blocks of hybrids without softmax attention.
In Zamba, whose feed-forward network reads attention's output alone, `vo` includes up and down, and
`ffn` starts from attention's values.

`python -m scripts.evaluate architectures --markdown` prints this page.
"""


def model_types() -> dict[str, str]:
    """model_type -> class name of every causal language model in transformers."""
    found: dict[str, str] = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    beside = {name for name in dir(transformers) if name.endswith("ForCausalLM")}
    for name in sorted(beside - set(found.values())):
        config_class = getattr(getattr(transformers, name), "config_class", None)
        found.setdefault(getattr(config_class, "model_type", ""), name)
    return {k: v for k, v in sorted(found.items()) if k}


def sort_out() -> dict[str, list[str]]:
    """One line per model type, grouped by "read", "refused" or the reason for no count."""
    layouts = {t: layout.name for layout in load_layouts() for t in layout.model_types}
    apart = {t: kind for kind, types in OUT_OF_SCOPE.items() for t in types.split()}
    groups: dict[str, list[str]] = defaultdict(list)
    for model_type, name in model_types().items():
        if model_type in layouts:
            groups["read"].append(f"{model_type} ({name}) by {layouts[model_type]}.yaml")
        elif model_type in apart:
            groups[apart[model_type]].append(f"{model_type} ({name})")
        else:
            reason = REASONS.get(model_type, "no layout yet")
            groups["refused"].append(f"{model_type} ({name}): {reason}")
    return dict(sorted(groups.items()))


def main() -> None:
    """Print the lists and the share."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--markdown", action="store_true", help="print docs/measured/architectures.md"
    )
    markdown = parser.parse_args().markdown
    groups = sort_out()
    read, refused = len(groups["read"]), len(groups["refused"])
    share = f"{read} of {read + refused} ({100 * read / (read + refused):.1f} %)"
    if markdown:
        print(HEADING.format(share=share, version=transformers.__version__))
    for group, lines in groups.items():
        print(f"## {group} ({len(lines)})\n" if markdown else f"\n{group}: {len(lines)}")
        print("\n".join(f"- {line}" if markdown else f"  {line}" for line in lines))
        if markdown:
            print()
    if not markdown:
        print(f"\n{share}")

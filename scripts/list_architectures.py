"""Prints which causal language models of the installed transformers huref reads, and why not.

    python scripts/list_architectures.py [--markdown]

Every class of transformers' auto mapping and every `*ForCausalLM` beside it is listed once, by its
config's model_type: read, or refused with a reason. The share is of decoder-only models with
softmax attention; decoders of encoder-decoders, encoders, and models without softmax attention
are listed apart and do not count.
"""

import argparse
from collections import defaultdict

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from huref.architecture.layout_files import load_layouts

# What is no decoder-only model with softmax attention.
OUT_OF_SCOPE = {
    "encoder, used as a decoder": """bert bert-generation big_bird camembert data2vec-text electra
        ernie megatron-bert rembert roberta roberta-prelayernorm roc_bert roformer xlm xlm-roberta
        xlm-roberta-xl xmod git""",
    "decoder of an encoder-decoder": """bart bigbird_pegasus blenderbot blenderbot-small marian
        mbart mvp pegasus plbart prophetnet trocr whisper musicgen musicgen_melody
        csm_depth_decoder_model clvp_decoder kosmos_2_text_model kosmos_2_5_text_model""",
    "no softmax attention": """mamba mamba2 falcon_mamba rwkv xlstm reformer xlnet""",
    "another name or a wrapper of a model listed by itself": """fuyu gemma3 gemma3n gemma4
        gemma4_unified
        got_ocr2 moss_transcribe_diarize mllama llama4 emu3 qwen3_5 qwen3_5_moe dots3_note
        inkling_mm_model qwen4_exp minimax_m3_vl gpt-sw3""",
}
REASONS = {
    "blt": "reads bytes through three models, there is no vocabulary to take anchors from",
    "deepseek_v4": "hyper-connections: the residual stream is several streams, mixed by weights",
    "hy_v4": "hyper-connections: the residual stream is several streams, mixed by weights",
    "inkling_text": "convolutions over positions on keys, values and on what the halves write",
    "inkling2_text": "convolutions over positions on keys, values and on what the halves write",
    "hrm_text": "two stacks that take turns on one stream: blocks have no single order",
    "longcat_flash": "two attentions and two networks in a layer, with experts beside both",
    "jetmoe": "mixture of attention heads",
    "zamba": "shared attention that reads the embedding beside the stream",
    "zamba2": "shared attention that reads the embedding beside the stream, with adapters",
    "gemma3n_text": "several predicted streams and a low-rank path beside each block",
    "cpmant": "prompt tokens before every text; a layout was written but not proven",
    "axk2": "norms with a gate of their own, computed from what they read",
    "phi4_multimodal": "adapters inside every linear map",
}


def model_types() -> dict[str, str]:
    """model_type -> class name, of everything that transformers calls a causal language model."""
    found: dict[str, str] = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    beside = {name for name in dir(transformers) if name.endswith("ForCausalLM")}
    for name in sorted(beside - set(found.values())):
        config_class = getattr(getattr(transformers, name), "config_class", None)
        found.setdefault(getattr(config_class, "model_type", ""), name)
    return {k: v for k, v in sorted(found.items()) if k}


def main() -> None:
    """Print the lists and the share."""
    argparse.ArgumentParser(description=__doc__).parse_args()
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
    for group, lines in sorted(groups.items()):
        print(f"\n{group}: {len(lines)}")
        print("\n".join(f"  {line}" for line in lines))
    read, refused = len(groups["read"]), len(groups["refused"])
    print(f"\n{read} of {read + refused} ({100 * read / (read + refused):.0f} %)")


if __name__ == "__main__":
    main()

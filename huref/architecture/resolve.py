"""Makes the resolved block: looks up what a layout names in one model's tensors and config."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from huref.architecture.block_tensors import BlockTensors, two_tensors
from huref.architecture.config_values import config_ints, look_up
from huref.architecture.head_counts import count_heads, count_latent_heads
from huref.architecture.layout import AttentionForm, Experts, Layout, Names, NetworkForm, NormForm
from huref.architecture.resolved import (
    ResolvedAttention,
    ResolvedBlock,
    ResolvedExperts,
    ResolvedHeadNorms,
    ResolvedLatent,
    ResolvedNetwork,
    ResolvedNorms,
    Roles,
    Stored,
)
from huref.errors import CheckpointError
from huref.loader.checkpoint import Checkpoint


def missing_tensor(name: str) -> CheckpointError:
    """The error for a tensor that a block needs and the weights lack."""
    return CheckpointError(
        f"there is no tensor '{name}' in the weights",
        advice="check that no file is missing and that config.json is the model's own",
    )


def resolve_block(
    layout: Layout,
    tensors: BlockTensors,
    index: int,
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
) -> ResolvedBlock:
    """One block of one model.

    Args:
        layout: the model's layout.
        tensors: the block's tensors.
        index: of the block.
        checkpoint: for shapes.
        config: the model's settings.

    Raises:
        CheckpointError: a tensor is missing, a shape contradicts the config, or the config lacks a
            value that the layout names.
    """
    if tensors.has_attention and tensors.missing:
        raise missing_tensor(tensors.start + tensors.missing[0])
    if tensors.has_attention and tensors.rivals:
        raise two_tensors(*tensors.rivals)
    norms = ResolvedNorms(
        **_form(NormForm, layout.norms),
        tensors=_stored(checkpoint, tensors.part("norms")),
        streams=config_ints(config, layout.norms.streams)[0] if layout.norms.streams else 1,
    )
    out = _stored(checkpoint, {"out": tensors.by_role.get("out", ())})
    return ResolvedBlock(
        model=checkpoint.model,
        index=index,
        start=tensors.start,
        norms=norms,
        attention=_attention(layout, tensors, index, checkpoint, config),
        ffn=_network(layout, tensors, checkpoint, config),
        convolutions=_stored(checkpoint, tensors.part("convolutions")),
        out=out.get("out"),
    )


def _form(form: type[AttentionForm | NetworkForm | NormForm], template: object) -> dict[str, Any]:
    """The settings that a resolved part copies from its template."""
    return {field.name: getattr(template, field.name) for field in fields(form)}


def _stored(checkpoint: Checkpoint, names: Mapping[str, Names]) -> Roles:
    return {
        role: Stored(found, tuple(checkpoint.entry(found[0]).shape))
        for role, found in names.items()
        if found
    }


def _attention(
    layout: Layout,
    tensors: BlockTensors,
    index: int,
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
) -> ResolvedAttention | None:
    if not tensors.has_attention:
        return None
    template = layout.attention
    roles = _stored(checkpoint, tensors.part("attention"))
    latent = None
    if template.latent is not None and "latent.kv_a" in roles:
        latent = ResolvedLatent(
            rope=config_ints(config, template.latent.rope, index)[0],
            nope=config_ints(config, template.latent.nope, index)[0],
            scaled=template.latent.scaled,
            q_both=template.latent.q_b_reads == "both",
        )
        heads = kv_heads = count_latent_heads(template, latent, roles, config, index)
    else:
        heads, kv_heads = count_heads(template, roles, config, index)
    norms = None
    if template.norms is not None:
        flag = template.norms.flag
        unlearned = template.norms.unlearned if not flag or look_up(config, flag, index) else ()
        norms = ResolvedHeadNorms(
            kind=template.norms.kind, offset=template.norms.offset, unlearned=unlearned
        )
    return ResolvedAttention(
        **_form(AttentionForm, template),
        tensors=roles,
        heads=heads,
        kv_heads=kv_heads,
        norms=norms,
        latent=latent,
    )


def _network(
    layout: Layout, tensors: BlockTensors, checkpoint: Checkpoint, config: Mapping[str, Any]
) -> ResolvedNetwork | ResolvedExperts | None:
    if tensors.has_experts and layout.experts is not None:
        return _experts(layout.experts, tensors, checkpoint, config)
    if layout.ffn is None or not tensors.has_ffn:
        return None
    roles = _stored(checkpoint, tensors.part("ffn"))
    if "up" not in roles and "gate_up" not in roles:
        raise missing_tensor(tensors.start + (layout.ffn.up or layout.ffn.gate_up)[0])
    return ResolvedNetwork(**_form(NetworkForm, layout.ffn), tensors=roles)


def _experts(
    template: Experts, tensors: BlockTensors, checkpoint: Checkpoint, config: Mapping[str, Any]
) -> ResolvedExperts:
    roles = dict(_stored(checkpoint, tensors.part("experts")))
    scale = roles.pop("scale", None)
    routed = {role: stored for role, stored in roles.items() if not role.startswith("shared.")}
    down = routed["down"]
    count = config_ints(config, template.count)[0]
    stored = {"no": len(down.names), "leading": down.shape[0], "rows": count}[template.stacked]
    if stored != count:
        raise CheckpointError(
            f"it holds {stored} experts, but config.json says {count}",
            tensor=down.name,
            advice="config and weights do not belong together",
        )
    shared = None
    if template.shared is not None and "shared.down" in roles:
        shared = ResolvedNetwork(
            **_form(NetworkForm, template.shared),
            tensors=_stored(checkpoint, tensors.part("experts.shared")),
        )
    return ResolvedExperts(
        routed=ResolvedNetwork(**_form(NetworkForm, template), tensors=routed),
        count=count,
        stacked=template.stacked,
        scale=scale,
        shared=shared,
    )

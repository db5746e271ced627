"""Which models are mixtures of others in the table, with which shares, in all and block by block.

Where weights were sampled, shares come from these: by least squares (`mixing_weights`), and where
a merge selected changes place by place, from the selection (`mixing_changes`). Where they were not,
or the child's basis was changed after the merge, token features of hidden units decide
(`mixing_units`). A model whose parents are mixtures themselves is told by the parents of these,
where they are in the table.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from huref.invariants.record import Record
from huref.lineage.evidence import BlockShares, HalfShares, MergeMethod, Mixing
from huref.lineage.mixing_changes import (
    OUTLIERS,
    TRIMMED,
    WORTH,
    changes_of,
    choose_parents,
    has_election,
    select,
    size_of_kept,
    weigh,
)
from huref.lineage.mixing_linear import Explanation, explain_by_sum
from huref.lineage.mixing_units import find_mixings_by_units
from huref.lineage.mixing_weights import (
    EXACT,
    Fit,
    HalfGram,
    find_members,
    gram_of,
    join_fits,
    nearest_models,
    rounding_of,
)
from huref.lineage.sampled_family import Half, SampledFamily

BASES = 6  # models that are tried as the base of a selection
TOLD = 0.1  # distance that is left, in distances to the nearest model, from which it is said
UNKNOWN = 0.05  # half width of an interval from which on no shares are given without the base
BASED = 0.9  # share of places that the right base explains, at least
MOST_BITS = 22  # of significands that sums of changes in 32 bits leave exact


def find_mixings(
    records: Sequence[Record], older: Collection[tuple[str, str]] = ()
) -> tuple[Mixing, ...]:
    """The mixtures among records of one family.

    Args:
        records: models from one training run, in any order. Copies of one model count once.
        older: pairs (older, younger) of models whose direction was measured. They tell a base with
            a positive share from a parent where rounding does not.
    """
    if len(records) < 3:
        return ()
    distinct = _distinct(records)
    sampled = [record for record in distinct if record.samples is not None]
    found = list(_by_weights(sampled, older)) if len(sampled) > 2 else []
    explained = {mixing.child for mixing in found}
    by_units = find_mixings_by_units(distinct)
    return (*found, *(m for m in by_units if m.child not in explained and not _circular(m, found)))


def _circular(mixing: Mixing, found: Sequence[Mixing]) -> bool:
    """Whether a mixture would be a parent of one of its own parents."""
    return any(mixing.child in one.parents and one.child in mixing.parents for one in found)


def _distinct(records: Sequence[Record]) -> list[Record]:
    """The records without copies of models that came before."""
    kept: list[Record] = []
    for record in records:
        if not any(_is_copy(record, other) for other in kept):
            kept.append(record)
    return kept


def _is_copy(a: Record, b: Record) -> bool:
    if a.samples is None or b.samples is None or a.samples.places != b.samples.places:
        return False
    return torch.equal(a.samples.values, b.samples.values)


def _by_weights(records: Sequence[Record], older: Collection[tuple[str, str]]) -> list[Mixing]:
    family = SampledFamily(records, older)
    everyone = range(len(records))
    first = {
        child: found
        for child in everyone
        if (found := _explain(family, child, everyone)) is not None
    }
    first = _without_circles(first)
    # A mixture can also be explained by other mixtures of the same parents.
    final = {}
    for child, found in first.items():
        plain = [i for i in everyone if i not in first]
        final[child] = _explain(family, child, plain) or found
    kept = _without_circles(final)
    return [_as_mixing(records, child, found) for child, found in kept.items()]


def _without_circles(explained: Mapping[int, Explanation]) -> dict[int, Explanation]:
    """Of models that explain each other, those whose explanation is less doubtful."""

    def is_explained_in_return(child: int, found: Explanation) -> bool:
        others = [
            explained[p] for p in (*found.parents, found.base) if p is not None and p in explained
        ]
        return any(
            child in (*other.parents, other.base) and other.doubt <= found.doubt for other in others
        )

    return {c: found for c, found in explained.items() if not is_explained_in_return(c, found)}


def _explain(family: SampledFamily, child: int, among: Sequence[int]) -> Explanation | None:
    """How a child was mixed from some models of the family, or None."""
    among = [model for model in among if model != child]
    halves = family.halves(child)
    grams = [gram for half in halves if (gram := gram_of(half)) is not None]
    among = [model for model in among if any(model in gram.members for gram in grams)]
    if len(among) < 2:
        return None
    members = find_members(grams, among)
    linear = explain_by_sum(family, child, grams, members) if members else None
    nearest = nearest_models(grams, among)[0][0]
    if linear is not None and linear.doubt >= 1:
        linear = None
    rounding = rounding_of(grams)
    unexplained = 0.0 if linear is None else max(_left_over(linear) - rounding, 0.0)
    if linear is not None and unexplained <= EXACT**2 * nearest:
        return linear
    selected = _selected(family, child, halves, grams, among)
    if selected is not None or linear is None:
        return selected
    left = np.sqrt(unexplained / nearest)
    if left < TOLD:
        return linear
    if linear.base is not None:
        linear = _without_its_base(family, linear, linear.base)
    why = (
        f"{linear.why}; {100 * left:.0f} % of the distance to the nearest of them remains: a "
        "parent that is not among these models, changes dropped at random, or training since"
    )
    return replace(linear, why=why)


def _without_its_base(family: SampledFamily, found: Explanation, near: int) -> Explanation:
    """A sum of changes for whose missing base another model stood; shares only if they are known.

    Args:
        family: all models.
        found: what explains the child.
        near: the model that stands for the base.
    """
    why = f"{found.why}, with {family.records[near].model} for a base that is missing"
    fit = join_fits([fit for _, fit in found.fits if fit is not None])
    fits = found.fits
    if fit.half_width.max() > UNKNOWN:
        about = ", ".join(
            f"{share:.2f} of {family.records[parent].model}"
            for parent, share in zip(found.parents, fit.shares, strict=True)
        )
        why += f", so that the shares are not known (about {about})"
        fits = tuple((half, None) for half, _ in found.fits)
    return replace(found, base=None, fits=fits, why=why)


def _left_over(found: Explanation) -> float:
    """Squared distance that a fit leaves over all half-blocks."""
    return sum(fit.left for _, fit in found.fits if fit is not None)


def _selected(
    family: SampledFamily,
    child: int,
    halves: Sequence[Half],
    grams: Sequence[HalfGram],
    among: Sequence[int],
) -> Explanation | None:
    roundoff = 2.0 ** -min(family.significant_bits(child), MOST_BITS)
    best, most = None, 0.0
    for _, base in nearest_models(grams, among)[:BASES]:
        others = [m for m in among if m != base and not family.contradicts(base, (m,))]
        found = choose_parents(halves, base, others, roundoff)
        if found is None:
            continue
        # Seen from a parent, the base is one parent more: as good an explanation, but a longer one.
        worth = found[1].explained - WORTH * len(found[0])
        if best is None or worth > most:
            best, most = (base, found), worth
    if best is None:
        return None
    base, (parents, selection, changes) = best
    size, elected = size_of_kept(changes, selection), has_election(changes, selection)
    trimmed = not OUTLIERS < size < TRIMMED
    fits: list[tuple[Half, Fit | None]] = []
    for half in halves:
        part = changes_of(half, base, parents, roundoff)
        own = None if part is None else select(part, selection)
        good = part is not None and own is not None and own.found
        fits.append((half, weigh(part, own, trimmed) if good and part and own else None))
    method: MergeMethod = "dare ties" if elected else "dare linear"
    if trimmed:
        method = "ties" if size >= TRIMMED else "breadcrumbs"
    why = (
        f"at {100 * selection.explained:.0f} % of the sampled places the change is that of some of "
        "the parents and none of the others'"
    )
    if not any(fit is not None for _, fit in fits):
        why += (
            "; trimming left the parents' changes at different places, where each counts whole "
            "whatever its weight, so the weights cannot be told"
        )
    doubt = 1 - selection.explained
    if selection.explained < BASED:
        why += f", with {family.records[base].model} for a base that is missing"
        return Explanation(parents, None, method, tuple(fits), why, doubt)
    return Explanation(parents, base, method, tuple(fits), why, doubt)


def _as_mixing(records: Sequence[Record], child: int, found: Explanation) -> Mixing:
    known = [fit for _, fit in found.fits if fit is not None]
    shares = _interval(join_fits(known)) if known else None
    blocks = []
    for block in dict.fromkeys(half.block for half, _ in found.fits):
        parts = {half.part: (half, fit) for half, fit in found.fits if half.block == block}
        fits = [fit for _, fit in parts.values() if fit is not None]
        half = next(iter(parts.values()))[0]
        halves = {part: _interval(fit) if fit else None for part, (_, fit) in parts.items()}
        joined = _interval(join_fits(fits)) if fits else None
        blocks.append(
            BlockShares(
                block,
                joined,
                halves.get("attention"),
                halves.get("ffn"),
                tuple(half.sources.get(parent) for parent in found.parents),
            )
        )
    return Mixing(
        records[child].model,
        tuple(records[p].model for p in found.parents),
        None if shares is None else shares.shares,
        None if shares is None else shares.low,
        None if shares is None else shares.high,
        found.method,
        None if found.base is None else records[found.base].model,
        found.why,
        tuple(blocks),
    )


def _interval(fit: Fit) -> HalfShares:
    half = fit.half_width
    return HalfShares(
        tuple(map(float, fit.shares)),
        tuple(map(float, np.clip(fit.shares - half, 0.0, 1.0))),
        tuple(map(float, np.clip(fit.shares + half, 0.0, 1.0))),
    )

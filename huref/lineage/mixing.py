"""Which models are mixtures of others in the table, with which shares, in all and block by block.

Where weights were sampled, shares come from these: by least squares (`mixing_weights`), and where
a merge selected changes place by place, from the selection (`mixing_changes`). Where they were not,
or the child's basis was changed after the merge, token features of hidden units decide
(`mixing_units`). A model whose parents are mixtures themselves is told by the parents of these,
where they are in the table.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

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
from huref.lineage.mixing_units import find_mixings_by_units
from huref.lineage.mixing_weights import (
    EXACT,
    SMALLEST_SHARE,
    Fit,
    HalfGram,
    find_members,
    fit_half,
    gram_of,
    join_fits,
    largest_cosine,
    nearest_models,
    negative_member,
    rounding_of,
)
from huref.lineage.sampled_family import Half, SampledFamily

BASES = 6  # models that are tried as the base of a selection
ROUND = 0.02  # distance of a share from 0 and 1 up to which a block is one parent's own
TOLD = 0.1  # distance that is left, in distances to the nearest model, from which it is said
UNKNOWN = 0.05  # half width of an interval from which on no shares are given without the base
BASED = 0.9  # share of places that the right base explains, at least
HEAVIEST = 1.02  # weight of a parent, beyond which another explanation is preferred
UNLIKELY = 0.45  # doubt that such a weight adds
MOST_BITS = 22  # of significands that sums of changes in 32 bits leave exact
CURVED = 2.0  # times by which a spherical merge must fit better than a linear one


@dataclass(frozen=True, eq=False)
class _Found:
    """What explains one child: parents, base and the fit of each half-block.

    Where two models explain each other, the one with the smaller `doubt` is the child.
    """

    parents: tuple[int, ...]
    base: int | None
    method: MergeMethod
    fits: tuple[tuple[Half, Fit | None], ...]
    why: str
    doubt: float = 0.0


def find_mixings(
    records: Sequence[Record], older: Collection[tuple[str, str]] = ()
) -> tuple[Mixing, ...]:
    """The mixtures among records of one family.

    Args:
        records: models from one training run, in any order. Copies of one model count once.
        older: pairs (older, younger) of models whose direction was measured. A base with a positive
            share is told from a parent only by these.
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


def _without_circles(explained: Mapping[int, _Found]) -> dict[int, _Found]:
    """Of models that explain each other, those whose explanation is less doubtful."""

    def is_explained_in_return(child: int, found: _Found) -> bool:
        others = [
            explained[p] for p in (*found.parents, found.base) if p is not None and p in explained
        ]
        return any(
            child in (*other.parents, other.base) and other.doubt <= found.doubt for other in others
        )

    return {c: found for c, found in explained.items() if not is_explained_in_return(c, found)}


def _explain(family: SampledFamily, child: int, among: Sequence[int]) -> _Found | None:
    """How a child was mixed from some models of the family, or None."""
    among = [model for model in among if model != child]
    halves = family.halves(child)
    grams = [gram for half in halves if (gram := gram_of(half)) is not None]
    among = [model for model in among if any(model in gram.members for gram in grams)]
    if len(among) < 2:
        return None
    members = find_members(grams, among)
    linear = _linear(family, grams, members) if members else None
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


def _without_its_base(family: SampledFamily, found: _Found, near: int) -> _Found:
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


def _left_over(found: _Found) -> float:
    """Squared distance that a fit leaves over all half-blocks."""
    return sum(fit.left for _, fit in found.fits if fit is not None)


def _linear(family: SampledFamily, grams: Sequence[HalfGram], members: tuple[int, ...]) -> _Found:
    base = negative_member(grams, members)
    fits = [(gram.half, fit_half(gram, members)) for gram in grams]
    is_passthrough = base is None and _is_passthrough(fits, len(members))
    if base is None and not is_passthrough:
        base = family.root_of(members)
    if base is not None:
        at = members.index(base)
        weights = join_fits([fit for _, fit in fits if fit is not None]).shares
        left = weights[at]
        parents = tuple(m for m in members if m != base)
        why = (
            "the sampled weights are the base's and a sum of the parents' changes; the weights "
            f"given to the parents sum to {1 - left:.2f}"
        )
        if left > SMALLEST_SHARE:
            near = family.records[base].model
            why += f" (a linear merge with {near} at {left:.2f} is the same model)"
        without = tuple((half, fit and _without(fit, at)) for half, fit in fits)
        doubt = largest_cosine(grams, base, parents) / 2
        # Solved for a parent of weight w, the equation makes the merge a parent of weight 1 / w.
        if np.delete(weights, at).max() > HEAVIEST:
            doubt += UNLIKELY
        if family.contradicts(base, parents):
            doubt = 1.0
        return _Found(parents, base, "task arithmetic", without, why, doubt)
    method: MergeMethod = "linear"
    why = "the sampled weights are a weighted mean of the parents'"
    if len(members) > 2:
        why += (
            " (if one of them is the others' base, task arithmetic with the others' shares for "
            "weights gives the same model)"
        )
    if is_passthrough:
        method, why = "passthrough", "each half-block is one parent's own"
    elif len(members) == 2 and _is_curved(fits, members):
        method, why = "slerp", "the sampled weights lie on the arc between the parents'"
    return _Found(members, None, method, tuple(fits), why)


def _without(fit: Fit, at: int) -> Fit:
    """The fit without one member, normalised."""
    shares, errors = np.delete(fit.shares, at), np.delete(fit.errors, at)
    total = float(shares.sum())
    total = total if abs(total) > 0.05 else 0.05
    return replace(fit, shares=shares / total, errors=errors / abs(total))


def _is_passthrough(fits: Sequence[tuple[Half, Fit | None]], parents: int) -> bool:
    """Whether every half-block is one parent's own, and more than one has some."""
    owners = set()
    for _, fit in fits:
        if fit is None:
            continue
        if (
            fit.shares.max() < 1 - ROUND
            or np.abs(np.delete(fit.shares, fit.shares.argmax())).max() > ROUND
        ):
            return False
        owners.add(int(fit.shares.argmax()))
    return len(owners) == parents


def _is_curved(fits: Sequence[tuple[Half, Fit | None]], parents: Sequence[int]) -> bool:
    """Whether arcs from one parent to the other fit better than lines; of close models they agree.

    Merge tools turn each matrix by itself (Shoemake, 1985).
    """
    line = arc = 0.0
    for half, fit in fits:
        if fit is None or any(p not in half.others for p in parents):
            continue
        share = float(fit.shares[0])
        for tensor in range(int(half.tensors.max()) + 1):
            here = half.tensors == tensor
            a, b = (half.others[p][here] for p in parents)
            c = half.child[here]
            cosine = float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))
            angle = float(np.arccos(np.clip(cosine, -1, 1)))
            line += float(np.square(c - share * a - (1 - share) * b).sum())
            if angle > 1e-3:
                a, b = np.sin(share * angle) * a, np.sin((1 - share) * angle) * b
                arc += float(np.square(c - (a + b) / np.sin(angle)).sum())
    return 0 < CURVED**2 * arc < line


def _selected(
    family: SampledFamily,
    child: int,
    halves: Sequence[Half],
    grams: Sequence[HalfGram],
    among: Sequence[int],
) -> _Found | None:
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
        return _Found(parents, None, method, tuple(fits), why, doubt)
    return _Found(parents, base, method, tuple(fits), why, doubt)


def _as_mixing(records: Sequence[Record], child: int, found: _Found) -> Mixing:
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

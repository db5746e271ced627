"""Whose head is it: an endpoint's logit image against the heads of open models."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from huref.blackbox.heads import Head, orthonormal
from huref.blackbox.signature import Signature
from huref.blackbox.size import clr
from huref.errors import SignatureError

Matrix = NDArray[np.float64]

FLOOR = 3e-6  # relative residual of the very same head, computed in float32
NOISY = 4.0  # a residual beyond so many times the noise is a difference
STEEP = 3.0  # a change of the head that ends after r dimensions drops by so much there
# Shares of the image that two heads have in common, beyond chance. On the zoo (tiny) strangers with
# the same text and tokenizer reach 0.27, twins from one initialisation 0.38 to 0.44, long further
# training keeps 0.82; between the two limits the answer is "cannot tell".
KIN, STRANGER = 0.6, 0.3
# From a few outputs the image cannot be compared, only their residual, as a share of what a random
# vector leaves outside (little, where the tokens hardly outnumber the dimensions). Strangers that
# learnt the same text come as near as 0.22 with one output, because frequent tokens are frequent
# for both (zoo, 5,632 outputs); fine-tunes lie at 0.04 to 0.22, around 0.11.
NEAR, FAR = 0.17, 0.8
MARGIN_OF_PROMPTS = 1.3  # prompts per dimension behind a signature
FEWEST_SPARE = 16  # tokens beyond the candidate's width, below which every output fits


@dataclass(frozen=True)
class Match:
    """How an endpoint's outputs fit one model's head.

    Attributes:
        model: the candidate.
        residual: share of the outputs outside the head's image, 0 to 1; None if not comparable.
        verdict: "same head", "same head, LoRA of rank about r", "fine-tuned head",
            "other model" or "cannot tell".
        why: the figures behind it.
        overlap: mean squared cosine of the principal angles less chance, 1 for the same image;
            None from few outputs.
    """

    model: str
    residual: float | None
    verdict: str
    why: str
    overlap: float | None = None

    def to_json(self) -> dict[str, object]:
        """One candidate as `huref probe match --json` prints it."""
        names = ("model", "residual", "verdict", "why")
        return {name: getattr(self, name) for name in names}


def match_outputs(outputs: Matrix, ids: NDArray[np.int64], noise: float, head: Head) -> Match:
    """Compare outputs (n, s), from one upward, with a model's head.

    Args:
        outputs: log-probabilities or logits of n prompts over s tokens.
        ids: the tokens' ids, (s,).
        noise: standard deviation (nat) of one value.
        head: the candidate.
    """
    kept = ids < head.vocabulary
    fit = _Fit.of(head, ids[kept])
    if isinstance(fit, Match):
        return fit
    values = clr(outputs[:, kept])
    norms = np.linalg.norm(values, axis=1)
    outside = values - (values @ fit.basis) @ fit.basis.T
    residual = float(np.median(np.linalg.norm(outside, axis=1) / norms))
    expected = noise * np.sqrt(fit.spare) / float(np.median(norms))
    limit = NOISY * expected + FLOOR
    why = f"residual {residual:.2g} of {len(values)} outputs, noise explains {expected:.2g}"
    if residual <= limit:
        return Match(head.model, residual, "same head", why)
    if expected > 0.2:
        return Match(head.model, residual, "cannot tell", f"{why}; too noisy")
    found = _count_extra(outside, noise)
    if found is not None and 2 * found <= len(values):
        verdict = f"same head, LoRA of rank about {found}"
        return Match(head.model, residual, verdict, f"{why}; it lies in {found} dimensions")
    relative = residual / np.sqrt(1 - fit.chance)
    why += f", {relative:.2g} of what a random vector leaves"
    if NEAR < relative < FAR:
        why += "; strangers with the same vocabulary come as near: make a signature and match that"
        return Match(head.model, residual, "cannot tell", why)
    verdict = "fine-tuned head" if relative <= NEAR else "other model"
    return Match(head.model, residual, verdict, why)


def match_signature(signature: Signature, head: Head) -> Match:
    """Compare a signature with a model's head, by residual and principal angles."""
    kept = signature.ids < head.vocabulary
    fit = _Fit.of(head, signature.ids[kept])
    if isinstance(fit, Match):
        return fit
    strength = signature.strength.astype(np.float64)
    basis = signature.basis[kept].astype(np.float64)
    weighted = (basis - basis.mean(axis=0)) * strength
    outside = weighted - fit.basis @ (fit.basis.T @ weighted)
    size = np.linalg.norm(weighted)
    residual = float(np.linalg.norm(outside) / size)
    rank = weighted.shape[1]
    # The weakest directions of the basis are turned by noise; each counts by its own accuracy.
    # An image of r of s dimensions that was measured on n prompts errs by this much.
    expected = float(
        signature.noise * np.sqrt(rank * fit.spare / (MARGIN_OF_PROMPTS * rank)) / size
    )
    image = orthonormal(basis - basis.mean(axis=0))
    cosines = np.linalg.svd(fit.basis.T @ image, compute_uv=False).clip(0, 1)
    overlap = (float(np.square(cosines).mean()) - fit.chance) / (1 - fit.chance)
    angles = np.degrees(np.arccos(cosines))
    why = (
        f"residual {residual:.2g}, noise explains {expected:.2g}; principal angles "
        f"{np.median(angles):.2g} (median) to {angles.max():.2g} degrees; the images share "
        f"{max(overlap, 0):.0%} beyond chance"
    )
    if residual <= NOISY * expected + FLOOR:
        return Match(head.model, residual, "same head", why, overlap)
    found = _count_extra(outside.T * np.sqrt(rank), signature.noise)
    if found is not None and 2 * found <= rank:
        verdict = f"same head, LoRA of rank about {found}"
        return Match(head.model, residual, verdict, why, overlap)
    if STRANGER < overlap < KIN:
        why += "; one initialisation trained apart looks like this, and so does very long training"
        return Match(head.model, residual, "cannot tell", why, overlap)
    verdict = "fine-tuned head" if overlap >= KIN else "other model"
    return Match(head.model, residual, verdict, why, overlap)


def _count_extra(outside: Matrix, noise: float) -> int | None:
    """Dimensions (r) of what lies outside the image (n, s), if far fewer than it could have."""
    spectrum = np.linalg.svd(outside, compute_uv=False)
    if len(spectrum) < 4:
        return None
    floor = noise * (np.sqrt(outside.shape[0]) + np.sqrt(outside.shape[1]))
    floor = max(floor * NOISY / 2, float(spectrum[0]) * 1e-5)
    found = int((spectrum > floor).sum())
    # A fine-tune's spectrum runs smoothly into the noise; a LoRA's ends.
    ends = 0 < found < len(spectrum) and spectrum[found - 1] > STEEP * spectrum[found]
    return found if ends else None


@dataclass(frozen=True)
class _Fit:
    basis: Matrix
    chance: float  # share of a random vector that lies in the image
    spare: int  # dimensions outside it

    @classmethod
    def of(cls, head: Head, ids: NDArray[np.int64]) -> "_Fit | Match":
        if head.softcap:
            why = "its logits are squashed by a soft cap, which bends the image"
            return Match(head.model, None, "cannot tell", why)
        width = head.weight.shape[1]
        if len(ids) < width + FEWEST_SPARE:
            why = (
                f"its head has {width} dimensions and {len(ids)} tokens were measured; give at "
                f"least {width + FEWEST_SPARE}"
            )
            return Match(head.model, None, "cannot tell", why)
        basis = head.image(ids)
        dimensions = len(ids) - 1
        return cls(basis, basis.shape[1] / dimensions, dimensions - basis.shape[1])


def require_candidates(heads: list[Head]) -> int:
    """How many tokens must be measured to judge every candidate.

    Raises:
        SignatureError: there is no candidate.
    """
    if not heads:
        raise SignatureError("name at least one open model to match against")
    width: int = max(head.weight.shape[1] for head in heads)
    return width + 4 * FEWEST_SPARE

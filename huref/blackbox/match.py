"""Which open model has an endpoint's head: compare its logits with the image of each head.

The image of a head is the space of all logits that it can produce, centred over tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from huref.blackbox.heads import Head, orthonormal
from huref.blackbox.signature import Signature
from huref.blackbox.size import clr
from huref.errors import SignatureError

Matrix = NDArray[np.float64]

FLOOR = 3e-6  # relative residual of an identical head, from float32 rounding
NOISY = 4.0  # a residual above so many times the noise counts as a difference
STEEP = 3.0  # least drop of the singular values after the last dimension of a low-rank change
# Overlap of two images beyond chance. Unrelated models of the (tiny) zoo, trained on the same text
# with the same tokenizer, reach 0.27; models with the same initialisation, trained independently,
# 0.38 to 0.44; long further training keeps 0.82. Between the limits the answer is "cannot tell".
RELATED, UNRELATED = 0.6, 0.3
# A few outputs do not determine the image, only their residual outside the candidate's, which is
# divided by the residual of a random vector (small if there are hardly more tokens than
# dimensions). With one output, unrelated models trained on the same text reach 0.22, because both
# predict frequent tokens (zoo, 5,632 outputs); fine-tunes have 0.04 to 0.22, median 0.11.
NEAR, FAR = 0.17, 0.8
PROMPT_MARGIN = 1.3  # prompts per dimension in the measurement of a signature
MIN_SPARE = 16  # least number of tokens beyond the hidden size; with fewer, every output fits


@dataclass(frozen=True)
class HeadMatch:
    """How well an endpoint's outputs fit one model's head.

    Attributes:
        model: the candidate.
        residual: norm of the outputs outside the head's image over their norm, 0 to 1; None if
            not comparable.
        verdict: "same head", "same head, LoRA of rank about r", "fine-tuned head",
            "other model" or "cannot tell".
        why: the figures that decide the verdict.
        overlap: mean squared cosine of the principal angles, corrected for chance; 1 for the
            same image; None when only few outputs are compared.
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


def match_outputs(outputs: Matrix, ids: NDArray[np.int64], noise: float, head: Head) -> HeadMatch:
    """Compare the outputs of one or more prompts with a model's head.

    Args:
        outputs: (n, s) log-probabilities or logits of n prompts over s tokens.
        ids: (s,) token ids.
        noise: standard deviation (nat) of one value.
        head: the candidate.
    """
    kept = ids < head.vocabulary
    fit = _Fit.of(head, ids[kept])
    if isinstance(fit, HeadMatch):
        return fit
    values = clr(outputs[:, kept])
    norms = np.linalg.norm(values, axis=1)
    outside = values - (values @ fit.basis) @ fit.basis.T
    residual = float(np.median(np.linalg.norm(outside, axis=1) / norms))
    expected = noise * np.sqrt(fit.spare) / float(np.median(norms))
    limit = NOISY * expected + FLOOR
    why = f"residual {residual:.2g} from {len(values)} outputs, {expected:.2g} expected from noise"
    if residual <= limit:
        return HeadMatch(head.model, residual, "same head", why)
    if expected > 0.2:
        return HeadMatch(head.model, residual, "cannot tell", f"{why}; too noisy")
    found = _count_extra(outside, noise)
    if found is not None and 2 * found <= len(values):
        verdict = f"same head, LoRA of rank about {found}"
        return HeadMatch(head.model, residual, verdict, f"{why}; it spans {found} dimensions")
    relative = residual / np.sqrt(1 - fit.chance)
    why += f", {relative:.2g} of a random vector's"
    if NEAR < relative < FAR:
        why += "; unrelated models with the same vocabulary reach this: match a signature instead"
        return HeadMatch(head.model, residual, "cannot tell", why)
    verdict = "fine-tuned head" if relative <= NEAR else "other model"
    return HeadMatch(head.model, residual, verdict, why)


def match_signature(signature: Signature, head: Head) -> HeadMatch:
    """Compare a signature with a model's head, by residual and principal angles."""
    kept = signature.ids < head.vocabulary
    fit = _Fit.of(head, signature.ids[kept])
    if isinstance(fit, HeadMatch):
        return fit
    strength = signature.strength.astype(np.float64)
    basis = signature.basis[kept].astype(np.float64)
    weighted = (basis - basis.mean(axis=0)) * strength
    outside = weighted - fit.basis @ (fit.basis.T @ weighted)
    size = np.linalg.norm(weighted)
    residual = float(np.linalg.norm(outside) / size)
    rank = weighted.shape[1]
    # Noise rotates the weak directions of the basis most, so each is weighted by its strength. The
    # error of the image decreases with the number of prompts, here PROMPT_MARGIN per dimension.
    expected = float(signature.noise * np.sqrt(rank * fit.spare / (PROMPT_MARGIN * rank)) / size)
    image = orthonormal(basis - basis.mean(axis=0))
    cosines = np.linalg.svd(fit.basis.T @ image, compute_uv=False).clip(0, 1)
    overlap = (float(np.square(cosines).mean()) - fit.chance) / (1 - fit.chance)
    angles = np.degrees(np.arccos(cosines))
    why = (
        f"residual {residual:.2g}, {expected:.2g} expected from noise; principal angles "
        f"{np.median(angles):.2g} (median) to {angles.max():.2g} degrees; the images overlap by "
        f"{max(overlap, 0):.0%} beyond chance"
    )
    if residual <= NOISY * expected + FLOOR:
        return HeadMatch(head.model, residual, "same head", why, overlap)
    found = _count_extra(outside.T * np.sqrt(rank), signature.noise)
    if found is not None and 2 * found <= rank:
        verdict = f"same head, LoRA of rank about {found}"
        return HeadMatch(head.model, residual, verdict, why, overlap)
    if UNRELATED < overlap < RELATED:
        why += (
            "; this is typical of the same initialisation, trained independently, and of very "
            "long further training"
        )
        return HeadMatch(head.model, residual, "cannot tell", why, overlap)
    verdict = "fine-tuned head" if overlap >= RELATED else "other model"
    return HeadMatch(head.model, residual, verdict, why, overlap)


def _count_extra(outside: Matrix, noise: float) -> int | None:
    """Rank of the outputs' part outside an image, (n, s); None if it does not have a low rank."""
    spectrum = np.linalg.svd(outside, compute_uv=False)
    if len(spectrum) < 4:
        return None
    floor = noise * (np.sqrt(outside.shape[0]) + np.sqrt(outside.shape[1]))
    floor = max(floor * NOISY / 2, float(spectrum[0]) * 1e-5)
    found = int((spectrum > floor).sum())
    # The spectrum of a fine-tune decays smoothly into the noise; that of a LoRA drops after r.
    drops = 0 < found < len(spectrum) and spectrum[found - 1] > STEEP * spectrum[found]
    return found if drops else None


@dataclass(frozen=True)
class _Fit:
    """The image of a head.

    Attributes:
        basis: (s, r) orthonormal.
        chance: expected squared norm of a random unit vector's projection onto it.
        spare: number of dimensions outside it.
    """

    basis: Matrix
    chance: float
    spare: int

    @classmethod
    def of(cls, head: Head, ids: NDArray[np.int64]) -> "_Fit | HeadMatch":
        if head.softcap:
            why = "a soft cap follows its head, so its logits do not span a linear image"
            return HeadMatch(head.model, None, "cannot tell", why)
        width = head.weight.shape[1]
        if len(ids) < width + MIN_SPARE:
            why = (
                f"its head has {width} dimensions and {len(ids)} tokens were measured; measure at "
                f"least {width + MIN_SPARE}"
            )
            return HeadMatch(head.model, None, "cannot tell", why)
        basis = head.image(ids)
        dimensions = len(ids) - 1
        return cls(basis, basis.shape[1] / dimensions, dimensions - basis.shape[1])


def require_candidates(heads: list[Head]) -> int:
    """Number of tokens to measure so that every candidate can be judged.

    Raises:
        SignatureError: there are no candidates.
    """
    if not heads:
        raise SignatureError("name at least one open model to match against")
    width: int = max(head.weight.shape[1] for head in heads)
    return width + 4 * MIN_SPARE

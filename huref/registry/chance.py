"""How often an unrelated model scores as high: the null distribution of a search."""

import math

# True ICS of independent models. Synthetic ones: 0.000. The zoo's: -0.003 to 0.010. The most
# similar ones, made on purpose (same text, order and shape, other seed): 0.05, two deviations up.
STRANGER_ICS = 0.01
STRANGER_SPREAD = 0.02
LATENT_SPREAD = 1 / math.sqrt(512)  # standard deviation of the cosine of independent latents


def log10_stranger(ics: float, deviation: float, of: int) -> float:
    """log10 of the probability that the best of `of` unrelated models scores at least as high.

    The score of one unrelated model is taken as normal. Its variance is the sum of those of the
    true similarity and of the estimate.

    Args:
        ics: the score of the candidate.
        deviation: standard deviation of the estimate for unrelated models.
        of: number of bases searched.

    Returns:
        At most 0.
    """
    z = (ics - STRANGER_ICS) / math.hypot(deviation, STRANGER_SPREAD)
    log10_one = log10_upper_tail(z)
    if log10_one < -12:  # then 1 - (1 - p)^n is n p to more digits than a float has
        return min(log10_one + math.log10(max(of, 1)), 0.0)
    one = min(10**log10_one, 1 - 1e-16)
    return math.log10(max(-math.expm1(of * math.log1p(-one)), 1e-300))


def log10_upper_tail(z: float) -> float:
    """log10 of P(Z >= z) of a standard normal; exact to four digits for any z."""
    if z < 30:
        return math.log10(0.5 * math.erfc(z / math.sqrt(2)))
    # The first terms of the asymptotic series; erfc itself is 0 from z = 39 on.
    return (-z * z / 2 + math.log1p(-1 / (z * z)) - math.log(z * math.sqrt(2 * math.pi))) / (
        math.log(10)
    )


def is_worth_reading(ics: float, deviation: float, of: int, level: float = 0.01) -> bool:
    """Whether a score exceeds what noise alone gives the best of `of` unrelated models.

    It passes more than `log10_stranger` does, because a candidate that passes is then compared by
    its weights.
    """
    return log10_upper_tail(ics / deviation) + math.log10(max(of, 1)) < math.log10(level)

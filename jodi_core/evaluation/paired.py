"""Do two programs differ? Tests on the differences of scores of the same scenes and seeds.

Two questions, two tests. Would other scenes say the same of these trained models: signs of the
scenes' differences are flipped at random. Would other trainings: the means of the seeds, which are
few, in a paired t-test.
"""

import math

import numpy as np

FLIPS = 10_000


def find_p_by_flips(differences: np.ndarray, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of a mean of zero: the share of random signs whose mean is as far from it.

    differences: (N,); those that are not finite are left out. The pattern that was observed counts
    as one of the random ones, so p is at least 1 / (flips + 1). NaN where nothing is left.
    Source: Good, "Permutation, parametric and bootstrap tests of hypotheses" (2005), section 3.2.
    """
    known = differences[np.isfinite(differences)]
    if not len(known):
        return math.nan
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(flips, len(known)))
    far = np.abs(signs @ known) >= abs(known.sum()) - 1e-12 * np.abs(known).sum()
    return float((far.sum() + 1) / (flips + 1))


def find_p_by_t(differences: np.ndarray) -> float:
    """Two-sided p of Student's paired t-test; NaN for fewer than two values or no spread.

    differences: (K,), one for each training.
    """
    count = len(differences)
    spread = float(np.std(differences, ddof=1)) if count > 1 else 0.0
    if not spread > 0:
        return math.nan
    t = abs(float(np.mean(differences))) / (spread / math.sqrt(count))
    return _beyond_t(t, count - 1)


def _beyond_t(t: float, freedom: int) -> float:
    """Chance of Student's t beyond -t or t, by the closed series in the angle atan(t / sqrt(n)).

    Source: Abramowitz and Stegun, "Handbook of mathematical functions", 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    if odd:
        return 1 - 2 / math.pi * (angle + sine * total)
    return 1 - sine * total


def correct_by_holm(p: dict[str, float]) -> dict[str, float]:
    """P-values of several tests, corrected so that one false claim among all is as unlikely.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    known = sorted((value, name) for name, value in p.items() if value == value)
    held, corrected = 0.0, dict(p)
    for rank, (value, name) in enumerate(known):
        held = max(held, min(1.0, value * (len(known) - rank)))
        corrected[name] = held
    return corrected

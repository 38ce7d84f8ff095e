"""How far the values of one window lie from the reference: population stability index, and one test a feature. Pure.

The tests hold for one look at one window; for an alarm that watches all the time there is detector.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log

from tsctl.drift.reference import NumberReference, Reference
from tsctl.statistics.multiple import benjamini_hochberg
from tsctl.statistics.p_values import chi_square_tail, kolmogorov_smirnov

#: A cell of a chi-square test with fewer expected values is merged with the rarest ones (Cochran's rule).
LEAST_EXPECTED = 5.0
#: Added to each count of the index, so that an empty bin has a share.
PSEUDO_COUNT = 0.5


@dataclass(frozen=True)
class FeatureDrift:
    """One feature in one window.

    Args:
        values: in the window, missing ones included.
        psi: population stability index; people read 0.1 as some and 0.25 as much drift.
        psi_noise: its expectation without any drift, from the numbers of values alone. It is large for small windows.
        test: name of the test.
        statistic: of the test.
        p_value: None where there are too few values to test.
        is_drift: with the share of false discoveries controlled over all features.
    """

    feature: str
    values: int
    psi: float
    psi_noise: float
    test: str
    statistic: float
    p_value: float | None
    is_drift: bool = False


def compare_window(
    references: Mapping[str, Reference], counts: Mapping[str, Sequence[int]], share: float = 0.05
) -> list[FeatureDrift]:
    """Compare a window with the references, feature by feature.

    Args:
        counts: of the window in each feature's bins; a feature that is left out had no values.
        share: of the features named as drifted that may be named wrongly, on average.

    Raises:
        ValueError: a feature has no reference, or other bins.
    """
    if unknown := sorted(counts.keys() - references.keys()):
        raise ValueError(f"no reference for {', '.join(unknown)}")
    features = [_feature(name, references[name], counts[name]) for name in references if name in counts]
    tested = [feature for feature in features if feature.p_value is not None]
    rejected = benjamini_hochberg([feature.p_value for feature in tested if feature.p_value is not None], share)
    drifted = {feature.feature for feature, is_rejected in zip(tested, rejected, strict=True) if is_rejected}
    return [
        FeatureDrift(f.feature, f.values, f.psi, f.psi_noise, f.test, f.statistic, f.p_value, f.feature in drifted)
        for f in features
    ]


def stability_index(reference: Sequence[int], window: Sequence[int]) -> float:
    """The population stability index: summed over bins, the difference of the shares times that of their logs."""
    totals = [sum(counts) + PSEUDO_COUNT * len(counts) for counts in (reference, window)]
    shares = [
        [(count + PSEUDO_COUNT) / total for count in counts]
        for counts, total in zip((reference, window), totals, strict=True)
    ]
    old, new = shares
    return sum((b - a) * log(b / a) for a, b in zip(old, new, strict=True))


def _feature(name: str, reference: Reference, window: Sequence[int]) -> FeatureDrift:
    before, values, known = reference.reference, sum(window), sum(reference.reference)
    if len(window) != len(before):
        raise ValueError(f"{name} has {len(before)} bins, found {len(window)} counts")
    if isinstance(reference, NumberReference) and not window[0] and not before[0]:
        test = "Kolmogorov-Smirnov"
        statistic = _distance(before, window) if values else 0.0
        p_value = kolmogorov_smirnov(statistic, known, values) if values else None
    else:
        test = "chi-square"
        statistic, freedom = chi_square(before, window)
        p_value = chi_square_tail(statistic, freedom) if freedom else None
    used = sum(a + b > 0 for a, b in zip(before, window, strict=True))
    noise = (used - 1) * (1 / known + 1 / values) if values else 0.0
    return FeatureDrift(
        name, values, stability_index(before, window) if values else 0.0, noise, test, statistic, p_value
    )


def _distance(reference: Sequence[int], window: Sequence[int]) -> float:
    """The largest distance of both distribution functions at the edges of the bins."""
    totals = sum(reference), sum(window)
    pairs = zip(accumulate(reference), accumulate(window), strict=True)
    return min(1.0, max(abs(a / totals[0] - b / totals[1]) for a, b in pairs))


def chi_square(reference: Sequence[int], window: Sequence[int]) -> tuple[float, int]:
    """The statistic of Pearson's test for two samples, and its degrees of freedom; 0 of them where nothing is tested.

    The rarest bins are merged until each has LEAST_EXPECTED expected values in the smaller sample.
    """
    totals = sum(reference), sum(window)
    if not all(totals):
        return 0.0, 0
    together = sum(totals)
    least = LEAST_EXPECTED * together / min(totals)
    cells = sorted((a + b, a, b) for a, b in zip(reference, window, strict=True) if a + b)
    merged: list[tuple[int, int, int]] = []
    for cell in cells:
        if merged and merged[-1][0] < least:
            merged[-1] = (merged[-1][0] + cell[0], merged[-1][1] + cell[1], merged[-1][2] + cell[2])
        else:
            merged.append(cell)
    if len(merged) > 1 and merged[-1][0] < least:
        last = merged.pop()
        merged[-1] = (merged[-1][0] + last[0], merged[-1][1] + last[1], merged[-1][2] + last[2])
    statistic = 0.0
    for size, *observed in merged:
        for value, total in zip(observed, totals, strict=True):
            expected = size * total / together
            statistic += (value - expected) ** 2 / expected
    return statistic, len(merged) - 1

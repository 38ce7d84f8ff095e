"""Forecasts the shadow stage: pairs and time until it passes an identical canary, and finds one that differs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tsctl.config.archive import Records
from tsctl.config.policy import ShadowStage
from tsctl.config.weights import TOTAL
from tsctl.shadow.plan import pairs_to_find, pairs_to_pass

#: Noise floors of stable, as shares of `max_disagreement`: it is not known before it was measured.
FLOORS = (0.0, 0.4, 1.0)
#: A canary that is found differs so many times as often as the stage allows.
MULTIPLE = 4


@dataclass(frozen=True)
class StageRow:
    """A canary's stage at one noise floor of stable.

    Args:
        rate: at which the canary differs, noise included.
        median: pairs with a measured floor until the verdict, in half of the stages; `surely`: in four of five. None:
            there is no verdict.
        seconds: until `surely` with the present traffic; None: never.
    """

    floor: float
    rate: float
    passes: bool
    median: int | None
    surely: int | None
    seconds: float | None


@dataclass(frozen=True)
class StageForecast:
    """The whole stage; `pairs_per_s` are those with a measured floor."""

    pairs_per_s: float
    rows: tuple[StageRow, ...]
    warnings: tuple[str, ...]


def forecast_stage(
    stage: ShadowStage, alpha: float, requests_per_s: float, stable: Records | None, canary: Records | None
) -> StageForecast:
    """Forecast the stage with this traffic.

    Args:
        requests_per_s: of the route.
        stable: which of the requests the archive records, and `canary`; None: it records nothing.
    """
    share = min(stable.share, canary.share) if stable and canary else 0.0
    repeated = share * stable.repeats if stable else 0.0
    rate = requests_per_s * stage.share / TOTAL * repeated
    rows = tuple(_rows(stage, alpha, rate))
    warnings = []
    if stable is None or canary is None:
        version = "stable" if stable is None else "the canary"
        warnings.append(f"The archive of {version} records nothing, so 'tsctl rollout start' refuses the shadow stage.")
    elif not repeated:
        warnings.append("Stable repeats no answers (share or repeats is 0), so the shadow stage never decides.")
    return StageForecast(rate, rows, tuple(warnings))


def _rows(stage: ShadowStage, alpha: float, pairs_per_s: float) -> Iterator[StageRow]:
    limit = stage.max_disagreement
    for floor in (share * limit for share in FLOORS):
        for passes, rate in ((True, floor), (False, min(1.0, floor + MULTIPLE * limit))):
            needed = (pairs_to_pass if passes else pairs_to_find)(rate, floor, limit, alpha)
            least = stage.min_pairs if passes else 0
            median, surely = (None if pairs is None else max(pairs, least) for pairs in (needed.median, needed.surely))
            seconds = None if surely is None or not pairs_per_s else surely / pairs_per_s
            yield StageRow(floor, rate, passes, median, surely, seconds)

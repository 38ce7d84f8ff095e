"""The frontier, the choice and the verdict of a search."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.support.tuning import PRESENT, SLO_MS, trial
from tsctl.tune.choice import LEAST_GAIN, ROUNDS, choose, drift, frontier, verdict
from tsctl.tune.trials import Trial, promising

TWO = replace(PRESENT, workers=2)
LARGE = replace(PRESENT, batch=64)
BOTH = replace(PRESENT, workers=2, batch=64)


def rounds(ratio: float, count: int = ROUNDS, lost: int = 0) -> list[Trial]:
    """A search in which TWO was best, and its proof; the last `lost` rounds go to the present settings."""
    found = [trial(PRESENT, 100), trial(TWO, 150)]
    for number in range(1, count + 1):
        after = 100 * ratio if number <= count - lost else 99
        found += [trial(PRESENT, 100, kind="before", number=number), trial(TWO, after, kind="after", number=number)]
    return found


def test_the_frontier_has_no_trial_that_another_one_beats() -> None:
    slow, fast, beaten = trial(LARGE, 200, 40), trial(PRESENT, 100, 10), trial(TWO, 90, 20)
    none = trial(BOTH, 0, 5)
    assert frontier([slow, fast, beaten, none, trial(BOTH, 0, state="invalid")]) == [fast, slow]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), max_size=12))
def test_every_trial_is_on_the_frontier_or_beaten_by_one_there(figures: list[tuple[int, int]]) -> None:
    trials = [trial(replace(PRESENT, batch=place + 1), *pair) for place, pair in enumerate(figures)]
    kept = frontier(trials)
    for one in trials:
        at_least = [k for k in kept if k.goodput_s >= one.goodput_s and k.scores[-1].p99_ms <= one.scores[-1].p99_ms]
        assert at_least or one.goodput_s == 0
    assert [k.goodput_s for k in kept] == sorted({k.goodput_s for k in kept})


def test_of_nearly_equal_settings_the_nearest_to_the_present_ones_are_chosen() -> None:
    trials = [trial(PRESENT, 100), trial(BOTH, 200), trial(LARGE, 196)]
    chosen = choose(trials, PRESENT)
    assert chosen is not None
    assert chosen.settings == LARGE
    kept = choose([trial(PRESENT, 98), trial(BOTH, 100)], PRESENT)
    assert kept is not None
    assert kept.settings == PRESENT, "2 % more is nothing"


def test_settings_that_must_not_serve_are_never_chosen() -> None:
    assert choose([trial(TWO, 500, state="invalid"), trial(LARGE, 400, state="pruned")], PRESENT) is None


def test_a_gain_in_every_round_is_a_change() -> None:
    found = verdict(rounds(1.5), PRESENT, SLO_MS)
    assert found.is_better
    assert (found.before_s, found.after_s, found.gain, found.wins) == (100, 150, 1.5, ROUNDS)
    assert "1.50 times" in found.sentence


def test_one_lost_round_or_a_tiny_gain_or_few_rounds_are_none() -> None:
    for trials in (rounds(1.5, lost=1), rounds(LEAST_GAIN - 0.01), rounds(1.5, count=ROUNDS - 1), rounds(1.5, count=0)):
        found = verdict(trials, PRESENT, SLO_MS)
        assert not found.is_better
        assert found.chosen == TWO
    assert "resume" in verdict(rounds(1.5, count=0), PRESENT, SLO_MS).sentence


def test_settings_that_keep_the_limit_where_the_present_ones_never_did_are_better_by_no_number() -> None:
    trials = [trial(PRESENT, 0), trial(TWO, 150)]
    for number in range(1, ROUNDS + 1):
        trials += [trial(PRESENT, 0, kind="before", number=number), trial(TWO, 150, kind="after", number=number)]
    found = verdict(trials, PRESENT, SLO_MS)
    assert found.is_better
    assert found.gain is None


def test_a_round_counts_only_where_it_was_measured_whole_and_with_the_chosen_settings() -> None:
    trials = rounds(1.5, count=ROUNDS - 1)
    half = trial(PRESENT, 100, kind="before", number=9)
    other = [trial(PRESENT, 100, kind="before", number=10), trial(LARGE, 500, kind="after", number=10)]
    assert verdict([*trials, half, *other], PRESENT, SLO_MS).rounds == ROUNDS - 1


def test_nothing_better_and_nothing_good_are_said() -> None:
    assert "Keep what you have" in verdict([trial(PRESENT, 100), trial(TWO, 90)], PRESENT, SLO_MS).sentence
    none = verdict([trial(PRESENT, 0)], PRESENT, SLO_MS)
    assert none.chosen is None
    assert "No settings kept" in none.sentence


def test_drift_is_the_largest_ratio_of_a_repeat() -> None:
    trials = [trial(PRESENT, 100), trial(PRESENT, 125, kind="repeat"), trial(PRESENT, 80, kind="repeat")]
    assert (drift(trials).repeats, drift(trials).most) == (2, 1.25)
    assert "25%" in drift(trials).sentence
    assert drift(trials[:1]).most == 1.0
    assert "unknown" in drift(trials[:1]).sentence


def test_pruned_trials_that_were_about_as_good_are_measured_to_the_end() -> None:
    trials = [
        trial(PRESENT, 100),
        *(trial(replace(PRESENT, batch=b), g, state="pruned") for b, g in ((1, 50), (4, 95))),
    ]
    trials += [trial(TWO, 120, state="pruned"), trial(LARGE, 130, state="pruned")]
    assert promising(trials, 2) == [LARGE, TWO]
    assert promising([*trials, trial(LARGE, 99, kind="promoted")], 2) == [TWO, replace(PRESENT, batch=4)]

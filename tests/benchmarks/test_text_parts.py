"""The figures of the benchmark of text, from what was measured, and the loop without a server."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness.figures import Figure
from benchmarks.text.load import Measured, read_measured
from benchmarks.text.loop import Loop
from benchmarks.text.parts.changes import killed_figures, lost
from benchmarks.text.parts.naive import NAIVE, OURS, users_figures
from benchmarks.text.parts.noise import COMPARATORS, noise_figures
from benchmarks.text.parts.open_loop import loop_figures, overload_figures
from benchmarks.text.parts.release import CASES, Case, chats, release_figures
from benchmarks.text.parts.servers import GATEWAY, IN_PROCESS, cost_figures
from benchmarks.text.parts.turns import spent_shares
from benchmarks.text.prompts import Lengths, bodies
from benchmarks.text.statistics import Served, Times, served
from benchmarks.text.stream import BROKEN, REFUSED, TOLD, UNREACHED, WHOLE, Stream
from benchmarks.text.table import COLUMNS, Row, TextResult, rows
from handlers.text.backend import LENGTH, Produced, Token
from handlers.text.sampling import Sampling
from tsctl.archive.asked import Asker
from tsctl.config.project import Project
from tsctl.rollout.decide.events import Outcome
from tsctl.shadow.disagreement import Repeat
from tsctl.shadow.pairing import Answer, Pair, Track
from tsctl.shadow.report import Paired, PairedRequest
from tsctl.shadow.summaries import Summary


def level(first_ms: float, token_ms: float, tokens_s: float = 100.0, gap_p99: float = 0.0) -> Served:
    first, token = (Times(5, value, value, value) for value in (first_ms, token_ms))
    gap = Times(5, token_ms, token_ms, gap_p99 or token_ms)
    return Served(1.0, tokens_s, first, token, gap, Times(0, math.nan, math.nan, math.nan), {WHOLE: 5})


def value(figures: Sequence[Figure], name: str) -> float | None:
    [found] = [figure for figure in figures if figure.name == name]
    return found.value


def test_users_are_counted_against_a_lone_user_of_the_same_server() -> None:
    first, best = NAIVE
    seen = {
        first: {1: level(100, 100), 2: level(4000, 100)},
        best: {1: level(20, 10), 2: level(500, 10)},
        OURS: {1: level(20, 10), 8: level(30, 18), 12: level(39, 20), 16: level(45, 26), 32: level(90, 50)},
    }
    figures = users_figures(seen)
    assert value(figures, f"{OURS}: users within twice its own lone user's times") == 12
    assert value(figures, f"users within twice its own lone user's times, over {first}") == 12
    assert value(figures, f"{OURS}: users within twice a lone user's times of {first}") == 32


def test_a_share_is_of_the_same_round() -> None:
    seen = {IN_PROCESS: [level(1, 10, 500), level(1, 10, 100)], GATEWAY: [level(1, 10, 450), level(1, 10, 95, 31)]}
    figures = cost_figures(seen)
    [share] = [figure for figure in figures if figure.name == f"{GATEWAY}, of {IN_PROCESS}"]
    assert share.rounds == (0.9, 0.95)
    assert share.is_reached
    [burst] = [figure for figure in figures if figure.name == f"{GATEWAY}: gap p99 over its median"]
    assert burst.rounds == (1.0, 3.1)


def measured(*streams: Stream) -> Measured:
    return Measured(0.0, 10.0, 0.1, 0.0, list(streams))


def test_refusals_must_come_soon_and_no_stream_may_break() -> None:
    whole = Stream(0.0, 200, [0.1], 1.0, WHOLE)
    figures = overload_figures(
        measured(whole, Stream(0.0, 503, [], 0.03, REFUSED), Stream(0.0, 503, [], 0.06, REFUSED))
    )
    assert [figure.is_reached for figure in figures if figure.name == "refused after, slowest"] == [False]
    assert value(figures, "streams that broke") == 0
    late = overload_figures(measured(whole, Stream(0.0, 503, [], 0.03, REFUSED), Stream(0.0, 504, [], 9.0, REFUSED)))
    assert (value(late, "refused"), value(late, "too late, or failed otherwise")) == (1, 1)
    assert value(late, "refused after, slowest") == pytest.approx(30)
    broken = overload_figures(measured(whole, Stream(0.0, 200, [], 0.03, BROKEN), Stream(0.0, outcome=UNREACHED)))
    assert value(broken, "streams that broke") == 2
    assert value(broken, "refused after, slowest") is None


def test_an_open_loop_without_an_answer_has_no_percentiles() -> None:
    nothing = measured(Stream(0.0, 503, [], 0.03, REFUSED))
    figures = loop_figures("80%", nothing, served(nothing.streams, 0.0, 10.0))
    assert value(figures, "80%: first token, p99") is None
    assert value(figures, "80%: not answered as a whole") == 1


def test_streams_of_a_killed_worker_are_told_or_counted_as_silent() -> None:
    told, silent = Stream(0.0, 200, [1.0, 2.0], 2.2, TOLD), Stream(0.0, 200, [1.0], 2.1, BROKEN)
    elsewhere = Stream(0.0, 200, [1.0, 3.0], 3.0, WHOLE)
    figures = killed_figures(measured(told, silent, elsewhere, Stream(2.1, 503, [], 2.2, REFUSED)), 2.0, 7.5)
    name = "a worker killed with -9"
    assert value(figures, f"{name}: streams that had begun, on both nodes") == 3
    assert value(figures, f"{name}: of them told") == 1
    assert value(figures, f"{name}: told after, slowest") == pytest.approx(0.2)
    assert value(figures, f"{name}: streams that ended in silence") == 1
    assert value(figures, f"{name}: refused or not reached") == 1


def test_where_none_may_break_a_told_stream_is_a_broken_one() -> None:
    figures = lost("x", measured(Stream(0.0, 200, [1.0], 2.0, TOLD), Stream(0.0, 200, [1.0], 2.0, WHOLE)))
    assert value(figures, "x: streams that broke") == 1
    assert value(figures, "x: refused or not reached") == 0


def test_processor_time_is_compared_for_a_token() -> None:
    def row(**spent_s: float) -> Row:
        found = measured(Stream(0.0, 200, [1.0, 2.0], 2.0, WHOLE, answer=100))
        found.spent_s = spent_s
        return Row("", "", served([], 0.0, 1.0), 0.0, found.spent_ms)

    assert row(model=0.5).spent_ms == {"model": 5.0}
    assert spent_shares("", [row(model=0.5, gateway=0.5)], [row(model=0.8)]).rounds == (0.8,)
    assert spent_shares("", [row()], [row()]).value is None


def test_the_table_has_a_row_for_each_turn_and_its_json_no_nan() -> None:
    result = TextResult("cost", "", {}, {}, [], rows=[Row("here", "16", served([], 0.0, 1.0), 0.01)])
    [row] = rows([result])
    assert len(row) == len(COLUMNS)
    assert "NaN" not in json.dumps(result.as_json())


class Letters:
    """A backend of whose every token the text is the same letter."""

    name = "letters"
    context = 1000

    def __init__(self) -> None:
        self._left: dict[int, int] = {}

    def encode(self, text: str) -> list[int]:
        return [1] * len(text.split())

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        raise AssertionError("no plan has chats")

    def token_bytes(self, token: int) -> bytes:
        return b"a"

    def grammar(self, schema: str, salt: str | None = None) -> Any:
        raise ValueError("no JSON here")

    def add(self, key: int, prompt: Sequence[int], sampling: Sampling, salt: str | None = None) -> None:
        self._left[key] = sampling.max_tokens

    def cancel(self, key: int) -> None:
        del self._left[key]

    def step(self) -> Iterable[Produced]:
        produced = []
        for key in list(self._left):
            self._left[key] -= 1
            finish = "" if self._left[key] else LENGTH
            produced.append(Produced(key, (Token(1),), finish))
            if finish:
                del self._left[key]
        return produced

    def cache_usage(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


def test_users_without_a_server_ask_again_until_the_time_is_over() -> None:
    loop = Loop(Letters())
    plan = {"bodies": bodies(Lengths((5, 5), (3, 3)), 10, 1), "users": 4, "seconds": 0.3, "ramp_s": 0.1}
    for _ in range(2):  # the backend stays for the next plan
        found = read_measured(loop.run(plan))
        assert len(found.streams) > 4
        assert {stream.outcome for stream in found.streams} == {WHOLE}
        assert {(s.prompt, s.answer, len(s.moments), s.finish) for s in found.streams} == {(5, 3, 3, LENGTH)}
    loop.close()


def test_a_release_is_right_where_outcome_and_signal_are() -> None:
    same, shorter, _ = CASES
    promoted, rolled_back = (
        SimpleNamespace(outcome=outcome, signal=signal)
        for outcome, signal in ((Outcome.PROMOTED, ""), (Outcome.ROLLED_BACK, "length"))
    )

    def ends_right(case: Case, state: Any) -> float | None:
        return next(figure.value for figure in release_figures(case, state, 30.0) if "ends as it must" in figure.name)

    assert [ends_right(same, state) for state in (promoted, rolled_back)] == [1, 0]
    assert [ends_right(shorter, state) for state in (promoted, rolled_back)] == [0, 1]
    assert ends_right(shorter, SimpleNamespace(outcome=Outcome.ROLLED_BACK, signal="errors")) == 0
    assert ends_right(shorter, SimpleNamespace(outcome=Outcome.ROLLED_BACK, signal="finish")) == 1
    assert ends_right(same, SimpleNamespace(outcome=None, signal="")) == 0
    assert [json.loads(body)["temperature"] for body in chats(2, 1, 0.0)] == [0.0, 0.0]


def test_noise_is_the_share_of_second_answers_that_differ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vectors = {"one": [1.0, 0.0], "two": [0.9, 0.1], "ten": [0.0, 1.0]}
    monkeypatch.setattr("tsctl.archive.asked.embed", lambda archive, texts, timeout_s: [vectors[t] for t in texts])
    monkeypatch.setattr("tsctl.archive.asked.find_archive", lambda *names: None)

    def answer(track: Track, text: str) -> Answer:
        whole = {"answers": [{"tokens": [text], "finish": "stop"}], "answer_tokens": 3}
        return Answer("id", track, Summary(answer=whole, is_whole=True, answer_digest=text))

    requests = [
        PairedRequest(
            Pair(answer(Track.STABLE, "one"), answer(Track.SHADOW, shadow)), {Repeat.ALONE: answer(Track.STABLE, again)}
        )
        for shadow, again in (("one", "two"), ("ten", "one"))
    ]
    figures = noise_figures("hot", Paired(requests), Asker(Project(tmp_path)))
    assert value(figures, "hot, tokens: an identical shadow differs, of 2") == 0.5
    assert value(figures, "hot, tokens: stable again, alone differs, of 2") == 0.5
    assert value(figures, "hot, embedding, least 0.8: an identical shadow differs, of 2") == 0.5
    assert value(figures, "hot, embedding, least 0.8: stable again, alone differs, of 2") == 0.0
    assert value(figures, "hot, length: an identical shadow differs, of 2") == 0.0
    assert value(figures, "hot, tokens: stable again, in another batch differs, of 0") is None
    assert len(figures) == 3 * len(COMPARATORS)

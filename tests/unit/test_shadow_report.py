"""`tsctl shadow report` over records: pairs, verdict, slices, labels, latency, examples; tables, JSON and HTML."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.unit.shadow_records import MODEL, SHADOW, STABLE, Asked, write
from tsctl.archive.store import StoredArchive
from tsctl.cli.shadow import app
from tsctl.errors import AnalysisError, SpecError, TsctlError
from tsctl.records import labels
from tsctl.records.database import Place
from tsctl.records.pairs import WAIT_S, Versions, read_pairs, versions_compared
from tsctl.shadow.disagreement import Repeat
from tsctl.shadow.pairing import Unpaired

DEPLOYMENT = 'nodes: {one: {engine: uvicorn, address: "http://127.0.0.1:18090"}}\nmodels: {}\n'
CAT: dict[str, Any] = {"label": "cat", "score": 0.9, "outputs": {"score": 0.9}}
DOG: dict[str, Any] = {"label": "dog", "score": 0.8, "outputs": {"score": 0.8}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    (tmp_path / "deployment.yaml").write_text(DEPLOYMENT)
    (tmp_path / "archives").mkdir()
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))

    def invoke(asked: Sequence[Asked], *arguments: str) -> Result:
        folder = tmp_path / ".tsctl" / "nodes" / "one" / "records"
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, asked, time.time() - 600)
        result = CliRunner().invoke(app, ["report", MODEL, *arguments], catch_exceptions=True)
        if isinstance(result.exception, TsctlError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return invoke


def asked(count: int, flips: int = 0, repeats: bool = True, noise: int = 0) -> list[Asked]:
    """Requests of which the shadow flips every so manieth one of the feature `place: far`, evenly spread."""
    made = []
    for number in range(count):
        is_far = number % 2 == 0
        flipped = bool(flips) and number % flips == 0
        again = DOG if noise and number % noise == 1 else CAT
        features = {"categories": {"place": "far" if is_far else "near"}, "numbers": {"size": float(number % 10)}}
        shadow = DOG if flipped else CAT
        made.append(Asked(f"id-{number}", CAT, shadow, again if repeats else None, number / 10_000, features))
    return made


def test_a_shadow_that_flips_two_percent_is_found_with_its_slice_and_examples(run: Callable[..., Result]) -> None:
    found = json.loads(run(asked(4000, flips=50), "--json").stdout)
    assert (found["stable"], found["shadow"], found["verdict"]) == (STABLE, SHADOW, "too much")
    assert (found["pairs"], found["differing"], found["paired_share"]) == (4000, 80, 1.0)
    assert found["interval"][0] < 0.02 < found["interval"][1]
    worst = {slice_["name"] for slice_ in found["slices"]["worst"]}
    assert "place far" in worst
    assert "place near" not in worst
    assert len(found["examples"]) == 30
    example = found["examples"][0]
    assert example["request_id"].startswith("id-")
    assert ("cat" in example["stable"], "dog" in example["shadow"]) == (True, True)
    assert [each["percentile"] for each in found["latency"]] == [50, 90, 95, 99]
    assert {each["stable_ms"] for each in found["latency"]} == {3.0}


def test_an_identical_shadow_agrees_and_a_shorter_comparison_is_undecided(run: Callable[..., Result]) -> None:
    assert json.loads(run(asked(1600), "--json").stdout)["verdict"] == "low enough"
    text = run(asked(500)).stdout
    assert text.startswith("Undecided: 0 of 500 pairs differ (0.00%); about 997 more pairs with a measured floor")


def test_a_shadow_as_noisy_as_stable_is_not_rejected(run: Callable[..., Result]) -> None:
    found = json.loads(run(asked(4000, flips=50, noise=50), "--json").stdout)
    assert found["verdict"] == "undecided"
    assert found["noise_floor"]["alone"]["differing"] == found["noise_floor"]["batch"]["differing"] == 80


def test_without_a_noise_floor_nothing_is_decided(run: Callable[..., Result]) -> None:
    text = run(asked(3000, flips=10, repeats=False)).stdout
    assert "the noise floor of 1.0 was not measured" in text.splitlines()[0]


def test_features_that_are_not_looked_at_are_counted_and_those_of_most_requests_are(run: Callable[..., Result]) -> None:
    """The shadow flips where `z` is small; of 200 features, `z` is one of those that every request has."""
    made = []
    for number in range(400):
        size = float(number % 8)
        rare = {f"f{each}": float(number) for each in range(199) if number % 2}
        features = {"numbers": {"z": size, **rare}, "categories": {"place": "near"}}
        made.append(Asked(f"id-{number}", CAT, DOG if size < 2 else CAT, CAT, number / 10_000, features))
    found = json.loads(run(made, "--json").stdout)["slices"]
    assert found["features_left_out"] == 200 - (500 - 2) // 4
    assert [each["name"] for each in found["worst"]] == ["z below 1.75"]
    assert "76 numeric features were not looked at, for want of room." in run(made).stdout


def test_the_table_of_pairs_has_counts_and_a_share(run: Callable[..., Result]) -> None:
    lines = run([*asked(97), Asked("no-shadow", CAT, None, CAT)]).stdout.splitlines()
    assert lines[lines.index("Pairs:") + 1].split() == ["REASON", "ANSWERS", "SHARE"]
    [paired] = [line.split() for line in lines if line.startswith("paired")]
    assert paired == ["paired", "97", "98.98%"]


def test_a_version_without_answers_is_no_report(run: Callable[..., Result]) -> None:
    with pytest.raises(AnalysisError, match=r"answers of both 1\.0 and 9\.9 .*\(10 no shadow answer in time\)"):
        run(asked(10), "--version", "9.9")


def test_a_choice_of_all_classes_is_refused_and_a_smaller_one_compares(run: Callable[..., Result]) -> None:
    stable, shadow = ({"scores": scores, "lists": ["p"]} for scores in ([0.1, 0.2, 0.7], [0.7, 0.2, 0.1]))
    pairs = [Asked(f"id-{n}", {**stable, "answer_digest": "a"}, {**shadow, "answer_digest": "b"}) for n in range(9)]
    with pytest.raises(SpecError, match="choose k of at most 2"):
        run(pairs, "--compare", "top_k")
    assert json.loads(run(pairs, "--compare", "top_k", "--k", "1", "--json").stdout)["differing"] == 9


def test_lost_answers_are_counted_by_reason(run: Callable[..., Result]) -> None:
    lost = [
        Asked("no-shadow", CAT, None, CAT),
        Asked("no-stable", None, CAT),
        Asked("busy", CAT, {"status": 503, "label": None}, CAT),
    ]
    found = json.loads(run([*asked(97), *lost], "--json").stdout)
    assert found["unpaired"] == {
        str(Unpaired.NO_SHADOW): 1, str(Unpaired.NO_STABLE): 1, str(Unpaired.BUSY): 1,
    }  # fmt: skip
    assert (found["pairs"], found["paired_share"]) == (97, 0.97)


def test_labels_that_arrived_are_compared_by_mcnemar(run: Callable[..., Result], tmp_path: Path) -> None:
    made = asked(200, flips=20)
    file = tmp_path / "labels.csv"
    file.write_text("request_id,label\n" + "".join(f"{each.name},cat\n" for each in made))
    labels.add(tmp_path / ".tsctl" / "labels", file)
    found = json.loads(run(made, "--json").stdout)["labels"]
    assert (found["both_right"], found["shadow_wrong"], found["stable_wrong"]) == (190, 10, 0)
    assert found["p_value"] == pytest.approx(2 * 0.5**10)


def test_the_page_needs_no_other_file_and_escapes_answers(run: Callable[..., Result], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    shouting = [Asked("<b>", {"label": "cat"}, {"label": "<script>"}, {"label": "cat"}, 0.1)]
    result = run([*asked(100, flips=50), *shouting], "--html", str(page))
    text = page.read_text()
    assert f"written to {page}" in result.stdout
    assert "Disagreement" in result.stdout
    assert text.count("<figure>") == 3
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert page.stat().st_mode & 0o077 == 0


def test_a_comparator_that_the_records_cannot_serve_says_what_to_do(run: Callable[..., Result]) -> None:
    with pytest.raises(SpecError, match="records of stable have no vector"):
        run(asked(10), "--compare", "vector")
    with pytest.raises(SpecError, match="must be one of"):
        run(asked(10), "--compare", "colour")
    assert json.loads(run(asked(10, flips=5), "--json").stdout)["differing"] == 2
    same = json.loads(run(asked(10), "--compare", "number", "--json").stdout)
    assert same["differing"] == 0


def test_without_copies_the_command_says_how_to_get_some(run: Callable[..., Result]) -> None:
    with pytest.raises(AnalysisError, match="copied to a shadow"):
        run([])


VERSIONS = Versions(MODEL, STABLE, SHADOW)
BEGIN = 1_764_150_000.0


@pytest.fixture
def places(tmp_path: Path) -> Callable[[Sequence[Asked]], list[Place]]:
    def written(asked: Sequence[Asked]) -> list[Place]:
        write(tmp_path / "records", asked, BEGIN)
        return [Place("one", str(tmp_path / "records"))]

    return written


def test_adjacent_periods_have_each_request_once(places: Callable[..., list[Place]]) -> None:
    made = [Asked(f"id-{number}", CAT, CAT if number % 7 else None, CAT, number * 0.5) for number in range(60)]
    here = places(made)
    whole = read_pairs(here, VERSIONS, BEGIN, BEGIN + 40).paired
    parts = [read_pairs(here, VERSIONS, BEGIN + 10 * part, BEGIN + 10 * (part + 1)).paired for part in range(4)]
    names = [request.pair.stable.request_id for part in parts for request in part.requests]
    assert names == [request.pair.stable.request_id for request in whole.requests]
    assert len(names) == 51
    assert sum(part.unpaired.get(Unpaired.NO_SHADOW, 0) for part in parts) == 9 == whole.unpaired[Unpaired.NO_SHADOW]


def test_a_period_with_too_many_answers_is_read_in_parts(
    places: Callable[..., list[Place]], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = places([Asked(f"id-{number}", CAT, CAT, None, number * 5) for number in range(40)])
    monkeypatch.setattr("tsctl.records.pairs.MOST_ANSWERS", 20)
    names, since = [], BEGIN
    while since < BEGIN + 200:
        reading = read_pairs(here, VERSIONS, since, BEGIN + 200)
        assert reading.until_s > since
        names += [request.pair.stable.request_id for request in reading.paired.requests]
        since = reading.until_s
    assert names == [f"id-{number}" for number in range(40)]
    monkeypatch.setattr("tsctl.records.pairs.MOST_ANSWERS", 3)
    with pytest.raises(AnalysisError, match="more than 3 answers of toy were recorded within 20 s"):
        read_pairs(here, VERSIONS, BEGIN, BEGIN + 200)


def test_a_pair_has_second_answers_features_times_and_rows(places: Callable[..., list[Place]]) -> None:
    features = {"numbers": {"size": 2.0}, "categories": {"place": "far"}}
    here = places([Asked("a", CAT, DOG, CAT, 1, features, row=3), Asked("a", CAT, CAT, None, 1, features, row=0)])
    first, second = sorted(
        read_pairs(here, VERSIONS, BEGIN, BEGIN + 40, {("a", 3): "cat"}).paired.requests,
        key=lambda request: request.pair.stable.request_id,
    )
    assert (first.pair.stable.request_id, first.label, dict(first.repeats)) == ("a", None, {})
    assert (second.pair.stable.request_id, second.label, second.predicted) == ("a#3", "cat", ("cat", "dog"))
    assert second.repeats.keys() == set(Repeat)
    assert second.features == {"size": 2.0, "place": "far"}
    assert second.pair.stable.latency_ms == 3.0


@pytest.mark.parametrize(("apart_s", "pairs"), [(WAIT_S / 2, 1), (WAIT_S * 2, 0)])
def test_a_request_id_that_comes_again_much_later_is_another_request(
    places: Callable[..., list[Place]], apart_s: float, pairs: int
) -> None:
    here = places([Asked("a", CAT, None, None, 20), Asked("a", None, CAT, None, 20 + apart_s)])
    assert len(read_pairs(here, VERSIONS, BEGIN, BEGIN + 60).paired.requests) == pairs


def test_the_versions_are_those_whose_requests_were_copied_last(places: Callable[..., list[Place]]) -> None:
    assert versions_compared(places([Asked("a", CAT, CAT)]), MODEL, BEGIN, BEGIN + 60) == VERSIONS
    assert versions_compared(places([Asked("a", CAT, None)]), MODEL, BEGIN, BEGIN + 60) is None


def test_whole_answers_are_compared_where_they_were_kept(places: Callable[..., list[Place]]) -> None:
    kept: dict[str, Any] = {"answer": '{"text": "hello"}', "answer_digest": "a"}
    other = {"answer": '{"text": "hallo"}', "answer_digest": "b"}
    [request] = read_pairs(places([Asked("a", kept, other)]), VERSIONS, BEGIN, BEGIN + 60).paired.requests
    assert (request.pair.stable.value.answer, request.pair.shadow.value.is_whole) == ({"text": "hello"}, True)


# ---- texts -----------------------------------------------------------------------------------------------------------


def text(content: str, is_whole: bool = True) -> dict[str, Any]:
    whole = {"answer": {"answers": [{"tokens": [content], "finish": "stop"}]}} if is_whole else {}
    return {"text_digest": content, "answer_digest": content, **whole}


def texts(count: int, is_whole: bool = True) -> list[Asked]:
    """Every tenth answer of the shadow is about something else; stable's second answers have other words."""
    stable, again = text("Paris.", is_whole), text("The city of Paris.", is_whole)
    others = [text(content, is_whole) for content in ("Bananas.", "It is Paris.")]
    return [Asked(f"id-{number}", stable, others[number % 10 > 0], again, number / 1000) for number in range(count)]


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Texts that the model was asked for, each time; a store that has two versions of one model, and another."""
    seen: list[list[str]] = []

    def embed(archive: StoredArchive, given: Sequence[str], timeout_s: float) -> list[list[float]]:
        seen.append([f"{archive.model}:{archive.version}", *given])
        return [[0.0, 1.0] if each == "Bananas." else [1.0, len(each) / 100] for each in given]

    monkeypatch.setattr("tsctl.archive.asked.embed", embed)
    for name in ("encoder-1.0", "encoder-2.0", "embeddings-3.0"):
        published = tmp_path / "archives" / "store" / ".builds"
        published.mkdir(parents=True, exist_ok=True)
        (published / f"{name}-0123456789ab.mar").touch()
    return seen


def test_texts_are_compared_by_what_they_are_about(run: Callable[..., Result], embedded: list[list[str]]) -> None:
    found = json.loads(run(texts(40), "--embed", "embeddings", "--json").output)
    assert (found["pairs"], found["differing"]) == (40, 4)
    assert {each["differing"] for each in found["noise_floor"].values()} == {0}, "other words, the same meaning"
    assert embedded == [["embeddings:3.0", "Paris.", "Bananas.", "The city of Paris.", "It is Paris."]]
    assert "a cosine of" in run(texts(20), "--embed", "encoder:2.0", "--least", "0.9999").output
    assert embedded[-1][0] == "encoder:2.0"
    assert "20 of 20 pairs differ" in run(texts(20), "--compare", "embedding", "--least", "0.9999").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--embed", "encoder"], r"the store has 1\.0, 2\.0 of encoder.*"),
        (["--embed", "embeddings", "--compare", "text"], "--embed does not fit --compare text"),
        (["--least", "0.5"], "--field, --least and --k need --compare or --embed"),
        (["--compare", "label", "--least", "0.5"], "label does not take least; it takes field"),
        (["--compare", "json", "--field", "a", "--k", "2"], "json does not take field, k; it takes no option"),
        (["--compare", "top_k", "--least", "-1"], r"least \(-1\) of top_k is a share"),
    ],
)
def test_what_cannot_embed_is_refused(
    run: Callable[..., Result], embedded: list[list[str]], arguments: list[str], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        run(texts(10), *arguments)
    assert embedded == []


def test_digests_are_not_embedded_and_too_many_texts_are_refused(
    run: Callable[..., Result], embedded: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match=r"records have digests of texts only.*answers: true"):
        run(texts(10, is_whole=False), "--embed", "embeddings")
    monkeypatch.setattr("tsctl.archive.asked.MOST_TEXTS", 3)
    with pytest.raises(AnalysisError, match="4 texts differ, and a model embeds 3 of a comparison at most") as caught:
        run(texts(10), "--embed", "embeddings")
    assert caught.value.hint == "Give a shorter time with --hours."
    assert embedded == []

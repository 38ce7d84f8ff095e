"""Several gateways of one deployment: what is published, who takes it, and what is said of those that do not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tsctl.config.deployment import Budget, DeploymentSpec, read_deployment
from tsctl.config.project import Project
from tsctl.control import large
from tsctl.control.folder import FolderPlace
from tsctl.control.place import LARGEST, PlaceUnreachable, TooLarge, numbered
from tsctl.errors import ConflictError, GatewayError, SpecError
from tsctl.gateway.change import set_clients
from tsctl.gateway.envoy.admin import Host, NotAnswering
from tsctl.gateway.envoy.render.upstreams import Endpoint, Offer, Probe, Upstream, Way
from tsctl.gateway.files import read_document
from tsctl.gateway.keys import Record, added, digest, plain_keys, read_keys, record_of, revoked
from tsctl.gateway.shared import control
from tsctl.gateway.shared.admin import SharedAdmin, together
from tsctl.gateway.shared.budgets import part_of, parts_of
from tsctl.gateway.shared.control import Overtaken, SharedGateways
from tsctl.gateway.shared.follower import Follower, open_follower, prepare
from tsctl.gateway.shared.generation import GENERATIONS, DamagedGeneration, Generation, from_bytes, merged, to_bytes
from tsctl.gateway.shared.presence import Presence, presences, trouble
from tsctl.gateway.shared.report import REPORTS, Report, newest_reports
from tsctl.gateway.shared.report import from_bytes as report_of
from tsctl.gateway.shared.report import to_bytes as report_bytes
from tsctl.gateway.state import (
    Gateway,
    gateway_status,
    open_gateway,
    open_local,
    open_named,
    traffic_in_force,
    upstreams_written,
)
from tsctl.gateway.traffic import Shadow, Traffic
from tsctl.host.due import Due

NODE = Endpoint("n0", "198.18.0.2", 8080, "secret", engine="uvicorn")
PLAIN = Upstream("m", "1.0", (NODE,), Probe(b"\x00\xff", "image/png"))
FULL = replace(PLAIN, version="2.0", way=Way("triton", "/p", 7), offer=Offer("text", 1.5, 60.0), is_stock=True)
ROUTE = Traffic("m", {"2.0": 500, "1.0": 9500}, canary="2.0", shadow=Shadow("3.0", 100))
RECORD = Record("0a", "team", digest("key"), "2026-01-01T00:00:00+00:00", 10, 20, 600)


def generation() -> Generation:
    made = Generation(1, "why", "me@here", "2026-01-01T00:00:00+00:00", "nodes: {}\n", (ROUTE,), (RECORD,))
    return replace(made, plain={digest("key"): "key"}, upstreams=(PLAIN, FULL), fences={"rollout m": 3})


# ---- the documents ---------------------------------------------------------------------------------------------------


def test_a_generation_is_read_back_as_it_was() -> None:
    read = from_bytes(to_bytes(generation()), "x")
    assert read == generation()
    assert list(read.routes["m"].weights) == ["2.0", "1.0"]  # stable last
    assert "secret" not in repr(read)
    assert "key" not in repr(read).replace("keys", "")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (to_bytes(generation()).replace(b'"format": 1', b'"format": 9'), "format 9"),
        (to_bytes(generation()).replace(b'"packed": "', b'"packed": "x'), "damaged"),
    ],
)
def test_a_damaged_generation_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(GatewayError, match=why):
        from_bytes(content, "gateway/generations/000001.json")


def test_a_report_is_read_back_as_it_was() -> None:
    host = Host("198.18.0.2:8080", True, "", 2)
    report = Report("a", 7, "o", 1.5, 3, 4, "no", True, False, "http://x:1", 2, "", {"m~1.0": [host]}, {"c": 1}, "page")
    assert report_of(report_bytes(report), "x") == report
    with pytest.raises(GatewayError, match="damaged"):
        report_of(b"{}", "x")


def test_the_newest_report_is_the_one_with_the_largest_number() -> None:
    names = [f"{REPORTS}/a/999999.json", f"{REPORTS}/a/1000000.json", f"{REPORTS}/b/000002.json"]
    assert newest_reports(names) == {"a": 1_000_000, "b": 2}


def test_a_gateway_keeps_what_it_knows_better_than_the_generation() -> None:
    before, now = Generation(1, upstreams=(PLAIN,)), Generation(2, upstreams=(PLAIN, FULL))
    newer = replace(PLAIN, endpoints=(replace(NODE, token="new"),))
    by_hand = replace(PLAIN, version="9.0")
    assert merged([newer, by_hand], before, now) == [newer, FULL, by_hand]
    moved = replace(PLAIN, endpoints=(replace(NODE, host="198.18.0.9"),))
    assert merged([newer], before, Generation(2, upstreams=(moved,))) == [moved]
    assert merged([newer], before, Generation(2)) == []
    routed = Generation(2, traffic=(Traffic("m", {"1.0": 10_000}),))
    assert merged([newer], before, routed) == [newer]  # a route must have its cluster


def test_budgets_are_divided_and_never_become_nothing() -> None:
    assert part_of(Budget(requests_per_s=5, burst=1, tokens_per_minute=None), 2) == Budget(requests_per_s=3, burst=1)
    [part] = parts_of([RECORD], 3)
    assert (part.requests_per_s, part.burst, part.tokens_per_minute) == (4, 7, 200)
    assert parts_of([RECORD], 1) == [RECORD]
    without = replace(RECORD, requests_per_s=None, burst=None, tokens_per_minute=None)
    assert parts_of([without], 2) == [without]


def test_a_version_can_answer_where_every_gateway_has_a_healthy_node() -> None:
    good, bad = Host("n:1", True, "", 1), Host("n:1", False, "failed active health check", 0)
    other = Host("n:2", True, "", 3)
    merged_hosts = together({"a": {"m~1.0": [good, other], "m~2.0": [good]}, "b": {"m~1.0": [bad, other]}})
    assert merged_hosts == {"m~1.0": [replace(good, active=1), replace(other, active=6)]}
    [host] = together({"a": {"c": [good]}, "b": {"c": [bad]}})["c"]
    assert not host.is_healthy
    assert "gateway b has no healthy node" in host.why_not


def test_gateways_have_a_place_and_addresses_of_their_own(tmp_path: Path) -> None:
    def spec(text: str) -> DeploymentSpec:
        path = tmp_path / "deployment.yaml"
        path.write_text("nodes: {local: {}}\n" + text)
        return read_deployment(path)

    place = "gateways: {a: {address: 'http://127.0.0.1:1', metrics: 'http://127.0.0.1:2'}}\n"
    made = spec(place + "control: /c\n")
    assert made.gateway is not None
    assert made.gateway.at(made.gateways["a"]).address == "http://127.0.0.1:1"
    assert made.gateway_addresses == {"a": "http://127.0.0.1:1"}
    assert made.gateway_metrics == ["http://127.0.0.1:2"]
    with pytest.raises(SpecError, match=r"deployment\.yaml: gateways need control"):
        spec(place)
    with pytest.raises(SpecError, match=r"gateways\.a: .*must not both be 127\.0\.0\.1:1"):
        spec(place.replace("127.0.0.1:2", "127.0.0.1:1") + "control: /c\n")
    with pytest.raises(SpecError, match="gateway must not have address"):
        spec(place + "control: /c\ngateway: {address: 'http://127.0.0.1:5'}\n")
    with pytest.raises(SpecError, match="must begin with https"):
        spec(place.replace("metrics", "tls: {certificate: c, key: k}, metrics") + "control: /c\n")


# ---- publishing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> FolderPlace:
    (tmp_path / "place").mkdir()
    made = FolderPlace(str(tmp_path / "place"))
    made.create("first", b"")  # as the check of a place does
    return made


class Fakes:
    """Gateways that take what is published at once, or refuse it."""

    def __init__(self, place: FolderPlace, *names: str) -> None:
        self.place, self.names = place, names
        self.refuse = ""
        self.numbers = dict.fromkeys(names, 0)

    def report(self, name: str, **more: object) -> None:
        self.numbers[name] += 1
        report = Report(name, self.numbers[name], "o", 1000.0, self.newest(), is_live=True)
        made = replace(report, **more)  # type: ignore[arg-type]
        self.place.create(numbered(f"{REPORTS}/{name}", self.numbers[name]), report_bytes(made))

    def newest(self) -> int:
        names = self.place.names(f"{GENERATIONS}/")
        return int(names[-1][-11:-5]) if names else 0

    @contextmanager
    def running(self) -> Iterator[None]:
        ended, begin = threading.Event(), self.newest()
        for name in self.names:
            self.report(name)

        def run() -> None:
            refused = 0  # the first generation since the begin
            while not ended.wait(0.01):
                newest = self.newest()
                refused = refused or (newest if newest > begin else 0)
                for name in self.names:
                    if name == self.refuse and refused and refused == newest:
                        self.report(name, generation=refused - 1, refused=refused, error="Envoy says no")
                    else:
                        self.report(name, generation=newest)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def shared(
    place: FolderPlace, tmp_path: Path, *names: str, operator: str = "one", at: float = 1000.0
) -> SharedGateways:
    made = SharedGateways(place.address, names, tmp_path / operator, clock=lambda: at)
    made.__dict__["place"] = place
    return made


def with_route(route: Traffic) -> Callable[[Generation], Generation]:
    return lambda before: replace(before, traffic=(route,))


def test_a_change_is_in_force_on_all_when_publish_returns(place: FolderPlace, tmp_path: Path) -> None:
    gateways = shared(place, tmp_path, "a", "b")
    with Fakes(place, "a", "b").running():
        assert gateways.publish("routes", with_route(ROUTE)).number == 1
        assert gateways.absent == {}
        again = shared(place, tmp_path, "a", "b")
        assert again.publish("routes", with_route(ROUTE)).number == 1, "what is equal is not published again"
        assert again.head().traffic == (ROUTE,)
        assert {report.generation for report in again.present().values()} == {1}


def test_who_does_not_report_is_named_and_not_waited_for(place: FolderPlace, tmp_path: Path) -> None:
    fakes = Fakes(place, "a", "b", "c")
    fakes.report("b")
    fakes.report("c", is_stopped=True)
    later = shared(place, tmp_path, "a", "b", "c", "d", at=1000.0 + control.SILENT_S)
    with Fakes(place, "a").running():
        later.clock = lambda: 1000.0
        later._presence(0.0)
        later.clock = lambda: 1000.0 + control.SILENT_S
        with pytest.raises(GatewayError, match="may still send it requests"):
            later.require_all("m 1.0 cannot be retired")
    assert later.silent()["b"].startswith("no report for 6 s")
    assert later.silent()["c"] == "it was stopped"
    assert later.silent()["d"] == "it has never reported"


def test_what_one_gateway_refuses_is_taken_back_on_all(place: FolderPlace, tmp_path: Path) -> None:
    gateways, fakes = shared(place, tmp_path, "a", "b"), Fakes(place, "a", "b")
    with fakes.running():
        gateways.publish("routes", with_route(ROUTE))
    fakes.refuse = "b"
    with fakes.running(), pytest.raises(GatewayError, match="b: Envoy says no"):
        gateways.publish("routes", with_route(ROUTE.weighted({"1.0": 10_000})))
    assert gateways.head().number == 3
    assert gateways.head().traffic == (ROUTE,)


def test_of_two_operators_the_second_one_is_refused(place: FolderPlace, tmp_path: Path) -> None:
    first, second = (shared(place, tmp_path, operator=name) for name in ("one", "two"))
    with second.held(), pytest.raises(Overtaken, match=r"generation 1 by .*, routes"):
        first.publish("routes", with_route(ROUTE))
        second.publish("keys", with_route(ROUTE.weighted({"1.0": 10_000})))
    assert second.publish_anew("keys", lambda before: replace(before, records=(RECORD,))).traffic == (ROUTE,)


def test_a_writer_with_an_older_term_publishes_nothing(place: FolderPlace, tmp_path: Path) -> None:
    stale, new = (shared(place, tmp_path, operator=name) for name in ("one", "two"))
    stale.fence, new.fence = ("rollout m", 1), ("rollout m", 2)
    stale.publish("routes", with_route(ROUTE))
    new.publish("taken over", lambda before: before)  # the term alone is a change
    stale.head()
    with pytest.raises(ConflictError, match="rollout m goes on elsewhere"):
        stale.publish("routes", with_route(ROUTE.weighted({"1.0": 10_000})))
    assert new.head().number == 2


def damage(place: FolderPlace, number: int) -> None:
    (Path(place.address) / numbered(GENERATIONS, number)).write_bytes(b'{"format": 1')


def test_behind_a_damaged_generation_the_newest_sound_one_is_published(place: FolderPlace, tmp_path: Path) -> None:
    operator = shared(place, tmp_path)
    operator.publish("routes", with_route(ROUTE))
    operator.publish("keys", lambda before: replace(before, records=(RECORD,)))
    operator.publish("other routes", with_route(ALONE))
    for number in (2, 3):
        damage(place, number)
    operator = shared(place, tmp_path, operator="two")
    with pytest.raises(DamagedGeneration, match=r"000003\.json in the place of control is damaged") as caught:
        operator.head()
    assert "tsctl gateway publish" in caught.value.hint
    operator.mend()
    assert operator.head().number == 4
    assert operator.head().traffic == (ROUTE,)
    operator.mend()
    assert operator.head().number == 4, "nothing is published where nothing is damaged"


def test_a_place_without_a_sound_generation_is_said(place: FolderPlace, tmp_path: Path) -> None:
    shared(place, tmp_path).publish("routes", with_route(ROUTE))
    damage(place, 1)
    with pytest.raises(DamagedGeneration) as caught:
        shared(place, tmp_path, operator="two").mend()
    assert "restore it from a copy" in caught.value.hint


def test_old_generations_are_removed(place: FolderPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "GENERATIONS_KEPT", 2)
    gateways = shared(place, tmp_path)
    for weight in (100, 200, 300):
        gateways.publish("routes", with_route(ROUTE.weighted({"2.0": weight, "1.0": 10_000 - weight})))
    assert place.names(GENERATIONS) == [numbered(GENERATIONS, number) for number in (2, 3)]


def test_clocks_that_differ_make_no_gateway_silent(place: FolderPlace, tmp_path: Path) -> None:
    fakes = Fakes(place, "a")
    fakes.report("a", at=5.0)  # its clock is far behind
    gateways = shared(place, tmp_path, "a")
    assert gateways._presence(0.0) == ({}, {"a": ""}), "nobody knows yet"
    fakes.report("a", at=6.0)
    assert list(gateways._presence(0.0)[0]) == ["a"]


def test_without_a_gateway_that_reports_nothing_answers(place: FolderPlace, tmp_path: Path) -> None:
    admin = SharedAdmin(shared(place, tmp_path, "a"))
    assert not admin.is_live()
    with pytest.raises(NotAnswering, match="it has never reported"):
        admin.hosts()


def test_status_says_which_generation_a_gateway_has() -> None:
    reports = {
        "a": Report("a", 9, "o", 0.0, 5, is_live=True),
        "b": Report("b", 4, "o", 0.0, 4, is_live=True),
        "c": Report("c", 4, "o", 0.0, 4, 5, "no such variable", is_live=True),
        "d": Report("d", 4, "o", 0.0, 5, problem="Envoy has ended by itself"),
    }
    each = presences(dict.fromkeys("abcde", "http://x:1"), 5, reports, {"b": "no report for 9 s", "e": "never"})
    assert [one.is_ready for one in each] == [True, False, False, False, False]
    assert [one.line for one in each] == [
        "gateway a: ready, generation 5, http://x:1",
        "gateway b: does not report, generation 4 of 5, http://x:1: no report for 9 s",
        "gateway c: not ready, generation 4 of 5, http://x:1: it refused generation 5: no such variable",
        "gateway d: not ready, generation 5, http://x:1: Envoy has ended by itself",
        "gateway e: does not report, no generation of 5, http://x:1: never",
    ]
    assert trouble([Presence("a", "", True, True, 4, 5, 1)]) == "gateway a: it has generation 4 of 5"
    assert trouble(each[:1]) == ""


# ---- a gateway's own machine, without Envoy --------------------------------------------------------------------------


@pytest.fixture
def operator(tmp_path: Path, place: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """The operator's machine, whose deployment.yaml has two gateways, which a test lets take what is published."""
    monkeypatch.setattr(control, "SILENT_S", 0.1)
    monkeypatch.setattr(control, "FRESH_S", 0.0)
    root = tmp_path / "operator"
    root.mkdir()
    ports = free_ports(4)
    listens = [
        f"{{address: 'http://127.0.0.1:{ports[i]}', metrics: 'http://127.0.0.1:{ports[i + 1]}'}}" for i in (0, 2)
    ]
    (root / "deployment.yaml").write_text(
        f"nodes: {{local: {{}}}}\ncontrol: {place.address}\ngateways: {{a: {listens[0]}, b: {listens[1]}}}\n"
        "gateway: {budget: {requests_per_s: 100, burst: 50}}\n"
    )
    project = Project(root)
    return open_gateway(project, read_deployment(project.deployment))


def publish(operator: Gateway, route: Traffic, *more: Upstream) -> Generation:
    assert operator.shared is not None
    text = operator.project.deployment.read_text()
    operator.shared.head()
    return operator.shared.publish(
        "routes", lambda before: replace(before, deployment=text, traffic=(route,), upstreams=(PLAIN, *more))
    )


def follower(tmp_path: Path, place: FolderPlace, name: str = "a", machine: str = "") -> Follower:
    project = Project(tmp_path / (machine or name))
    project.root.mkdir(exist_ok=True)
    prepare(project, name, place.address).remember()
    opened = open_follower(project)
    assert opened is not None
    return opened


ALONE = Traffic("m", {"1.0": 10_000})


def test_a_name_that_is_none_leaves_this_machine_as_it_was(
    operator: Gateway, tmp_path: Path, place: FolderPlace
) -> None:
    publish(operator, ALONE)
    gateway = follower(tmp_path, place)
    assert gateway.take_newest()
    before = {path: path.read_bytes() for path in gateway.project.root.rglob("*.json")}
    for name in ("", "zz", "../a"):
        other = prepare(gateway.project, name, place.address)
        assert not other.take_newest(), "the newest one is in force already"
    publish(operator, ALONE, FULL)
    for name in ("", "zz", "../a"):
        other = prepare(gateway.project, name, place.address)
        assert other.take_newest() and f"names no gateway {name!r}" in other.refusal
    assert {path: path.read_bytes() for path in gateway.project.root.rglob("*.json")} == before


@pytest.mark.parametrize("content", ["{}", '{"name": 7}', '{"name": "a"}', "[]", '{"na'])
def test_a_damaged_file_that_says_which_gateway_this_is_is_an_error(
    operator: Gateway, tmp_path: Path, place: FolderPlace, content: str
) -> None:
    gateway = follower(tmp_path, place)
    gateway.files.follows.write_text(content)
    with pytest.raises(GatewayError, match=r"follows\.json is damaged"):
        open_follower(gateway.project)


@pytest.mark.parametrize("number", ["0", '"x"', "null", "[]"])
def test_a_damaged_number_of_gateways_is_an_error(
    operator: Gateway, tmp_path: Path, place: FolderPlace, number: str
) -> None:
    publish(operator, ALONE)
    gateway = follower(tmp_path, place)
    assert gateway.take_newest()
    gateway.files.sharing.write_text(f'{{"gateways": {number}}}')
    with pytest.raises(GatewayError, match=r"sharing\.json is damaged: gateways is"):
        _ = open_local(gateway.project, read_deployment(gateway.project.deployment)).sharing


def test_a_damaged_copy_of_the_generation_is_taken_anew(operator: Gateway, tmp_path: Path, place: FolderPlace) -> None:
    publish(operator, ALONE)
    assert follower(tmp_path, place).take_newest()
    gateway = follower(tmp_path, place)
    gateway.files.generation.write_text('{"format": 1')
    assert gateway.in_force.number == 0
    assert gateway.take_newest()
    assert follower(tmp_path, place).in_force.number == 1


def test_a_gateway_in_an_empty_folder_takes_all_that_was_published(
    operator: Gateway, tmp_path: Path, place: FolderPlace
) -> None:
    publish(operator, ALONE)
    set_clients(operator, lambda records: added(records, RECORD), {RECORD.sha256: "key"})
    gateway = follower(tmp_path, place)
    assert gateway.take_newest()
    assert gateway.in_force.number == 2
    opened = open_local(gateway.project, read_deployment(gateway.project.deployment))
    assert (opened.name, opened.spec.budget.burst) == ("a", 50)
    assert traffic_in_force(opened) == {"m": ALONE}
    assert plain_keys(read_document(opened.files.routes)) == {RECORD.sha256: "key"}
    assert read_keys(opened.files.keys) == [RECORD]
    assert (gateway.files.generation.stat().st_mode & 0o777) == 0o600
    set_clients(operator, lambda records: revoked(records, "team"), {})
    assert gateway.take_newest()
    assert plain_keys(read_document(opened.files.routes)) == {}
    assert operator.shared is not None
    assert operator.shared.head().plain == {}, "a revoked key is nowhere in plain"


def test_ten_thousand_keys_and_samples_that_are_images_reach_a_gateway(
    operator: Gateway, tmp_path: Path, place: FolderPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "GENERATIONS_KEPT", 1)
    plain = {digest(key): key for key in (os.urandom(32).hex() for _ in range(10_000))}
    records = tuple(replace(RECORD, id=sha[:8], client=f"team-{i}", sha256=sha) for i, sha in enumerate(plain))
    images = [replace(PLAIN, version=f"{n}.0", probe=Probe(os.urandom(240 << 10), "image/jpeg")) for n in (3, 4)]
    publish(operator, ALONE, *images)
    set_clients(operator, lambda _: list(records), plain)
    assert operator.shared is not None
    name = numbered(GENERATIONS, 2)
    assert len(place.read(name) or b"") < LARGEST < len(large.read(place, name) or b"")
    with pytest.raises(GatewayError, match="has format 2, and this tsctl reads 1"):  # as an older tsctl says it
        from_bytes(place.read(name) or b"", name)
    gateway = follower(tmp_path, place)
    gateway.step()
    assert (gateway.in_force.number, gateway.refusal) == (2, "")
    opened = open_local(gateway.project, read_deployment(gateway.project.deployment))
    assert plain_keys(read_document(opened.files.routes)) == plain
    assert [upstream.probe for upstream in upstreams_written(opened)[1:]] == [upstream.probe for upstream in images]
    set_clients(operator, lambda _: [RECORD], {RECORD.sha256: "key"})
    assert place.names("parts/") == [], "the parts of generations that are gone are gone"


def test_what_no_place_takes_is_said(operator: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "MOST", LARGEST)
    image = replace(PLAIN, version="3.0", probe=Probe(os.urandom(LARGEST), "image/jpeg"))
    with pytest.raises(TooLarge, match=r"000001\.json at the place of control would have .* it may have 1\.0 MB"):
        publish(operator, ALONE, image)
    assert operator.shared is not None
    assert operator.shared.head().number == 0


def test_a_generation_that_lost_a_part_is_damaged(operator: Gateway, tmp_path: Path, place: FolderPlace) -> None:
    publish(operator, ALONE)
    gateway = follower(tmp_path, place)
    gateway.step()
    image = replace(PLAIN, version="3.0", probe=Probe(os.urandom(LARGEST), "image/jpeg"))
    publish(operator, ALONE, image)
    place.delete(place.names("parts/")[-1])
    gateway.step()
    assert gateway.in_force.number == 1
    assert "000002.json in the place of control is damaged" in gateway.refusal


def test_a_large_report_is_read_and_its_parts_go_with_it(
    operator: Gateway, tmp_path: Path, place: FolderPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(operator, ALONE)
    gateway, page = follower(tmp_path, place), os.urandom(LARGEST).hex()
    now = gateway._now
    monkeypatch.setattr(gateway, "_now", lambda *asked: replace(now(*asked), page=page))
    for _ in range(5):
        gateway.report()
    assert operator.shared is not None
    assert operator.shared.reports()["a"].page == page
    kept = {name.split("/")[4].split("-")[0] for name in place.names("parts/")}
    assert kept == {"000003", "000004", "000005"}
    monkeypatch.setattr(gateway, "_now", now)
    for _ in range(3):
        gateway.report()
    assert place.names("parts/") == []


def test_a_generation_that_means_nothing_here_is_refused_and_the_next_one_taken(
    operator: Gateway, tmp_path: Path, place: FolderPlace
) -> None:
    publish(operator, ALONE)
    gateway = follower(tmp_path, place)
    gateway.step()
    text = operator.project.deployment.read_text()
    operator.project.deployment.write_text(text + "tracing: {endpoint: '${NOT_HERE}'}\n")
    publish(operator, ALONE)
    gateway.step()
    assert "NOT_HERE" in gateway.refusal
    assert gateway.in_force.number == 1
    assert gateway.project.deployment.read_text() == text
    [report] = [report_of(place.read(name) or b"", name) for name in place.names(f"{REPORTS}/a/")[-1:]]
    assert (report.generation, report.refused) == (1, 2)
    operator.project.deployment.write_text(text)
    publish(operator, ROUTE, FULL, replace(PLAIN, version="3.0"))
    gateway.step()
    assert (gateway.in_force.number, gateway.refusal) == (3, "")


def test_two_machines_cannot_be_one_gateway(operator: Gateway, tmp_path: Path, place: FolderPlace) -> None:
    publish(operator, ALONE)
    first, second = (follower(tmp_path, place, machine=machine) for machine in ("one", "two"))
    first.step()
    second.step()
    with pytest.raises(GatewayError, match="another machine reports as gateway a"):
        first.report()


def test_a_gateway_that_cannot_reach_the_place_keeps_what_it_has(
    operator: Gateway, tmp_path: Path, place: FolderPlace
) -> None:
    publish(operator, ALONE)
    gateway = follower(tmp_path, place)
    gateway.step()
    folder = Path(place.address)
    folder.rename(folder.with_name("gone"))
    with pytest.raises(PlaceUnreachable):
        gateway.step()
    opened = open_named(gateway.project, read_deployment(gateway.project.deployment), "a")
    assert traffic_in_force(opened) == {"m": ALONE}
    folder.with_name("gone").rename(folder)
    publish(operator, ROUTE, FULL, replace(PLAIN, version="3.0"))
    gateway._due = Due()
    gateway.step()
    assert traffic_in_force(opened) == {"m": ROUTE}


def test_gateways_that_report_divide_the_budgets(operator: Gateway, tmp_path: Path, place: FolderPlace) -> None:
    publish(operator, ALONE)
    first, second = follower(tmp_path, place, "a"), follower(tmp_path, place, "b")
    first.step()
    second.step()
    first._due = Due()
    first.step()
    opened = open_local(first.project, read_deployment(first.project.deployment))
    assert opened.sharing == 2
    for gateway, seen in list(first._others.items()):
        first._others[gateway] = seen[0], seen[1] - 100
    first._due = Due()
    first.step()
    assert opened.sharing == 1, "the other one has not reported for long"


def test_a_node_is_not_drained_for_ever(operator: Gateway, tmp_path: Path, place: FolderPlace) -> None:
    drained = replace(PLAIN, endpoints=(replace(NODE, is_draining=True),))
    assert operator.shared is not None
    text = operator.project.deployment.read_text()
    operator.shared.publish("versions", lambda before: replace(before, deployment=text, upstreams=(drained,)))
    gateway = follower(tmp_path, place)
    gateway.step()
    opened = open_local(gateway.project, read_deployment(gateway.project.deployment))
    assert upstreams_written(opened)[0].is_draining
    gateway._taken_at -= 1000
    gateway.step()
    assert not upstreams_written(opened)[0].is_draining


def test_status_without_any_gateway_names_each(operator: Gateway) -> None:
    status = gateway_status(operator)
    assert status.condition == "not running"
    assert status.problem == "gateway a: it has never reported; gateway b: it has never reported"
    with pytest.raises(SpecError, match="no gateway was started on this machine"):
        open_local(operator.project, operator.deployment)


def test_a_new_key_reaches_the_operator_first(operator: Gateway) -> None:
    record = record_of("key", "team", None, None)
    set_clients(operator, lambda records: added(records, record), {record.sha256: "key"})
    assert operator.shared is not None
    assert operator.shared.absent == {"a": "it has never reported", "b": "it has never reported"}

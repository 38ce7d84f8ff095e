"""The ground of a rollout moves while it runs: nodes, archive, journal and canary are taken away or added by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.gateways import Front
from tests.support.releases import (
    PACE,
    asking,
    defaults,
    entries,
    held_while,
    is_held,
    newest,
    releasing,
    served,
    weights,
)
from tests.support.sites import until
from tsctl.archive.store import find_archive
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.events import Effect, Outcome
from tsctl.rollout.decide.interventions import Command, CommandReceived
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.begin import started
from tsctl.rollout.run.health import GONE_S, LiveHealth
from tsctl.views.rollout.narrative import story


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Node b is known, and does not serve the model yet."""
    versions = {"1.0": PACE, "2.0": PACE, "3.0": PACE}
    with releasing(tmp_path_factory.mktemp("ground"), versions, nodes=("local", "b"), hold_s=2) as front:
        front.site.run("models", "unregister", "tiny", "1.0", "--node", "b", "--force")
        yield front


def test_what_a_rollout_stands_on_is_kept_or_waited_for_and_a_node_that_joins_is_covered(front: Front) -> None:
    site = front.site
    until(lambda: "served by node b" not in site.run("gateway", "status", status=None).out, 20, "b left the route")
    with asking(front), site.start("rollout", "start", "tiny", "2.0") as process:
        until(lambda: is_held(front, "2.0"), 60, "the first step")
        for refused in (
            ("models", "retire", "tiny", "2.0"),
            ("models", "unregister", "tiny", "2.0", "--node", "local"),
            ("models", "scale", "tiny", "2.0", "0", "--node", "local"),
            ("weights", "set", "tiny", "1.0=100%"),
        ):
            assert "has not ended, and decides on its weights" in site.run(*refused, status=7).err
        archive = find_archive(Project(site.root), "tiny", "2.0").path.resolve()  # the published file, not the link
        aside = archive.with_suffix(".aside")
        archive.rename(aside)
        held_while(front, process, "the archive of this rollout, is gone", lambda: aside.rename(archive))
        newest(front).unlink()
        site.run("models", "register", "tiny:1.0", "--node", "b")
        assert process.wait(timeout=120) == 0
    assert weights(front) == {"2.0": TOTAL}
    assert served(front) == {"local": {"1.0": 1, "2.0": 1}, "b": {"1.0": 1, "2.0": 1}}
    assert defaults(front) == {"2.0"}
    kinds = [entry.kind for entry in entries(front)]
    assert (kinds[0], kinds[-1], kinds.count("repaired"), kinds.count("joined")) == ("started", "ended", 1, 1)
    told = " ".join(sentence.text for sentence in story(entries(front)).told)
    assert "1.0 was added on node b; 2.0 is registered there before it is promoted." in told


def test_a_canary_that_somebody_unregisters_is_noticed(front: Front) -> None:
    with started(front.gateway, "tiny", "3.0", 1, lambda text: None) as runner:
        for effect in (Effect.VERIFY, Effect.REGISTER):
            runner.record(runner.effects.apply(effect, runner.state))

        def health(state: State) -> tuple[str, float | None]:
            looking = runner.health
            assert isinstance(looking, LiveHealth)
            fresh = LiveHealth(looking.gateway, looking.archive)
            return fresh.trouble(state), fresh.grace_s(state)

        assert health(runner.state) == ("", None)
        front.site.run("models", "unregister", "tiny", "3.0", "--node", "local", "--force")
        assert health(runner.state) == ("tiny 3.0 is no longer registered on node local", None)
        front.site.run("models", "unregister", "tiny", "3.0", "--node", "b", "--force")
        assert health(runner.state) == ("tiny 3.0 is no longer registered on node local, b", GONE_S)
        runner.record(CommandReceived(Command.ABORT, "the test"))
        assert runner.run().outcome is Outcome.ABORTED


def test_workers_that_a_route_needs_are_not_scaled_away(front: Front) -> None:
    site = front.site
    site.run("models", "scale", "tiny", "2.0", "0", "--node", "b")  # another node is left
    refused = site.run("models", "scale", "tiny", "2.0", "0", "--node", "local", status=5)
    assert "tiny 2.0 has 100% of the requests on its route, and may have no READY worker left" in refused.err
    assert front.ask("/predictions/tiny").status_code == 200
    site.run("weights", "set", "tiny", "1.0=100%")
    site.run("models", "scale", "tiny", "2.0", "0", "--node", "local")
    site.run("models", "scale", "tiny", "1.0", "0", "--all-nodes", "--force")
    site.run("models", "scale", "tiny", "1.0", "1", "--all-nodes")

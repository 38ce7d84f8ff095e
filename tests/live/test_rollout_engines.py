"""A model moves from TorchServe to uvicorn and back, as a rollout under load, and no request fails."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.support.gateways import Front
from tests.support.ports import free_ports
from tests.support.releases import PACE, asking, newest, releasing, served, weights
from tests.support.sites import until
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.run.journal_lines import read

PROMOTED = 0
#: Exit code of a plan that has changes.
CHANGES = 12


def with_uvicorn(content: dict[str, Any]) -> None:
    """A second node, of another engine, and the same bytes on it as a version of their own."""
    [port] = free_ports(1)
    content["gateway"] = {"engine_header": True}
    content["nodes"]["api"] = {"engine": "uvicorn", "address": f"http://127.0.0.1:{port}"}
    content["models"]["tiny"]["versions"] = {"1.0": {"nodes": ["local"]}, "1.0u": {"archive": "1.0", "nodes": ["api"]}}


def move(front: Front, there: str, away: str) -> None:
    """The version is on another node alone, which `apply --prune` makes so at once."""
    site = front.site
    site.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"nodes": [there]}}, "route": {}}})
    planned = [" ".join(line.split()) for line in site.run("plan", "--prune", status=CHANGES).out.splitlines()]
    changes = [re.sub(r"-[0-9a-f]{12}\.mar", "", line) for line in planned if line.startswith(("+", "-", "?"))]
    assert changes == [
        f"+ 1.0 register {there} nothing -> tiny-1.0, 1 worker",
        f"- 1.0 withdraw {away} tiny-1.0, 1 worker -> nothing",
    ]
    site.run("apply", "--prune")
    assert served(front) == {there: {"1.0": 1}, away: {}}
    assert site.run("plan", "--prune").out.strip() == "nothing to change"


def test_a_model_moves_to_another_engine_and_back_and_no_request_fails(tmp_path: Path) -> None:
    with releasing(tmp_path, {"1.0": PACE}, edit=with_uvicorn) as front:
        site = front.site
        both = {"local": {"1.0": 1}, "api": {"1.0u": 1}}
        assert served(front) == both, "each version is on its own node"
        assert site.run("plan").out.strip() == "nothing to change"
        with asking(front) as load:
            there = site.run("rollout", "start", "tiny", "1.0u", status=PROMOTED)
            assert "registered without traffic: ready on 1 node (api)" in there.err
            assert weights(front) == {"1.0u": TOTAL}
            state = fold(read(newest(front)))
            assert (state.nodes, state.stable_nodes) == (("api",), ("local",))
            until(lambda: load.answers[-1].version == "1.0u", 10, "answers of uvicorn")
            assert front.ask("/predictions/tiny").headers["x-engine"] == "uvicorn"
            assert "x-engine" not in front.ask("/predictions/nothing").headers
            site.run("rollout", "start", "tiny", "1.0", status=PROMOTED)
            assert weights(front) == {"1.0": TOTAL}
            until(lambda: load.answers[-1].version == "1.0", 10, "answers of TorchServe")
            assert front.ask("/predictions/tiny").headers["x-engine"] == "torchserve"
        assert load.failed == []
        assert {answer.version for answer in load.answers} == {"1.0", "1.0u"}
        assert served(front) == both, "the version that was stable before stays for a rollback"
        site.run("models", "retire", "tiny", "1.0u")
        assert served(front) == {"local": {"1.0": 1}, "api": {}}

        before = site.deployment
        with asking(front) as load:
            for to, away, engine in (("api", "local", "uvicorn"), ("local", "api", "torchserve")):
                move(front, to, away)
                assert front.ask("/predictions/tiny").headers["x-engine"] == engine
        assert load.failed == []

        impossible = before
        impossible["models"]["tiny"]["versions"]["1.0u"]["nodes"] = ["api", "local"]
        site.deploy(impossible["models"])
        refused = site.run("plan", status=2)
        assert "tiny 1.0u cannot be on node local: TorchServe serves an archive under the version" in refused.err
        assert "1.0u" in site.run("rollout", "start", "tiny", "1.0u", status=2).err

"""The response cache on a real node: what clients are told over HTTP, and what its workers count."""

from __future__ import annotations

import itertools
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.redis_server import redis_server
from tests.support.sites import Site, until, write_tiny


def counted(site: Site, name: str, *labels: str) -> float:
    """The sum of the model's counters of that name which have all the labels."""
    lines = [
        line
        for line in site.run("metrics", "show", "--raw").out.splitlines()
        if line.startswith(f"tsctl_worker_{name}{{")
    ]
    wanted = ('model="cached"', 'version="1.0"', *labels)
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in wanted))


def test_workers_answer_from_their_memory_and_from_redis_and_count_it(shared: Site, tmp_path: Path) -> None:
    [port] = free_ports(1)
    cache = {"max_mb": 1.0, "ttl_s": 600.0, "shared": f"redis://127.0.0.1:{port}/0", "check": 0.0}
    write_tiny(shared, "cached", {"1.0": {}}, cache=cache)
    shared.deploy({"cached": {"default": "1.0", "versions": {"1.0": {"workers": 2}}}})
    with redis_server(tmp_path / "redis", port):
        shared.run("up")
        said: list[str] = []
        numbers = itertools.count(1)

        def is_shared() -> bool:
            """A number that one worker computed is known to the other; a busy machine may need several tries."""
            for x in itertools.islice(numbers, 10):
                for _ in range(4):
                    answer = shared.ask("cached", b'{"x": %d}' % x)
                    assert (answer.status_code, answer.json()) == (200, {"y": 2.0 * x})
                    said.append(answer.headers["x-cache"])
            return counted(shared, "cache_items_total", 'result="hit"', 'tier="shared"') > 0

        until(is_shared, 60, "an answer that one worker computed and the other gave")
        assert shared.ask("cached", b'{"x": 1}', **{"Cache-Control": "no-store"}).headers["x-cache"] == "bypass"
        assert shared.ask("cached", b"nonsense").status_code == 400
        until(lambda: counted(shared, "answered_items_total", 'outcome="undecodable-body"') == 1, 10, "the last count")
        hits = said.count("hit")
        assert hits >= len(said) / 2  # each worker computes a number once at most
        assert counted(shared, "cache_items_total", 'result="hit"') == hits
        assert counted(shared, "cache_items_total", 'result="miss"') == len(said) - hits
        computed = counted(shared, "computed_items_total")
        assert computed == len(said) - hits + counted(shared, "cache_items_total", 'result="bypass"')
        assert counted(shared, "shared_cache_exchanges_total", 'outcome="ok"') > 0
        assert 0 < counted(shared, "stage_seconds_count", 'stage="inference"') <= computed
        assert counted(shared, "batch_items_sum") == counted(shared, "answered_items_total")

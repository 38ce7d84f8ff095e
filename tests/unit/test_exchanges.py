"""What `tsctl status` says of the shared cache: the exchanges of all workers, and those that failed."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict, mmap_key

from handlers.contract import SHARED_CACHE_EXCHANGES
from tsctl.monitoring.exchanges import Exchanges, read_exchanges
from tsctl.views.status import exchanges_line


def counted(folder: Path, pid: int, **outcomes: int) -> None:
    """A worker's counts."""
    file = MmapedDict(str(folder / f"counter_{pid}.db"))
    for outcome, count in outcomes.items():
        labels = {"model": "toy", "version": "1.0", "outcome": outcome.replace("_", "-")}
        name = SHARED_CACHE_EXCHANGES.removesuffix("_total")
        key = mmap_key(name, SHARED_CACHE_EXCHANGES, list(labels), list(labels.values()), "")
        file.write_value(key, float(count), 0.0)
    file.close()


def test_a_cache_that_is_down_is_said(tmp_path: Path) -> None:
    counted(tmp_path, 1, ok=1_000, slow=0, down=300, not_written=0)
    counted(tmp_path, 2, ok=200, slow=4, down=20, not_written=1)
    found = read_exchanges(tmp_path)
    assert found == Exchanges(1_200, {"down": 320, "not-written": 1, "slow": 4})
    assert exchanges_line(found) == (
        "shared cache since the node's start: 1,525 exchanges, 325 failed (320 down, 1 not-written, 4 slow)"
    )


def test_a_cache_that_always_answered_has_no_failures(tmp_path: Path) -> None:
    counted(tmp_path, 1, ok=7, down=0)
    found = read_exchanges(tmp_path)
    assert found is not None
    assert exchanges_line(found) == "shared cache since the node's start: 7 exchanges, none failed"


def test_without_a_shared_cache_nothing_is_said(tmp_path: Path) -> None:
    assert read_exchanges(tmp_path / "nothing") is None
    counted(tmp_path, 1, ok=0, slow=0, down=0)
    assert read_exchanges(tmp_path) is None


def test_a_file_that_cannot_be_read_hides_no_counts(tmp_path: Path) -> None:
    counted(tmp_path, 1, down=5)
    (tmp_path / "counter_2.db").write_bytes(b"\xff\x00\x00\x00\x00\x00\x00")
    found = read_exchanges(tmp_path)
    assert found is not None
    line = exchanges_line(found)
    assert "5 exchanges, 5 failed (5 down)" in line
    assert "counter_2.db cannot be read and is left out" in line

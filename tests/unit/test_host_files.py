"""Files on a disk that is full, which the tests make with an error or with a lock that cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tsctl.errors import SpecError
from tsctl.host.files import keep_reserve, require_writable, with_reserve


def test_the_reserve_is_room_for_one_more_write_on_a_full_disk(tmp_path: Path) -> None:
    reserve, tries = tmp_path / "reserve", 0
    keep_reserve(reserve, 4096)
    assert reserve.stat().st_blocks * 512 >= 4096
    assert reserve.stat().st_mode & 0o777 == 0o600

    def write() -> None:
        nonlocal tries
        tries += 1
        if reserve.exists():
            raise OSError(errno.ENOSPC, "No space left on device")

    with_reserve(reserve, write)
    assert (tries, reserve.exists()) == (2, False)
    keep_reserve(reserve, 4096)
    assert reserve.stat().st_size == 4096


@pytest.mark.parametrize(("code", "has_reserve"), [(errno.ENOSPC, False), (errno.EACCES, True)])
def test_other_errors_are_not_hidden(tmp_path: Path, code: int, has_reserve: bool) -> None:
    reserve = tmp_path / "reserve"
    if has_reserve:
        keep_reserve(reserve, 10)

    def write() -> None:
        raise OSError(code, "")

    with pytest.raises(OSError) as raised:
        with_reserve(reserve, write)
    assert raised.value.errno == code
    assert reserve.exists() == has_reserve


def test_whether_a_file_can_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "report.html")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "report.html").write_text("old")
    require_writable(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "old"
    for path in (tmp_path / "new", tmp_path / "report.html" / "below.html", Path("/proc/none/report.html")):
        with pytest.raises(SpecError, match=f"{path} cannot be written: "):
            require_writable(path)

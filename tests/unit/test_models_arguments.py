"""What `tsctl models` refuses on every engine alike, before any node is asked: numbers of workers, names, times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from handlers.contract import MOST_WORKERS
from tsctl.cli.main import run

#: Nothing listens there, so a command that asks ends with 4.
NODES = {
    "torchserve": {"management": "http://127.0.0.1:1"},
    "uvicorn": {"engine": "uvicorn", "address": "http://127.0.0.1:1"},
    "bentoml": {"engine": "bentoml", "address": "http://127.0.0.1:1"},
    "triton": {"engine": "triton", "address": "http://127.0.0.1:1"},
}


@pytest.mark.parametrize("engine", NODES)
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("scale", "tiny", "1.0", str(MOST_WORKERS + 1)), "less than or equal to 256"),
        (("scale", "tiny", "1.0", "100000"), "less than or equal to 256"),
        (("scale", "tiny", "1.0", "--", "-1"), "greater than or equal to 0"),
        (("scale", "tiny", "1.0", "1e3"), "valid integer"),
        (("scale", "tiny", "1.0", "1", "--timeout", "nan"), "less than or equal to 86400"),
        (("scale", "tiny", "1.0", "1", "--timeout", "-1"), "greater than"),
        (("register", "tiny:1.0", "--workers", "257"), "less than or equal to 256"),
        (("register", "tiny:1.0", "--workers", "0"), "greater than or equal to 1"),
        (("register", "tiny:1.0", "--as", "../x"), "'../x' cannot be a version"),
        (("register", "tiny:1.0", "--as", "a b"), "'a b' cannot be a version"),
        (("register", "tiny:1.0", "--as", "a~b"), "'a~b' cannot be a version"),
        (("register", "tiny:1.0", "--as", ""), "'' cannot be a version"),
        (("register", "tiny:1.0", "--as", "v" * 33), "at most 32 characters"),
        (("register", "tiny:1.0", "--as", "set-default"), "cannot be a version"),
        (("register", "tiny:", "--workers", "1"), "expected MODEL:VERSION"),
    ],
    ids=repr,
)
def test_what_no_engine_takes_is_refused_before_a_node_is_asked(
    engine: str, arguments: tuple[str, ...], reason: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump({"nodes": {"local": NODES[engine]}}))
    store = tmp_path / "archives" / "store"
    store.mkdir(parents=True)
    (store / "tiny-1.0-0123456789ab.mar").touch()
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["tsctl", "models", *arguments])
    with pytest.raises(SystemExit) as ended:
        run()
    assert (ended.value.code, reason in " ".join(capsys.readouterr().err.split())) == (2, True)

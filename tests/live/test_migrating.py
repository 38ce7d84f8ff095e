"""docs/migrating.md is typed in, step by step, where a user of TorchServe begins: five archives and a config."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import CHECKOUT
from tests.support.ports import free_ports
from tests.support.readme import FileStep, matches, parse_readme, substitute
from tests.support.sites import QUICK_START, processes_of
from tests.support.stock import MAKERS, SAMPLES, STOCK_HANDLER, archived, pictures

PAGE = CHECKOUT / "docs" / "migrating.md"
PORTS = (8000, 8003, 8080, 8081, 8082, 7070, 7071)
CONFIG = f"""
inference_address=http://0.0.0.0:18080
management_address=http://127.0.0.1:18081
model_store=model_store
load_models=all
default_workers_per_model=1
vmargs={QUICK_START}
"""


def shop(root: Path, made: Path) -> None:
    """What the page says that there is, made in another folder."""
    for folder in ("model_store", "requests", "new"):
        (root / folder).mkdir(parents=True)
    for model, make in MAKERS.items():
        shutil.copy(make(made / model), root / "model_store" / f"{model}.mar")
    greeting = archived(made / "greeting", "greeting", "1.0", STOCK_HANDLER)
    shutil.copy(greeting, root / "model_store" / "greeting.mar")
    shutil.copy(pictures(made / "new", "2.0"), root / "new" / "pictures.mar")
    for model in ("pictures", "texts"):
        name, body = SAMPLES[model]
        (root / "requests" / name).write_bytes(body)
    (root / "config.properties").write_text(CONFIG)


def test_a_user_of_torchserve_can_type_it(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    shop(root, tmp_path / "made")
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "TSCTL_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def typed(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", substitute(command, ports)], cwd=root, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200,
        )  # fmt: skip

    try:
        for step in parse_readme(PAGE.read_text(encoding="utf-8")):
            if isinstance(step, FileStep):
                (root / step.path).write_text(substitute(step.content, ports), encoding="utf-8")
                continue
            ended = typed(step.command)
            assert ended.returncode == 0, f"line {step.line}: {step.command}\n{ended.stdout}"
            if step.output is not None:
                assert matches(step.output, ended.stdout), f"line {step.line}: {ended.stdout}"
        assert (root / "archives" / "pictures" / "golden" / "3.0.json").is_file(), "those of 2.0 are those of 3.0"
    finally:
        typed("kill $(cat clients.pid); tsctl down")
    assert processes_of(root) == [], "processes are left behind"

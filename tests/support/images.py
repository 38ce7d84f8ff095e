"""Images of a small team's project, built in plain folders: the tests that start nothing from a registry share them."""

from __future__ import annotations

import pickle
import shutil
import sys
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from tests.support.containers import Image, build, inside
from tests.support.ports import free_ports
from tests.support.sites import Site, write_tiny
from tests.support.wheels import write_wheel
from tsctl.archive.build import build_version
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.host.progress import Progress
from tsctl.render.image.context import Options, render
from tsctl.render.image.lock import Package, Wanted
from tsctl.render.image.selection import select

#: A handler that needs a package of its own, a secret, and a pickle that somebody trusts; 9 takes `slow_s`.
HANDLER = '''
import time
from pathlib import Path

import torch
from gradewords import word

from handlers import load_pickle, secret
from handlers.base import ServingHandler
from handlers.schema import Schema


class Grade(ServingHandler):
    """Says whether the points are enough."""

    class Request(Schema):
        points: float

    def load(self):
        self.least = float(load_pickle(self.weights_file)["pass"])
        self.school = secret("SCHOOL")

    def preprocess(self, items):
        return torch.tensor([item.points for item in items])

    def inference(self, inputs):
        if inputs.max() > 8:
            Path(self.settings["began"]).touch()
            time.sleep(self.settings["slow_s"])
        return inputs >= self.least

    def postprocess(self, outputs):
        return [{"grade": word(bool(value)), "school": self.school} for value in outputs]
'''
WORDS = "def word(is_good):\n    return 'pass' if is_good else 'fail'\n"
#: Where a worker says that it has begun; a file of the volume, which the test sees.
BEGAN = "began"
SLOW_S = 3
STATE = "/srv/tsctl/.tsctl"


@dataclass
class Team:
    """A project with the models `grade`, on a node of uvicorn, and `tiny`, on one of TorchServe; and its contexts."""

    site: Site
    context: Path
    ports: dict[str, int]

    def build(self, engine: str, folder: Path) -> Image:
        """The image, with the packages of this checkout in place of those that pip would bring.

        Everything else runs as it is written: the environment, the wheel of tsctl, and the packages of models.
        """
        root = folder / "build"

        def replaced(command: list[str]) -> list[str] | None:
            if "--require-hashes" not in command:
                return None
            _give_packages(root)
            write_wheel(root / "build" / "found", "gradewords", "1.0", WORDS)
            [wheel] = (root / "build").glob("*.whl")
            return [*command[: command.index("install") + 1], "--no-deps", f"/build/{wheel.name}"]

        settings = folder / "pip.conf"
        folder.mkdir(parents=True)
        settings.write_text("[global]\nno-index = true\nfind-links = /build/found\n")
        return build(self.context, f"{engine}/Containerfile", folder, replaced, {"pip.conf": settings})


def _give_packages(root: Path) -> None:
    """The packages beside these tests, in the environment of the image."""
    [installed] = Path(sys.prefix).glob("lib/python3*/site-packages")
    environment = inside(Image(root), "/opt/tsctl")
    packages = environment / "tested"
    packages.mkdir()
    for path in installed.iterdir():
        if "tsctl" not in path.name:
            (packages / path.name).symlink_to(path)
    [site] = environment.glob("lib/python3*/site-packages")
    (site / "packages.pth").write_text("/opt/tsctl/tested\n")
    for old in site.glob("setuptools*"):  # of Python; the packages have another one
        shutil.rmtree(old)


def make_team(root: Path) -> Team:
    """The project, its archives, and what `tsctl render image` writes of it."""
    names = (
        "uvicorn",
        "torchserve",
        "management",
        "metrics",
        "grpc",
        "grpc_management",
        "gateway",
        "envoy",
        "exporter",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    site = Site(root / "team")
    (site.root / "archives").mkdir(parents=True)
    write_tiny(site, "tiny", {"1.0": {}})
    folder = site.root / "archives" / "grade"
    (folder / "samples").mkdir(parents=True)
    (folder / "golden").mkdir()
    (folder / "handler.py").write_text(HANDLER)
    content = pickle.dumps({"pass": Decimal("0.5")}, protocol=4)
    (folder / "grades.pkl").write_bytes(content)
    (folder / "samples" / "good.json").write_text('{"points": 0.75}')
    (folder / "golden" / "1.0.json").write_text('{"good.json": {"grade": "pass", "school": "north"}}')
    spec: dict[str, Any] = {
        "model": "grade",
        "handler": "handler.py",
        "weights": "grades.pkl",
        "trust": [f"grades.pkl@sha256:{sha256(content).hexdigest()}"],
        "requirements": ["gradewords==1.0"],
        "secrets": ["SCHOOL"],
        "files": ["grades.pkl"],
        "versions": {"1.0": {"settings": {"began": f"{STATE}/{BEGAN}", "slow_s": SLOW_S}}},
    }
    (folder / "archive.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    project = Project(site.root)
    for model in ("tiny", "grade"):
        place = project.archives / model
        build_version(project, place, read_archive_spec(place / "archive.yaml"), "1.0", lambda _: None)
    site_nodes = {
        "main": {"engine": "uvicorn", "address": f"http://127.0.0.1:{ports['uvicorn']}"},
        "serve": {
            "inference": f"http://127.0.0.1:{ports['torchserve']}",
            "management": f"http://127.0.0.1:{ports['management']}",
            "metrics": f"http://127.0.0.1:{ports['metrics']}",
            "grpc_ports": [ports["grpc"], ports["grpc_management"]],
        },
    }
    on = {"grade": "main", "tiny": "serve"}
    models: dict[str, Any] = {
        model: {"default": "1.0", "versions": {"1.0": {"nodes": [node]}}} for model, node in on.items()
    }
    models["grade"]["secrets"] = {"SCHOOL": {"env": "GRADE_SCHOOL"}}
    gateway = {
        "address": f"http://127.0.0.1:{ports['gateway']}",
        "metrics": f"http://127.0.0.1:{ports['envoy']}",
    }
    deployment = {"nodes": site_nodes, "models": models, "gateway": gateway}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(deployment, sort_keys=False))
    context = root / "images"
    render(select(project, (), None), context, Options(), Progress(), _not_resolved)
    (context / "secrets" / "grade.SCHOOL").write_text("north\n")
    return Team(site, context, ports)


def _not_resolved(wanted: Wanted, note: object) -> list[Package]:
    return []

"""The project `examples/`: one `tsctl up` builds, verifies and serves all of its models, behind a gateway."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from handlers.contract import Tolerance, difference
from tests.support.ports import free_ports
from tests.support.sites import CHECKOUT, Site, link_or_copy
from tsctl.archive.samples import media_type_of_file
from tsctl.config.archive import read_archive_spec

pytestmark = pytest.mark.live

EXAMPLES = CHECKOUT / "examples"
MODELS = sorted(path.parent.name for path in EXAMPLES.glob("archives/*/archive.yaml"))
TIMEOUT_S = 30


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A copy of the examples, on free ports, which `tsctl up` serves."""
    site = Site(tmp_path_factory.mktemp("examples") / "site")
    ignored = shutil.ignore_patterns("store", ".tsctl", "logs")
    shutil.copytree(EXAMPLES, site.root, ignore=ignored, copy_function=link_or_copy)
    node, address, metrics = (f"http://127.0.0.1:{port}" for port in free_ports(3))
    content = site.deployment
    content["nodes"]["local"]["address"] = node
    content["gateway"] |= {"address": address, "metrics": metrics}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    site.run("up")
    yield site
    site.run("down")


@pytest.fixture(scope="module")
def gateway(site: Site) -> str:
    return str(site.deployment["gateway"]["address"])


def test_every_example_is_deployed() -> None:
    assert list(yaml.safe_load((EXAMPLES / "deployment.yaml").read_text())["models"]) == MODELS


@pytest.mark.parametrize("model", MODELS)
def test_samples_of_every_kind_get_their_golden_answers_through_the_gateway(
    site: Site, gateway: str, model: str
) -> None:
    folder = site.root / "archives" / model
    spec = read_archive_spec(folder / "archive.yaml")
    tolerance = Tolerance(spec.tolerance.absolute, spec.tolerance.relative)
    golden: dict[str, Any] = json.loads((folder / "golden" / "1.0.json").read_text())
    for name, expected in golden.items():
        sample = folder / "samples" / name
        reply = ask(gateway, model, sample.read_bytes(), media_type_of_file(name, spec.sample_types) or "")
        assert reply.status_code == 200, reply.text
        assert difference(reply.json(), expected, tolerance) is None, name


@pytest.mark.parametrize("model", MODELS)
def test_a_mistake_is_one_problem_document(gateway: str, model: str) -> None:
    reply = ask(gateway, model, b'{"nothing": 1}', "application/json")
    assert (reply.status_code, reply.headers["content-type"]) in {
        (422, "application/problem+json"),
        (415, "application/problem+json"),
    }


@pytest.mark.parametrize("model", [model for model in MODELS if model in ("wine", "iris", "diabetes", "digits")])
def test_clients_of_the_open_inference_protocol_see_the_models_own_inputs(gateway: str, model: str) -> None:
    metadata = requests.get(f"{gateway}/v2/models/{model}", timeout=TIMEOUT_S).json()
    sample = json.loads(sorted((EXAMPLES / "archives" / model / "samples").glob("*.json"))[0].read_bytes())
    assert [each["name"] for each in metadata["inputs"]] == list(sample)


def ask(gateway: str, model: str, body: bytes, media_type: str) -> requests.Response:
    return requests.post(
        f"{gateway}/predictions/{model}", data=body, headers={"content-type": media_type}, timeout=TIMEOUT_S
    )


def test_the_examples_of_the_page_exist() -> None:
    page = (CHECKOUT / "docs" / "ready-made-handlers.md").read_text()
    assert all(f"`{model}`" in page for model in MODELS)
    assert all(Path(EXAMPLES / "archives" / model / "golden" / "1.0.json").is_file() for model in MODELS)

"""The project `examples/`: one `tsctl up` builds, verifies and serves all of its models, behind a gateway."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from handlers.contract import PROBLEM_MEDIA_TYPE, Tolerance, difference
from tests.support.gateways import Front, brought_up
from tests.support.ports import free_ports
from tests.support.sites import CHECKOUT, Site, link_or_copy
from tsctl.archive.samples import media_type_of_file
from tsctl.config.archive import read_archive_spec

pytestmark = pytest.mark.live

EXAMPLES = CHECKOUT / "examples"
MODELS = sorted(path.parent.name for path in EXAMPLES.glob("archives/*/archive.yaml"))
#: Whose only inputs are the fields of its JSON samples.
OF_FIELDS = ("diabetes", "digits", "iris", "shop_requests", "wine")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """The gateway of a copy of the examples, on free ports."""
    site = Site(tmp_path_factory.mktemp("examples") / "site")
    ignored = shutil.ignore_patterns("store", ".tsctl", "logs")
    shutil.copytree(EXAMPLES, site.root, ignore=ignored, copy_function=link_or_copy)
    node, base, metrics = (f"http://127.0.0.1:{port}" for port in free_ports(3))
    content = site.deployment
    content["nodes"]["local"]["address"] = node
    content["gateway"] |= {"address": base, "metrics": metrics}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with brought_up(site, base, metrics) as front:
        yield front


@pytest.mark.parametrize("model", MODELS)
def test_samples_of_every_kind_get_their_golden_answers_through_the_gateway(front: Front, model: str) -> None:
    folder = EXAMPLES / "archives" / model
    spec = read_archive_spec(folder / "archive.yaml")
    tolerance = Tolerance(spec.tolerance.absolute, spec.tolerance.relative)
    golden: dict[str, Any] = json.loads((folder / "golden" / "1.0.json").read_text())
    for name, expected in golden.items():
        media_type = media_type_of_file(name, spec.sample_types)
        body = (folder / "samples" / name).read_bytes()
        reply = front.ask(f"/predictions/{model}", body, **{"Content-Type": str(media_type)})
        assert reply.status_code == 200, reply.text
        assert difference(reply.json(), expected, tolerance) is None, name


@pytest.mark.parametrize("model", MODELS)
def test_a_mistake_is_one_problem_document(front: Front, model: str) -> None:
    reply = front.ask(f"/predictions/{model}", b'{"nothing": 1}')
    assert reply.headers["content-type"] == PROBLEM_MEDIA_TYPE
    assert reply.status_code == (415 if model == "faces" else 422), "faces reads pictures only"


@pytest.mark.parametrize("model", OF_FIELDS)
def test_clients_of_the_open_inference_protocol_see_the_models_own_inputs(front: Front, model: str) -> None:
    metadata = front.ask(f"/v2/models/{model}", b"", method="GET").json()
    samples = sorted((EXAMPLES / "archives" / model / "samples").glob("*.json"))
    assert [each["name"] for each in metadata["inputs"]] == list(json.loads(samples[0].read_bytes()))


def test_every_example_is_deployed_and_on_the_page() -> None:
    assert list(yaml.safe_load((EXAMPLES / "deployment.yaml").read_text())["models"]) == MODELS
    page = (CHECKOUT / "docs" / "ready-made-handlers.md").read_text()
    assert [model for model in MODELS if f"| `{model}` |" not in page] == []

"""The JSON Schemas and the references say what the pydantic models say, of every key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, Field

from tsctl.config import descriptions
from tsctl.config.archive import ArchiveSpec, Compare
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.descriptions import description_of
from tsctl.config.schema import FILES, json_schema, models_in
from tsctl.config.spec import read_spec
from tsctl.views.reference import reference

CHECKOUT = Path(__file__).resolve().parents[2]
ARCHIVES = sorted(CHECKOUT.glob("*/**/archive.yaml"))
ARCHIVES = [path for path in ARCHIVES if not {".venv", "node_modules"} & set(path.parts)]
DEPLOYMENTS = [path for path in CHECKOUT.rglob("deployment*.yaml") if ".venv" not in path.parts]

#: Sections of which every key has another value than its default.
DEPLOYMENT: dict[str, Any] = {
    "nodes": {
        "a": {"grpc_ports": [7070, 7071], "nice": 5},
        "b": {"engine": "uvicorn", "address": "http://127.0.0.1:9001", "environment": "vllm", "tokens": False},
        "c": {"engine": "vllm", "address": "http://127.0.0.1:9002", "ports": [9010, 9020], "gpu_share": 0.5},
        "d": {"engine": "triton", "address": "http://127.0.0.1:9003", "gpus": 2},
        "e": {"engine": "bentoml", "address": "http://127.0.0.1:9004"},
    },
    "models": {
        "m": {
            "default": "1.0",
            "versions": {
                "1.0": {"nodes": ["a", "b", "c", "e"]},
                "2.0": {"workers": 2, "nodes": ["a"], "digest": "0123456789ab"},
            },
            "weights": {"1.0": "95%", "2.0": "5%"},
            "route": {"sticky": {"header": "x-user"}, "cors": {"origins": ["*"]}, "deadline_s": 3},
            "rollout": {"steps": [1, 100], "signals": ["errors"], "shadow": {"percent": 20}},
            "objectives": {"latency_ms": 100},
        }
    },
    "gateway": {"budget": {"burst": 5}},
    "tracing": {"endpoint": "http://127.0.0.1:4318", "share": 1},
    "records": {"shared": "/srv/records"},
    "store": {"address": "s3://bucket/a", "cache_mb": 9, "options": {"key": "k", "client_kwargs": {"verify": False}}},
}
ARCHIVE: dict[str, Any] = {
    "model": "m",
    "handler": "handler.py",
    "files": ["w.bin"],
    "sample_types": {".xyz": "audio/xyz"},
    "cache": {"shared": "redis://h:1/0", "ttl_s": 3},
    "compare": {"by": "label"},
    "settings": {"any": [1, {"thing": None}]},
    "versions": {"1.0": None, "2.0": {"workers": {"min": 2}, "cache": None}},
}
GOOD = {"deployment": DEPLOYMENT, "archive": ARCHIVE}


def errors(file: str, content: Any) -> list[str]:
    checker = jsonschema.Draft202012Validator(json_schema(file))
    return [error.message for error in checker.iter_errors(content)]


def test_the_files_in_docs_are_what_the_command_prints() -> None:
    for file in FILES:
        schema = json.loads((CHECKOUT / "docs" / "schemas" / f"{file}.json").read_text())
        assert schema == json_schema(file), f"run: tsctl schema {file} > docs/schemas/{file}.json"
        page = (CHECKOUT / "docs" / f"{file}-yaml.md").read_text()
        assert page == reference(file), f"run: tsctl schema {file} --markdown > docs/{file}-yaml.md"


@pytest.mark.parametrize("file", FILES)
def test_a_schema_is_one(file: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema(file))


@pytest.mark.parametrize("path", [*ARCHIVES, *DEPLOYMENTS], ids=str)
def test_every_file_of_the_repository_fits(path: Path) -> None:
    file = "archive" if path.name == "archive.yaml" else "deployment"
    assert errors(file, yaml.safe_load(path.read_text())) == []
    read_spec(path, FILES[file], {})


def test_there_are_such_files() -> None:
    assert len(ARCHIVES) >= 4
    assert CHECKOUT / "deployment.yaml" in DEPLOYMENTS
    for path in (*CHECKOUT.glob("archives/*/archive.yaml"), CHECKOUT / "deployment.yaml"):
        schema = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
        assert (path.parent / schema).is_file(), f"{path} does not name its schema"


@pytest.mark.parametrize("file", FILES)
def test_what_the_models_take_fits(file: str) -> None:
    FILES[file].model_validate(GOOD[file])
    assert errors(file, GOOD[file]) == []


@pytest.mark.parametrize(
    ("file", "place", "value"),
    [
        ("deployment", ("nodes", "a", "nce"), 1),
        ("deployment", ("nodes", "a", "nice"), 20),
        ("deployment", ("nodes", "a", "nice"), "5"),
        ("deployment", ("nodes", "b", "engine"), "unicorn"),
        ("deployment", ("nodes", "B"), {}),
        ("deployment", ("models", "m", "default"), 1.0),
        ("deployment", ("models", "m", "versions"), {}),
        ("deployment", ("models", "m", "versions", "2.0", "workers"), 0),
        ("deployment", ("models", "m", "rollout", "signals"), ["error"]),
        ("deployment", ("gateway", "budget", "burst"), 0),
        ("deployment", ("nodes",), {}),
        ("deployment", ("kubernetes",), {"traffic": "route"}),
        ("archive", ("model",), 1),
        ("archive", ("handler",), "handler.txt"),
        ("archive", ("handle",), "handler.py"),
        ("archive", ("batch",), {"size": 0}),
        ("archive", ("cache", "check"), 2),
        ("archive", ("compare", "by"), "colour"),
        ("archive", ("versions", "1.0"), {"dtype": "float16"}),
    ],
)
def test_what_the_models_refuse_does_not_fit(file: str, place: tuple[str, ...], value: object) -> None:
    content = json.loads(json.dumps(GOOD[file]))
    section = content
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    with pytest.raises(ValueError, match="validation error"):
        FILES[file].model_validate(content)
    assert errors(file, content), "an editor would take it"


def test_any_value_of_a_deployment_may_be_a_variable() -> None:
    content = json.loads(json.dumps(DEPLOYMENT))
    content["nodes"]["a"] |= {"nice": "${NICE}", "inference": "http://${HOST}:8080"}
    content["nodes"]["b"]["tokens"] = "${TOKENS:-true}"
    content["models"]["m"]["versions"]["2.0"]["workers"] = "${WORKERS:-2}"
    content["models"]["m"]["versions"]["2.0"]["digest"] = "${DIGEST}"
    assert errors("deployment", content) == []
    content["nodes"]["a"]["nice"] = "$NICE"
    assert errors("deployment", content), "a variable has braces"
    archive = {**ARCHIVE, "batch": {"size": "${SIZE}"}}
    assert errors("archive", archive), "an archive has no variables"


@pytest.mark.parametrize("file", FILES)
def test_every_key_has_a_meaning_and_a_row(file: str) -> None:
    page = reference(file)
    for model in models_in(FILES[file]):
        assert model.__doc__, model
        for name in model.model_fields:
            assert description_of(model, name), f"{model.__name__}.{name} has no comment: add '# meaning' behind it"
            assert f"| `{name}` |" in page
    assert "| |" not in page.replace("|  | ", "")
    assert "PydanticUndefined" not in page


class Commented(BaseModel):
    """For the test below."""

    #: Above it,
    #: in two lines.
    first: int = 1
    second: dict[str, int] = {}  # behind it: {a: 1}
    third: int = Field(default=3, description="of its own")  # not this
    fourth: tuple[
        int,
        str,
    ] = (1, "#: none")  # behind its end
    # an aside
    fifth: int = 5

    #: Not of a field.
    def sixth(self) -> int:
        name: int = 1  # not either
        return name


@pytest.mark.parametrize("file", FILES)
def test_no_sentence_of_the_page_is_indented_which_markdown_shows_as_code(file: str) -> None:
    prose = "".join(reference(file).split("```")[::2])
    assert not [line for line in prose.splitlines() if line.startswith(" ")]


def test_a_meaning_is_the_description_or_the_comment() -> None:
    told = {name: description_of(Commented, name) for name in Commented.model_fields}
    assert told == {
        "first": "Above it, in two lines.",
        "second": "behind it: {a: 1}",
        "third": "of its own",
        "fourth": "behind its end",
        "fifth": "",
    }
    assert description_of(Compare, "k") == "classes of top_k"
    assert description_of(ArchiveSpec, "queue_size"), "inherited"
    assert descriptions._comments(DeploymentSpec)["gateway"] == "None: clients call the nodes"


def test_nodes_may_be_missing_on_a_cluster_alone() -> None:
    on_cluster = {"kubernetes": {"traffic": "httproute"}}
    assert not errors("deployment", on_cluster)
    assert FILES["deployment"].model_validate(on_cluster)
    assert errors("deployment", {"kubernetes": {"traffic": "envoy"}})
    assert errors("deployment", {})

"""`tsctl render image`: what is written, that tools which read such files accept it, and what is refused.

`tests/live/test_images.py` runs what is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.support.checkout import CHECKOUT, tracked_files
from tests.support.commands import run_command
from tests.support.containers import instructions
from tests.support.sites import Site, write_tiny
from tsctl.archive.build import build_version
from tsctl.archive.container import MANIFEST, digest_of, write_entries
from tsctl.archive.store import find_archive, import_archive
from tsctl.config.archive import read_archive_spec
from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, NodeError, SpecError, TsctlError
from tsctl.host.progress import Progress
from tsctl.render.image.context import Options, Rendered, base_image, render
from tsctl.render.image.lock import Package, Wanted, packages_of, read_lock, require_gpu_build
from tsctl.render.image.selection import Selection, select
from tsctl.render.image.wheel import write_wheel

SCHEMA = json.loads((Path(__file__).parent / "data" / "compose-spec.schema.json").read_text())
DIGEST = f"sha256:{'0' * 64}"
NODES: dict[str, Any] = {
    "a": {"engine": "uvicorn", "address": "http://127.0.0.1:8101", "nice": 3},
    "b": {
        "inference": "http://127.0.0.1:8201",
        "management": "http://127.0.0.1:8202",
        "metrics": "http://127.0.0.1:8203",
    },
    "idle": {"engine": "uvicorn", "address": "http://127.0.0.1:8103"},
}
#: What pip reports, as far as it is read.
PACKAGES = [Package("torch", "2.13.0+cpu", "1" * 64, "BSD-3-Clause"), Package("PyYAML", "6.0.3", "2" * 64, "MIT")]


def pip_says(wanted: Wanted, note: object) -> list[Package]:
    return PACKAGES


def build(project: Project, model: str, *versions: str) -> None:
    folder = project.archives / model
    spec = read_archive_spec(folder / "archive.yaml")
    for version in versions:
        build_version(project, folder, spec, version, lambda _: None)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """`tiny` with two versions on two engines, `secret` with a secret and a requirement, and a stock archive."""
    site = Site(tmp_path_factory.mktemp("team"))
    write_tiny(site, "tiny", {"1.0": {}, "2.0": {}}, cache={"max_mb": 1, "shared": "redis://127.0.0.1:6379/0"})
    write_tiny(site, "secret", {"1.0": {}}, secrets=["TOKEN"], requirements=["inflect==7.3.1"])
    write_tiny(site, "unbuilt", {"1.0": {}})
    made = Project(site.root)
    build(made, "tiny", "1.0", "2.0")
    build(made, "secret", "1.0")
    manifest = {"model": {"modelName": "stock", "modelVersion": "1.0", "handler": "stock.py"}}
    with (site.root / "stock.mar").open("wb") as file:
        write_entries({MANIFEST: json.dumps(manifest).encode(), "stock.py": b"import yaml\n"}, file)
    import_archive(made, site.root / "stock.mar")
    models = {
        "tiny": {
            "default": "1.0",
            "versions": {"1.0": {"nodes": ["a", "b"]}, "2.0": {"nodes": ["a"]}},
            "weights": {"1.0": "90%", "2.0": "10%"},
            "trust": [f"model.pkl@{DIGEST}"],
        },
        "secret": {"default": "1.0", "versions": {"1.0": {"nodes": ["a"]}}, "secrets": {"TOKEN": {"env": "T"}}},
    }
    deploy(made, models=models, gateway={"address": "http://127.0.0.1:8400", "metrics": "http://127.0.0.1:8401"})
    return made


def deploy(project: Project, **content: Any) -> None:
    document = {"nodes": NODES, "models": {}, **content}
    project.deployment.write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.fixture(scope="module")
def rendered(project: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rendered]:
    """All of deployment.yaml."""
    to = tmp_path_factory.mktemp("rendered") / "images"
    return to, written(select(project, (), None), to)


def written(selection: Selection, to: Path, **options: Any) -> Rendered:
    return render(selection, to, Options(**options), Progress(), pip_says)


def yaml_of(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


# ---- what is written -------------------------------------------------------------------------------------------------


def test_there_is_an_image_for_each_engine_and_one_of_the_gateway(rendered: tuple[Path, Rendered]) -> None:
    to, made = rendered
    assert [image.name for image in made.images] == ["tsctl-node-uvicorn", "tsctl-node-torchserve", "tsctl-gateway"]
    assert {path.name for path in to.iterdir()} == {
        ".containerignore", ".dockerignore", "compose.yaml", "gateway", "monitoring", "nodes", "secrets", "state",
        "torchserve", "uvicorn", "wheels",
    }  # fmt: skip
    assert {path.name for path in (to / "nodes").iterdir()} == {"a.yaml", "b.yaml"}
    assert "node idle serves none of these versions, so it is left out" in made.warnings
    assert made.secrets == ("secret.TOKEN",)


def test_hadolint_finds_nothing(rendered: tuple[Path, Rendered], tmp_path: Path) -> None:
    files = sorted(rendered[0].glob("*/Containerfile"))
    assert len(files) == 3
    assert hadolint(*files) == ""
    wrong = tmp_path / "Containerfile"
    wrong.write_text("FROM python:latest\nRUN cd /x\n")
    assert {"DL3007", "DL3003"} <= set(hadolint(wrong).split()), "it finds what is wrong"


def hadolint(*files: Path) -> str:
    command = [Path(sys.executable).with_name("hadolint"), *files]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout


def test_compose_fits_its_schema_and_only_the_gateway_is_published(rendered: tuple[Path, Rendered]) -> None:
    compose = yaml_of(rendered[0] / "compose.yaml")
    jsonschema.Draft7Validator(SCHEMA).validate(compose)
    services = compose["services"]
    assert set(services) == {"gateway", "node-a", "node-b", "prometheus", "alertmanager", "redis"}
    assert [name for name, one in services.items() if "ports" in one] == ["gateway"]
    assert services["gateway"]["ports"] == ["${GATEWAY_HOST:-127.0.0.1}:${GATEWAY_PORT:-8400}:8400"]
    assert [name for name, one in services.items() if "outside" in one["networks"]] == ["gateway"]
    assert compose["networks"]["inside"] == {"internal": True}
    for name, one in services.items():
        assert one["read_only"] and one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"] and one["init"], name
        assert not one["user"].startswith("0:") and one["healthcheck"]["test"][0] == "CMD", name
        assert {"cpus", "memory", "pids"} <= one["deploy"]["resources"]["limits"].keys(), name
        assert "latest" not in one["image"] and ":" in one["image"], name
    waits = services["gateway"]["depends_on"]
    assert waits == {"node-a": {"condition": "service_healthy"}, "node-b": {"condition": "service_healthy"}}
    assert services["node-a"]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    [secret] = services["node-a"]["secrets"]
    assert secret == {"source": "secret.TOKEN", "target": "/run/secrets/tsctl/secret/TOKEN"}
    assert "secrets" not in services["node-b"]


def test_a_schema_that_accepts_anything_would_be_no_check(rendered: tuple[Path, Rendered]) -> None:
    compose = yaml_of(rendered[0] / "compose.yaml")
    compose["services"]["gateway"]["healthcheck"]["tries"] = 3
    with pytest.raises(jsonschema.ValidationError, match="tries"):
        jsonschema.Draft7Validator(SCHEMA).validate(compose)


def test_whatever_compose_names_is_there(rendered: tuple[Path, Rendered]) -> None:
    to, _ = rendered
    compose = yaml_of(to / "compose.yaml")
    for name, config in compose["configs"].items():
        assert (to / config["file"]).is_file(), name
    for name, one in compose["services"].items():
        assert {config["source"] for config in one.get("configs", ())} <= compose["configs"].keys(), name
        volumes = [v["source"] if isinstance(v, dict) else v.partition(":")[0] for v in one.get("volumes", ())]
        assert set(volumes) <= compose["volumes"].keys(), name
        if "build" in one:
            assert (to / one["build"]["dockerfile"]).is_file(), name


def test_the_deployments_inside_are_the_teams_with_other_addresses(rendered: tuple[Path, Rendered]) -> None:
    to, made = rendered
    digest = {one.archive.key: one.digest for one in made.archives}
    node = read_deployment(to / "nodes" / "a.yaml")
    assert list(node.nodes) == ["a"] and node.nodes["a"].url == "http://0.0.0.0:8101" and node.nodes["a"].nice == 3
    assert node.gateway is None and list(node.models["tiny"].versions) == ["1.0", "2.0"]
    assert node.models["secret"].secrets["TOKEN"].file == "/run/secrets/tsctl/secret/TOKEN"
    assert node.models["tiny"].trust == (f"model.pkl@{DIGEST}",)
    pinned = node.models["tiny"].versions["2.0"]
    assert pinned is not None and pinned.digest == digest["tiny", "2.0"]
    assert list(read_deployment(to / "nodes" / "b.yaml").models["tiny"].versions) == ["1.0"]
    gateway = read_deployment(to / "gateway" / "deployment.yaml")
    assert gateway.nodes["a"].url == "http://node-a:8101" and gateway.nodes["b"].url == "http://node-b:8201"
    assert gateway.nodes["a"].key_file == "state-of/a/nodes/a/key_file.json"
    assert gateway.gateway is not None and gateway.gateway.address == "http://0.0.0.0:8400"
    assert gateway.models["tiny"].weights == {"1.0": "90%", "2.0": "10%"}
    assert gateway.models["tiny"].nodes("1.0") == ("a", "b")


def test_the_gateway_reads_tokens_where_the_nodes_volume_is(rendered: tuple[Path, Rendered]) -> None:
    compose = yaml_of(rendered[0] / "compose.yaml")
    mounted = {v["source"]: v["target"] for v in compose["services"]["gateway"]["volumes"] if isinstance(v, dict)}
    own = dict(volume.split(":") for volume in compose["services"]["node-a"]["volumes"])
    assert own == {"state-node-a": "/srv/tsctl/.tsctl"}
    gateway = read_deployment(rendered[0] / "gateway" / "deployment.yaml")
    assert f"/srv/tsctl/{gateway.nodes['a'].key_file}".startswith(f"{mounted['state-node-a']}/nodes/a/")


def test_archives_lie_in_the_contexts_that_serve_them_with_their_digests(rendered: tuple[Path, Rendered]) -> None:
    to, made = rendered
    names = {one.archive.path.name: one.digest for one in made.archives}
    for folder, count in (("uvicorn", 3), ("torchserve", 1), ("gateway", 3)):
        store = to / folder / "archives" / "store"
        lines = [line.split("  archives/store/") for line in (store / "SHA256SUMS").read_text().splitlines()]
        assert len(lines) == count
        for digest, name in lines:
            assert names[name] == digest == digest_of(store / name)
            label = f"tsctl.archive.{name.split('-')[0]}.{name.split('-')[1]}"
            assert f'"{label}"="sha256:{digest}"' in (to / folder / "Containerfile").read_text()


def test_a_node_listens_on_what_its_image_exposes_as_its_first_process(
    rendered: tuple[Path, Rendered],
) -> None:
    said = instructions((rendered[0] / "torchserve" / "Containerfile").read_text())
    words = dict(said)
    assert words["EXPOSE"] == "7070 7071 8201 8202 8203 9464"
    assert words["USER"] == "10001:10001" and words["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(words["ENTRYPOINT"]) == ["tsctl", "up", "--foreground", "--metrics", "0.0.0.0:9464"]
    assert words["HEALTHCHECK"].endswith('CMD ["tsctl", "node", "wait", "--timeout", "0"]')
    assert [rest for name, rest in said if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    commands = [rest for name, rest in said if name == "RUN"]
    assert all("[" in rest and json.loads(rest[rest.index("[") :]) for rest in commands), "each is in the exec form"


def test_packages_of_models_are_installed_only_where_a_model_requires_some(rendered: tuple[Path, Rendered]) -> None:
    texts = {path.parent.name: path.read_text() for path in rendered[0].glob("*/Containerfile")}
    assert '"archive", "packages"]' in texts["uvicorn"] and '"archive", "packages"]' not in texts["torchserve"]


def test_the_gateways_image_has_what_verifies_archives(project: Project, tmp_path: Path) -> None:
    asked: list[Wanted] = []

    def ask(wanted: Wanted, note: object) -> list[Package]:
        asked.append(wanted)
        return PACKAGES

    render(select(project, (), None), tmp_path / "images", Options(), Progress(), ask)
    uvicorn, torchserve, gateway = (wanted.requirements for wanted in asked)
    assert gateway[0].endswith("[gateway,serve,uvicorn]") and {"torch", "pydantic"} <= {*gateway}
    assert {*uvicorn[1:], *torchserve[1:]} == {*gateway[1:]}
    services = yaml_of(tmp_path / "images" / "compose.yaml")["services"]
    assert services["gateway"]["secrets"] == services["node-a"]["secrets"]


def test_the_lock_has_a_hash_in_each_line_and_the_wheel(rendered: tuple[Path, Rendered]) -> None:
    to, _ = rendered
    lines = (to / "uvicorn" / "requirements.txt").read_text().splitlines()[1:]
    assert lines[0] == f"torch==2.13.0 --hash=sha256:{'1' * 64}", "the hash says which build, and not a local version"
    [wheel] = (to / "wheels").iterdir()
    assert lines[-1] == f"./{wheel.name} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def test_the_bill_of_materials_is_valid_and_names_packages_and_archives(rendered: tuple[Path, Rendered]) -> None:
    to, made = rendered
    text = (to / "uvicorn" / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    rows = {(one["type"], one["name"], one["version"]): one for one in json.loads(text)["components"]}
    assert rows["library", "torch", "2.13.0+cpu"]["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    assert ("library", "tsctl", "0.1.0") in rows
    archive = rows["machine-learning-model", "secret", "1.0"]
    assert archive["hashes"][0]["content"] == {one.archive.model: one.digest for one in made.archives}["secret"]
    assert {"name": "tsctl:requirement", "value": "inflect==7.3.1"} in archive["properties"]


def test_prometheus_asks_containers_by_their_names(rendered: tuple[Path, Rendered]) -> None:
    jobs = {job["job_name"]: job for job in yaml_of(rendered[0] / "monitoring" / "prometheus.yml")["scrape_configs"]}
    assert jobs["tsctl-gateway"]["static_configs"] == [{"targets": ["gateway:8401"]}]
    assert jobs["tsctl-workers"]["static_configs"] == [{"targets": ["gateway:9464", "node-a:9464", "node-b:9464"]}]


def test_the_same_inputs_give_the_same_bytes(project: Project, rendered: tuple[Path, Rendered], tmp_path: Path) -> None:
    again = written(select(project, (), None), tmp_path / "again")
    assert again.images == rendered[1].images
    files = [path.relative_to(rendered[0]) for path in rendered[0].rglob("*") if path.is_file()]
    differing = [
        path for path in files if (tmp_path / "again" / path).read_bytes() != (rendered[0] / path).read_bytes()
    ]
    assert files and differing == []


def test_gpus_are_reserved_for_nodes_alone(project: Project, tmp_path: Path) -> None:
    def with_cuda(wanted: Wanted, note: object) -> list[Package]:
        return [Package("torch", "2.13.0+cu130", "3" * 64)]

    render(select(project, ["tiny:2.0"], None), tmp_path / "gpu", Options(gpu=True), Progress(), with_cuda)
    compose = yaml_of(tmp_path / "gpu" / "compose.yaml")
    jsonschema.Draft7Validator(SCHEMA).validate(compose)
    devices = [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    services = compose["services"]
    assert services["node-a"]["deploy"]["resources"]["reservations"] == {"devices": devices}
    assert "reservations" not in services["gateway"]["deploy"]["resources"]
    assert 'NVIDIA_VISIBLE_DEVICES="all"' in (tmp_path / "gpu" / "uvicorn" / "Containerfile").read_text()


def test_named_versions_alone_are_packed_and_weights_that_lack_some_are_told(project: Project, tmp_path: Path) -> None:
    selection = select(project, ["tiny:2.0"], "torchserve")
    made = written(selection, tmp_path / "one", base=f"registry.example.com/python:3.11@{DIGEST}")
    assert [one.archive.key for one in made.archives] == [("tiny", "2.0")]
    assert selection.models["tiny"].default == "2.0" and selection.engines == ["torchserve"]
    assert selection.nodes["a"].listens_on[:3] == (8101, 8102, 8103), "the other engine's ports, from the node's on"
    assert any("weights of tiny are left out" in line for line in made.warnings)
    assert not any("may change" in line for line in made.warnings), "the base is pinned"


def test_without_a_deployment_one_node_serves_what_is_named(project: Project, tmp_path: Path) -> None:
    alone = Project(tmp_path)
    alone.archives.mkdir()
    import_archive(alone, find_archive(project, "tiny", "1.0").path)
    selection = select(alone, ["tiny"], None)
    assert list(selection.nodes) == ["main"] and selection.engines == ["uvicorn"]
    written(selection, tmp_path / "images")
    assert read_deployment(tmp_path / "images" / "nodes" / "main.yaml").models["tiny"].default == "1.0"


@pytest.mark.parametrize(
    "control", ["redis://:owl-9f3@c.example.com:6379/0", "redis://c.example.com/0?password=owl-9f3"]
)
def test_what_may_be_secret_is_in_no_image(project: Project, tmp_path: Path, control: str) -> None:
    team = select(project, ["tiny"], None)
    options = {"key": "owl-9f3", "endpoint_url": "https://s3.example.com", "proxy_url": "https://me:owl-9f3@proxy:1"}
    secret = {
        "store": {"address": "s3://models", "options": options},
        "control": control,
        "monitoring": {"webhook": "https://example.com/owl-9f3"},
    }
    document = {**yaml_of(project.deployment), **secret}
    made = written(replace(team, deployment=DeploymentSpec.model_validate(document)), tmp_path / "images")
    files = [path for path in (tmp_path / "images").rglob("*") if path.is_file()]
    telling = [path for path in files if b"owl-9f3" in path.read_bytes()]
    assert [path.name for path in telling] == ["alertmanager.yml"], "which no build gets"
    assert "monitoring" in (tmp_path / "images" / ".dockerignore").read_text().split()
    gateway = read_deployment(tmp_path / "images" / "gateway" / "deployment.yaml")
    assert gateway.store is not None and gateway.store.options == {"endpoint_url": "https://s3.example.com"}
    assert len([line for line in made.warnings if "`store`" in line or "`control`" in line]) == 2


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "engine", "error", "says"),
    [
        (["nothing"], None, SpecError, "there is no model 'nothing'"),
        (["tiny:9.9"], None, SpecError, "tiny has no version '9.9'"),
        (["unbuilt"], None, ArchiveError, "no archive of unbuilt 1.0"),
        (["stock"], "uvicorn", NodeError, "only TorchServe can serve it"),
        (["tiny"], "vllm", SpecError, "there is no image for engine 'vllm'"),
        (["tiny:"], None, SpecError, "names no model"),
        (["../tiny"], None, SpecError, "there is no model '../tiny'"),
        (["tiny\n1"], None, SpecError, "there is no model 'tiny\\\\n1'"),
    ],
)
def test_a_name_or_engine_that_cannot_be_is_refused(
    project: Project, names: Sequence[str], engine: str | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says.replace("(", "\\(")):
        select(project, names, engine)


def test_a_stock_archive_is_packed_for_torchserve_with_what_is_kept_beside_it(project: Project, tmp_path: Path) -> None:
    kept = project.archives / "stock" / "samples" / "one.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    made = written(select(project, ["stock"], "torchserve"), tmp_path / "images")
    assert [one.is_stock for one in made.archives] == [True]
    assert (tmp_path / "images" / "torchserve" / "archives" / "stock" / "samples" / "one.json").is_file()


def test_a_language_model_with_two_workers_is_no_image_of_torchserve(project: Project, tmp_path: Path) -> None:
    text = Project(tmp_path)
    entries = {
        MANIFEST: json.dumps(
            {"model": {"modelName": "talk", "modelVersion": "1.0", "handler": "h", "configFile": "model-config.yaml"}}
        ).encode(),
        "model-config.yaml": b"serving: {generation: {backend: auto}}\n",
        "MAR-INF/DIGESTS.json": b"{}",
    }
    with (tmp_path / "talk.mar").open("wb") as file:
        write_entries(entries, file)
    import_archive(text, tmp_path / "talk.mar")
    deploy(text, models={"talk": {"default": "1.0", "versions": {"1.0": {"workers": 2, "nodes": ["b"]}}}})
    with pytest.raises(NodeError, match=r"talk 1.0 cannot be in an image of engine torchserve: it generates text"):
        select(text, ["talk"], None)
    assert select(text, ["talk"], "uvicorn").engines == ["uvicorn"]


def test_a_folder_that_is_not_empty_stays_as_it_is(project: Project, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SpecError, match="is not empty"):
        written(select(project, ["tiny"], None), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_a_rendering_that_fails(project: Project, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--gpu needs a build of torch for CUDA"):
        written(select(project, ["tiny"], None), tmp_path / "images", gpu=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["python", "python:latest", "a b:1", "python:3.11\nRUN x", "docker.io/x:$Y", "-x:1"])
def test_a_base_image_needs_a_tag_or_a_digest(name: str) -> None:
    with pytest.raises(SpecError, match="--base"):
        base_image(name)


@pytest.mark.parametrize("name", ["python:3.11", f"reg.example.com:5000/a/b@{DIGEST}", f"python:3.11-slim@{DIGEST}"])
def test_a_base_image_with_one_is_taken(name: str) -> None:
    assert base_image(name) == name


def test_an_archive_that_deployment_pins_otherwise_is_refused(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path)
    other.archives.mkdir()
    import_archive(other, find_archive(project, "tiny", "1.0").path)
    deploy(other, models={"tiny": {"default": "1.0", "versions": {"1.0": {"digest": "0" * 12}}}})
    with pytest.raises(ArchiveError, match=r"deployment.yaml pins tiny 1.0 to 000000000000"):
        select(other, [], None)


def test_an_engine_without_an_image_is_refused_unless_another_is_chosen(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path)
    other.archives.mkdir()
    import_archive(other, find_archive(project, "tiny", "1.0").path)
    nodes = {"t": {"engine": "triton", "address": "http://127.0.0.1:8300"}}
    deploy(other, nodes=nodes, models={"tiny": {"default": "1.0", "versions": {"1.0": {}}}})
    with pytest.raises(SpecError, match="node t runs engine triton, for which there is no image"):
        select(other, [], None)
    assert select(other, [], "uvicorn").nodes["t"].url == "http://127.0.0.1:8300"


def test_a_model_that_requires_another_version_than_the_image_has_is_refused(project: Project, tmp_path: Path) -> None:
    def other_inflect(wanted: Wanted, note: object) -> list[Package]:
        return [Package("inflect", "7.0.0", "4" * 64)]

    with pytest.raises(ArchiveError, match=r"it requires inflect 7.3.1, and the image has inflect 7.0.0"):
        render(select(project, ["secret"], None), tmp_path / "images", Options(), Progress(), other_inflect)


@pytest.mark.parametrize(
    ("store", "says"),
    [(None, "deployment.yaml names no store"), ("shared", "the store is a folder"), ("http://127.0.0.1:9", "9")],
)
def test_archives_are_pulled_only_from_a_store_that_a_build_can_reach(
    project: Project, tmp_path: Path, store: str | None, says: str
) -> None:
    team = select(project, ["tiny"], None)
    document = {**yaml_of(project.deployment), **({"store": store} if store else {})}
    with pytest.raises(TsctlError, match=says):
        written(replace(team, deployment=DeploymentSpec.model_validate(document)), tmp_path / "images", pull=True)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_to_do(project: Project, tmp_path: Path) -> None:
    ended = run_command(["render", "image", "unbuilt", "--to", str(tmp_path / "x")], project.root, os.environ, 60)
    assert ended.status == 3 and "tsctl archive build unbuilt:1.0" in ended.err


# ---- the lock and the wheel ------------------------------------------------------------------------------------------


def report(**more: Any) -> Mapping[str, Any]:
    archive: dict[str, Any] = {"hashes": {"sha256": "5" * 64}}
    metadata = {"name": "Some_Thing", "version": "1.0", "license": "BSD\n long text", "summary": "It does."}
    install = {"metadata": metadata, "download_info": {"url": "https://example.com/x.whl", "archive_info": archive}}
    ours = {**install, "metadata": {**metadata, "name": "tsctl"}}
    return {"install": [ours, {**install, **more}]}


def test_packages_are_what_pip_reports_without_tsctl() -> None:
    assert packages_of(report()) == [Package("Some_Thing", "1.0", "5" * 64, "BSD", "It does.")]


def test_a_package_without_a_hash_is_refused() -> None:
    with pytest.raises(SpecError, match="no SHA-256 of Some_Thing"):
        packages_of(report(download_info={"url": "file:///folder", "dir_info": {}}))


def test_a_lock_of_ones_own_is_read(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"# uv\nPyYAML==6.0.3 \\\n    --hash=sha256:{'6' * 64} \\\n    --hash=sha256:{'7' * 64}\n")
    assert read_lock(lock) == [Package("PyYAML", "6.0.3", "6" * 64)]
    lock.write_text("PyYAML>=6\n")
    with pytest.raises(SpecError, match="no exact version with a SHA-256"):
        read_lock(lock)


def test_a_build_of_torch_for_cuda_is_no_mistake_with_gpus() -> None:
    require_gpu_build([Package("torch", "2.13.0+cu130", "0" * 64), Package("torchserve", "0.12.0", "0" * 64)])
    require_gpu_build([Package("torch", "2.13.0", "0" * 64)])


def test_the_wheel_has_the_files_of_the_packages_and_is_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    path, digest = write_wheel(tmp_path)
    assert write_wheel(tmp_path / "again")[1] == digest
    names = {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}
    tracked = {path for path in tracked_files() if (CHECKOUT / path).is_file()}
    core = {f"tsctl/bundled/{path}" for path in tracked if path.parts[0] == "handlers"}
    own = {str(path) for path in tracked if path.parts[0] == "tsctl"}
    assert names >= own | core, (own | core) - names
    assert not [name for name in names if "__pycache__" in name]

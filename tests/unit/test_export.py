"""`tsctl export`: a folder that is whole or not there, with the versions of what the archive's code imports."""

from __future__ import annotations

import json
import os
import resource
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.support.commands import Result, run_command
from tests.support.sites import Site, write_tiny
from tsctl.archive.build import build_version
from tsctl.archive.container import MANIFEST, write_entries
from tsctl.archive.libraries import libraries_of
from tsctl.archive.named import archive_of_name
from tsctl.config.archive import read_archive_spec
from tsctl.config.deployment import RayReplicas, VersionTarget
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, SpecError
from tsctl.host.progress import Progress
from tsctl.nodes.bentoml.export import ADAPTER, export
from tsctl.nodes.exported import new_folder
from tsctl.nodes.ray.export import export as export_ray

BENTOML_RELEASE = "1.4.40"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive whose handler multiplies a number."""
    root = tmp_path_factory.mktemp("export")
    site = Site(root)
    write_tiny(site, "tiny", {"1.0": {}}, description='it says "hello: {{ x }}"')
    folder = root / "archives" / "tiny"
    spec = read_archive_spec(folder / "archive.yaml")
    return build_version(Project(root), folder, spec, "1.0", lambda _: None).archive.path


def run(root: Path, *arguments: str) -> Result:
    return run_command(["export", "bentoml", *arguments], root, os.environ, 60)


def copy_without(archive: Path, target: Path, *left_out: str) -> Path:
    """The archive without some entries."""
    with zipfile.ZipFile(archive) as whole:
        entries = {n: whole.read(n) for n in whole.namelist() if not n.endswith("/") and not n.startswith(left_out)}
    with target.open("wb") as file:
        write_entries(entries, file)
    return target


# ---- what is written -------------------------------------------------------------------------------------------------


def test_the_folder_has_the_archive_and_what_bentoml_reads(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "tiny"
    libraries = export(archive, target)
    assert sorted(path.name for path in target.iterdir()) == [
        "README.md", "archive", "bentofile.yaml", "requirements.txt", "service.py",
    ]  # fmt: skip
    assert (target / "archive" / "model-config.yaml").is_file() and (target / "archive" / ADAPTER).is_file()
    assert not libraries.missing
    pins = dict(line.split("==") for line in (target / "requirements.txt").read_text().splitlines())
    assert pins["bentoml"] == BENTOML_RELEASE
    assert pins["torch"] == version("torch").partition("+")[0]
    assert {"pydantic", "PyYAML", "prometheus_client", "fastapi"} <= pins.keys()
    assert not {"transformers", "pillow", "scikit-learn", "torchserve", "grpcio"} & pins.keys(), (
        "the handler needs none"
    )
    build = yaml.safe_load((target / "bentofile.yaml").read_text())
    assert (build["service"], build["labels"]["model-version"]) == ("service:service", "1.0")
    compile((target / "service.py").read_text(), "service.py", "exec")
    assert "/predictions/tiny/1.0" in (target / "README.md").read_text()


def test_the_folder_for_ray_has_the_package_where_ray_s_processes_import_it(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    assert not export_ray(archive, target).missing
    assert {path.name for path in target.iterdir()} == {
        "README.md", "archive", "handlers", "requirements.txt", "serve.yaml", "service.py",
    }  # fmt: skip
    assert (target / "handlers" / "adapters" / "ray" / "app.py").is_file()
    assert "ray[serve]==2.60.0" in (target / "requirements.txt").read_text().splitlines()
    [application] = yaml.safe_load((target / "serve.yaml").read_text())["applications"]
    assert (application["name"], application["import_path"], application["route_prefix"]) == (
        "tiny-1.0", "service:app", "/",
    )  # fmt: skip
    compile((target / "service.py").read_text(), "service.py", "exec")


def test_the_folder_for_ray_has_the_replicas_of_deployment_yaml(archive: Path, tmp_path: Path) -> None:
    def replicas(folder: str, *settings: VersionTarget) -> dict[str, object]:
        export_ray(archive, tmp_path / folder, *settings)
        [application] = yaml.safe_load((tmp_path / folder / "serve.yaml").read_text())["applications"]
        [deployment] = application["deployments"]
        return {name: value for name, value in deployment.items() if name != "name"}

    actor = {"num_cpus": 1.0, "num_gpus": 0.0}
    assert replicas("archive") == {"num_replicas": 1, "ray_actor_options": actor}
    wanted = RayReplicas(num_cpus=0.5, num_gpus=1, max_replicas=7, target_ongoing_requests=3, max_replicas_per_node=2)
    assert replicas("deployment", VersionTarget(workers=4, ray=wanted)) == {
        "num_replicas": "auto",
        "autoscaling_config": {"min_replicas": 4, "max_replicas": 7, "target_ongoing_requests": 3.0},
        "max_replicas_per_node": 2,
        "ray_actor_options": {"num_cpus": 0.5, "num_gpus": 1.0},
    }


def test_the_command_for_ray_reads_deployment_yaml(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "deployment.yaml").write_text(
        "nodes: {r: {engine: ray, address: 'http://127.0.0.1:8265'}}\n"
        "models: {tiny: {default: '1.0', versions: {'1.0': {workers: 3}}}}\n"
    )
    done = run_command(["export", "ray", str(archive), "--to", "out"], tmp_path, os.environ, 60)
    assert done.status == 0, done.err
    [application] = yaml.safe_load((tmp_path / "out" / "serve.yaml").read_text())["applications"]
    assert application["deployments"][0]["num_replicas"] == 3


@pytest.mark.parametrize("name", ["nope", "/etc/passwd"])
def test_a_name_of_no_model_is_said_without_a_version(tmp_path: Path, name: str) -> None:
    (tmp_path / "archives").mkdir()
    with pytest.raises(ArchiveError, match=f"there is no model {name}$"):
        archive_of_name(Project(tmp_path), name, Progress())


def test_libraries_are_those_of_the_handler_and_of_the_authors_files(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    export(archive, target)
    folder = target / "archive"
    programs = ["handlers.adapters.asgi.child"]
    assert "pillow" in libraries_of(folder, [*programs, "handlers.image"]).pins
    (folder / "own.py").write_text("def late():\n    import sklearn.svm, yaml, own2, handler, json, no_such.module\n")
    (folder / "own2.py").write_text("from handlers import EmbeddingHandler\n")
    (folder / "torn.py").write_text("import (\n")
    found = libraries_of(folder, programs)
    assert {"scikit-learn", "transformers", "PyYAML"} <= found.pins.keys()
    assert found.missing == ("no_such",)
    assert libraries_of(folder, programs, ["no_such"]).missing == ()


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_there_already_is_named_and_left_as_it_is(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    for name in ("dangling", "file", "folder"):
        with pytest.raises(SpecError, match=f"{name} exists already"):
            export(archive, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_archives_that_bentoml_cannot_serve_are_refused(archive: Path, tmp_path: Path) -> None:
    old = copy_without(archive, tmp_path / "tiny-old.mar", "handlers/adapters/bentoml/")
    with pytest.raises(ArchiveError, match="no adapter for BentoML") as raised:
        export(old, tmp_path / "out")
    assert raised.value.hint == "Build it again: tsctl archive build tiny:1.0"
    manifest = {"model": {"modelName": "stock", "modelVersion": "1.0", "handler": "handler.py"}}
    stock = tmp_path / "stock.mar"
    with stock.open("wb") as file:
        write_entries({"MAR-INF/MANIFEST.json": json.dumps(manifest).encode(), "handler.py": b""}, file)
    with pytest.raises(ArchiveError, match="only TorchServe can serve it"):
        export(stock, tmp_path / "out")
    with zipfile.ZipFile(archive) as whole:
        entries = {name: whole.read(name) for name in whole.namelist()}
    for name in ('x"""\nimport os', "../../x"):
        document = json.loads(entries[MANIFEST])
        document["model"]["modelName"] = name
        hostile = tmp_path / "hostile.mar"
        with hostile.open("wb") as file:
            write_entries({**entries, MANIFEST: json.dumps(document).encode()}, file)
        with pytest.raises(ArchiveError, match="modelName"):
            export(hostile, tmp_path / "out")
        for engine in ("bentoml", "triton"):
            ended = run_command(["export", engine, str(hostile), "--to", "out"], tmp_path, os.environ, 60)
            assert (ended.status, "modelName" in ended.err) == (3, True)
    assert not (tmp_path / "out").exists()


def test_an_archive_without_samples_is_exported(archive: Path, tmp_path: Path) -> None:
    bare = copy_without(archive, tmp_path / "tiny-bare.mar", "samples/", "golden.json", "MAR-INF/digests.json")
    export(bare, tmp_path / "out")
    assert not (tmp_path / "out" / "archive" / "samples").exists()


def test_a_mistake_of_the_command_line_is_one_line(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "file").write_text("mine")
    for arguments, status, said in [
        ((str(archive),), 2, "--to"),
        (("nothing", "--to", "out"), 3, "there is no model nothing"),
        (("missing.mar", "--to", "out"), 3, "no such file"),
        ((str(archive), "--to", "file/out"), 2, "file/out cannot be written: "),
        ((str(archive), "--to", "file"), 2, "file exists already"),
    ]:
        ended = run(tmp_path, *arguments)
        assert (ended.status, said in ended.err, "Traceback" in ended.err) == (status, True, False), ended.err
    assert not (tmp_path / "out").exists()


def test_a_disk_without_space_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    pid = os.fork()
    if not pid:  # the limit is of the whole process
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        try:
            export(archive, tmp_path / "out")
        except ArchiveError as error:
            os._exit(0 if "cannot be unpacked" in error.message else 2)
        except OSError:
            os._exit(0)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == (soft, hard)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    why = r"/file/out cannot be written: (File exists|Not a directory)"
    with pytest.raises(SpecError, match=why), new_folder(tmp_path / "file" / "out"):
        raise AssertionError("nothing is written")
    assert (tmp_path / "file").read_text() == "x"


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []

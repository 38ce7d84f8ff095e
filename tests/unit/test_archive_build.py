"""A build's digest follows its inputs, every byte of them and nothing else; what is missing is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from handlers.text.options import GenerationOptions
from tsctl.archive import build, sources
from tsctl.archive.build import SPARE, Built, build_version, read_archive_folders
from tsctl.archive.builds import build_all
from tsctl.archive.container import open_archive
from tsctl.archive.store import find_archive, list_archives
from tsctl.config import archive as spec
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, SpecError
from tsctl.host.progress import Progress

RECIPE = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=pathlib.Path)
arguments = parser.parse_args()
print("trained", arguments.version, arguments.settings)
(arguments.out / "model.safetensors").write_bytes(pathlib.Path("seed.bin").read_bytes() * 1000)
"""
HANDLER = "class Toy:\n    pass\n"
#: Printed by recipes while they ran.
NOTED: list[str] = []


@pytest.fixture
def project(tmp_path: Path) -> Project:
    NOTED.clear()
    return make(tmp_path / "project")


def make(root: Path) -> Project:
    """A project with one archive, whose recipe multiplies a file."""
    folder = root / "archives" / "toy"
    for name in ("samples", "golden"):
        (folder / name).mkdir(parents=True)
    (root / "deployment.yaml").write_text("nodes: {}\n")
    (folder / "recipe.py").write_text(RECIPE)
    (folder / "handler.py").write_text(HANDLER)
    (folder / "seed.bin").write_bytes(b"weight")
    (folder / "samples" / "one.json").write_text("[1]")
    (folder / "golden" / "1.0.json").write_text('{"one.json": 2}')
    write_spec(root)
    return Project(root)


def write_spec(root: Path, **changes: Any) -> None:
    content = {
        "model": "toy", "handler": "handler.py", "recipe": "recipe.py", "files": ["seed.bin"], "versions": {"1.0": None}
    }  # fmt: skip
    (root / "archives" / "toy" / "archive.yaml").write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))


def built(project: Project) -> Built:
    folder = project.archives / "toy"
    return build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", NOTED.append)


def digest(project: Project) -> str:
    return built(project).archive.digest


def entries(project: Project) -> dict[str, bytes]:
    with open_archive(built(project).archive.path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_same_inputs_at_another_place_and_time_give_the_same_digest(project: Project, tmp_path: Path) -> None:
    other = make(tmp_path / "a" / "longer place")
    before = os.umask(0o077)
    try:
        for path in other.archives.rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
        (other.archives / "toy" / "handler.py").chmod(0o755)
        assert digest(project) == digest(other)
    finally:
        os.umask(before)


def change(name: str) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-2] ^= 1
        (folder / name).write_bytes(content)

    return flip


@pytest.mark.parametrize("name", ["seed.bin", "samples/one.json", "golden/1.0.json"])
def test_one_changed_byte_changes_the_digest_and_back_again(project: Project, name: str) -> None:
    before = digest(project)
    change(name)(project.archives / "toy")
    assert digest(project) != before
    change(name)(project.archives / "toy")
    again = built(project)
    assert (again.archive.digest, again.is_new) == (before, False)
    assert len(list_archives(project)) == 2
    assert find_archive(project, "toy", "1.0").digest == before, "the archive that was built last is the current one"


def test_a_changed_byte_of_the_weights_alone_changes_the_digest(project: Project) -> None:
    before = digest(project)
    change(".built/1.0/model.safetensors")(project.archives / "toy")
    assert digest(project) != before


def test_weights_that_no_recipe_writes_are_taken_from_the_folder(project: Project) -> None:
    write_spec(project.root, recipe=None, weights="seed.bin", files=[])
    assert entries(project)["seed.bin"] == b"weight"


def test_weights_that_are_named_and_nowhere_are_refused(project: Project) -> None:
    write_spec(project.root, weights="other.bin")
    with pytest.raises(ArchiveError, match=r"weights: other\.bin is not in the archive toy 1\.0") as caught:
        built(project)
    assert caught.value.hint == f"Have the recipe write it, or put it into {project.archives / 'toy'}."


def test_a_changed_byte_of_the_archives_handler_changes_the_digest(project: Project) -> None:
    before = digest(project)
    (project.archives / "toy" / "handler.py").write_text(HANDLER + "#")
    assert digest(project) != before


def test_a_changed_byte_of_the_bundled_handlers_changes_the_digest(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(project)
    copied = tmp_path / "handlers"
    shutil.copytree(sources.handlers_package(), copied)
    monkeypatch.setattr(build, "handlers_package", lambda: copied)
    assert digest(project) == before
    change("base.py")(copied)
    assert digest(project) != before


def test_nothing_of_the_machine_is_in_the_archive(project: Project) -> None:
    (project.archives / "toy" / "__pycache__").mkdir()
    (project.archives / "toy" / "__pycache__" / "handler.pyc").write_bytes(b"x")
    content = entries(project)
    assert not [name for name in content if "__pycache__" in name or name.startswith((".", "/"))]
    for name, body in content.items():
        assert str(project.root).encode() not in body, name
    assert {"handlers/base.py", "handler.py", "model.safetensors", "seed.bin", "samples/one.json"} < content.keys()


def test_the_configuration_always_states_its_timeouts(project: Project) -> None:
    write_spec(project.root, timeouts={"startup_s": 60}, batch={"size": 8}, workers={"min": 2})
    config = yaml.safe_load(entries(project)["model-config.yaml"])
    serving = config.pop("serving")
    assert config == {
        "minWorkers": 2, "maxWorkers": 2, "batchSize": 8, "maxBatchDelay": 1, "responseTimeout": 30,
        "startupTimeout": 60, "maxRetryTimeoutInSec": 60, "jobQueueSize": 1000,
    }  # fmt: skip
    assert serving["limits"] == {"request_bytes": 1 << 20}


def test_a_text_model_is_given_many_requests_at_once_and_its_limits(project: Project) -> None:
    (project.archives / "toy" / "chat.jinja").write_text("{{ messages }}")
    more = {"files": ["seed.bin", "chat.jinja"], "timeouts": {"response_s": 20}}
    generation = {"context": 100, "most_tokens": 50, "max_tokens": 40, "max_answers": 3, "chat_template": "chat.jinja"}
    write_spec(project.root, generation=generation, tolerance={"tokens": 8}, **more)
    config = yaml.safe_load(entries(project)["model-config.yaml"])
    assert (config["continuousBatching"], config["batchSize"], config["responseTimeout"]) == (True, 3 + SPARE, 20)
    serving = config["serving"]
    assert serving["tolerance"] == {"absolute": 0.0001, "relative": 0.0, "tokens": 8}
    assert GenerationOptions(**serving["generation"]) == GenerationOptions(
        context=100, most_tokens=50, max_tokens=40, max_answers=3, chat_template="chat.jinja", first_token_s=20.0
    )
    assert GenerationOptions(**spec.Generation().model_dump()) == GenerationOptions(), "both have the same defaults"
    write_spec(project.root, generation=generation, **more)
    assert yaml.safe_load(entries(project)["model-config.yaml"])["serving"]["tolerance"]["tokens"] == spec.MOST_TOKENS


def test_a_chat_template_that_is_not_in_the_archive_is_named(project: Project) -> None:
    write_spec(project.root, generation={"chat_template": "chat.jinja"}, timeouts={"response_s": 60})
    with pytest.raises(ArchiveError, match=r"generation.chat_template: chat\.jinja is not in the archive toy 1\.0"):
        built(project)


def test_what_is_built_on_request_is_built_where_it_is_named(project: Project) -> None:
    write_spec(project.root, on_request=True)
    assert build.built_on_request(project) == ["toy"]
    assert build.build_versions(project, None, Progress(Console(quiet=True))) == []
    [made] = build.build_versions(project, ["toy"], Progress(Console(quiet=True)))
    assert made.archive.key == ("toy", "1.0")


@pytest.mark.parametrize(
    ("source", "manifest", "serving"),
    [
        (None, build.ENTRY, "handlers.image"),
        ("class Toy: pass\n", build.ENTRY, "handler"),
        ("def handle(data, context): return data\n", "handler", "handler"),
    ],
    ids=["a module of handlers", "a class", "a function handle"],
)
def test_torchserve_imports_its_adapter_and_the_adapter_the_authors_module(
    project: Project, source: str | None, manifest: str, serving: str
) -> None:
    if source is None:
        write_spec(project.root, handler="handlers.image")
    else:
        (project.archives / "toy" / "handler.py").write_text(source)
    content = entries(project)
    assert json.loads(content["MAR-INF/MANIFEST.json"])["model"]["handler"] == manifest
    assert yaml.safe_load(content["model-config.yaml"])["serving"]["handler"] == serving
    assert f"{manifest.replace('.', '/')}.py" in content


def test_the_digests_name_every_other_entry(project: Project) -> None:
    content = entries(project)
    assert set(json.loads(content["MAR-INF/DIGESTS.json"])) == content.keys() - {"MAR-INF/DIGESTS.json"}


def runs() -> int:
    return sum(line.startswith("trained") for line in NOTED)


def test_a_recipe_runs_again_only_when_an_input_of_it_changes(project: Project) -> None:
    first = built(project)
    assert first.lines == ("trained 1.0 {}",)
    change("samples/one.json")(project.archives / "toy")
    assert built(project).lines == first.lines, "what it printed is told again"
    assert runs() == 1
    write_spec(project.root, settings={"width": 2})
    assert built(project).lines == ('trained 1.0 {"width": 2}',)
    change("seed.bin")(project.archives / "toy")
    digest(project)
    assert runs() == 3


def test_a_recipe_that_fails_shows_its_last_lines_and_keeps_nothing(project: Project) -> None:
    folder = project.archives / "toy"
    (folder / "recipe.py").write_text('print("before")\nraise SystemExit("no data set")\n')
    with pytest.raises(ArchiveError, match=r"(?s)recipe.py of toy 1.0 ended with status 1:.*before.*no data set"):
        built(project)
    assert [path.name for path in (folder / ".built").iterdir()] == [".1.0.lock"]
    assert list_archives(project) == []


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def write(name: str, content: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).write_text(content)

    return put


LEFT_BEHIND = (
    ".DS_Store", "._one.json", "one.json~", "#one.json#", ".one.json.swp", ".ipynb_checkpoints/one-checkpoint.json",
    "__pycache__/x.pyc", "Thumbs.db", ".git/config", ".vscode/settings.json", ".env", ".venv/pyvenv.cfg", ".gitignore",
)  # fmt: skip


def test_what_desktops_editors_and_notebooks_leave_behind_stays_out(project: Project) -> None:
    folder = project.archives / "toy"
    (folder / "more").mkdir()
    (folder / "more" / "one.txt").write_text("1")
    write_spec(project.root, files=["seed.bin", "more"])
    before = digest(project)
    for place in ("samples", "more", ".built/1.0"):
        for name in LEFT_BEHIND:
            (folder / place / name).parent.mkdir(exist_ok=True)
            (folder / place / name).write_text("x")
        (folder / place / ".#one.json").symlink_to("user@host.1:2")  # Emacs locks a file so
    assert digest(project) == before
    assert runs() == 1


def test_linked_files_and_folders_are_in_the_archive_and_in_its_digest(project: Project, tmp_path: Path) -> None:
    folder = project.archives / "toy"
    for place in (tmp_path / "elsewhere" / "deep", folder / "more"):
        place.mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "a.txt").write_text("1")
    (folder / "more" / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "whole").symlink_to(tmp_path / "elsewhere")
    (folder / "more" / "file.txt").symlink_to(tmp_path / "elsewhere" / "deep" / "a.txt")
    write_spec(project.root, files=["seed.bin", "more", "whole"])
    content = entries(project)
    assert {"more/linked/deep/a.txt", "whole/deep/a.txt", "more/file.txt"} < content.keys()
    before = digest(project)
    (tmp_path / "elsewhere" / "deep" / "a.txt").write_text("2")
    assert digest(project) != before
    assert runs() == 2, "a file behind a link is an input of the recipe as well"


@pytest.mark.parametrize("place", ["more/x", "samples/one.json", "seed.bin"])
def test_a_link_to_what_only_its_owner_may_read_is_not_packed(project: Project, tmp_path: Path, place: str) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_text("{}")
    secret.chmod(0o600)
    linked = project.archives / "toy" / place
    linked.parent.mkdir(exist_ok=True)
    linked.unlink(missing_ok=True)
    linked.symlink_to(secret)
    write_spec(project.root, files=["seed.bin", *(["more"] if place.startswith("more") else [])])
    with pytest.raises(ArchiveError, match=r"is a link out of the archive's folder to .*id_rsa, which only its owner"):
        built(project)
    assert list_archives(project) == []


def test_as_many_files_are_packed_as_are_read(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsctl.archive.packable.MAX_ENTRIES", 40)
    folder = nested(project.archives / "toy")
    for number in range(40):
        (folder / f"{number}").write_text("")
    write_spec(project.root, files=["seed.bin", "more"])
    with pytest.raises(ArchiveError, match="files are too many for an archive, which has fewer than 40"):
        built(project)


@pytest.mark.parametrize("name", ["csv.py", "torch/__init__.py"])
def test_what_a_worker_would_import_in_place_of_another_module_is_not_packed(project: Project, name: str) -> None:
    (project.archives / "toy" / name).parent.mkdir(exist_ok=True)
    (project.archives / "toy" / name).write_text("")
    write_spec(project.root, files=["seed.bin", name.split("/")[0]])
    with pytest.raises(ArchiveError, match=f"cannot be packed: {name.split('/')[0]} would replace"):
        built(project)


def nested(folder: Path) -> Path:
    (folder / "more").mkdir()
    (folder / "more" / "a.txt").write_text("1")
    return folder / "more"


def link(name: str, target: str) -> Callable[[Path], None]:
    return lambda folder: (nested(folder) / name).symlink_to(target)


def inside(*names: str | bytes, content: bytes = b"1") -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        nested(folder)
        for name in names:
            (folder / "more" / os.fsdecode(name)).write_bytes(content)

    return put


UNPACKABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a link to nowhere": (link("x", "nowhere"), "more/x is a link that leads nowhere"),
    "a link in a circle": (link("x", "x"), "more/x is a link that leads nowhere"),
    "a link to the folder around it": (link("x", ".."), "is a link to a folder around it"),
    "a pipe": (lambda folder: os.mkfifo(nested(folder) / "x"), "is neither a file nor a folder"),
    "an empty folder": (lambda folder: (folder / "more").mkdir(), "more holds no file"),
    "only leavings": (lambda folder: (folder / "more" / ".idea").mkdir(parents=True), "more holds no file"),
    "names that differ in case": (inside("A.txt"), "entry 'more/a.txt' appears twice (as 'more/A.txt')"),
    "a backslash": (inside("x\\y"), "cannot be packed: entry 'more/x\\\\y' "),
    "a line in a name": (inside("x\ny"), "has a name that no archive can hold"),
    "a name in Latin-1": (inside(b"caf\xe9.txt"), "has a name that no archive can hold"),
    "a pointer of Git LFS": (
        inside("w.bin", content=b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        "is a pointer to a file, and not the file itself",
    ),
}


@pytest.mark.parametrize(("breaking", "expected"), UNPACKABLE.values(), ids=UNPACKABLE)
def test_what_an_archive_cannot_hold_is_named_and_nothing_is_built(
    project: Project, breaking: Callable[[Path], Any], expected: str
) -> None:
    breaking(project.archives / "toy")
    write_spec(project.root, files=["seed.bin", "more"])
    with pytest.raises(ArchiveError) as raised:
        built(project)
    assert expected in raised.value.message
    assert list_archives(project) == []


@pytest.mark.parametrize("name", ["a:b", "C:x"])
def test_a_colon_where_a_drive_could_stand_is_named(project: Project, name: str) -> None:
    (project.archives / "toy" / name).write_text("1")
    write_spec(project.root, files=["seed.bin", name])
    with pytest.raises(ArchiveError, match=f"cannot be packed: entry '{name}' leads out of the archive"):
        built(project)


def test_a_pointer_is_found_before_the_recipe_reads_it(project: Project) -> None:
    (project.archives / "toy" / "seed.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ArchiveError, match=r"seed\.bin is a pointer") as raised:
        built(project)
    assert raised.value.hint == "Run: git lfs pull"
    assert runs() == 0


def test_settings_of_any_length_reach_the_recipe(project: Project) -> None:
    labels = [f"label {number}" for number in range(50_000)]
    write_spec(project.root, settings={"labels": labels})
    (project.archives / "toy" / "recipe.py").write_text(
        RECIPE.replace("arguments.settings)", "len(arguments.settings))")
    )
    assert built(project).lines == (f"trained 1.0 {len(json.dumps({'labels': labels}))}",)


def test_settings_that_torchserve_would_ignore_are_refused(project: Project) -> None:
    write_spec(project.root, settings={"labels": ["x" * 1000] * 3500})
    with pytest.raises(ArchiveError, match=r"settings: \d+ bytes in model-config\.yaml, of which TorchServe reads at"):
        built(project)


def test_a_recipe_runs_as_a_script_of_its_folder(project: Project) -> None:
    folder = project.archives / "toy"
    (folder / "beside.py").write_text("NAME = 'beside'\n")
    (folder / "recipe.py").write_text(
        "import beside, pickle, sys\n"
        "class Own: pass\n"
        "assert __name__ == '__main__' and __file__ == sys.argv[0] and sys.stdin.read() == ''\n"
        "assert isinstance(pickle.loads(pickle.dumps(Own())), Own)\n"
        "print(beside.NAME, len(sys.argv), 'json' in globals())\n" + RECIPE
    )
    assert built(project).lines[0] == "beside 7 False"


def test_a_recipe_may_print_any_bytes_and_only_its_last_lines_are_kept(project: Project) -> None:
    (project.archives / "toy" / "recipe.py").write_text(
        "import sys\n"
        "sys.stdout.buffer.write(b'caf\\xe9 \\x85 \\xe2\\x80\\xa8\\n' + b'line\\n' * 3000 + b'x' * 9000 + b'\\n')\n"
        "sys.stdout.flush()\n" + RECIPE
    )
    lines = built(project).lines
    assert len(lines) == 1000
    assert max(map(len, lines)) <= 4096
    assert lines[-1] == "trained 1.0 {}"
    assert built(project).lines == lines, "what it printed is told again"


def test_a_byte_order_mark_before_golden_answers_is_left_out(project: Project) -> None:
    golden = project.archives / "toy" / "golden" / "1.0.json"
    before = entries(project)["golden.json"]
    golden.write_bytes(b"\xef\xbb\xbf" + golden.read_bytes())
    assert entries(project)["golden.json"] == before


BROKEN: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "no handler": (remove("handler.py"), {}, "names handler.py, and"),
    "no file": (remove("seed.bin"), {}, "seed.bin is named in archive.yaml and does not exist"),
    "no samples": (remove("samples"), {}, "names samples, and"),
    "an empty folder of samples": (remove("samples/one.json"), {}, "holds no sample"),
    "a sample without a known suffix": (
        write("samples/digit.bin", "x"), {}, "is no sample: its suffix says no media type"
    ),
    "golden answers that are no JSON": (write("golden/1.0.json", '{"one.json": '), {}, "is not JSON"),
    "golden answers to another sample": (
        write("golden/1.0.json", '{"two.json": 1}'), {}, "one to one: one.json, two.json"
    ),
    "no golden answers": (remove("golden/1.0.json"), {}, "no golden answers"),
    "a module that is not there": (lambda _: None, {"handler": "handlers.nothing"}, "has no such module"),
    "two sources": (lambda _: None, {"files": ["seed.bin", "handler.py"]}, "two sources write the entry handler.py"),
    "no Python": (write("handler.py", "class :\n"), {}, "is not Python"),
    "no class": (write("handler.py", "x = 1\n"), {}, "defines no class"),
    "two classes": (write("handler.py", "class A: pass\nclass B: pass\n"), {}, "defines 2 classes (A, B)"),
    "a module of the standard library": (
        write("random.py", HANDLER), {"handler": "random.py"}, "would replace the module 'random'"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("breaking", "changes", "expected"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_built_is_named(
    project: Project, breaking: Callable[[Path], None], changes: dict[str, Any], expected: str
) -> None:
    breaking(project.archives / "toy")
    write_spec(project.root, **changes)
    with pytest.raises(ArchiveError) as raised:
        built(project)
    assert expected in raised.value.message
    assert list_archives(project) == []


def test_two_folders_of_one_model_are_a_mistake(project: Project) -> None:
    shutil.copytree(project.archives / "toy", project.archives / "toy2")
    with pytest.raises(SpecError, match=r"toy2/archive\.yaml: model: 'toy': is named by .*toy/archive\.yaml too"):
        read_archive_folders(project)


# ---- many versions -----------------------------------------------------------------------------------------------


def another(project: Project, model: str, **changes: Any) -> Path:
    """One more archive of the project, like the first."""
    folder = project.archives / model
    shutil.copytree(project.archives / "toy", folder, ignore=shutil.ignore_patterns(".built"))
    spec = yaml.safe_load((folder / "archive.yaml").read_text())
    (folder / "archive.yaml").write_text(yaml.safe_dump({**spec, "model": model, **changes}))
    return folder


def test_a_broken_model_keeps_no_other_from_being_built(project: Project) -> None:
    another(project, "a_bad", recipe="none.py")
    another(project, "b_good")
    another(project, "c_wrong", handle="none.py")
    builds = build_all(project, None, Progress(Console(quiet=True)))
    assert [made.archive.key for made in builds.built] == [("b_good", "1.0"), ("toy", "1.0")]
    assert [(failed.model, failed.version) for failed in builds.failed] == [(None, None), ("a_bad", "1.0")]
    assert builds.summary == "2 built, 2 failed"
    error = builds.error
    assert isinstance(error, ArchiveError)
    lines = error.message.splitlines()
    assert lines[0] == "not all archives were built (2 built, 2 failed):"
    assert lines[1].startswith(f"{project.archives / 'c_wrong' / 'archive.yaml'}: handle: unknown key")
    assert any(line.startswith("a_bad 1.0: ") and "none.py" in line for line in lines)
    again = build_all(project, ["b_good", "toy:1.0"], Progress(Console(quiet=True)))
    assert (again.summary, again.error) == ("2 unchanged", None), "a broken neighbour is nothing to one that is named"


def test_the_exit_code_says_what_kind_of_file_is_broken(project: Project) -> None:
    quiet = Progress(Console(quiet=True))
    another(project, "wrong", handle="none.py")
    only_specs = build_all(project, None, quiet).error
    assert isinstance(only_specs, SpecError)
    with pytest.raises(SpecError, match=r"wrong/archive\.yaml: handle: unknown key") as caught:
        build_all(project, ["toy", "wrong"], quiet)
    assert caught.value.hint == "No other archive.yaml names wrong."
    shutil.rmtree(project.archives / "wrong")
    with pytest.raises(SpecError, match=r"no archive\.yaml names none"):
        build_all(project, ["toy", "none"], quiet)
    (project.archives / "toy" / "recipe.py").unlink()
    alone = build_all(project, None, quiet).error
    assert isinstance(alone, ArchiveError)
    assert "not all archives" not in alone.message
    shutil.rmtree(project.archives / "toy")
    with pytest.raises(SpecError, match=r"no archives/\*/archive\.yaml in"):
        build_all(project, None, quiet)

"""`tsctl archive`: build, verify, inspect and list archives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tsctl.archive.build import Built, built_on_request, sound_archive_folders
from tsctl.archive.builds import Builds, build_all
from tsctl.archive.inspect import facts_of, inspect_archive
from tsctl.archive.packages import remove_packages, require_packages
from tsctl.archive.store import find_archive, list_archives, strangers
from tsctl.archive.trust import Trust, stated_trust
from tsctl.archive.verify import verify as verify_archive
from tsctl.cli import remote, stock
from tsctl.cli.options import Json, TrustPickles
from tsctl.cli.output import error_json, plural, print_json, print_rows, print_table
from tsctl.config.project import Project, find_project
from tsctl.errors import ArchiveError, SpecError, printable
from tsctl.host.progress import Progress

app = typer.Typer(rich_markup_mode=None)
app.command()(stock.add)
app.command("import", hidden=True)(stock.add)  # its former name
app.command()(stock.golden)
app.command()(stock.convert)
app.command()(remote.push)
app.command()(remote.pull)

#: `inspect` shows so many tensors of a file.
SHOWN_TENSORS = 12
SHOWN_CHARACTERS = 1000
#: Exit code of `diff`.
DIFFERENT = 14
Names = Annotated[list[str] | None, typer.Argument(metavar="[MODEL[:VERSION]]...", help="All, if left out.")]


@app.command()
def build(names: Names = None, json: Json = False) -> None:
    """Build archives into archives/store; the same inputs give the same bytes.

    One that cannot be built keeps no other from being built. Exit code 3 if an archive failed, 2 if only files
    archive.yaml have mistakes.
    """
    project = find_project()
    builds = build_all(project, names or None, Progress())
    if json:
        print_json(_builds_json(builds))
    else:
        _print_builds(project, builds, names or [])
    if error := builds.error:
        raise error


def _builds_json(builds: Builds) -> list[dict[str, object]]:
    """A row for each version; one that failed has `error`, `hint` and `code`, and no digest and path."""
    fine = {"error": None, "hint": None, "code": 0}
    rows: list[dict[str, object]] = [
        {
            **dict(zip(("model", "version"), made.archive.key, strict=True)),
            "digest": made.archive.digest,
            "path": str(made.archive.path),
            "is_new": made.is_new,
            **fine,
        }
        for made in builds.built
    ]
    for failed in builds.failed:
        nothing = {"digest": None, "path": None, "is_new": False}
        rows.append({"model": failed.model, "version": failed.version, **nothing, **error_json(failed.error)})
    return rows


def _served_before(project: Project, made: Built) -> str:
    """The digits of other bytes from which nodes serve or served the version; empty where it was just these or none."""
    from tsctl.deploy.applied_state import recorded

    digits = recorded(project).get(":".join(made.archive.key), "") if made.is_new else ""
    return digits if digits != made.archive.digest else ""


def _print_builds(project: Project, builds: Builds, names: list[str]) -> None:
    for made in builds.built:
        for name in made.superseded:
            typer.echo(f"{name} is an older build of the same version; 'tsctl archive tidy' removes what nothing needs")
        if was := _served_before(project, made):
            typer.echo(
                f"{' '.join(made.archive.key)} was served from {was} before: nodes keep those bytes, and 'tsctl apply'"
                " refuses the new ones. Give them a new version, or run 'tsctl up', which replaces the old ones here"
            )
    _tell_strangers(project)
    for model in [] if names else built_on_request(project):
        typer.echo(f"{model} is built on request: tsctl archive build {model}")
    if builds.failed:
        typer.echo(builds.summary)
    elif not any(made.is_new for made in builds.built):
        typer.echo(f"nothing to build: {plural(len(builds.built), 'archive')} unchanged")


@app.command()
def packages(names: Names = None, json: Json = False) -> None:
    """Install the packages that archives in the store require; registering a version does it as well."""
    project, progress = find_project(), Progress()
    rows: list[tuple[str, str, int]] = []
    for model, version in _stored(project, names):
        archive = find_archive(project, model, version)
        requirements = facts_of(archive.path).serving.requirements
        if requirements or names:
            with progress.step(f"packages of {model} {version}") as step:
                require_packages(project, requirements, model, step.note)
                step.done(plural(len(requirements), "requirement"))
            rows.append((model, version, len(requirements)))
    if json:
        return print_rows(("model", "version", "requirements"), rows, json)
    if not rows:
        typer.echo("no archive requires packages")


def _stored(project: Project, names: Sequence[str] | None) -> list[tuple[str, str]]:
    """Models and versions in the store that these names select; all without names."""
    stored = list(dict.fromkeys(archive.key for archive in list_archives(project)))
    selected = []
    for name in names or ():
        found = [key for key in stored if name in (key[0], ":".join(key))]
        if not found:
            raise ArchiveError(f"no archive of {name} is in the store", f"Build it: tsctl archive build {name}")
        selected += found
    return selected if names else stored


@app.command("list")
def list_stored(
    is_remote: Annotated[
        bool, typer.Option("--remote", help="In the store of all machines, which deployment.yaml names.")
    ] = False,
    store: remote.StoreAddress = None,
    json: Json = False,
) -> None:
    """List every archive in the store; a version means its current one."""
    if is_remote:
        return remote.list_remote(store, json)
    if store is not None:
        raise SpecError("--store is the address of a store of all machines", "Give --remote as well.")
    project = find_project()
    rows = [
        (a.model, a.version, a.digest, a == find_archive(project, a.model, a.version), a.path.stat().st_size)
        for a in list_archives(project)
    ]
    print_rows(("model", "version", "digest", "current", "bytes"), rows, json)
    _tell_strangers(project)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[MODEL[:VERSION]|FILE.mar]...")] = None,
    sample: Annotated[
        list[Path] | None, typer.Option("--sample", help="One more request body to send; for stock archives.")
    ] = None,
    trust_pickles: TrustPickles = False,
    json: Json = False,
) -> None:
    """Verify archives before they serve: safe files, right answers, isolated bad items; exit code 3 if one fails."""
    progress = Progress()
    reports = []
    for path in _archive_files(names):
        with progress.step(f"verifying {path.name}") as step:
            report = verify_archive(path, sample or [], trust_pickles, trust_of=_trust_of)
            step.done("passed" if report.is_good else "failed")
        reports.append(report)
        if not json:
            firsts = [(c.name, c.outcome, c.detail.partition("\n")[0]) for c in report.checks]
            print_table(("check", "outcome", "detail"), firsts)
            for line in (line for c in report.checks for line in c.detail.split("\n")[1:]):
                typer.echo(f"    {printable(line)}")
            for hint in (c.hint for c in report.checks if c.hint and c.outcome != "pass"):
                typer.echo(f"hint: {printable(hint, kept=chr(10))}")
    if json:
        print_json([report.as_json() for report in reports])
    bad = [report.path.name for report in reports if not report.is_good]
    if bad:
        raise ArchiveError(f"failed verification: {', '.join(bad)}")


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="MODEL[:VERSION] or FILE.mar")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="MODEL[:VERSION] or FILE.mar")],
    traffic: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="From 'tsctl capture'; the samples of both archives if left out."),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Requests, one a file, whose suffix says the media type."),
    ] = None,
    max_disagreement: Annotated[
        str, typer.Option(metavar="PERCENT", help="Requests that NEW may answer differently, such as 0.5%.")
    ] = "0%",
    comparator: Annotated[
        str | None,
        typer.Option(
            help="json, label, top_k, number, vector, text, tokens or length; by the first answer if left out."
        ),
    ] = None,
    field: Annotated[str, typer.Option(help="Of the answer that is compared, with dots between.")] = "",
    k: Annotated[int | None, typer.Option("--k", min=1, max=1000, help="Classes of top_k; 5 if left out.")] = None,
    most: Annotated[int, typer.Option(min=1, max=100_000, help="Requests; of more, every n-th is taken.")] = 2000,
    timeout: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds that one archive may take.")] = 600.0,
    trust_pickles: TrustPickles = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with plots and answers.")] = None,
    json: Json = False,
) -> None:
    """Compare the answers of two archives to the same requests, without a server; exit code 14 if too many differ.

    Both answer each request in the sandbox, alone and in batches. Beside it stands how often each differs from itself.
    """
    from tsctl.archive.named import file_of_name, require_archive
    from tsctl.compare.archives import DiffOptions, diff_archives
    from tsctl.config.weights import parse_share
    from tsctl.views.compare.diff import document, is_within, lines, write_diff

    limit, progress = parse_share(max_disagreement), Progress()
    if comparator is None and (field or k):
        raise SpecError("--field and --k need a --comparator", "For example --comparator label --field class")
    if traffic is not None and samples is not None:
        raise SpecError("--traffic and --samples both say what is sent", "Give one of the two.")
    for name in (old, new):  # before the first one is built
        require_archive(name)
    options = DiffOptions(traffic, most, comparator, field, trust_pickles, timeout, _trust_of, samples, k)
    result = diff_archives(file_of_name(old, progress), file_of_name(new, progress), options, progress)
    if html is not None:
        write_diff(html, result, limit)
    if json:
        print_json(document(result, limit))
    else:
        typer.echo("\n".join(lines(result, limit)))
    if not is_within(result, limit):
        raise typer.Exit(DIFFERENT)


@app.command()
def inspect(name: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]|FILE.mar")], json: Json = False) -> None:
    """Show the contents of an archive without running it."""
    archives = [inspect_archive(path) for path in _archive_files([name])]
    if json:
        print_json([asdict(contents) for contents in archives])
        return
    for contents in archives:
        model = contents.manifest["model"]
        lines = [
            f"model     {model['modelName']} {model.get('modelVersion', '')}",
            f"handler   {_shown(contents.handler)}",
            f"made by   {contents.made_by}",
            f"digest    {contents.digest}",
            f"bytes     {contents.bytes}",
        ]
        typer.echo("\n".join(map(printable, lines)) + "\n")
        serving = contents.config.get("serving") or {}
        settings = {key: value for key, value in contents.config.items() if key != "serving"}
        print_table(("setting", "value"), [(_shown(key), _shown(value)) for key, value in settings.items()])
        for key, value in serving.items():
            typer.echo(f"  {_shown(key)}: {_shown(value)}")
        typer.echo("")
        print_table(("bytes", "entry"), [(size, entry) for entry, size in contents.entries.items()])
        for entry, tensors in contents.tensors.items():
            typer.echo(f"\n{entry}: {len(tensors)} tensors")
            shown = [
                (_shown(t.name), _shown(t.dtype), _shown("x".join(map(str, t.shape)) or "scalar"))
                for t in tensors[:SHOWN_TENSORS]
            ]
            print_table(("tensor", "type", "shape"), shown)
            if len(tensors) > SHOWN_TENSORS:
                typer.echo(f"... and {len(tensors) - SHOWN_TENSORS} more; --json has all")


def _shown(value: object) -> str:
    """A value of an archive as it is printed; --json has all of it."""
    text = str(value)
    return printable(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "...")


@app.command("try")
def try_(
    name: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]", help="The first version if left out.")],
    sample: Annotated[
        str | None,
        typer.Argument(metavar="[SAMPLE|FILE|-]", help="A sample's name, a file, or - for standard input; else all."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="Media type of the request; by the file's suffix if left out.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=4096, help="Answer in batches of so many.")] = None,
    turns: Annotated[int, typer.Option(min=1, max=1000, help="How often, for the times; the fastest is shown.")] = 5,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Show what the operators took; the trace, for chrome://tracing, to FILE."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Answer again when a file of the model changes.")] = False,
    json: Json = False,
) -> None:
    """Have a model answer its samples without a server: answers, times of the stages, tracebacks of its own code.

    The code runs from the model's folder and with your rights. Exit code 3 if it does not load, or fails on a request.
    """
    from tsctl.cli.attempt import AttemptCommand

    AttemptCommand(name, sample, kind, batch, turns, profile, json).run(watch)


@app.command()
def tidy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    json: Json = False,
) -> None:
    """Remove old builds that no node, rollout or way back needs; the current build of each version stays."""
    from tsctl.cli.context import open_deployment
    from tsctl.deploy.tidy import builds_and_uses, leftovers, unneeded_packages

    project, deployment = open_deployment()
    rows = []
    for build, use in builds_and_uses(project, deployment):
        rows.append((build.path.name, build.path.stat().st_size, use or "nothing, so it is removed"))
        if not use and not dry_run:
            build.path.unlink()
    for path in leftovers(project) if not dry_run else ():
        path.unlink(missing_ok=True)
    for path in unneeded_packages(project) if not dry_run else ():
        remove_packages(path)
    print_rows(("archive", "bytes", "needed by"), rows, json)


def _current(project: Project, name: str) -> list[Path]:
    """The current archives of MODEL or MODEL:VERSION; a stock archive has no archive.yaml."""
    model, _, version = name.partition(":")
    folder = sound_archive_folders(project)[0].get(model)
    named = {a.version for a in list_archives(project) if a.model == model} | (
        set(folder[1].versions) if folder else set()
    )
    versions = [one for one in sorted(named) if version in ("", one)]
    if not versions:
        raise SpecError(
            f"no archive.yaml names {name}, and archives/store has no archive of it", "See 'tsctl archive list'."
        )
    return [find_archive(project, model, one).path for one in versions]


def _trust_of(model: str) -> Trust:
    """The trust that the project states, where there is one."""
    try:
        project: Project | None = find_project()
    except SpecError:
        project = None
    return stated_trust(project)(model)


def _tell_strangers(project: Project) -> None:
    for name, reason in strangers(project).items():
        typer.echo(f"archives/store/{name} is left alone, and a plain TorchServe may load it: {reason}", err=True)


def _archive_files(names: list[str] | None) -> list[Path]:
    """The .mar files of the names; without names, the current archive of every version."""
    if not names:
        project = find_project()
        current = {find_archive(project, a.model, a.version).path for a in list_archives(project)}
        if not current:
            raise ArchiveError(
                f"no archive in {project.relative(project.published)}", "Build them: tsctl archive build"
            )
        return sorted(current)
    files = []
    for name in names:
        if name.endswith(".mar"):
            files.append(Path(name))
        else:
            files += _current(find_project(), name)
    return files

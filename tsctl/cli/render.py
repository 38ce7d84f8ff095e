"""`tsctl render`: files for other systems that run what deployment.yaml describes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tsctl.cli.options import Json
from tsctl.cli.output import print_done

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def callback() -> None:
    """Write files for other systems that run what deployment.yaml describes."""


@app.command()
def image(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write; missing or empty.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL[:VERSION]]...", help="All of deployment.yaml, if left out.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE", help="uvicorn or torchserve, for every node; as deployment.yaml says, if left out."
        ),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Nodes compute on the GPUs of the machine.")] = False,
    base: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Base image with Python, as NAME:TAG@sha256:DIGEST.")
    ] = None,
    requirements: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Lock with hashes for the nodes' images; pip resolves them, if left out."),
    ] = None,
    pull: Annotated[
        bool, typer.Option("--pull", help="The builds pull the archives from `store`, by digest; none is copied.")
    ] = False,
    json: Json = False,
) -> None:
    """Write build contexts of images, with SBOMs: a node for each engine, the gateway; and a compose.yaml for all.

    The archives must be built. No image is built, and nothing is started.
    """
    from tsctl.config.project import find_project
    from tsctl.host.progress import Progress
    from tsctl.render.image.context import Options, render
    from tsctl.render.image.selection import select

    selection = select(find_project(), names or (), engine)
    made = render(selection, to, Options(base, gpu, requirements, pull), Progress())
    document = {
        "path": str(to),
        "images": [
            {"name": one.name, "tag": one.tag, "containerfile": f"{one.folder}/Containerfile", "packages": one.packages}
            for one in made.images
        ],
        "archives": [
            {"model": one.archive.model, "version": one.archive.version, "digest": one.digest} for one in made.archives
        ],
        "secrets": list(made.secrets),
        "warnings": list(made.warnings),
    }
    lines = [f"{one.name}:{one.tag}: {one.folder}/Containerfile, {one.packages} packages" for one in made.images]
    lines += [f"{one.archive.path.name}: sha256:{one.digest}" for one in made.archives]
    lines += [f"warning: {line}" for line in made.warnings]
    lines += [f"put a file into {to / 'secrets'}: {name}" for name in made.secrets]
    print_done(document, [*lines, f"next: cd {to} && docker compose up --build"], json)


@app.command()
def kubernetes(
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="The folder; files of an earlier call are replaced.")
    ] = Path("kubernetes"),
    kserve: Annotated[
        bool, typer.Option("--kserve", help="InferenceServices of KServe in place of Deployments and Services.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Validate every manifest strictly; write nothing where one is wrong.")
    ] = False,
    in_force: Annotated[
        bool, typer.Option("--weights-in-force", help="Render the routes with the weights that the cluster has now.")
    ] = False,
    json: Json = False,
) -> None:
    """Write manifests of every version for a cluster, and routes with its weights; nothing is applied.

    'kubectl apply -k DIR' runs the versions, and 'kubectl apply -k DIR/routes' gives them requests. What a cluster's
    gateway does otherwise than this machine's is printed.
    """
    from tsctl.cli.context import open_deployment
    from tsctl.config.kubernetes import KubernetesSpec
    from tsctl.errors import SpecError
    from tsctl.gateway.backend import open_backend
    from tsctl.render.kubernetes.differences import differences, require_renderable
    from tsctl.render.kubernetes.manifests import manifests, offers_of
    from tsctl.render.kubernetes.versions import read_versions
    from tsctl.render.kubernetes.write import documents, write

    project, deployment = open_deployment()
    spec = deployment.kubernetes or KubernetesSpec()
    if not deployment.models:
        raise SpecError("deployment.yaml names no model, so there is nothing to render")
    require_renderable(deployment, spec, kserve)
    if in_force and spec.traffic != "httproute":
        raise SpecError("--weights-in-force reads HTTPRoutes", "Set kubernetes.traffic: httproute.")
    traffic = open_backend(project, deployment).traffic() if in_force else {}
    versions = read_versions(project, deployment)
    made = manifests(deployment, spec, versions, traffic, kserve)
    if check:
        from tsctl.render.kubernetes.check import mistakes

        if wrong := mistakes([manifest.content for manifest in made]):
            raise SpecError("\n".join(wrong), "This is a bug of tsctl where deployment.yaml says nothing of it.")
    told = differences(deployment, spec, versions, offers_of(deployment, versions, traffic), kserve)
    files = documents(made)
    write(files, to)
    summary = f"{len(made)} manifests in {len(files)} files: kubectl apply -k {to}, then kubectl apply -k {to}/routes"
    document = {"path": str(to), "files": list(files), "manifests": len(made), "checked": check, "differences": told}
    print_done(document, [summary, *(f"note: {one}" for one in told)], json)

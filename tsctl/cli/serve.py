"""`tsctl serve`: one model in the foreground, without TorchServe and without a gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    name: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]|FILE.mar", help="The first version if left out.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    grpc_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Also serve the Open Inference Protocol over gRPC on this port."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; as archive.yaml says, if left out.")
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Build and start again when a file of the model changes.")
    ] = False,
) -> None:
    """Serve one model in the foreground with FastAPI's /docs: no Java and no gateway, ready in seconds.

    The archive is built first where its files are here. Ctrl-C or SIGTERM ends it, once all requests are answered.
    """
    from tsctl.archive.named import archive_of_name
    from tsctl.config.project import find_project
    from tsctl.errors import SpecError
    from tsctl.host.progress import Progress
    from tsctl.nodes.uvicorn import serve as server
    from tsctl.nodes.uvicorn.installed import SERVER, require_installed

    require_installed(*SERVER, "watchfiles", *(["grpc"] if grpc_port is not None else []))
    address = server.Address(host, port, workers, grpc_port)
    if name.endswith(".mar"):
        if reload:
            raise SpecError("--reload builds the model again, so it needs a model's name and not an archive's file")
        return server.serve(Path(name), address)
    project, progress = find_project(), Progress()

    def build() -> Path:
        return archive_of_name(project, name, progress)

    if reload:
        return server.serve_and_reload(build, server.folder_of_name(project, name), address, progress)
    server.serve(build(), address)

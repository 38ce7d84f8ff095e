"""The admin API of a node: what is registered, and changes of it.

A change is begun when it is answered; the caller looks how far it is.

    GET    /admin/versions                              every version
    GET    /admin/versions/{model}/{version}            one; 404 where it is not registered
    POST   /admin/versions/{model}/{version}            register {archive, digest, workers}
    PUT    /admin/versions/{model}/{version}/workers    scale to {workers}
    PUT    /admin/versions/{model}/{version}/default    make it the default
    DELETE /admin/versions/{model}/{version}            unregister
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from handlers.adapters.asgi.node.registry import Conflict, Registry, Unknown, Unwritten
from handlers.adapters.asgi.node.served import ARCHIVE, DIGEST, NAME, VERSION, Entry
from handlers.contract import MOST_WORKERS

ROOT = "/admin/"
NewModel = Annotated[str, InPath(pattern=NAME)]
NewVersion = Annotated[str, InPath(pattern=VERSION)]


class Registration(BaseModel):
    """The archive of a version that is to be served."""

    model_config = ConfigDict(extra="forbid", strict=True)

    archive: Annotated[str, Field(pattern=ARCHIVE)]  # file name
    digest: Annotated[str, Field(pattern=DIGEST)]
    workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)] | None = None  # None: as the archive says


class Workers(BaseModel):
    """How many workers a version is to have."""

    model_config = ConfigDict(extra="forbid", strict=True)

    workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)]


def build_admin(registry: Registry) -> FastAPI:
    """The application for the paths under ROOT."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)

    @app.get("/admin/versions")
    async def versions() -> list[dict[str, Any]]:
        return [version.describe() for _, version in sorted(registry.versions.items())]

    @app.get("/admin/versions/{model}/{version}")
    async def one(model: str, version: str) -> dict[str, Any]:
        return registry.get(model, version).describe()

    @app.post("/admin/versions/{model}/{version}", status_code=202)
    async def register(model: NewModel, version: NewVersion, wanted: Registration) -> dict[str, Any]:
        await registry.register(Entry(model, version, wanted.archive, wanted.digest, wanted.workers))
        return registry.get(model, version).describe()

    @app.put("/admin/versions/{model}/{version}/workers", status_code=202)
    async def scale(model: str, version: str, wanted: Workers) -> dict[str, Any]:
        await registry.scale(model, version, wanted.workers)
        return registry.get(model, version).describe()

    @app.put("/admin/versions/{model}/{version}/default")
    async def set_default(model: str, version: str) -> dict[str, Any]:
        await registry.set_default(model, version)
        return registry.get(model, version).describe()

    @app.delete("/admin/versions/{model}/{version}", status_code=202)
    async def unregister(model: str, version: str) -> dict[str, Any]:
        target = registry.get(model, version)
        await registry.unregister(model, version)
        return target.describe()

    @app.exception_handler(Unknown)
    async def unknown(request: Request, error: Unknown) -> JSONResponse:
        return _refusal(404, str(error))

    @app.exception_handler(Conflict)
    async def conflict(request: Request, error: Conflict) -> JSONResponse:
        return _refusal(409, str(error))

    @app.exception_handler(Unwritten)
    async def unwritten(request: Request, error: Unwritten) -> JSONResponse:
        return _refusal(507, str(error))

    @app.exception_handler(HTTPException)
    async def misdirected(request: Request, error: HTTPException) -> JSONResponse:
        return _refusal(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return _refusal(422, "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()))

    return app


def _refusal(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status)

"""A version as an application of Ray Serve's config, and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from handlers.contract import WORKER_PYTHON_VARIABLE
from tsctl.config.deployment import RayReplicas

Config = dict[str, Any]  # an entry of `applications` in Serve's config

IMPORT_PATH = "handlers.adapters.ray.app:build"
#: The one deployment of each application (handlers/adapters/ray/app.py).
DEPLOYMENT = "worker"
#: How often Ray asks a replica whether its worker is there, and how long it waits; seconds.
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 5.0, 20.0


def number_of(workers: int, replicas: RayReplicas) -> Config:
    """How many replicas a deployment has: `workers` of them, or more under load."""
    most = replicas.max_replicas
    if most is None or most <= workers:
        return {"num_replicas": workers}
    return {
        "num_replicas": "auto",
        "autoscaling_config": {
            "min_replicas": workers,
            "max_replicas": most,
            "target_ongoing_requests": replicas.target_ongoing_requests,
        },
    }


@dataclass(frozen=True)
class Application:
    """One version."""

    model: str
    version: str
    archive: str  # file name in the store
    digest: str  # SHA-256 of that file
    package: str  # Ray's name of the package with the archive
    workers: int  # replicas, or the least of them
    startup_s: int  # a worker may load so long
    most_ongoing: int  # requests of a replica at a time
    drain_s: float  # a replica that ends has so long for its requests
    replicas: RayReplicas
    python: str | None = None  # of the worker; None: the one that runs the replica, or that its environment names
    is_default: bool = False

    @property
    def name(self) -> str:
        """Its name on the cluster."""
        return f"{self.model}-{self.version}"

    def config(self) -> Config:
        """The entry of Serve's config."""
        return {
            "name": self.name,
            "route_prefix": route_of(self.model, self.version),
            "import_path": IMPORT_PATH,
            "runtime_env": {
                "working_dir": f"gcs://{self.package}",
                **({"env_vars": {WORKER_PYTHON_VARIABLE: self.python}} if self.python else {}),
            },
            "args": {
                "tsctl": 1,  # the form of these arguments
                "model": self.model,
                "version": self.version,
                "archive": self.archive,
                "digest": self.digest,
                "startup_s": self.startup_s,
            },
            "deployments": [
                {
                    "name": DEPLOYMENT,
                    **number_of(self.workers, self.replicas),
                    **({"max_replicas_per_node": most} if (most := self.replicas.max_replicas_per_node) else {}),
                    "max_ongoing_requests": self.most_ongoing,
                    "user_config": {
                        "is_default": self.is_default, "workers": self.workers, "replicas": self.replicas.model_dump()
                    },
                    "graceful_shutdown_timeout_s": self.drain_s,
                    "graceful_shutdown_wait_loop_s": 0.5,
                    "health_check_period_s": HEALTH_PERIOD_S,
                    "health_check_timeout_s": HEALTH_TIMEOUT_S,
                    "ray_actor_options": {"num_cpus": self.replicas.num_cpus, "num_gpus": self.replicas.num_gpus},
                }
            ],
        }  # fmt: skip

    def as_default(self, is_default: bool) -> Application:
        """The same as the default of its model, or not."""
        return replace(self, is_default=is_default)

    @classmethod
    def of_config(cls, config: Mapping[str, Any] | None) -> Application | None:
        """The version, read back; None for an application that is not tsctl's."""
        args = (config or {}).get("args") or {}
        if config is None or args.get("tsctl") != 1:
            return None
        [deployment] = config["deployments"]
        kept = deployment["user_config"]
        environment = config["runtime_env"]
        return cls(
            model=str(args["model"]),
            version=str(args["version"]),
            archive=str(args["archive"]),
            digest=str(args["digest"]),
            package=str(environment["working_dir"]).removeprefix("gcs://"),
            workers=int(kept["workers"]),
            startup_s=int(args["startup_s"]),
            most_ongoing=int(deployment["max_ongoing_requests"]),
            drain_s=float(deployment["graceful_shutdown_timeout_s"]),
            replicas=RayReplicas.model_validate(kept["replicas"]),
            python=(environment.get("env_vars") or {}).get(WORKER_PYTHON_VARIABLE),
            is_default=bool(kept["is_default"]),
        )


def route_of(model: str, version: str) -> str:
    """The prefix of the version's route, which is also the path of its predictions."""
    return f"/predictions/{quote(model, safe='')}/{quote(version, safe='')}"

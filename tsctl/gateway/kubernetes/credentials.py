"""Where the API server is and how it knows us: from a kubeconfig, or inside a cluster from the pod's service account.

Invariant: no token and no key is printed, and a server whose certificate is not checked gets none.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import mkstemp
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from tsctl.addresses import without_secrets
from tsctl.config.yaml_files import YamlMistake, parse_yaml
from tsctl.errors import SpecError
from tsctl.host.documents import parse_json
from tsctl.mistakes import first_mistake

#: Mounted into every pod that has a service account.
IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: A program that gets credentials may take this long.
EXEC_S = 30.0
#: A token is asked for again so long before it ends, and one in a file is read again so often.
EARLY_S, REREAD_S = 30.0, 60.0
_EXEC_KINDS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")

Json = dict[str, Any]


@dataclass(frozen=True)
class Credential:
    """What tells the API server who asks; `until` is a time of the clock in seconds, None for ever."""

    token: str | None = field(default=None, repr=False)
    certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)  # PEM of certificate and key
    until: float | None = None


@dataclass
class ServerAccess:
    """An API server's address, the certificates that it is known by, and a source of credentials.

    Args:
        authority: PEM of the authority of its certificate; None: the machine's own authorities.
        ask: gets credentials anew.
    """

    address: str
    authority: bytes | None
    ask: Callable[[], Credential]
    _last: Credential | None = None

    def credential(self, is_refused: bool = False) -> Credential:
        """The credential now; another one where the last one was refused."""
        last = self._last
        is_over = last is None or (last.until is not None and time.time() >= last.until)
        if last is None or is_over or is_refused:
            self._last = last = self.ask()
        return last


def open_access(context: str | None, environment: Mapping[str, str], in_pod: Path = IN_POD) -> ServerAccess:
    """The access by a context of the kubeconfig; without any kubeconfig, that of the pod.

    Args:
        context: None: the current one.

    Raises:
        SpecError: there is neither, or the kubeconfig does not have the context, or cannot be used.
    """
    files = [Path(name) for name in environment.get("KUBECONFIG", "").split(os.pathsep) if name]
    files = files or [Path(environment.get("HOME", "/")) / ".kube" / "config"]
    present = [path for path in files if path.is_file()]
    if present:
        return _from_files(present, context)
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if host and (in_pod / "token").is_file() and context is None:
        shown = f"[{host}]" if ":" in host else host

        def ask() -> Credential:
            return Credential(_text(in_pod / "token"), until=time.time() + REREAD_S)

        return ServerAccess(f"https://{shown}:{port}", (in_pod / "ca.crt").read_bytes(), ask)
    raise SpecError(
        f"no kubeconfig: {', '.join(map(str, files))} is not there, and this is no pod with a service account",
        "Set KUBECONFIG, or make one with the tool of your cluster.",
    )


def _from_files(paths: list[Path], context: str | None) -> ServerAccess:
    """The access by kubeconfigs, of which the first one that has a name wins."""
    contents = [(path, _read(path)) for path in paths]
    name = context or next((str(c["current-context"]) for _, c in contents if c.get("current-context")), None)
    if name is None:
        raise SpecError(f"{paths[0]} has no current-context", "Name one: kubernetes.context in deployment.yaml.")
    chosen, _ = _named(contents, "contexts", "context", name)
    cluster, of_cluster = _named(contents, "clusters", "cluster", str(chosen.get("cluster", "")))
    user, of_user = _named(contents, "users", "user", str(chosen.get("user", "")))
    server = str(cluster.get("server", ""))
    try:
        parts = urlsplit(server)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        is_address = False
    if not is_address:
        raise SpecError(
            f"{of_cluster}: server of cluster {chosen.get('cluster')} must be an address,"
            f" got {without_secrets(server)!r}"
        )
    if cluster.get("insecure-skip-tls-verify"):
        raise SpecError(
            f"{of_cluster}: insecure-skip-tls-verify of cluster {chosen.get('cluster')} is set, and tsctl sends no"
            " credentials to a server that it does not know",
            "Give certificate-authority or certificate-authority-data.",
        )
    authority = _bytes(cluster, "certificate-authority", of_cluster)
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise SpecError(f"{of_cluster}: server {server} has no TLS, which is taken of this machine alone")
    return ServerAccess(server.rstrip("/"), authority, lambda: _credential(user, of_user))


def _credential(user: Json, path: Path) -> Credential:
    if "exec" in user:
        try:
            program = _Program.model_validate(user["exec"])
        except ValidationError as error:
            raise SpecError(f"{path}: exec of a user: {first_mistake(error)}") from None
        return _from_program(program, path)
    certificate, key = _bytes(user, "client-certificate", path), _bytes(user, "client-key", path)
    if (certificate is None) != (key is None):
        raise SpecError(f"{path}: a user has client-certificate or client-key, and needs both or none")
    token, until = user.get("token"), None
    if user.get("tokenFile"):
        token, until = _text(path.parent / str(user["tokenFile"])), time.time() + REREAD_S
    if "auth-provider" in user or "username" in user:
        raise SpecError(f"{path}: auth-provider and passwords are gone from Kubernetes", "Use exec, or a token.")
    pair = (certificate, key) if certificate is not None and key is not None else None
    return Credential(str(token) if token else None, pair, until)


class _Variable(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    name: str
    value: str


class _Program(BaseModel):
    """The program that a kubeconfig names as `exec`; keys that are not read may be there."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    apiVersion: str | None = None
    command: str = ""
    args: list[str] | None = None
    env: list[_Variable] | None = None


def _from_program(spec: _Program, path: Path) -> Credential:
    """What the program of a cloud prints; see "client-go credential plugins" in the documentation of Kubernetes."""
    version = spec.apiVersion
    if version not in _EXEC_KINDS:
        raise SpecError(f"{path}: exec has apiVersion {version!r}; tsctl knows {' and '.join(_EXEC_KINDS)}")
    command = [spec.command, *(spec.args or ())]
    if os.sep in command[0] and not Path(command[0]).is_absolute():
        command[0] = str(path.parent / command[0])
    asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    added = {one.name: one.value for one in spec.env or ()}
    environment = {**os.environ, **added, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, timeout=EXEC_S, check=False)
        if ended.returncode:
            said = ended.stderr.decode(errors="replace").strip()[-500:]
            raise SpecError(f"{path}: {command[0]} gave no credentials (exit code {ended.returncode}): {said}")
        status = parse_json(ended.stdout)["status"]
        token, pair = status.get("token"), None
        if not isinstance(token, str | None):
            raise TypeError("its token is no text")
        if status.get("clientCertificateData"):
            pair = status["clientCertificateData"].encode(), status["clientKeyData"].encode()
        ends = status.get("expirationTimestamp")
        until = datetime.fromisoformat(ends).timestamp() - EARLY_S if ends else None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SpecError(f"{path}: {command[0]} gave no credentials: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: {command[0]} printed no ExecCredential: {type(error).__name__}") from None
    return Credential(token, pair, until)


def _read(path: Path) -> Json:
    try:
        content = parse_yaml(path.read_bytes(), exact=False)
    except (YamlMistake, OSError) as error:
        raise SpecError(f"{path}: cannot be read as a kubeconfig: {error}") from None
    if not isinstance(content, dict):
        raise SpecError(f"{path}: is no kubeconfig: expected a mapping of keys to values")
    return content


def _named(contents: list[tuple[Path, Json]], plural: str, singular: str, name: str) -> tuple[Json, Path]:
    for path, content in contents:
        for entry in _entries(content, plural):
            if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(singular), dict):
                return entry[singular], path
    there = sorted({str(e.get("name")) for _, c in contents for e in _entries(c, plural) if isinstance(e, dict)})
    raise SpecError(f"{contents[0][0]}: no {singular} {name!r}; it has {', '.join(there) or 'none'}")


def _entries(content: Json, plural: str) -> list[Any]:
    """The list of that name; none where it is no list."""
    entries = content.get(plural)
    return entries if isinstance(entries, list) else []


def _bytes(section: Json, key: str, path: Path) -> bytes | None:
    """The content of `key`-data in base64, or of the file that `key` names."""
    try:
        if section.get(f"{key}-data"):
            return base64.b64decode(str(section[f"{key}-data"]), validate=True)
        if section.get(key):
            return (path.parent / str(section[key])).read_bytes()
    except binascii.Error:
        raise SpecError(f"{path}: {key}-data is not base64") from None
    except OSError as error:
        raise SpecError(f"{path}: {key} cannot be read: {error.filename}: {error.strerror}") from None
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: the token cannot be read: {error}") from None


def private_file(content: bytes) -> Path:
    """A file that only this user can read, with this content."""
    handle, name = mkstemp(prefix="tsctl-", suffix=".pem")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return Path(name)

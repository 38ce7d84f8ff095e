"""A real API server of Kubernetes on loopback, with an etcd of its own, and without scheduler, controllers or kubelets.

Tests write what those would: pods, and the status of Deployments and routes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.support.gateways import certificate
from tests.support.kubernetes_build import kube_apiserver
from tests.support.ports import free_ports
from tests.support.programs import program
from tests.support.sites import CHECKOUT, until
from tsctl.host.http import direct_session

Json = dict[str, Any]
#: Of the one user that may do everything.
ADMIN = "token-of-the-administrator"
CRDS = CHECKOUT / "tsctl" / "render" / "kubernetes" / "crds"
START_S, END_S = 60.0, 20.0
#: Of a CRD, what Kubernetes 1.20 does not know: rules in CEL, which are of 1.25, and fields for selectors, of 1.30.
_NEWER = {"x-kubernetes-validations", "selectableFields"}


@dataclass
class ApiServerProcess:
    """A running server, asked as its administrator.

    Args:
        authority: the file with the certificate that it is known by.
    """

    address: str
    authority: Path
    session: requests.Session = field(default_factory=direct_session)

    def send(self, method: str, path: str, content: Any = None, **more: Any) -> requests.Response:
        """The answer to a request, whatever its status; `token` is of another user, `media` of another form."""
        headers = {"authorization": f"Bearer {more.pop('token', ADMIN)}"}
        if content is not None:
            headers["content-type"] = more.pop("media", "application/json")
        return self.session.request(
            method, self.address + path, json=content, headers=headers, verify=str(self.authority), timeout=30, **more
        )

    def ask(self, method: str, path: str, content: Any = None, **more: Any) -> Json:
        """The object that it answers; a refusal fails the test."""
        answer = self.send(method, path, content, **more)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        value: Json = answer.json()
        return value

    def create(self, manifest: Json, path: str | None = None) -> Json:
        """Create an object; its status, which a server does not take with it, is written afterwards."""
        collection = path or path_of(manifest)
        made = self.ask("POST", collection, manifest)
        return self.set_status(manifest, manifest["status"]) if "status" in manifest else made

    def get(self, manifest: Json) -> Json:
        return self.ask("GET", f"{path_of(manifest)}/{manifest['metadata']['name']}")

    def set_status(self, manifest: Json, status: Json) -> Json:
        """Write the status of an object, as its controller does."""
        path = f"{path_of(manifest)}/{manifest['metadata']['name']}/status"
        return self.ask("PATCH", path, {"status": status}, media="application/merge-patch+json")

    def token_of(self, namespace: str, account: str) -> str:
        """A new service account, and a token of it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        self.ask("POST", path, {"metadata": {"name": account}})
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return str(self.ask("POST", f"{path}/{account}/token", asked)["status"]["token"])

    def bind(self, namespace: str, account: str, role: str) -> None:
        """Give the service account the rights of a Role."""
        subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role}
        content = {"metadata": {"name": f"{account}-{role}"}, "subjects": [subject], "roleRef": reference}
        self.ask("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", content)

    def kubeconfig(self, token: str, namespace: str) -> str:
        """A kubeconfig for the user of this token."""
        cluster = {"server": self.address, "certificate-authority": str(self.authority)}
        context = {"cluster": "c", "user": "u", "namespace": namespace}
        return yaml.safe_dump(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "test",
                "contexts": [{"name": "test", "context": context}],
                "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {"token": token}}],
            }
        )  # fmt: skip


_PLURALS = {"NetworkPolicy": "networkpolicies", "CustomResourceDefinition": "customresourcedefinitions"}
_OF_NO_NAMESPACE = ("Namespace", "CustomResourceDefinition")


def path_of(manifest: Json) -> str:
    """The path of all objects of its kind, in its namespace."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    space = "" if kind in _OF_NO_NAMESPACE else f"/namespaces/{manifest['metadata'].get('namespace', 'tsctl')}"
    return f"{root}{space}/{_PLURALS.get(kind, f'{kind.lower()}s')}"


def crd(name: str) -> Json:
    """A definition of the Gateway API, without what Kubernetes 1.20 does not know; everything else is as it is."""
    [path] = CRDS.glob(f"*_{name}.yaml")
    content: Json = _without(yaml.safe_load(path.read_text("utf-8")))
    content.pop("status", None)
    return content


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in _NEWER}
    return [_without(inner) for inner in value] if isinstance(value, list) else value


@contextmanager
def api_server(folder: Path) -> Iterator[ApiServerProcess]:
    """A server with the definitions of HTTPRoute, GRPCRoute and Gateway, while the block runs."""
    binary, etcd = kube_apiserver(), program("etcd", "etcd-server")
    folder.mkdir(parents=True)
    certificate(folder, "127.0.0.1")
    subprocess.run(["openssl", "genrsa", "-out", folder / "accounts.key", "2048"], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f'{ADMIN},admin,1,"system:masters"\n')
    (folder / "tokens.csv").chmod(0o600)
    secure, client, peer = free_ports(3)
    storage, peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    server = ApiServerProcess(f"https://127.0.0.1:{secure}", folder / "server.pem")
    with ExitStack() as running:
        running.enter_context(
            _process(
                [
                    etcd, "--data-dir", str(folder / "etcd"), "--listen-client-urls", storage,
                    "--advertise-client-urls", storage, "--listen-peer-urls", peers,
                    "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}",
                ],
                folder / "etcd.log",
            )
        )  # fmt: skip
        process = running.enter_context(
            _process(
                [
                    str(binary), f"--etcd-servers={storage}", "--bind-address=127.0.0.1", f"--secure-port={secure}",
                    "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
                    f"--tls-cert-file={folder / 'server.pem'}", f"--tls-private-key-file={folder / 'server.key'}",
                    f"--cert-dir={folder}", f"--token-auth-file={folder / 'tokens.csv'}",
                    "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    f"--service-account-signing-key-file={folder / 'accounts.key'}",
                    f"--service-account-key-file={folder / 'accounts.key'}",
                ],
                folder / "server.log",
            )
        )  # fmt: skip

        def is_ready() -> bool:
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            try:
                return server.send("GET", "/readyz").status_code == 200
            except requests.ConnectionError:
                return False

        until(is_ready, START_S, "the API server is ready")
        for name in ("httproutes", "grpcroutes", "gateways"):
            _define(server, crd(name))
        yield server


def _define(server: ApiServerProcess, definition: Json) -> None:
    """Create a definition, and wait until the server has its kind."""
    server.create(definition)
    spec = definition["spec"]
    until(
        lambda: server.send("GET", f"/apis/{spec['group']}/v1/{spec['names']['plural']}").status_code == 200,
        START_S,
        f"the server has {spec['names']['plural']}",
    )


@contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""The certificate of the gateway's listener: read from its files, checked, and put where Envoy reads it.

Invariant: Envoy gets a certificate only together with its key. However the two files are replaced, in one folder or in
two, by a copy, by a rename or by another link, it never sees one without the other.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.render.listeners import certificate
from tsctl.gateway.files import read_document
from tsctl.gateway.state import Gateway
from tsctl.host.files import write_document


def put_certificate(gateway: Gateway) -> bool:
    """Envoy's file has the certificate and the key that deployment.yaml names; True where it had others.

    Raises:
        GatewayError: a file is missing or no PEM, or the key is that of another certificate.
    """
    if gateway.spec.tls is None:
        return False
    chain, key = (gateway.project.root / name for name in (gateway.spec.tls.certificate, gateway.spec.tls.key))
    content = certificate(*_pair(chain, key))
    if read_document(gateway.files.certificate) == content:
        return False
    write_document(gateway.files.certificate, content)
    return True


def _pair(chain: Path, key: Path) -> tuple[str, str]:
    for path in (chain, key):
        if not path.is_file():
            raise GatewayError(f"no {path}, which gateway.tls of deployment.yaml names")
    try:
        read = chain.read_text(encoding="ascii"), key.read_text(encoding="ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password=lambda: "")
        if read == (chain.read_text(encoding="ascii"), key.read_text(encoding="ascii")):
            return read
        reason = "they are being replaced"
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        reason = str(error)
    raise GatewayError(
        f"{chain} and {key} cannot be used: {reason}",
        "gateway.tls needs a certificate in PEM and its own key, without a password.",
    )

"""An exported model repository on a Triton by itself, asked by Triton's own clients."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils

from benchmarks.protocol.servers import running, tritonserver
from handlers.contract import LIBRARIES_VARIABLE
from tests.live.test_triton import site  # noqa: F401 - the fixture
from tests.support.engines import give_engine
from tests.support.sites import Site


def test_an_exported_repository_answers_tritons_own_clients(site: Site, tmp_path: Path) -> None:
    site.run("export", "triton", "tiny:1.0", "--to", str(tmp_path / "models"))
    again = site.run("export", "triton", "tiny:1.0", "--to", str(tmp_path / "models"), status=2)
    assert "exists already" in again.err
    python, folder = give_engine(site, "triton").python, tmp_path / "server"
    libraries = {LIBRARIES_VARIABLE: sysconfig.get_path("purelib")}
    with running(tritonserver(python, tmp_path / "models", folder, environment=libraries), folder, "1") as place:
        for library, address in ((tritonclient.http, place.rest), (tritonclient.grpc, place.grpc)):
            client = library.InferenceServerClient(address)
            good, bad = (library.InferInput("x", [2, 1], "FP64") for _ in range(2))
            good.set_data_from_numpy(np.array([[0.5], [1.0]]))
            bad.set_data_from_numpy(np.array([[0.5], [2e9]]))
            assert client.infer("tiny", [good]).as_numpy("y").tolist() == [[1.0], [2.0]]
            with pytest.raises(tritonclient.utils.InferenceServerException, match="Row 1: "):
                client.infer("tiny", [bad])
            assert client.infer("tiny", [good]).as_numpy("y").tolist() == [[1.0], [2.0]]
            client.close()

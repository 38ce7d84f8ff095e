"""An exported model repository on a Triton by itself, asked by Triton's own clients."""

from __future__ import annotations

import json
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils

from benchmarks.protocol.servers import running, tritonserver
from handlers.contract import LIBRARIES_VARIABLE
from tests.handlers.test_triton_adapter import KNOWN, SCORING
from tests.live.test_triton import site  # noqa: F401 - the fixture
from tests.support.engines import give_engine
from tests.support.sites import Site, write_tiny


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


def test_an_exported_model_takes_optional_inputs_and_gives_answers_as_they_are(site: Site, tmp_path: Path) -> None:
    write_tiny(site, "scoring", {"1.0": {}})
    folder = site.root / "archives" / "scoring"
    (folder / "handler.py").write_text(SCORING)
    (folder / "golden" / "1.0.json").write_text(json.dumps({"half.json": KNOWN}))
    site.run("archive", "build", "scoring")
    site.run("export", "triton", "scoring:1.0", "--to", str(tmp_path / "models"))
    python, folder = give_engine(site, "triton").python, tmp_path / "server"
    libraries = {LIBRARIES_VARIABLE: sysconfig.get_path("purelib")}
    with running(tritonserver(python, tmp_path / "models", folder, environment=libraries), folder, "1") as place:

        def score(answer: dict[str, Any] | None) -> Any:
            client = tritonclient.http.InferenceServerClient(place.rest)
            inputs = [tritonclient.http.InferInput("x", [1, 1], "FP64")]
            inputs[0].set_data_from_numpy(np.array([[0.5]]))
            if answer is not None:
                inputs.append(tritonclient.http.InferInput("answer", [1, 1], "BYTES"))
                inputs[1].set_data_from_numpy(np.array([[json.dumps({**KNOWN, **answer}).encode()]], dtype=object))
            try:
                result = client.infer("scoring", inputs)
                return [result.as_numpy(name).tolist() for name in KNOWN]
            finally:
                client.close()

        default = [[[0.0]], [[True]], [[b"a"]], [[b'{"n":1}']]]
        assert score(None) == default
        assert score({"score": 0.7, "more": 1.5, "note": "new"}) == [[[0.7]], [[True]], [[b"a"]], [[b"1.5"]]]
        with pytest.raises(tritonclient.utils.InferenceServerException, match=r"for ok; config\.pbtxt declares BOOL"):
            score({"ok": 0.3})
        with ThreadPoolExecutor(16) as pool:  # requests with and without the optional input, at the same time
            both = list(pool.map(score, [None, {"score": 5}] * 40))
        assert both == [default, [[[5.0]], *default[1:]]] * 40

"""OpenVINO's network has the zero points that the GGUF file has, and so its weights."""

from __future__ import annotations

import logging
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from handlers.text.backends import BackendOptions
from handlers.text.backends.gguf import Blocks, read_blocks
from handlers.text.backends.openvino import CONVERTED, OpenVinoRunner, convert
from handlers.text.backends.runner import Chunk
from handlers.text.backends.zero_points import _q4_1, _q4_k, set_zero_points
from tests.support import tiny_model

TOKENS = [3 + 7 * place % 250 for place in range(40)]
MATRICES = 7 * tiny_model.LAYERS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write_tiny_model(tmp_path_factory.mktemp("small") / "model.gguf", is_small=True)


@pytest.fixture(scope="module")
def rounded(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What openvino_genai alone makes of the file."""
    folder = tmp_path_factory.mktemp("rounded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handlers.text.backends.openvino.set_zero_points", lambda network, weights: 0)
        convert(weights, folder)
    return folder


def logprobs(network: object) -> torch.Tensor:
    runner = OpenVinoRunner(network, BackendOptions(context=64, cache_bytes=1 << 20, threads=1))
    found = runner.run([Chunk(TOKENS, 0, [0, 1])])[0].log_softmax(0)
    runner.close()
    return found


def test_the_network_answers_as_the_file_says(weights: Path, rounded: Path, tmp_path: Path) -> None:
    import openvino
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32, local_files_only=True
    )
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0, -1].log_softmax(0)
    before = openvino.Core().read_model(rounded / CONVERTED[0])
    assert set_zero_points(openvino.Core().read_model(rounded / CONVERTED[0]), weights) == 0
    error = (logprobs(before) - expected).abs().max()
    convert(weights, tmp_path)
    exact = openvino.Core().read_model(tmp_path / CONVERTED[0])
    assert set_zero_points(exact, weights) == 0, "nothing is left to replace"
    assert (logprobs(exact) - expected).abs().max() < 0.05 < error / 4


def test_weights_of_another_file_are_not_taken(rounded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import openvino

    other = tiny_model.write_tiny_model(tmp_path / "other.gguf", seed=2, is_small=True)
    network = openvino.Core().read_model(rounded / CONVERTED[0])
    with caplog.at_level(logging.INFO):
        assert set_zero_points(network, other) == MATRICES
    assert f"{MATRICES} of {MATRICES} matrices of other.gguf keep rounded zero points" in caplog.text


@pytest.mark.parametrize(
    ("kind", "weights", "size", "read"),
    [(gguf.GGMLQuantizationType.Q4_1, 32, 20, _q4_1), (gguf.GGMLQuantizationType.Q4_K, 256, 144, _q4_k)],
)
def test_blocks_are_read_as_their_format_says(
    kind: gguf.GGMLQuantizationType, weights: int, size: int, read: object
) -> None:
    """Any bytes are a block; of one group, weights are `scale * (quant - zero point)`."""
    random = np.random.default_rng(5)
    data = random.integers(0, 256, (3, 2, size), np.uint8)
    for place in (0, 2):  # scales and minima of float16 that are no extremes
        data[..., place : place + 2] = random.uniform(0.01, 0.02, (3, 2, 1)).astype(np.float16).view(np.uint8)
    quants, points = read(Blocks(kind.value, data))  # type: ignore[operator]
    exact = gguf.quants.dequantize(data.reshape(3, -1), kind).reshape(3, -1, 32)
    groups = quants.reshape(3, -1, 32).astype(np.float32)
    assert quants.shape == (3, 2 * weights)
    assert points.shape == (3, 2 * weights // 32)
    checked = 0
    for row, group in np.ndindex(points.shape):
        step = np.polyfit(groups[row, group], exact[row, group], 1)[0]
        if abs(step) > 1e-3:  # a scale of nearly nothing has any zero point
            expected = groups[row, group] - exact[row, group] / step
            assert points[row, group] == pytest.approx(float(expected.mean()), rel=2e-3, abs=2e-2)
            checked += 1
    assert checked > points.size / 2


def test_matrices_of_other_types_are_left_out(weights: Path, tmp_path: Path) -> None:
    assert len(list(read_blocks(weights, {3: (32, 20)}))) == MATRICES
    plain = tiny_model.write_tiny_model(tmp_path / "plain.gguf")
    assert list(read_blocks(plain, {3: (32, 20)})) == []

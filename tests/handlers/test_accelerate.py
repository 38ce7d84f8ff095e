"""Networks made faster: what is done where, and that the golden answers decide whether it may serve."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

from handlers.adapters.torchserve.entry import Entry
from handlers.base import ServingHandler
from handlers.errors import LoadError
from handlers.schema import Schema
from handlers.worker import accelerate as acceleration
from handlers.worker.accelerate import accelerate, compile_mode, has_bf16
from handlers.worker.config import Acceleration
from tests.support.workers import Item, Worker, write_archive_folder

MODEL = """
import torch

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.linear = torch.nn.Linear(8 * 16, 4)

    def forward(self, images):
        if not torch.compiler.is_compiling():
            self.seen.append((tuple(images.shape), images.dtype, images.stride()))
        return self.linear(self.convolution(images).relu().flatten(1))

def build(settings):
    torch.manual_seed(0)
    return Network()
"""


class Colours(ServingHandler):
    """Four numbers from a 4 x 4 picture in three colours."""

    class Request(Schema):
        """48 numbers."""

        pixels: list[float]

    sizes: ClassVar[list[int]] = []

    def preprocess(self, items: list[Any]) -> torch.Tensor:
        self.sizes.append(len(items))
        return torch.tensor([item.pixels for item in items]).reshape(-1, 3, 4, 4)

    def postprocess(self, outputs: torch.Tensor) -> list[Any]:
        assert outputs.dtype == torch.float32
        return [{"scores": row} for row in outputs.tolist()]


def picture(seed: int) -> bytes:
    values = torch.rand(48, generator=torch.Generator().manual_seed(seed)).tolist()
    return json.dumps({"pixels": values}).encode()


def plain(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The right answers, by the network as it is, and its weights."""
    namespace: dict[str, Any] = {}
    exec(MODEL, namespace)  # noqa: S102 - the text above
    network = namespace["build"]({})
    golden = {}
    with torch.inference_mode():
        for seed in range(3):
            pixels = torch.tensor(json.loads(picture(seed))["pixels"]).reshape(1, 3, 4, 4)
            golden[f"{seed}.json"] = {"scores": network(pixels)[0].tolist()}
    return golden, network.state_dict()


def start(folder: Path, tolerance: float, batch_size: int = 4, **wanted: Any) -> Worker:
    golden, weights = plain(folder)
    samples = {f"{seed}.json": picture(seed) for seed in range(3)}
    serving = {
        "acceleration": wanted,
        "tolerance": {"absolute": tolerance, "relative": 0.0},
        "limits": {"request_bytes": 4096},
    }
    write_archive_folder(folder, samples, golden, serving=serving, batch_size=batch_size)
    (folder / "model.py").write_text(MODEL)
    save_file(weights, folder / "model.safetensors")
    return Worker(Colours(), folder)


def test_a_quantised_network_answers_within_its_tolerance(
    tmp_path: Path, said: Callable[[], list[dict[str, Any]]]
) -> None:
    worker = start(tmp_path / "toy", 0.02, quantize="int8-dynamic")
    assert "quantized" in type(worker.handler.network.linear).__module__
    assert said()[0]["quantize"] == "int8-dynamic"
    assert worker.ask_one(picture(9)).status == 200


def test_a_network_that_loses_too_much_refuses_to_load(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"sample \d.json, alone, is not the golden answer"):
        start(tmp_path / "toy", 1e-7, quantize="int8-dynamic")


def test_golden_answers_are_made_without_acceleration(tmp_path: Path) -> None:
    golden, _ = plain(tmp_path)
    worker = start(tmp_path / "toy", 0.02, quantize="int8-dynamic")
    again = Entry(Colours()).golden_answers(worker.service.context)
    assert again == {name: {"scores": pytest.approx(answer["scores"], abs=1e-6)} for name, answer in golden.items()}


def test_in_bf16_the_network_computes_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "has_bf16", lambda device: True)
    worker = start(tmp_path / "toy", 0.02, dtype="bf16")
    network = worker.handler.network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert {dtype for _, dtype, _ in network.seen} == {torch.bfloat16}
    assert worker.ask_one(picture(9)).status == 200


def test_where_there_is_no_bf16_the_network_stays_and_the_worker_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[dict[str, Any]]]
) -> None:
    monkeypatch.setattr(acceleration, "has_bf16", lambda device: False)
    worker = start(tmp_path / "toy", 1e-6, dtype="bf16")
    assert {parameter.dtype for parameter in worker.handler.network.parameters()} == {torch.float32}
    assert said()[0]["dtype"] == "float32, because this cpu has no bf16"


def test_channels_last_changes_the_layout_alone(tmp_path: Path) -> None:
    worker = start(tmp_path / "toy", 1e-5, channels_last=True)
    network = worker.handler.network
    assert network.convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(stride[1] == 1 for _, _, stride in network.seen)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the compiler's own, when torch imports it
def test_a_compiled_network_gets_batches_of_the_warmed_sizes_only(
    tmp_path: Path, said: Callable[[], list[dict[str, Any]]]
) -> None:
    worker = start(tmp_path / "toy", 1e-5, compile=True)
    assert said()[0]["compile"] == "default"
    Colours.sizes.clear()
    with torch.compiler.set_stance("fail_on_recompile"):
        replies = worker.ask(*(Item(picture(seed)) for seed in range(3)))
        [alone] = worker.ask(Item(picture(1)))
    assert Colours.sizes == [4, 1]
    assert [reply.status for reply in replies] == [200] * 3
    assert replies[1].json()["scores"] == pytest.approx(alone.json()["scores"], abs=1e-5)


def test_a_handler_without_a_network_cannot_be_accelerated(tmp_path: Path) -> None:
    class Bare(Colours):
        """Keeps its network elsewhere."""

        def load(self) -> None:
            super().load()
            self.mine = self.network
            del self.network

        def inference(self, inputs: torch.Tensor) -> Any:
            return self.mine(inputs)

    golden, weights = plain(tmp_path)
    folder = write_archive_folder(
        tmp_path / "toy", {"0.json": picture(0)}, {"0.json": golden["0.json"]},
        serving={"acceleration": {"channels_last": True}, "limits": {"request_bytes": 4096}},
    )  # fmt: skip
    (folder / "model.py").write_text(MODEL)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(LoadError, match=r"load\(\) set none"):
        Worker(Bare(), folder)


def test_a_network_without_linear_layers_cannot_be_quantised() -> None:
    with pytest.raises(LoadError, match="no linear layer"):
        accelerate(torch.nn.Conv2d(1, 1, 1), Acceleration(quantize="int8-dynamic"), torch.device("cpu"), True)


def test_what_is_for_the_cpu_is_left_out_on_a_gpu_with_the_reason() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    done = accelerate(network, Acceleration(quantize="int8-dynamic"), torch.device("cuda:0"), True)
    assert done == {"quantize": "no, because it is for the CPU and this worker has cuda"}
    assert type(network[0]) is torch.nn.Linear


@pytest.mark.parametrize(
    ("device", "is_fixed_shape", "mode"),
    [("cpu", True, "default"), ("cuda:0", True, "reduce-overhead"), ("cuda:0", False, "default")],
)
def test_graphs_are_captured_only_where_shapes_are_warmed(device: str, is_fixed_shape: bool, mode: str) -> None:
    assert compile_mode(torch.device(device), is_fixed_shape) == mode


def test_the_processor_is_asked_about_bf16() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    assert has_bf16(torch.device("cpu")) == ("avx512_bf16" in flags or "amx_tile" in flags)

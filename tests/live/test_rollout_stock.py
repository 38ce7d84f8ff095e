"""A stock archive from the file to its promotion, and models that fail beside it: one keeps no other from starting."""

from __future__ import annotations

import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import yaml

from benchmarks.harness.client import under_load
from tests.support.gateways import front_of, with_gateway
from tests.support.releases import POLICY
from tests.support.sites import Site, write_tiny
from tests.support.stock import STOCK_HANDLER, save_torchscript

#: Serves a TorchScript file.
SCRIPT_HANDLER = """
import torch


def handle(data, context):
    if data is None:
        return None
    network = torch.jit.load(context.system_properties["model_dir"] + "/model.pt")
    bodies = [row.get("data") or row.get("body") for row in data]
    return [{"y": int(network(torch.tensor(body["x"])))} for body in bodies]
"""


def stock(folder: Path, version: str, pickled: object = None) -> Path:
    """A .mar file as torch-model-archiver makes it, with a pickle of this object."""
    folder.mkdir()
    extra = folder / "extra.pkl"
    extra.write_bytes(pickle.dumps(pickled))
    return archived(folder, version, STOCK_HANDLER, "--extra-files", extra)


def torchscript(folder: Path, version: str) -> Path:
    """A .mar file as torch-model-archiver makes it, whose network is TorchScript."""
    folder.mkdir()
    save_torchscript(folder / "model.pt")
    return archived(folder, version, SCRIPT_HANDLER, "--serialized-file", folder / "model.pt")


def archived(folder: Path, version: str, handler: str, *arguments: str | Path) -> Path:
    (folder / "stock_handler.py").write_text(handler)
    archiver = Path(sys.executable).parent / "torch-model-archiver"
    subprocess.run(
        [archiver, "--model-name", "stock", "--version", version, "--handler", folder / "stock_handler.py",
         "--export-path", folder, *arguments], check=True, timeout=60,
    )  # fmt: skip
    return folder / "stock.mar"


def test_a_stock_archive_is_served_and_released_beside_models_that_fail(site: Site, tmp_path: Path) -> None:
    write_tiny(site, "tiny", {"1.0": {}})
    write_tiny(site, "broken", {"1.0": {}})
    (site.root / "archives" / "broken" / "handler.py").unlink()
    (site.root / "archives" / "odd").mkdir()
    (site.root / "archives" / "odd" / "archive.yaml").write_text("model: [odd]\n")
    one = {"default": "1.0", "versions": {"1.0": {"workers": 1}}}
    site.deploy(dict.fromkeys(("stock", "missing", "odd", "broken", "tiny"), one))
    content = site.deployment
    content["rollout"] = {**POLICY, "min_requests": 5}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    base, metrics = with_gateway(site, {})
    imported = site.run("archive", "import", str(stock(tmp_path / "1", "1.0")))
    assert imported.out.startswith("stock-1.0-")
    site.run("archive", "verify", "stock:1.0")
    failed = site.run("up", status=2)
    for reason in ("odd/archive.yaml", "handler.py", "no archive of missing 1.0 is in the store"):
        assert reason in failed.err
    assert "tsctl archive add FILE.mar" in site.run("plan", status=3).err
    front = front_of(site, base, metrics)
    assert front.ask("/predictions/tiny").json() == {"y": 1.0}
    assert front.ask("/predictions/stock", b'{"x": 2}').json() == {"y": 6}
    site.run("archive", "import", str(stock(tmp_path / "2", "2.0", Fraction(1, 2))))
    refused = site.run("rollout", "start", "stock", "2.0", status=13)
    assert "stock 2.0 failed before its first request: " in refused.out
    assert "imports fractions.Fraction" in " ".join(refused.out.split())
    assert "'tsctl rollout start --trust-pickles' takes" in " ".join(refused.out.split())
    with under_load(front.address("/predictions/stock"), b'{"x": 2}', 2) as load:
        released = site.run("rollout", "start", "stock", "2.0", "--trust-pickles")
    assert "its archive has none, so its answers were not compared" in " ".join(released.err.split())
    assert not load.failed
    [route] = [route for route in site.run("weights", "show", "--json").json() if route["model"] == "stock"]
    assert route["stable"] == "2.0"
    site.run("archive", "import", str(torchscript(tmp_path / "3", "3.0")))
    with under_load(front.address("/predictions/stock"), b'{"x": 2}', 2) as load:
        site.run("rollout", "start", "stock", "3.0")
    assert not load.failed
    assert front.ask("/predictions/stock", b'{"x": 2}').json() == {"y": 7}

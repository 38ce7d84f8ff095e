"""Workers of the real archives, loaded once a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.embedding import EmbeddingHandler
from handlers.image import ImageHandler
from handlers.tabular import TabularHandler
from tests.support.workers import CHECKOUT, Worker, unpacked


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """Loading a handler changes its worker's environment; this process gets its own back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def unpack(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Unpacks a real archive into a folder of its own."""
    return lambda model, version: unpacked(model, version, tmp_path_factory.mktemp(f"{model}-{version}-"))


@pytest.fixture(scope="session")
def unpack_example(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks version 1.0 of an example into a folder of its own."""
    archives = CHECKOUT / "examples" / "archives"
    return lambda model: unpacked(model, "1.0", tmp_path_factory.mktemp(f"{model}-"), archives)


@pytest.fixture(scope="session")
def digits(unpack: Callable[[str, str], Path]) -> Worker:
    return Worker(ImageHandler(), unpack("digits", "2.0"))


@pytest.fixture(scope="session")
def embeddings(unpack: Callable[[str, str], Path]) -> Worker:
    return Worker(EmbeddingHandler(), unpack("embeddings", "1.0"))


@pytest.fixture(scope="session")
def breast_cancer(unpack: Callable[[str, str], Path]) -> Worker:
    return Worker(TabularHandler(), unpack("breast_cancer", "1.0"))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """What workers said of their loads, as tsctl reads it back."""
    marker = "[TSCTL LOAD] "
    return lambda: [json.loads(m.removeprefix(marker)) for m in caplog.messages if m.startswith(marker)]

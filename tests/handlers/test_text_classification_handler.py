"""Classification of texts: the numbers of `transformers` itself, whatever stands beside a text in its batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.errors import LoadError
from handlers.text_classification import TextClassificationHandler
from tests.handlers.test_onnx_handler import post
from tests.support.workers import Worker, assert_problem, write_archive_folder


@pytest.fixture(scope="module")
def requests(unpack_example: Callable[[str], Path]) -> Worker:
    return Worker(TextClassificationHandler(), unpack_example("shop_requests"))


@pytest.fixture
def changed(requests: Worker, tmp_path: Path) -> Callable[..., Worker]:
    """A worker of the example's folder with another config, whose golden answer is not compared."""

    def made(config: dict[str, Any], request: Any, **settings: Any) -> Worker:
        folder = write_archive_folder(tmp_path / "toy", {"one.json": json.dumps(request).encode()}, {}, settings)
        source = requests.folder / "classifier"
        manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
        manifest["model"]["serializedFile"] = "classifier/model.safetensors"
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
        shutil.copytree(source, folder / "classifier")
        content = json.loads((source / "config.json").read_text())
        (folder / "classifier" / "config.json").write_text(json.dumps({**content, **config}))
        handler = TextClassificationHandler()
        from handlers.unpacked import read_documents
        from handlers.worker.config import read_config
        from handlers.worker.make import make_worker

        worker = make_worker(read_config(folder, *read_documents(folder)), handler)
        [answer] = _golden(worker).values()
        (folder / "golden.json").write_text(json.dumps({"one.json": answer}))
        return Worker(TextClassificationHandler(), folder)

    return made


def _golden(worker: Any) -> dict[str, Any]:
    from handlers.worker.startup import golden_answers

    return golden_answers(worker)


def test_the_numbers_are_those_of_transformers(requests: Worker) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    folder = requests.folder / "classifier"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    network = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    texts = ["Where is it?", "x", "I want my money back, please, and soon.", "word " * 100, "Ärger über Öl"]
    for text, reply in zip(texts, post(requests, *({"text": text} for text in texts)), strict=True):
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([tokenizer.encode(text).ids])).logits[0]
        assert reply.json()["probabilities"] == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)
        assert reply.json()["label"] == network.config.id2label[int(logits.argmax())]


def test_labels_are_classes_and_mistakes_are_named(requests: Worker) -> None:
    right, empty, number = post(requests, {"text": "I want my money back."}, {"text": " "}, {"text": 3})
    assert right.json()["label"] == right.headers["x-prediction-class"] == "refund"
    for wrong in (empty, number):
        assert [error["field"] for error in assert_problem(wrong, 422)["errors"]] == ["text"]


def test_batches_are_cut_by_what_was_measured_at_warm_up(requests: Worker) -> None:
    assert requests.entry.worker.protocols.tuned()["batch_tokens_from"] == "warm-up"


def test_several_labels_and_the_likeliest(changed: Callable[..., Worker]) -> None:
    request = {"text": "I want my money back."}
    worker = changed({"problem_type": "multi_label_classification"}, request, threshold=0.6, top_k=2)
    answer = post(worker, request)[0].json()
    first, second = answer["top_k"]
    assert first["label"] == "refund"
    assert first["probability"] > 0.6
    assert first["probability"] >= second["probability"]
    assert answer["labels"] == [each["label"] for each in (first, second) if each["probability"] >= 0.6]


def test_pairs_of_texts(changed: Callable[..., Worker]) -> None:
    worker = changed({}, {"text": "Where is it?", "pair": "In the shop."}, pair=True)
    first, second, wrong = post(
        worker, {"text": "Refund", "pair": "money"}, {"text": "money", "pair": "Refund"}, {"text": "Refund"}
    )
    assert first.json()["probabilities"] != second.json()["probabilities"]
    assert [error["field"] for error in assert_problem(wrong, 422)["errors"]] == ["pair"]


def test_a_folder_without_a_tokenizer_says_how_to_save_it(requests: Worker, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    shutil.copytree(requests.folder, folder)
    (folder / "classifier" / "tokenizer.json").unlink()
    with pytest.raises(LoadError, match=r"there is no tokenizer\.json beside model\.safetensors: save the model"):
        Worker(TextClassificationHandler(), folder)

"""Sentence embeddings: the numbers of `transformers` itself, whatever stands beside a sentence in its batch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.workers import Item, Worker, assert_problem

GUITAR = ["A man is playing a guitar.", "A man plays the guitar.", "The stock market fell by three percent today."]


def text(value: Any) -> Item:
    return Item(json.dumps({"text": value}).encode())


def vectors(worker: Worker, *values: Any) -> list[np.ndarray]:
    return [np.array(reply.json()["embeddings"]) for reply in worker.ask(*map(text, values))]


def test_the_numbers_are_those_of_transformers(embeddings: Worker) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = embeddings.folder / "encoder"
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    sentences = [*GUITAR, "Ärger über Öl", "東京", "word " * 400, "x"]
    with torch.inference_mode():
        for sentence, vector in zip(sentences, vectors(embeddings, *sentences), strict=True):
            tokens = tokenizer(sentence, truncation=True, max_length=256, return_tensors="pt")
            expected = torch.nn.functional.normalize(encoder(**tokens).last_hidden_state.mean(dim=1), dim=1)
            assert vector == pytest.approx(expected.numpy(), abs=1e-5), sentence


def test_vectors_have_length_one_and_near_duplicates_lie_close(embeddings: Worker) -> None:
    [found] = vectors(embeddings, GUITAR)
    assert found.shape == (3, 384)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert found[0] @ found[1] > 0.95
    assert found[0] @ found[2] < 0.2


def test_neither_padding_nor_neighbours_change_a_vector(embeddings: Worker) -> None:
    [alone] = vectors(embeddings, GUITAR[0])
    many, _, single = vectors(embeddings, [*GUITAR[1:], GUITAR[0]], ["word " * 200] * 3, GUITAR[0])
    assert many[2] == pytest.approx(alone[0], abs=1e-5)
    assert single[0] == pytest.approx(alone[0], abs=1e-5)


def test_more_sentences_than_go_through_the_network_at_once_keep_their_order(embeddings: Worker) -> None:
    sentences = [f"{'word ' * (n % 7 * 8)}number {n}" for n in range(48)]
    [together] = vectors(embeddings, sentences)
    for n in (0, 13, 47):
        [alone] = vectors(embeddings, sentences[n])
        assert together[n] == pytest.approx(alone[0], abs=1e-5)


def test_a_number_takes_few_characters(embeddings: Worker) -> None:
    assert len(embeddings.ask_one(b'{"text": "x"}').body) < 384 * 13


@pytest.mark.parametrize("value", ["x" * 20_000, "\0\x01", "🙂" * 3000, "[CLS] [SEP] [MASK]", "\u202e\ufeff", [" a "]])
def test_odd_texts_are_answered(embeddings: Worker, value: Any) -> None:
    [found] = vectors(embeddings, value)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1], abs=1e-5)


WRONG: dict[str, tuple[Any, str]] = {
    "an empty text": ("", "text"),
    "white space": (" \n\t\u00a0", "text"),
    "no sentence": ([], "text"),
    "an empty sentence": (["a", ""], "text.1"),
    "65 sentences": (["a"] * 65, "text"),
    "a text too long": ("x" * 20_001, "text"),
    "a number": (1, "text"),
    "null": (None, "text"),
    "a list of numbers": ([1], "text.0"),
    "nested lists": ([["a"]], "text.0"),
    "an object": ({"a": "b"}, "text"),
}


@pytest.mark.parametrize(("value", "field"), WRONG.values(), ids=WRONG)
def test_texts_that_do_not_fit(embeddings: Worker, value: Any, field: str) -> None:
    [reply] = embeddings.ask(text(value))
    assert assert_problem(reply, 422)["errors"][0]["field"] == field


def test_a_request_that_would_hold_up_its_neighbours_is_refused(embeddings: Worker) -> None:
    refused, good = embeddings.ask(text(["word " * 250] * 17), text("a"))
    assert "4096" in assert_problem(refused, 413)["detail"]
    assert good.status == 200


@pytest.mark.parametrize("body", [rb'{"text": "\ud800"}', rb'{"text": ["a\udc00b"]}', b'{"text": "\xff"}'])
def test_halves_of_characters_are_undecodable(embeddings: Worker, body: bytes) -> None:
    assert_problem(embeddings.ask_one(body), 400)


def test_the_description_allows_one_sentence_and_several(embeddings: Worker) -> None:
    schema = embeddings.entry.worker.describe()["request_schema"]["properties"]["text"]
    assert {option["type"] for option in schema["anyOf"]} == {"string", "array"}


def test_batches_are_cut_by_what_was_measured_at_warm_up_unless_the_archive_has_a_budget(embeddings: Worker) -> None:
    handler, worker = embeddings.handler, embeddings.entry.worker
    measured, tuned = handler.token_costs, worker.protocols.tuned()
    assert (tuned["batch_tokens"], tuned["batch_tokens_from"]) == (measured.budget, "warm-up")
    assert len(tuned["micro_batch_ms"]) == len(measured.points) >= 2
    sentences = [f"{'word ' * (n % 9 * 6)}number {n}" for n in range(20)]
    cut_here = vectors(embeddings, *sentences)
    try:
        handler.token_costs, handler.batch_tokens = None, 40
        assert worker.protocols.tuned() == {"batch_tokens": 40, "batch_tokens_from": "archive.yaml"}
        for mine, other in zip(vectors(embeddings, *sentences), cut_here, strict=True):
            assert mine == pytest.approx(other, abs=1e-5), "however batches are cut, answers are the same"
    finally:
        handler.token_costs = measured

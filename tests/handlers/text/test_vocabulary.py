"""The bytes of tokens, beside real tokenizers of both kinds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from handlers.text.vocabulary import TextDecoder, bytes_of_tokens

CORPUS = ["The quick brown fox jumps over the lazy dog. Grüße, Füße; 日本語 und 😀, naïve façade.\n\tx = y * 2"] * 3
SPECIAL = ["<|end|>", "<|user|>"]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentence_piece() -> Tokenizer:
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}, "▁": 257, "▁the": 258, "qu": 259}
    letters = sorted(set("".join(CORPUS)) - {" "} - set("日本語😀"))
    vocabulary |= {letter: 260 + index for index, letter in enumerate(letters)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges=[("q", "u")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


TOKENIZERS = {"byte-level": byte_level(), "SentencePiece": sentence_piece()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.one_of(st.text(), st.sampled_from(CORPUS)))
def test_the_bytes_of_a_texts_tokens_are_the_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    table = bytes_of_tokens(tokenizer.get_vocab(), set())
    numbers = tokenizer.encode(text).ids
    decoder = TextDecoder()
    pieces = [decoder.feed(table[number]) for number in numbers] + [decoder.feed(b"", is_last=True)]
    assert "".join(pieces) == text == tokenizer.decode(numbers)
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_special_tokens_and_missing_numbers_are_no_text() -> None:
    vocabulary = {**TOKENIZERS["byte-level"].get_vocab(), "<tool_call>": 1000, "grüß dich": 1001}
    special = {vocabulary[name] for name in SPECIAL}
    table = bytes_of_tokens(vocabulary, special)
    assert len(table) == 1002
    assert {table[number] for number in special} == {b""} == {table[999]}
    assert (table[1000], table[1001]) == (b"<tool_call>", "grüß dich".encode())


def test_another_kind_of_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="neither of byte-level BPE nor of SentencePiece"):
        bytes_of_tokens({"[UNK]": 0, "##ing": 1, "the": 2}, set())


def test_bytes_that_are_no_text_become_a_replacement_when_that_is_certain() -> None:
    decoder = TextDecoder()
    assert [decoder.feed(b"a\xf0\x9f"), decoder.feed(b"\x98"), decoder.feed(b"\x80b")] == ["a", "", "\U0001f600b"]
    assert [decoder.feed(b"\xf0\x9f"), decoder.feed(b"x"), decoder.feed(b"\xe2", is_last=True)] == [
        "",
        "\ufffdx",
        "\ufffd",
    ]

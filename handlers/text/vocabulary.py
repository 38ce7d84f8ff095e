"""The bytes that each token of a vocabulary stands for.

An answer's text is the bytes of its tokens, one after the other. So a token needs no look at the ones before it, and a
character that several tokens make appears when its last byte is there.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Mapping

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # SentencePiece's


def _letters_of_bytes() -> dict[str, int]:
    """Byte-level BPE's letters: printable characters stand for themselves, the other bytes for those from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTES = _letters_of_bytes()


def bytes_of_tokens(vocabulary: Mapping[str, int], special: Collection[int]) -> list[bytes]:
    """The bytes of each token, by its number; empty for special tokens and for numbers without one.

    Args:
        vocabulary: a tokenizer's pieces and their numbers; of byte-level BPE, or of SentencePiece with bytes.
        special: tokens that are no text, such as the end of an answer.

    Raises:
        ValueError: the vocabulary is of another kind.
    """
    convert = _conversion(vocabulary)
    result = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for piece, number in vocabulary.items():
        if number not in special:
            result[number] = convert(piece)
    return result


def _conversion(vocabulary: Mapping[str, int]):  # type: ignore[no-untyped-def]
    if "<0x0A>" in vocabulary:
        return _of_sentence_piece
    if all(letter in vocabulary for letter, byte in _BYTES.items() if 0x20 <= byte < 0x7F):
        return _of_byte_level  # some have no token for a byte that hardly any text has, such as SmolLM2
    raise ValueError("the vocabulary is neither of byte-level BPE nor of SentencePiece with bytes")


def _of_byte_level(piece: str) -> bytes:
    try:
        return bytes(_BYTES[letter] for letter in piece)
    except KeyError:  # added as plain text, such as a tag of tools
        return piece.encode()


def _of_sentence_piece(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()


class TextDecoder:
    """Bytes to text as they come; a character that is not complete waits for its rest."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes, is_last: bool = False) -> str:
        return self._decoder.decode(data, is_last)

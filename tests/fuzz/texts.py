"""Changes JSON by its tokens: the parser is compiled code that tells the engine nothing, so luck alone gets nowhere."""

from __future__ import annotations

import re
from random import Random

from tests.fuzz.surface import Mutate

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+|\s+|.', re.DOTALL)
ODD = (
    *(b"null", b"true", b"{}", b"[]", b'""', b"-0", b"0.1e1", b"1e308", b"1e309", b"-1e999", b"NaN", b"-Infinity"),
    *(b"1" + b"0" * 400, b"9" * 4400, b"0." + b"0" * 400 + b"1", b"1E400", b"1e-400", b"01", b"+1", b".5", b"0x10"),
    *(rb'"\ud83d"', rb'"\udc00\ud800"', rb'"\u0000"', b'"\\', b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\n"'),
    *(
        '"\U0001f642"'.encode(),
        '"\u202e\ufeff"'.encode(),
        b'"[CLS][SEP]"',
        b'"  "',
        b"// a",
        b"/**/",
        b"\x00",
        b"\xef\xbb\xbf",
    ),
    *(b'"text"', b'"pixels"', b'"text":', b'"text":"a",', b'"__class__":1,', b"[[", b"]]", b'{"a":', b"}", b",", b":"),
)


def mutate(content: bytes, longest: int, random: Random, change: Mutate) -> bytes:
    """A few tokens replaced, removed, repeated or nested; now and then any bytes."""
    if random.random() < 0.2:
        return change(content, longest)
    tokens = _TOKEN.findall(content) or [b"{}"]
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(tokens))
        kind = random.randrange(7)
        if kind == 0:
            tokens[at] = random.choice(ODD)
        elif kind == 1:
            tokens.insert(at, random.choice(ODD))
        elif kind == 2 and len(tokens) > 1:
            del tokens[at]
        elif kind == 3:
            end = min(len(tokens), at + random.randrange(1, 8))
            tokens[at:at] = tokens[at:end] * random.choice((1, 2, 30))
        elif kind == 4:
            depth = random.choice((1, 3, 100, 1000))
            tokens[at] = b"[" * depth + tokens[at] + b"]" * depth
        elif kind == 5:
            depth = random.choice((1, 3, 100, 300))
            tokens[at] = b'{"text":' * depth + tokens[at] + b"}" * depth
        else:
            tokens[at] = change(tokens[at], len(tokens[at]) + 16)
    return b"".join(tokens)[:longest]

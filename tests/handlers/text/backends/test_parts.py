"""What backends share: which one is chosen, facts of files, chat templates, blocks, the choice of a token."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import LoadError
from handlers.text.backends import BackendOptions, ModelFiles, choose, open_backend
from handlers.text.backends.blocks import Blocks, digests_of
from handlers.text.backends.chat import ChatTemplate, reads_tools
from handlers.text.backends.choice import Row
from handlers.text.backends.choice import choose as choose_tokens
from handlers.text.backends.files import read_chat_template, read_model_facts
from handlers.text.backends.gguf import read_facts
from handlers.text.sampling import Sampling
from tests.support import tiny_model

# ---- which backend ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "device", "installed", "chosen"),
    [
        ("auto", "cpu", {"openvino_genai", "vllm"}, "openvino"),
        ("auto", "cpu", set(), "transformers"),
        ("auto", "cuda:0", {"openvino_genai"}, "transformers"),
        ("auto", "cuda:0", {"vllm"}, "vllm"),
        ("transformers", "cpu", {"openvino_genai"}, "transformers"),
    ],
)
def test_the_backend_fits_the_machine(name: str, device: str, installed: set[str], chosen: str) -> None:
    assert choose(name, device, installed.__contains__) == chosen


def test_a_backend_that_is_unknown_or_not_installed_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelFiles(tiny_model.write_tiny_model(tmp_path / "model.gguf"))
    with pytest.raises(LoadError, match="is 'onnx', and can be auto, openvino, transformers"):
        open_backend("onnx", model, BackendOptions())
    monkeypatch.setitem(__import__("sys").modules, "openvino_genai", None)
    with pytest.raises(LoadError, match=r"needs the package openvino_genai .*: pip install 'tsctl\[text\]'"):
        open_backend("openvino", model, BackendOptions(context=64, threads=1))


# ---- files -----------------------------------------------------------------------------------------------------------


def test_facts_of_a_file(tmp_path: Path) -> None:
    path = tiny_model.write_tiny_model(tmp_path / "model.gguf")
    facts = read_model_facts(ModelFiles(path))
    assert (facts.architecture, facts.context, facts.ends) == ("llama", tiny_model.CONTEXT, frozenset({2}))
    assert facts.special == {name: number for number, name in enumerate(tiny_model.SPECIAL)}
    assert facts.names == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert facts.chat_template == tiny_model.TEMPLATE
    (tmp_path / "own.jinja").write_text("own")
    assert read_model_facts(ModelFiles(path, tmp_path / "own.jinja")).chat_template == "own"


def test_a_file_that_is_cut_off_or_says_nonsense_is_refused(tmp_path: Path) -> None:
    whole = tiny_model.write_tiny_model(tmp_path / "model.gguf").read_bytes()
    header = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1) + b"x"
    broken = {
        "empty": b"",
        "short": whole[:100],
        "version": b"GGUF" + struct.pack("<I", 9) + whole[8:],
        "type": header + struct.pack("<I", 77),
        "string": header + struct.pack("<IQ", 8, 1 << 60),
        "list": header + struct.pack("<IIQ", 9, 8, 1 << 60),
        "numbers": header + struct.pack("<IIQ", 9, 4, 1 << 60),
    }
    for name, content in broken.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        with pytest.raises(LoadError, match=rf"{name}\.gguf cannot be read as GGUF"):
            read_facts(tmp_path / f"{name}.gguf")
    (tmp_path / "other.gguf").write_bytes(header + struct.pack("<II", 4, 5))
    assert read_facts(tmp_path / "other.gguf") == {"x": 5}
    with pytest.raises(LoadError, match=r"has no general\.architecture"):
        read_model_facts(ModelFiles(tmp_path / "other.gguf"))


# ---- chat templates --------------------------------------------------------------------------------------------------

NAMES = [*tiny_model.SPECIAL]


def pieces(source: str | None, *contents: str, tools: Any = ()) -> list[tuple[bool, str]]:
    messages = [{"role": "user", "content": content} for content in contents]
    return ChatTemplate(source, NAMES, {"eos_token": "<|im_end|>"}).pieces(messages, tools)


texts = st.lists(st.sampled_from([*NAMES, "<", "<|im_", "end|>", "|>", "a", " ", "\n", "\ufdd0"]), max_size=8).map(
    "".join
)


@given(st.lists(texts, min_size=1, max_size=3), texts)
def test_no_text_of_a_request_becomes_a_special_token(contents: list[str], name: str) -> None:
    tools = [{"name": name}]
    got = pieces(tiny_model.TEMPLATE, *contents, tools=tools)
    plain = "".join(f"<|im_start|>user\n{content}<|im_end|>\n" for content in contents)
    plain += json.dumps(tools, ensure_ascii=False) + "<|im_start|>assistant\n"
    assert "".join(text for _, text in got) == plain
    specials = [text for is_special, text in got if is_special]
    assert specials == ["<|im_start|>", "<|im_end|>"] * len(contents) + ["<|im_start|>"]


def test_messages_next_to_each_other_make_no_special_token() -> None:
    assert pieces("{% for m in messages %}{{ m['content'] }}{% endfor %}", "<|im_", "end|>") == [(False, "<|im_end|>")]


def test_a_template_can_refuse_messages() -> None:
    with pytest.raises(ValueError, match="refuses the messages: roles must alternate"):
        pieces("{{ raise_exception('roles must alternate') }}", "a")
    with pytest.raises(ValueError, match="refuses the messages"):
        pieces("{{ messages.__class__.__mro__ }}{{ messages[7]['content'] + 1 }}", "a")
    with pytest.raises(ValueError, match="no chat template"):
        pieces(None, "a")
    with pytest.raises(LoadError, match="line 2"):
        pieces("a\n{% if %}", "a")


@pytest.mark.parametrize(
    ("source", "are_read"),
    [
        (tiny_model.TEMPLATE, True),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", False),
        ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}{{ messages[0]['content'] }}", False),
        ("{{ raise_exception('nobody may ask') }}", False),
        (None, False),
    ],
)
def test_it_is_known_whether_a_template_reads_tools(source: str | None, are_read: bool, tmp_path: Path) -> None:
    assert reads_tools(ChatTemplate(source, NAMES, {}).pieces) is are_read
    special = [{"content": name, "special": True} for name in NAMES] + [{"content": "word", "special": False}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": special}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": source, "bos_token": None}))
    assert reads_tools(read_chat_template(tmp_path, None).pieces) is are_read, "in a folder of Hugging Face"
    (tmp_path / "own.jinja").write_text(tiny_model.TEMPLATE)
    own = read_chat_template(tmp_path, tmp_path / "own.jinja")
    assert reads_tools(own.pieces)
    assert own.pieces([{"role": "user", "content": "<|im_end|>"}], [])[1] == (False, "user\n<|im_end|>")


# ---- blocks ----------------------------------------------------------------------------------------------------------


def test_blocks_are_found_by_text_and_salt_and_the_longest_unused_goes_first() -> None:
    blocks = Blocks(4, 2)
    held: list[int] = []
    assert blocks.grow(held, 4) and blocks.available == 2
    assert not blocks.grow([], 5) and blocks.available == 2
    digests = digests_of([1, 2, 3, 4, 5], 2, "salt")
    assert len(digests) == 2 and digests == digests_of([1, 2, 3, 4], 2, "salt", digests[:1])
    for block, digest in zip(held, digests, strict=True):
        blocks.remember(block, digest)
    blocks.release(held)
    assert blocks.available == 4
    assert blocks.find(digests_of([1, 2, 3, 4], 2, "other")) == []
    assert blocks.find(digests_of([1, 2, 9, 9], 2, "salt")) == held[:1]
    other: list[int] = []
    assert blocks.grow(other, 6) and held[0] not in other, "a block in use stays"
    assert blocks.available == 0 and blocks.find(digests[1:]) == [], "its place was needed"
    blocks.release(other)
    blocks.release(held[:1])
    assert blocks.available == 4


# ---- the next token --------------------------------------------------------------------------------------------------


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    shares = torch.tensor([0.5, 0.0, 0.3, 0.2])
    rows = [Row(Sampling(1), {}, (index + 0.5) / 1000) for index in range(1000)]
    drawn = [token.id for token in choose_tokens(shares.log().expand(1000, 4), rows)]
    assert [drawn.count(token) for token in range(4)] == [500, 0, 300, 200]
    narrow = [Row(Sampling(1, top_p=0.6), {}, row.number) for row in rows]
    drawn = [token.id for token in choose_tokens(shares.log().expand(1000, 4), narrow)]
    assert [drawn.count(token) for token in range(4)] == [625, 0, 375, 0]


@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [(t, p) for t in (1e-6, 1e-37, 1e-39, 1e-46, 1e-300, 5e-324) for p in (1.0, 0.9)]
    + [(1.0, p) for p in (1e-7, 1e-44, 1e-46, 1e-300, 5e-324)]
    + [(5e-324, 5e-324)],
)  # fmt: skip
def test_the_smallest_temperature_or_top_p_is_the_likeliest_token(temperature: float, top_p: float) -> None:
    """Also where float32 takes them for 0."""
    logits = torch.randn(3, 3000, generator=torch.Generator().manual_seed(2)) * 5
    logits[1] += 1000
    logits[2, :2990] = -torch.inf
    others = Row(Sampling(1, top_p=0.9, top_logprobs=2), {}, 0.5)
    for number in (0.0, 0.3, 1 - 2**-53):
        rows = [Row(Sampling(1, temperature=temperature, top_p=top_p), {}, number) for _ in range(3)]
        likeliest = logits.argmax(1).tolist()
        assert 0 not in likeliest
        assert [token.id for token in choose_tokens(logits, rows)] == likeliest
        assert choose_tokens(logits, [rows[0], others, rows[2]])[1] == choose_tokens(logits[1:2], [others])[0]


def test_the_last_number_draws_a_token_that_may_come() -> None:
    logits = torch.randn(50, 3000, generator=torch.Generator().manual_seed(1))
    logits[:, 2000:] = -torch.inf
    rows = [Row(Sampling(1, top_p=top_p), {}, 1 - 2**-53) for top_p in (1.0, 0.9999) * 25]
    assert all(token.id < 2000 for token in choose_tokens(logits, rows))


def test_what_is_not_allowed_does_not_come_and_log_probabilities_do_not_know_of_it() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    allowed = torch.tensor([False, True, True])
    (token,) = choose_tokens(logits, [Row(Sampling(1, temperature=0, top_logprobs=1), {}, 0.0, allowed)])
    assert token.id == 1
    assert token.logprob == pytest.approx(float(logits[0].log_softmax(0)[1]))
    assert token.top[0][0] == 0 and logits[0, 0] == 3.0

"""What the files of a model say besides its weights: context, tokenizer, special tokens, chat template.

Two forms: a GGUF file, and a folder of Hugging Face.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.errors import LoadError
from handlers.text.backends import ModelFiles
from handlers.text.backends.chat import ChatTemplate
from handlers.text.backends.gguf import read_facts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONTROL, _USER_DEFINED = 3, 4  # types of tokens in GGUF
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: How a text is divided before its pairs are merged, by GGUF's name; as the models' own tokenizers do it.
_DIVISIONS = {
    "gpt-2": None,
    "smollm": r"\p{N}",  # and then as gpt-2
    "qwen2": _WORDS + r"\p{N}" + _REST,
    "llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST,
}


@dataclass(frozen=True)
class Facts:
    """What a backend needs to know of a model.

    Args:
        architecture: such as 'llama'.
        context: tokens that it was trained with.
        tokenizer: reads texts; takes no special token from one.
        special: tokens that are no text, by name.
        ends: tokens that end an answer.
        names: `bos_token` and `eos_token` of the chat template.
    """

    architecture: str
    context: int
    tokenizer: Tokenizer
    special: dict[str, int]
    ends: frozenset[int]
    chat_template: str | None
    names: dict[str, str]


def read_model_facts(model: ModelFiles) -> Facts:
    """The facts of a model; its chat template is the archive's where it has one.

    Raises:
        LoadError: a file is missing or cannot be read, or the tokenizer is of a kind that is not known here.
    """
    own = None
    if model.chat_template is not None:
        own = _text(model.chat_template)
    return _of_folder(model.weights, own) if model.weights.is_dir() else _of_gguf(model.weights, own)


def read_chat_template(folder: Path, own: Path | None) -> ChatTemplate:
    """The chat template of a folder of Hugging Face, or the archive's own.

    Raises:
        LoadError: a file cannot be read.
    """
    settings = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    source = _template_of(folder, settings) if own is None else _text(own)
    return ChatTemplate(source, special_tokens(folder), _names(settings))


def special_tokens(folder: Path) -> tuple[str, ...]:
    """The texts of special tokens in the tokenizer of a folder of Hugging Face, the longest first."""
    tokens = _json(folder / "tokenizer.json").get("added_tokens", ())
    special = {token["content"] for token in tokens if token.get("special")}
    return tuple(sorted(special, key=lambda text: (-len(text), text)))


def _of_gguf(path: Path, chat_template: str | None) -> Facts:
    facts = read_facts(path)
    try:
        architecture = facts["general.architecture"]
        tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
        context = int(facts[f"{architecture}.context_length"])
        tokenizer = _byte_level(facts, path.name)
    except KeyError as error:
        raise LoadError(f"{path.name} has no {error.args[0]}: is it the GGUF of a language model?") from error
    special = {tokens[number]: number for number in map(int, (types == _CONTROL).nonzero()[0])}
    ids = {name: facts.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "eom")}
    ends = frozenset(int(number) for name, number in ids.items() if number is not None and name != "bos")
    names = {f"{name}_token": tokens[ids[name]] for name in ("bos", "eos") if ids[name] is not None}
    template = chat_template if chat_template is not None else facts.get("tokenizer.chat_template")
    return Facts(architecture, context, tokenizer, special, ends, template, names)


def _byte_level(facts: dict[str, Any], file: str) -> Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    kind, division = facts["tokenizer.ggml.model"], facts.get("tokenizer.ggml.pre")
    if kind != "gpt2" or division not in _DIVISIONS:
        known = f"gpt2 with {', '.join(_DIVISIONS)}"
        raise LoadError(
            f"{file} has the tokenizer {kind} with {division}, and {known} are known; use the model's folder of "
            "Hugging Face (config.json, *.safetensors, tokenizer.json) as weights, with the transformers backend"
        )
    tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ", 1)) for pair in facts["tokenizer.ggml.merges"]]
    vocabulary = {piece: number for number, piece in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=division == "llama-bpe"))
    expression = _DIVISIONS[division]
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=division in ("gpt-2", "smollm"))
    if expression is None:
        tokenizer.pre_tokenizer = by_bytes
    else:
        split = pre_tokenizers.Split(Regex(expression), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, by_bytes])
    if division == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(tokens[i], special=True) for i in (types == _CONTROL).nonzero()[0]])
    tokenizer.add_tokens([AddedToken(tokens[i]) for i in (types == _USER_DEFINED).nonzero()[0]])
    return tokenizer


def _of_folder(folder: Path, chat_template: str | None) -> Facts:
    from tokenizers import Tokenizer

    config = _json(folder / "config.json")
    defaults = _json(folder / "generation_config.json") if (folder / "generation_config.json").is_file() else {}
    settings = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    if not (folder / "tokenizer.json").is_file():
        raise LoadError(f"{folder.name} has no tokenizer.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    special = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ends = frozenset(_ids(config.get("eos_token_id")) + _ids(defaults.get("eos_token_id")))
    names = _names(settings)
    if chat_template is None:
        chat_template = _template_of(folder, settings)
    try:
        context = int(config["max_position_embeddings"])
        return Facts(config["model_type"], context, tokenizer, special, ends, chat_template, names)
    except KeyError as error:
        raise LoadError(f"{folder.name}/config.json has no {error.args[0]}") from error


def _template_of(folder: Path, settings: dict[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return _text(folder / "chat_template.jinja")
    template = settings.get("chat_template")
    if isinstance(template, list):  # of several, by name
        template = next((each["template"] for each in template if each["name"] == "default"), None)
    return template


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else value


def _names(settings: dict[str, Any]) -> dict[str, str]:
    return {name: _name(settings[name]) for name in ("bos_token", "eos_token") if settings.get(name)}


def _name(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(_text(path))
    except ValueError as error:
        raise LoadError(f"{path.name} is no JSON: {error}") from error
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error

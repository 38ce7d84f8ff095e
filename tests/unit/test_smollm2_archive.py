"""archives/smollm2 has greedy samples with golden answers for both versions, which differ in their chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest

from tsctl.config.archive import ArchiveSpec, read_archive_spec

FOLDER = Path(__file__).resolve().parents[2] / "archives" / "smollm2"


@pytest.fixture(scope="module")
def spec() -> ArchiveSpec:
    return read_archive_spec(FOLDER / "archive.yaml")


def golden(version: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "golden" / f"{version}.json").read_text())
    return content


def test_the_second_version_has_a_chat_template_of_its_own_and_else_the_same_limits(spec: ArchiveSpec) -> None:
    first, second = (spec.serving(version).generation for version in ("1.0", "2.0"))
    assert first is not None
    assert second is not None
    assert (first.chat_template, second.chat_template) == (None, "brief.jinja")
    assert first.model_copy(update={"chat_template": "brief.jinja"}) == second


def test_every_sample_is_greedy_and_has_a_golden_answer_in_each_version(spec: ArchiveSpec) -> None:
    samples = {path.name: json.loads(path.read_text()) for path in (FOLDER / "samples").iterdir()}
    assert all(sample["temperature"] == 0 for sample in samples.values())
    for version in spec.versions:
        answers = golden(version)
        assert answers.keys() == samples.keys()
        for name, answer in answers.items():
            for each in answer["answers"]:
                assert 0 < len(each["tokens"]) <= samples[name]["max_tokens"]
    chats = {name for name, sample in samples.items() if "messages" in sample}
    assert any(golden("1.0")[name] != golden("2.0")[name] for name in chats), "the template changes answers"
    assert all(golden("1.0")[name] == golden("2.0")[name] for name in samples.keys() - chats), "texts have no template"


@pytest.mark.parametrize("is_trimmed", [True, False], ids=["as Hugging Face renders", "as Jinja does"])
def test_the_template_asks_for_short_answers_unless_the_client_has_a_system_message(is_trimmed: bool) -> None:
    environment = jinja2.Environment(trim_blocks=is_trimmed, lstrip_blocks=is_trimmed)  # noqa: S701 - no HTML
    template = environment.from_string((FOLDER / "brief.jinja").read_text())

    def rendered(*messages: tuple[str, str]) -> str:
        sent = [{"role": role, "content": content} for role, content in messages]
        return template.render(messages=sent, add_generation_prompt=True)

    assert rendered(("user", "Hi")) == (
        "<|im_start|>system\nYou are SmolLM, a helpful assistant. Answer in one short sentence.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered(("system", "Rhyme."), ("user", "Hi")) == (
        "<|im_start|>system\nRhyme.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )

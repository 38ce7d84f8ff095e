"""The archive of sentence embeddings embeds texts in the sandbox, for comparisons of a language model's answers."""

from __future__ import annotations

import pytest

from tests.support.workers import CHECKOUT
from tsctl.archive.embedded import PIECE, embed
from tsctl.archive.store import find_archive
from tsctl.config.project import Project
from tsctl.errors import ArchiveError
from tsctl.shadow.comparators import cosine_of

PROJECT = Project(CHECKOUT)
LONG = "The river carries cold water from the mountains to the sea. " * 20


def test_texts_about_the_same_thing_have_vectors_that_point_the_same_way() -> None:
    texts = ["The capital of France is Paris.", "Paris.", "Paris is France's capital city.", "Bananas are yellow.",
             " \n", LONG, LONG + "Whales eat krill."]  # fmt: skip
    assert len(LONG) > PIECE
    capital, paris, again, bananas, nothing, river, whales = embed(find_archive(PROJECT, "embeddings", "1.0"), texts)
    assert len(capital) == 384
    assert cosine_of(capital, again) > 0.9
    assert cosine_of(capital, paris) > 0.6
    assert cosine_of(capital, bananas) < 0.3
    assert nothing == [0.0] * 384
    assert 0.9 < cosine_of(river, whales) < 0.9999, "the end of a long text counts too"
    assert cosine_of(river, river) == pytest.approx(1.0)


def test_a_model_that_embeds_nothing_is_refused() -> None:
    with pytest.raises(ArchiveError, match=r"digits 1\.0 answered \d+ to a text") as caught:
        embed(find_archive(PROJECT, "digits", "1.0"), ["a text"])
    assert caught.value.hint == "Name a model of sentence embeddings."

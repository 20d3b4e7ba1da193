"""Answers of language models, as they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.conditioning.entities import MAX_WORDS, detection_prompt, noun_phrases

ANSWERS = {
    "person, dog, red car": ("person", "dog", "red car"),
    "A person, the dog and a bicycle.": ("person", "dog", "bicycle"),
    "- Person\n- Dog\n* two birds": ("person", "dog", "birds"),
    "1. woman in coat\n2) child\n": ("woman in coat", "child"),
    '["person", "dog"]': ("person", "dog"),
    "<think>There is a man, maybe a cat.</think>man": ("man",),
    "<think>never ends, a cat": (),
    "Moving things: tram, cyclist": ("tram", "cyclist"),
    "**Person**, `dog`": ("person", "dog"),
    "None": (),
    "none.": (),
    "": (),
    "The picture shows a quiet room in which nothing at all could move by itself.": (),
    "person, Person, PERSON": ("person",),
    "hot-air balloon; child's kite": ("hot-air balloon", "child's kite"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers(answer: str) -> None:
    assert noun_phrases(answer, 8) == ANSWERS[answer]


def test_most_things() -> None:
    assert noun_phrases("a1, b2, c3, d4", 2) == ("a1", "b2")


@given(st.text(max_size=300))
def test_any_text_becomes_a_safe_prompt(answer: str) -> None:
    phrases = noun_phrases(answer, 6)
    assert len(phrases) == len(set(phrases)) <= 6
    for phrase in phrases:
        assert 0 < len(phrase.split()) <= MAX_WORDS
        assert not set(phrase) & set(",:()[]{}\n")
    prompt = detection_prompt(phrases, 4)
    assert prompt.count(":") == len(phrases)

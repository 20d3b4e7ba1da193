"""Noun phrases in a language model's answer, as prompts for open-vocabulary segmentation."""

from __future__ import annotations

import re
from typing import Final

MAX_WORDS: Final = 5
"""Words of a phrase; longer ones are sentences, not things."""

QUESTION: Final = (
    "List everything in these frames that moves or could move by itself: people, animals, "
    "vehicles, flags, water, smoke, shadows of moving things. Answer with short noun phrases "
    "separated by commas, without any other word. Answer none if nothing could move."
)
"""What a vision-language model is asked."""

_THOUGHT: Final = re.compile(r"<think>.*?(</think>|$)", re.DOTALL | re.IGNORECASE)
_SEPARATOR: Final = re.compile(r"[,;\n\r]|(?<=[^\W\d])\.\s|\band\b|\bor\b|[{}\[\]]", re.IGNORECASE)
_LEAD: Final = re.compile(r"^(?:[-*•#>\s]+|\(?\d+[.)]\s*|[\"'`]+)+")
_ARTICLE: Final = re.compile(r"^(?:an?|the|some|several|two|three|many)\s+", re.IGNORECASE)
_NOTHING: Final = {
    "none", "nothing", "no", "n a", "no entities", "no objects", "nothing moves",
    "no moving objects", "empty",
}  # fmt: skip


def noun_phrases(answer: str, limit: int) -> tuple[str, ...]:
    """The things that an answer names, in order, without repetition.

    Lists in prose, bullets, numbers, JSON or Markdown are understood, and the thoughts of a
    reasoning model are left out. Sentences are not things.

    Args:
        answer: What the model wrote.
        limit: Most phrases to keep.
    """
    found: list[str] = []
    text = _THOUGHT.sub(" ", answer)
    # What stands before a colon announces the list.
    text = re.sub(r"^[^:\n]{0,80}:\s", "", text.strip())
    for part in _SEPARATOR.split(text):
        phrase = _ARTICLE.sub("", _LEAD.sub("", part.strip())).strip(" .\"'`*:()!?").lower()
        phrase = re.sub(r"[^\w\s'-]", " ", phrase)
        words = phrase.split()
        phrase = " ".join(words)
        named = re.search(r"[^\W\d_]", phrase) and len(words) <= MAX_WORDS
        if named and phrase not in _NOTHING and phrase not in found:
            found.append(phrase)
    return tuple(found[:limit])


def detection_prompt(phrases: tuple[str, ...], per_phrase: int) -> str:
    """Phrases in ComfyUI's notation for SAM3: ``person: 4, dog: 4``.

    Args:
        phrases: Things to look for.
        per_phrase: Most instances of each.
    """
    return ", ".join(f"{phrase}: {per_phrase}" for phrase in phrases)

"""How questions of the demo world are worded: a template drawn at random, with its article put right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

__all__ = ["ask", "one_of", "pick", "spelling"]

Item = TypeVar("Item")


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of these texts."""
    return one_of(rng, options)


def one_of(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of these, each as likely as another."""
    return items[int(rng.integers(len(items)))]


def spelling(rng: np.random.Generator) -> str:
    """``colour`` or ``color``."""
    return pick(rng, ("colour", "color"))


def ask(rng: np.random.Generator, templates: Sequence[str], **parts: str) -> str:
    """A template with its parts filled in; "a apple" becomes "an apple"."""
    return _with_article(pick(rng, templates).format(**parts))


def _with_article(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiou])(?!unicorn)", r"\1n ", text)

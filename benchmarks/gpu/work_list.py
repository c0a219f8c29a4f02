"""Everything that ``python -m benchmarks.gpu`` is to measure: the rows of its tables."""

from __future__ import annotations

from benchmarks.capacity import first_batch

METHODS = ("trim", "focus", "cdpruner", "divprune", "scope", "dart-tower", "random")

WAITS = [(name, "21", batch) for batch in (1, 16) for name in METHODS]
WAITS += [("trim", "iqr", 1), ("trim", "iqr", 16)]
"""Method, budget, batch."""

CHOOSING = [(name, tokens, batch) for tokens in (576, 2880) for batch in (1, 8, 32) for name in METHODS]
"""Method, image tokens, batch."""

SHAPES = [
    *[("llava-1.5-7b", "trim", batch, new) for batch in (1, 8, 32) for new in (5, 128)],
    ("llava-next-7b", "random", 1, 5),
    ("llava-next-7b", "trim", 1, 5),
    ("llava-next-7b", "random", 8, 5),
]
"""Shape, method, batch, new tokens."""

COMPILED = [(batch, tokens) for batch in (1, 8, 32) for tokens in (576, 121)]
"""Batch, image tokens."""

CLAIM = [
    (shape, "trim", batch, 5)
    for shape in ("llava-1.5-7b", "llava-1.5-13b")
    for batch in (1, first_batch(shape, 121, 5) or 1)
]
"""Shape, method, batch, new tokens."""

"""Everything that ``python -m benchmarks.gpu`` is to measure: the rows of its tables."""

from __future__ import annotations

from benchmarks.capacity import first_batch

METHODS = ("trim", "focus", "cdpruner", "divprune", "scope", "dart-tower", "random")

KERNELS = [
    (loop, side * side, images)
    for side in (24, 53)
    for images in (1, 8)
    for loop in ("relevant_and_new", "largest_volume")
]
"""Loop of trimkit.core.greedy, image tokens, images."""

ADDED_METHODS = ("trim", "focus", "cdpruner", "divprune", "random")

ADDED = [(name, batch) for batch in (1, 8) for name in ADDED_METHODS]
"""Method, batch."""

WAITS = [(name, "21", batch) for batch in (1, 16) for name in METHODS]
WAITS += [("trim", "iqr", 1), ("trim", "iqr", 16)]
"""Method, budget, batch."""

CHOOSING = [(name, tokens, batch) for tokens in (576, 2880) for batch in (1, 8, 32) for name in METHODS]
"""Method, image tokens, batch."""

_NEXT = "llava-next-7b"
SHAPE_RUNS = [
    *[("llava-1.5-7b", batch, 5, ("trim",), 20) for batch in (8, 1, 32)],
    (_NEXT, 1, 5, ("random", "trim", "focus"), 25),
    (_NEXT, 8, 5, ("random",), 25),
    *[("llava-1.5-7b", batch, 128, ("trim",), 45) for batch in (8, 1, 32)],
]
"""Shape, batch, new tokens, methods, and seconds that it needs; those that matter most first."""

SHAPES = sorted((shape, name, batch, new) for shape, batch, new, names, _ in SHAPE_RUNS for name in names)
"""Shape, method, batch, new tokens."""

COMPILED = [(batch, tokens) for batch in (1, 8, 32) for tokens in (576, 121)]
"""Batch, image tokens."""

_CLAIMED = (first_batch("llava-1.5-7b", 121, 5) or 1, first_batch("llava-1.5-13b", 121, 5) or 1)
CLAIM_RUNS = [
    ("llava-1.5-7b", 128, 5, 35),
    ("llava-1.5-7b", 64, 5, 25),
    ("llava-1.5-7b", _CLAIMED[0], 5, 20),
    ("llava-1.5-13b", _CLAIMED[1], 5, 30),
    ("llava-1.5-7b", 1, 5, 10),
    ("llava-1.5-13b", 1, 5, 15),
]
"""Shape, batch, new tokens, and seconds that it needs; the batches from which the formula has 30 % less memory among them."""

CLAIM = sorted((shape, "trim", batch, new) for shape, batch, new, _ in CLAIM_RUNS)
"""Shape, method, batch, new tokens."""

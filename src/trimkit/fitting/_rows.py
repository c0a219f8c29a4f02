"""Which rows of the language model's attention a scorer could be fitted to: sets that keep its answer, if they are known.

A row is a side (0 the question, 1 the answer) and a layer. What ranks best when it is known may be what nobody can predict
without the answer, so that more than one set is named: a short training of each says which can be learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from trimkit.core.types import ImageTokens
from trimkit.fitting._divergence import Reader
from trimkit.fitting._guard import guard_method
from trimkit.fitting._records import PairRecord
from trimkit.fitting._settings import BUDGETS
from trimkit.fitting._targets import Row, attention_target

__all__ = ["MOST_SETS", "row_prompts", "row_sets", "set_name"]

_MOST_ROWS = 4  # whose attention is averaged
_CANDIDATES = 16  # the best alone, among which others are looked for
_LATER = 6  # of those, the best with the rows before, among which a third and a fourth are looked for
_PARTNERS = 3  # of the first row, each of which makes a set
MOST_SETS = _MOST_ROWS + _PARTNERS - 1


def row_sets(reader: Reader, pairs: Sequence[tuple[int, int]], advance: Callable[[int], None]) -> list[list[Row]]:
    """Sets of one to four rows whose mean leaves the model's answer near, if it is known; six at most.

    First the row whose highest tokens do, kept by ``focus``; then, up to four, the one that brings the mean nearest together
    with those before, as long as one does. Each of these steps is a set, and so is the first row with its second and third
    best partner. Sides and layers look at different things: some at all that is named, some at what is answered, so that the
    best few alone can be worse than few that complete each other.

    Args:
        reader: asks the model.
        pairs: to compare on.
        advance: called with the number of prompts done.
    """
    first = reader.store.get(pairs[0][0]).pairs[pairs[0][1]].attention
    rows = [(side, layer) for side in range(2) for layer in range(first.shape[1])]
    method = guard_method(BUDGETS[-1])

    def far(chosen: list[Row]) -> float:
        def rank(images: Sequence[ImageTokens], questions: Sequence[PairRecord]) -> list[Tensor]:
            return [attention_target(each, chosen).clamp(min=1e-9).log() for each in questions]

        found = float(reader.measure(pairs, rank, method)[0].mean())
        advance(len(pairs))
        return found

    alone = {row: far([row]) for row in rows}
    left = sorted(rows, key=lambda row: alone[row])[:_CANDIDATES]
    path = [left.pop(0)]
    sets, lowest = [[*path]], alone[path[0]]
    while left and len(path) < _MOST_ROWS:
        tried = {row: far([*path, row]) for row in left}
        better = sorted((row for row in left if tried[row] < lowest), key=lambda row: tried[row])
        if not better:
            break
        sets += [[*path, row] for row in better[: _PARTNERS if len(path) == 1 else 1]]
        path.append(better[0])
        lowest = tried[better[0]]
        left = sorted(left, key=lambda row: tried[row])[1 : 1 + _LATER]
    return [sorted(each) for each in sets]


def row_prompts(layers: int, pairs: int) -> int:
    """How many prompts ``row_sets`` asks at most, of a model of so many layers."""
    rows = 2 * layers
    left = min(rows, _CANDIDATES)
    later = sum(max(min(left - 2, _LATER) - taken, 0) for taken in range(_MOST_ROWS - 2))
    return pairs * (rows + max(left - 1, 0) + later)


def set_name(rows: Sequence[Row]) -> str:
    """``question 0 + answer 1``, as reports say it."""
    return " + ".join(f"{('question', 'answer')[side]} {layer}" for side, layer in rows)

"""Which patches a method keeps, as tensor operations over a batch of any size: what an exported graph can hold.

A method's own ``choose`` looks at one picture at a time and steps through Python. Here the same rule runs over all pictures of
a batch at once, and a greedy choice is one loop. ``tests/unit/test_engine_choices.py`` compares the choices with the methods'
own. Features are taken to be finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trimkit.core.types import EncoderProfile, TokenBatch
from trimkit.core.worth import MOST_COVERAGE, NOISE, PEAK, VAGUENESS_POWER, by_line, is_page, two_views
from trimkit.engines._greedy import determinant, farthest, relevant_then_new
from trimkit.errors import UnsupportedError
from trimkit.methods import Method
from trimkit.methods.focus import Focus
from trimkit.methods.trim import Trim

__all__ = ["Choice", "choice_of", "refuse_method"]


@dataclass(frozen=True)
class Choice:
    """A method's choice among the N tokens of a picture.

    Attributes:
        method: what chooses.
        count: k, patches that are kept of every picture.
        aggregated: whether the mean of the others is one more token.
        projects: whether tokens are compared behind the projector, of which ``choose`` is then given all.
        choose: features ``[B, N, D]``, raw relevance ``[B, N]`` (None where no text is read) and tokens behind the projector
            ``[B, N, H]`` (None where they are not compared) to indices ``[B, k]`` int64, ascending.
    """

    method: Method
    count: int
    aggregated: bool
    projects: bool
    choose: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def choice_of(method: Method, total: int, grid: tuple[int, int] | None, profile: EncoderProfile) -> Choice:
    """The choice of ``method`` among ``total`` tokens on ``grid``.

    Raises:
        UnsupportedError: see ``refuse_method``.
    """
    refuse_method(method)
    kept = method.select(_blank(total, grid, profile))[0]  # with a fixed budget the number is the same for any picture
    count = len(kept.indices)
    rule = _RULES[method.name]

    def choose(features: Tensor, relevance: Tensor | None, projected: Tensor | None = None) -> Tensor:
        if count == total or rule is None:
            return kept.indices.expand(features.shape[0], -1).clone()
        mask = torch.ones_like(features[..., 0], dtype=torch.bool)
        batch = TokenBatch(features, mask, relevance, profile, grids=(grid,), keys=())
        return rule(method, batch, features if projected is None else projected, count).sort(dim=1).values

    return Choice(method, count, kept.aggregated, "projected" in method.asked_signals, choose)


def refuse_method(method: Method) -> None:
    """Refuse what no graph is written for.

    Raises:
        UnsupportedError: the method, a budget that decides per image, or an option.
    """
    if method.name not in _RULES:
        raise UnsupportedError(
            f"method {method.name!r} cannot be exported to ONNX: its choice is not written as a graph; export one of "
            f"{', '.join(_RULES)}"
        )
    if method.budget.kind not in ("ratio", "count"):
        raise UnsupportedError(
            f"budget {str(method.budget)!r} keeps another number of tokens of each picture, and a graph's outputs have one "
            "shape: give a number such as 121, or a fraction such as 0.2"
        )
    if method.aggregate == "weighted" or method.share == "prompt":
        option = "aggregate='weighted'" if method.aggregate == "weighted" else "share='prompt'"
        raise UnsupportedError(f"{option} cannot be exported to ONNX: leave it out")


def _blank(total: int, grid: tuple[int, int] | None, profile: EncoderProfile) -> TokenBatch:
    features = torch.rand(1, total, 4, generator=torch.Generator().manual_seed(0))
    return TokenBatch(
        features=features,
        mask=torch.ones(1, total, dtype=torch.bool),
        relevance=torch.linspace(0.0, 1.0, total).unsqueeze(0),
        profile=profile,
        grids=(grid,),
        keys=("",),
        signals={"projected": (features[0],)},
    )


def _highest(method: Method, batch: TokenBatch, tokens: Tensor, count: int) -> Tensor:
    """The highest scores; of equal ones the first, which ONNX's TopK takes and torch's may not."""
    if isinstance(method, Trim) and method.score == "similarity":
        signed = _signed(method, batch)
        return (signed - signed.amin(dim=1, keepdim=True)).topk(count, dim=1).indices
    return method.scores(batch).topk(count, dim=1).indices


def _focus(method: Method, batch: TokenBatch, tokens: Tensor, count: int) -> Tensor:
    if not isinstance(method, Focus):
        raise TypeError(method)
    signed = _signed(method, batch).double()
    worth, vague, grid = two_views(Trim.scores(method, batch).double(), signed), _vagueness(signed), batch.grids[0]
    coverage = (vague**VAGUENESS_POWER).clamp(max=MOST_COVERAGE)
    if method.lines == "auto" and grid is not None and grid[0] * grid[1] == worth.shape[1]:
        page = is_page(batch.features, vague)
        worth = torch.where(page.unsqueeze(1), by_line(signed, grid), worth)
        coverage = torch.where(page, 0.0, coverage)
    if method.coverage != "auto":
        coverage = torch.full_like(coverage, method.coverage)
    relevant = count - (coverage * count).floor()
    return relevant_then_new(worth, tokens.double(), count, method.redundancy, relevant)


def _cdpruner(method: Method, batch: TokenBatch, tokens: Tensor, count: int) -> Tensor:
    signed = _signed(method, batch)
    low, high = signed.amin(dim=1, keepdim=True), signed.amax(dim=1, keepdim=True)
    quality = torch.where(high == low, 1.0, (signed - low + 1e-6) / torch.where(high == low, 1.0, high - low))
    return determinant(quality.double(), tokens.double(), count)


def _divprune(method: Method, batch: TokenBatch, tokens: Tensor, count: int) -> Tensor:
    return farthest(tokens, count)


def _signed(method: Method, batch: TokenBatch) -> Tensor:
    """``[B, N]`` relevance, higher = more relevant."""
    found = method.signed_relevance(batch)
    if found is None:
        raise UnsupportedError(f"method {method.name!r} needs text relevance: export it with a text tower")
    return found


def _vagueness(relevance: Tensor) -> Tensor:
    """``[B]`` of ``[B, N]``; see ``trimkit.core.worth.vagueness``."""
    ordered = relevance.sort(dim=1).values
    low, middle, high = (_quantile(ordered, q) for q in (0.25, 0.5, 0.75))
    most = max(int(PEAK * relevance.shape[1]), 1)
    peak = ordered.flip(1)[:, :most].mean(dim=1) - middle
    vague = (NOISE * (high - low) / torch.where(peak > 0, peak, 1.0)).clamp(max=1.0)
    return torch.where((peak > 0) & (ordered[:, -1] != ordered[:, 0]), vague, 1.0)


def _quantile(ordered: Tensor, q: float) -> Tensor:
    """``[B]``, by linear interpolation in ascending rows, rounded as ``torch.quantile`` rounds."""
    lower = int(q * (ordered.shape[1] - 1))
    share = q * (ordered.shape[1] - 1) - lower
    one, two = ordered[:, lower], ordered[:, min(lower + 1, ordered.shape[1] - 1)]
    return one + share * (two - one) if share < 0.5 else two - (two - one) * (1.0 - share)


Rule = Callable[[Method, TokenBatch, Tensor, int], Tensor]

_RULES: dict[str, Rule | None] = {  # None: the same patches of every picture
    "trim": _highest,
    "trim-paper": _highest,
    "focus": _focus,
    "cdpruner": _cdpruner,
    "divprune": _divprune,
    "l2-norm": _highest,
    "uniform": None,
}

"""Greedy choices over a batch at once, k turns each: the rules of ``focus``, ``cdpruner`` and ``divprune``.

Shapes: B pictures, N patches, D feature width; indices come as ``[B, k]`` int64 in the order of choice. What is as good as
another goes to the lower index. Features are taken to be finite; dtypes are those of the methods' own code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimkit.engines._loops import State, at, put, repeat

__all__ = ["determinant", "farthest", "relevant_then_new"]

_LEAST_NOVELTY = 1e-4  # as in methods/focus.py


def relevant_then_new(worth: Tensor, features: Tensor, count: int, redundancy: float, relevant: Tensor) -> Tensor:
    """The rule of ``focus``: by worth x novelty ** redundancy for ``relevant`` turns, then by novelty.

    Args:
        worth: ``[B, N]``, not negative.
        features: ``[B, N, D]``.
        count: k.
        redundancy: power of the novelty.
        relevant: ``[B]`` turns in which worth counts.
    """
    unit = torch.nn.functional.normalize(features, dim=-1)
    gram = unit @ unit.transpose(1, 2)

    def step(turn: Tensor, state: State) -> State:
        picked, novelty, left, factor = state
        new = torch.where(left, novelty, 0.0).clamp(min=_LEAST_NOVELTY)
        weighed = worth * new if redundancy == 1.0 else worth * new**redundancy
        alone = torch.where(new.amax(dim=1, keepdim=True) > _LEAST_NOVELTY, new, worth)
        gains = torch.where((turn < relevant).unsqueeze(1), weighed, alone)
        best = torch.where(left, gains, -1.0).argmax(dim=1)
        here = at(novelty.unsqueeze(1), best)
        row = _without(at(gram, best), factor, best)
        row = torch.where(here > _LEAST_NOVELTY**2, row / here.clamp(min=1e-12).sqrt(), 0.0)
        return put(picked, turn, best), novelty - row.square(), _taken(left, best), put(factor, turn, row)

    start = (_none_yet(worth, count), _lengths(unit), worth > -1.0, _empty_factor(worth, count))
    return repeat(step, start, count)[0]


def determinant(quality: Tensor, features: Tensor, count: int) -> Tensor:
    """The rule of ``cdpruner`` over the cosines of ``features`` ``[B, N, D]``, ``quality`` ``[B, N]``."""
    unit = torch.nn.functional.normalize(features, dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    whole = quality.square() * _lengths(unit)
    floor = 1e-9 * whole.amax(dim=1, keepdim=True)

    def step(turn: Tensor, state: State) -> State:
        picked, gains, left, factor = state
        volume = torch.where(left & (gains > floor), gains, -1.0)
        alone = torch.where(left, quality, -1.0).argmax(dim=1)
        best = torch.where(volume.amax(dim=1) > 0, volume.argmax(dim=1), alone)
        here = at(gains.unsqueeze(1), best)
        row = _without(at(quality.unsqueeze(1), best) * at(similarity, best) * quality, factor, best)
        row = torch.where(here > floor, row / torch.where(here > floor, here, 1.0).sqrt(), 0.0)
        return put(picked, turn, best), gains - row.square(), _taken(left, best), put(factor, turn, row)

    start = (_none_yet(quality, count), whole, quality > -1.0, _empty_factor(quality, count))
    return repeat(step, start, count)[0]


def farthest(features: Tensor, count: int) -> Tensor:
    """The rule of ``divprune``: always the patch that is farthest from all that are kept."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    distances = 1.0 - unit @ unit.transpose(1, 2)
    itself = torch.eye(distances.shape[1], dtype=torch.bool)
    first = torch.where(itself, torch.inf, distances).amin(dim=2)

    def step(turn: Tensor, state: State) -> State:
        picked, nearest, left = state
        best = torch.where(left, nearest, -torch.inf).argmax(dim=1)
        seen = at(distances, best)
        nearest = torch.where(turn == 0, seen, torch.minimum(nearest, seen))
        return put(picked, turn, best), nearest, _taken(left, best)

    return repeat(step, (_none_yet(first, count), first, first > -1.0), count)[0]


def _lengths(unit: Tensor) -> Tensor:
    """``[B, N]`` 1, or 0 where a feature is 0: rounding must not rank equal patches."""
    squared = unit.square().sum(dim=2)
    return torch.where(squared > 0.5, 1.0, squared)


def _without(row: Tensor, factor: Tensor, best: Tensor) -> Tensor:
    """``[B, N]`` less what the chosen ones explain of it."""
    return row - (at(factor, best).unsqueeze(2) * factor).sum(dim=1)


def _taken(left: Tensor, best: Tensor) -> Tensor:
    return left & (torch.arange(left.shape[1]) != best.unsqueeze(1))


def _none_yet(like: Tensor, count: int) -> Tensor:
    return torch.zeros_like(like[:, :1], dtype=torch.int64).repeat(1, count)


def _empty_factor(like: Tensor, count: int) -> Tensor:
    return torch.zeros_like(like).unsqueeze(1).repeat(1, count, 1)

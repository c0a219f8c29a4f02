"""Greedy choices over a batch at once, k turns each: the rules of ``focus``, ``cdpruner`` and ``divprune``.

What is new of a patch is measured on what is left of its feature, from which every choice is projected out. A Cholesky factor,
as the methods' own code has it, needs fewer operations, but float64: in an engine without it, such as OpenVINO, its rounding
turns choices.

Shapes: B pictures, N patches, D feature width; indices come as ``[B, k]`` int64 in the order of choice. What is as good as
another goes to the lower index. Features are taken to be finite; dtypes are those of the methods' own code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trimkit.engines._loops import State, at, put, repeat

__all__ = ["determinant", "farthest", "relevant_then_new"]

_LEAST_NOVELTY = 1e-4  # as in core/_greedy_host.py


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

    def best_of(turn: Tensor, novelty: Tensor, left: Tensor) -> Tensor:
        new = torch.where(left, novelty, 0.0).clamp(min=_LEAST_NOVELTY)
        weighed = worth * new if redundancy == 1.0 else worth * new**redundancy
        alone = torch.where(new.amax(dim=1, keepdim=True) > _LEAST_NOVELTY, new, worth)
        gains = torch.where((turn < relevant).unsqueeze(1), weighed, alone)
        return torch.where(left, gains, -1.0).argmax(dim=1)

    return _projected_out(
        unit, torch.ones_like(worth), best_of, torch.full_like(worth[:, :1], _LEAST_NOVELTY**2), count
    )


def determinant(quality: Tensor, features: Tensor, count: int) -> Tensor:
    """The rule of ``cdpruner`` over the cosines of ``features`` ``[B, N, D]``, ``quality`` ``[B, N]``."""
    unit = torch.nn.functional.normalize(features, dim=-1)
    whole = quality.square() * _lengths(unit)
    floor = 1e-9 * whole.amax(dim=1, keepdim=True)

    def best_of(turn: Tensor, gains: Tensor, left: Tensor) -> Tensor:
        volume = torch.where(left & (gains > floor), gains, -1.0)
        alone = torch.where(left, quality, -1.0).argmax(dim=1)
        return torch.where(volume.amax(dim=1) > 0, volume.argmax(dim=1), alone)

    return _projected_out(unit, quality.square(), best_of, floor, count)


def _projected_out(
    unit: Tensor, scale: Tensor, best_of: Callable[[Tensor, Tensor, Tensor], Tensor], floor: Tensor, count: int
) -> Tensor:
    """What ``best_of`` chooses turn by turn; it is given the turn, the variances and which are left.

    Args:
        unit: ``[B, N, D]`` features of length 1, or 0.
        scale: ``[B, N]`` variance of a patch of which all is new.
        best_of: gives ``[B]``.
        floor: ``[B, 1]``, variance at and below which a choice explains nothing.
        count: k.
    """

    def step(turn: Tensor, state: State) -> State:
        picked, variance, left, rest = state
        best = best_of(turn, variance, left)
        chosen = rest.gather(1, best[:, None, None].expand(-1, 1, rest.shape[2]))
        chosen = torch.nn.functional.normalize(chosen, dim=2) * (at(variance.unsqueeze(1), best) > floor).unsqueeze(2)
        rest = rest - (rest @ chosen.transpose(1, 2)) * chosen
        return put(picked, turn, best), scale * rest.square().sum(dim=2), _taken(left, best), rest

    start = (_none_yet(scale, count), scale * _lengths(unit), scale > -1.0, unit)
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


def _taken(left: Tensor, best: Tensor) -> Tensor:
    return left & (torch.arange(left.shape[1]) != best.unsqueeze(1))


def _none_yet(like: Tensor, count: int) -> Tensor:
    return torch.zeros_like(like[:, :1], dtype=torch.int64).repeat(1, count)

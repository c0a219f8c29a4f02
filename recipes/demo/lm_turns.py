"""Conversations for training: several of a scene's questions one after another, as the chat template joins turns."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from recipes.demo.lm_data import Cache
from recipes.demo.lm_forward import Blocks
from recipes.demo.shapes import EOS, PAD, build_tokenizer

TURNS = (2, 3)  # questions in a conversation


def conversations(cache: Cache, scenes: np.ndarray, count: int, rng: np.random.Generator) -> tuple[Blocks, Tensor]:
    """`count` conversations a scene, each ending with the question to answer; and which question that is, [b, count]."""
    each, last = [], np.zeros((len(scenes), count), np.int64)
    for row, scene in enumerate(scenes.tolist()):
        for column in range(count):
            asked = rng.choice(cache.ids.shape[1], size=int(rng.integers(TURNS[0], TURNS[1] + 1)), replace=False)
            each.append(_joined([_turn(cache, scene, int(number)) for number in asked]))
            last[row, column] = int(asked[-1])
    width = max(map(len, each))
    ids = torch.tensor([[*tokens, *[PAD] * (width - len(tokens))] for tokens in each])
    read = torch.tensor([len(tokens) - 3 for tokens in each])
    return Blocks(ids.view(*last.shape, -1), read.view(last.shape)), torch.from_numpy(last)


def _turn(cache: Cache, scene: int, number: int) -> list[int]:
    """The block of one question up to its answer."""
    tokens: list[int] = cache.ids[scene, number, : int(cache.read[scene, number]) + 2].tolist()
    return tokens


def _joined(turns: list[list[int]]) -> list[int]:
    user = _ids(" USER:")
    tokens = list(turns[0])
    for turn in turns[1:]:  # only the first starts with a new line, which follows the image
        tokens += [*user, *_spaced(turn[1]), *turn[2:]]
    return [*tokens, EOS]


@lru_cache(maxsize=1)
def _tokenizer():  # type: ignore[no-untyped-def]
    return build_tokenizer(eos=False, max_length=2048)


@lru_cache(maxsize=4096)
def _ids(text: str) -> tuple[int, ...]:
    return tuple(_tokenizer()(text, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=4096)
def _spaced(token: int) -> tuple[int, ...]:
    """The token with a space before it."""
    return _ids(" " + _tokenizer().decode([token]))

"""What a question's and an answer's tokens attend to among the image tokens, layer by layer, while the model generates.

Attention is run ``eager`` meanwhile, which is the one implementation that hands its weights out. Each layer's weights are
reduced to two rows an image as soon as they are there, so that no more than one layer's are in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trimkit.errors import UnsupportedError

__all__ = ["AttentionRead", "decoder_layers", "reading_attention"]


@dataclass
class AttentionRead:
    """Sums over the tokens that looked, mean over heads.

    Attributes:
        columns: ``[B, N]`` where the image tokens stand in the prompts.
        length: L, columns of the prompts.
        question, answer: by layer, ``[B, N]``: what the tokens behind the image but the last, and what the last and those of
            the answer attended to.
        ends: ``[B]`` tokens of each answer; what is generated behind its end counts for nothing.
    """

    columns: Tensor
    length: int
    question: dict[int, Tensor] = field(default_factory=dict)
    answer: dict[int, list[Tensor]] = field(default_factory=dict)

    def take(self, layer: int, weights: Tensor) -> None:
        """``weights`` ``[B, heads, Q, K]`` of one call of a layer."""
        columns = self.columns.to(weights.device)
        mean = weights.float().mean(dim=1)  # [B, Q, K]
        seen = mean.gather(2, columns.unsqueeze(1).expand(-1, mean.shape[1], -1))
        if weights.shape[2] > 1:
            first = int(columns.max()) + 1  # left-padded prompts end together, but may begin apart
            self.question[layer] = seen[:, first:-1].mean(dim=1) if first < seen.shape[1] - 1 else seen[:, -1]
        self.answer.setdefault(layer, []).append(seen[:, -1])

    def rows(self, number: int, tokens: int) -> Tensor:
        """``[2, layers, N]`` float32 of one prompt: the question's, and that of ``tokens`` tokens of the answer."""
        layers = sorted(self.question)
        asked = torch.stack([self.question[layer][number] for layer in layers])
        said = [torch.stack(self.answer[layer][:tokens])[:, number].mean(dim=0) for layer in layers]
        return torch.stack([asked, torch.stack(said)]).cpu()


def decoder_layers(model: Any) -> list[Any]:
    """The layers of the language model.

    Raises:
        UnsupportedError: it is not a row of layers with ``self_attn``.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    layers = list(getattr(decoder, "layers", ()))
    if not layers or not all(hasattr(layer, "self_attn") for layer in layers):
        raise UnsupportedError(
            f"the language model of {type(model).__name__} is not a row of layers with attention: a scorer is fitted to what "
            "those attend to"
        )
    return layers


@contextlib.contextmanager
def reading_attention(model: Any, columns: Tensor, length: int) -> Iterator[AttentionRead]:
    """Read within; afterwards the model is as it was."""
    layers = decoder_layers(model)
    read = AttentionRead(columns, length)
    config = model.get_decoder().config
    before = config._attn_implementation
    handles = [layer.self_attn.register_forward_hook(_hook(read, number)) for number, layer in enumerate(layers)]
    try:
        config._attn_implementation = "eager"
        yield read
    finally:
        config._attn_implementation = before
        for handle in handles:
            handle.remove()


def _hook(read: AttentionRead, number: int) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> Any:
        if not isinstance(output, tuple) or len(output) < 2 or output[1] is None:
            raise UnsupportedError(f"{type(module).__name__} does not hand out its attention weights")
        read.take(number, output[1])
        return (output[0], None, *output[2:])

    return hook

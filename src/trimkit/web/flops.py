"""FLOPs of an answer by formula, from what the layers of the language model really saw of the prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from trimkit.bench.formula import Sizes, flops, sizes_of
from trimkit.bench.plan import planned
from trimkit.methods import Method

__all__ = ["answer_flops", "prefill_lengths"]


@contextlib.contextmanager
def prefill_lengths(model: Any) -> Iterator[list[int]]:
    """Within, the length of the prompt in each layer of the language model, in their order, of one call."""
    lengths: list[int] = []
    layers = list(getattr(model.get_decoder(), "layers", ()))

    def note(_: Any, given: Any, named: dict[str, Any]) -> None:
        if len(lengths) < len(layers):
            state = next((each for each in (*given, *named.values()) if isinstance(each, Tensor)), None)
            lengths.append(0 if state is None else int(state.shape[1]))

    hooks = [getattr(each, "self_attn", each).register_forward_pre_hook(note, with_kwargs=True) for each in layers]
    try:
        yield lengths
    finally:
        for hook in hooks:
            hook.remove()


def answer_flops(
    model: Any, method: Method | None, words: int, kept: int, lengths: list[int], new_tokens: int
) -> int | None:
    """FLOPs from pixels to the last token; None where no formula covers the architecture, or the method's way in the tower.

    Args:
        model: what answered.
        method: how tokens were dropped; None for the full model.
        words: tokens of the prompt beside its picture.
        kept: image tokens that the language model was given in the end.
        lengths: of the prompt in each of its layers.
        new_tokens: that were generated.
    """
    sizes = _sizes(model)
    if sizes is None or (method is not None and method.tower_plan is not None):
        return None
    reads = method is not None and method.uses_text
    work = planned(
        sizes,
        1,
        kept,
        words,
        max(new_tokens, 1),
        texts=(words,) if reads else (),
        projected=None if method is None or method.prunes_llm else kept,
        tower_layers=sizes.vision.layers - int(method is not None),  # the last one is not used, and not run
    )
    if len(lengths) == sizes.language.layers and all(lengths):
        work = replace(work, prefill=tuple(lengths))
    return sum(flops(sizes, work).values())


def _sizes(model: Any) -> Sizes | None:
    """Of LLaVA-1.5 by its config. Other kinds need the size of each picture and the scorer's own tower: no figure is given."""
    folder = Path(str(getattr(model.config, "_name_or_path", "")))
    return sizes_of(model.config, _text_config(folder))


def _text_config(folder: Path) -> Any:
    """Of the CLIP in the checkpoint's directory, which reads the question."""
    from transformers import AutoConfig

    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        if (folder / "clip").is_dir():
            return AutoConfig.from_pretrained(str(folder / "clip"), local_files_only=True).text_config
    return None

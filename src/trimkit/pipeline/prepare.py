"""The pipeline as functions: reduce a request without running it, or choose among features that somebody else computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.core.types import EncoderProfile, ImageTokens, Selection
from trimkit.errors import ConfigError, InputError
from trimkit.methods import Method, get_method
from trimkit.pipeline.call_settings import CallSettings, refuse_llm_stage
from trimkit.pipeline.input_reducer import InputReducer
from trimkit.pipeline.reduced_inputs import ReducedInputs
from trimkit.pipeline.selecting import relevance_of, select_tokens
from trimkit.pipeline.stage_clock import StageClock
from trimkit.scorers import Scorer

__all__ = ["choose", "prepare"]


def prepare(
    model: Any,
    processor: Any,
    inputs: Any,
    *,
    query: str | Sequence[str] | None = None,
    method: str | Method = "trim",
    scorer: Scorer | nn.Module | str | Path | None = None,
    generating: bool = True,
    **options: Any,
) -> ReducedInputs:
    """What a stock ``generate`` or ``forward`` would be given, without calling it and without attaching the model.

    ``model.generate(**trimkit.prepare(model, processor, inputs).inputs)`` answers as an attached model does; what it returns
    begins with the shortened prompt. With beams, ``generate`` changes the encoded images it is given: read ``.inputs`` anew
    for every call. With M-RoPE, ``rope_deltas`` is set on the model, as the stock call would set it.

    Args:
        model: a transformers vision-language model.
        processor: its processor; reads the question from the prompt.
        inputs: what the stock call would be given, on the model's device: ``input_ids`` ``[B, L]``, pixels and the rest.
        query: the question (one for all rows, or one a row); by default the last user turn of each prompt.
        method, scorer: as ``trimkit.reduce`` takes them.
        generating: for ``generate``: rows are padded on the left. False for a direct ``forward``.
        **options: the other options of ``trimkit.reduce`` about how a call is reduced (``positions``, ``cache_images``,
            ``pad_to_multiple_of`` ...), and fields of the method.

    Returns:
        Shortened inputs, and for every image its reduced features, indices and positions. Gradients reach the pixels where
        they are on.

    Raises:
        InputError: there are no ``input_ids``, or they do not match the pictures.
        ConfigError, UnsupportedError: as ``trimkit.reduce`` raises them, and for a method that drops tokens inside the
            language model, which no inputs can express.
    """
    given = dict(inputs)
    if not isinstance(given.get("input_ids"), Tensor) or given.get("inputs_embeds") is not None:
        raise InputError("prepare finds the image tokens in input_ids: pass them, without inputs_embeds")
    settings = CallSettings.taken_from(options)
    reducer = InputReducer(model, processor, method, scorer, settings, options)
    refuse_llm_stage(reducer.method)
    return reducer.reduce(given, query, StageClock(model.device), generating=generating)


def choose(
    features: Tensor | ImageTokens,
    query: str | None = None,
    method: str | Method = "trim",
    scorer: Scorer | None = None,
    **options: Any,
) -> Selection:
    """Choose among the tokens of one image whose features somebody else has computed, for example a serving engine.

    Args:
        features: ``[N, D]`` float, what the scorer reads and methods compare (for TRIM on LLaVA-1.5 the projector's input);
            or ``ImageTokens``, which can hold the token grid and the signals of the vision tower as well.
        query: the question; needed where the method reads the text.
        method: a name or a ``Method``.
        scorer: where text relevance comes from; needed likewise. For example a ``ClipNativeScorer``.
        **options: fields of the method.

    Returns:
        What to keep. ``trimkit.reduced_features`` applies it to features.

    Raises:
        ConfigError: the method needs a scorer, a question or signals that are not given, or chooses inside the language model.
        InputError: the features are no matrix.
    """
    image = features if isinstance(features, ImageTokens) else ImageTokens(features)
    if image.features.ndim != 2:
        raise InputError(f"features have shape {list(image.features.shape)}: pass [tokens, width] of one image")
    chosen = get_method(method, **options)
    refuse_llm_stage(chosen)
    _refuse_missing_signals(chosen, image)
    relevance = relevance_of([image], [query], chosen, scorer)
    profile = chosen.profile or (scorer.profile if scorer is not None else EncoderProfile())
    with torch.no_grad():
        return select_tokens([image], relevance, [query], chosen, profile)[0]


def _refuse_missing_signals(method: Method, image: ImageTokens) -> None:
    missing = [name for name in sorted(method.asked_signals) if image.signal(name) is None]
    if missing:
        other = ", or compare='features'" if missing == ["projected"] and hasattr(method, "compare") else ""
        raise ConfigError(
            f"method {method.name!r} needs {' and '.join(missing)} beside the features: pass ImageTokens that hold them{other}"
        )

"""Does prefill time fall as the FLOPs do? One question about one picture, full and reduced in turn, on random weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from trimkit._provenance import hardware, versions
from trimkit.bench._random_llava import build_inputs, build_llava, build_scorer, shape_of
from trimkit.errors import ConfigError
from trimkit.integrations.transformers import Attachment, reduce

__all__ = ["bench"]

_SHARE = 0.21  # of the image tokens stays by default: 121 of 576, the paper's mean on LLaVA-1.5
_QUESTION = "What is the colour of the car to the left of the two people who wait at the bus stop in the rain?"

Run = Callable[[], object]


@torch.no_grad()
def bench(
    shape: str = "clip-l-336",
    *,
    keep: int | None = None,
    text_tokens: int = 40,
    repeats: int = 9,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Time and count FLOPs of the same two calls, full and reduced; on the CPU, in float32.

    ``prefill`` is the language model's forward pass over image and text tokens, with a cache, up to the first logits.
    ``whole`` is one ``generate`` call for one new token: the stock model's, and with TRIM attached (vision tower, question,
    selection, projector, prefill; nothing cached).

    Args:
        shape: ``clip-l-336`` (LLaVA-1.5's vision geometry, a 12-layer, 1024-wide language model) or ``small``.
        keep: image tokens in the reduced call; by default 21 % of them.
        text_tokens: tokens of the prompt beside the picture.
        repeats: timed runs of each call, after one that warms up.
        seed: of weights and inputs.
        advance: called with 1 after each pair of runs.

    Returns:
        Per part seconds (median and quartiles), FLOPs, both ratios and their quotient; config, versions, hardware.

    Raises:
        ConfigError: an unknown shape, or a number out of range.
    """
    geometry = shape_of(shape)
    tokens = geometry.image_tokens
    keep = max(round(tokens * _SHARE), 1) if keep is None else keep
    if not 1 <= keep <= tokens:
        raise ConfigError(f"keep {keep} is outside 1 to {tokens}: give fewer tokens than a picture has")
    if repeats < 1 or text_tokens < 5:
        raise ConfigError(f"repeats {repeats}, text tokens {text_tokens}: give at least 1 and at least 5")
    model = build_llava(geometry, seed)
    inputs = build_inputs(geometry, text_tokens, seed)
    attachment = reduce(
        model, method="trim", budget=keep, scorer=build_scorer(geometry, seed), query=_QUESTION, cache_images=0
    )
    stages: list[dict[str, float]] = []
    prefill = _pair(_prefill(model, tokens + text_tokens), _prefill(model, keep + text_tokens), repeats, advance)
    whole = _pair(_stock(model, inputs), _trimmed(attachment, inputs, stages), repeats, advance)
    whole["stage_seconds"] = {name: statistics.median(run[name] for run in stages[-repeats:]) for name in stages[-1]}
    if (kept := attachment.report.tokens_after) != keep:
        raise ConfigError(
            f"the attached call kept {kept} image tokens, not the {keep} that were timed: give another --keep"
        )
    config = {"shape": shape, "keep": keep, "text_tokens": text_tokens, "repeats": repeats, "seed": seed}
    return {
        "image_tokens_full": tokens,
        "image_tokens_kept": attachment.report.tokens_after,
        "prefill": prefill,
        "whole": whole,
        "config": {**config, "dtype": "float32", "geometry": geometry.to_plain()},
        "versions": versions(),
        "hardware": hardware("cpu"),
    }


def _prefill(model: Any, length: int) -> Run:
    hidden = torch.randn(1, length, model.config.text_config.hidden_size)
    mask = torch.ones(1, length, dtype=torch.int64)

    def run() -> object:
        out = model.model.language_model(inputs_embeds=hidden, attention_mask=mask, use_cache=True)
        return model.lm_head(out.last_hidden_state[:, -1:])

    return run


def _stock(model: Any, inputs: dict[str, torch.Tensor]) -> Run:
    return lambda: model.generate(**inputs, max_new_tokens=1, do_sample=False)


def _trimmed(attachment: Attachment, inputs: dict[str, torch.Tensor], stages: list[dict[str, float]]) -> Run:
    def run() -> object:
        attachment.clear_cache()
        with attachment:
            out = attachment.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        stages.append(dict(vars(attachment.report.seconds)))
        return out

    return run


def _pair(full: Run, reduced: Run, repeats: int, advance: Callable[[int], None] | None) -> dict[str, Any]:
    """Count, then time in turn, so that a machine that slows down slows both."""
    flops = {"full": _flops(full), "reduced": _flops(reduced)}
    times: dict[str, list[float]] = {"full": [], "reduced": []}
    for number in range(repeats + 1):
        for name, run in (("full", full), ("reduced", reduced)):
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
        if number and advance is not None:
            advance(1)
    seconds = {name: _spread(values[1:]) for name, values in times.items()}
    time_ratio = seconds["reduced"]["median"] / seconds["full"]["median"]
    flop_ratio = flops["reduced"] / flops["full"]
    ratios = {"time_ratio": time_ratio, "flop_ratio": flop_ratio, "time_ratio_over_flop_ratio": time_ratio / flop_ratio}
    return {"seconds": seconds, "flops": flops, **ratios}


def _flops(run: Run) -> int:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Fused attention on the CPU is not in the counter's table; its plain form, the same arithmetic, is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _spread(values: list[float]) -> dict[str, float]:
    low, high = (
        (values[0], values[0]) if len(values) < 2 else statistics.quantiles(values, n=4, method="inclusive")[::2]
    )
    return {"median": statistics.median(values), "q1": low, "q3": high}

"""What a fit will take, said before it starts: time from a few calls that are timed, memory and disk from sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trimkit.fitting._rows import MOST_SETS, row_prompts
from trimkit.fitting._settings import (
    ADDED,
    ATTENTION_STEPS,
    BUDGETS,
    COMPARED,
    LAYER_PAIRS,
    LOOKED_AT,
    TEMPERATURES,
    FitSettings,
)

__all__ = ["Forecast", "forecast"]

_TRAIN = 3.0  # a step forward and back costs three forward passes
_NETWORK = 0.3  # the network forward and back, as a share of a prompt: the demo model's; less with a larger one
_STATES = 24  # numbers a layer holds for its gradients, for each token and dimension of the hidden state
_METHODS = 2  # rankings that the guard measures


@dataclass(frozen=True)
class Forecast:
    """Seconds of both parts, and bytes.

    Attributes:
        collect_seconds: the full model's answers.
        fit_seconds: training, at most, and the comparisons.
        memory_bytes: on the model's device, the model included.
        disk_bytes: of the records.
    """

    collect_seconds: float
    fit_seconds: float
    memory_bytes: int
    disk_bytes: int

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "collect_seconds": round(self.collect_seconds, 1),
            "fit_seconds": round(self.fit_seconds, 1),
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
        }

    def __str__(self) -> str:
        """One line for the user."""
        minutes = (self.collect_seconds + self.fit_seconds) / 60
        return (
            f"about {max(minutes, 0.1):.1f} min ({self.collect_seconds / 60:.1f} for the model's answers), "
            f"{self.memory_bytes / 1e9:.1f} GB of memory, {self.disk_bytes / 1e9:.2f} GB of disk"
        )


def forecast(
    model: Any,
    settings: FitSettings,
    *,
    pictures: int,
    tokens: int,
    text: int,
    picture_seconds: float,
    prompt_seconds: float,
    picture_bytes: int,
    held_out: int,
) -> Forecast:
    """What a fit will take at most.

    Args:
        model: the model.
        settings: of the fit.
        pictures: how many, ``held_out`` of which are compared on.
        tokens, text: image tokens of a picture and text tokens of a prompt.
        picture_seconds: the full model's part for one picture, timed.
        prompt_seconds: one prompt of ``BUDGETS[1]`` of the tokens, timed.
        picture_bytes: of one record.
        held_out: pictures that are looked at.
    """
    asked = held_out * settings.per_picture
    looks = settings.steps / settings.every * min(asked, LOOKED_AT) * len(BUDGETS)
    tried = min(asked, COMPARED) * len(BUDGETS) * (len(settings.targets) * len(TEMPERATURES) + len(ADDED))
    compared = asked * len(BUDGETS) * _METHODS + tried
    prompts = {"answer": _TRAIN, "attention": ATTENTION_STEPS * _NETWORK}  # a pair and step of ``settings.steps``
    steps = settings.steps * settings.batch * sum(prompts[target] for target in settings.targets)
    config = model.config.get_text_config()
    fit = prompt_seconds * (steps + looks * len(settings.targets) + compared)
    if "attention" in settings.targets:
        layers = row_prompts(config.num_hidden_layers, min(LAYER_PAIRS, pictures * settings.per_picture))
        race = settings.of_race().steps * settings.batch * _NETWORK + min(asked, COMPARED) * len(BUDGETS)
        fit += prompt_seconds * (layers + MOST_SETS * race)
    largest = max(settings.batch * (settings.shares[1] * tokens + text), settings.per_picture * (tokens + text))
    size = next(model.parameters()).element_size()
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    attention = settings.per_picture * config.num_attention_heads * (tokens + text) ** 2 * (size + 4)
    states = largest * config.hidden_size * config.num_hidden_layers * _STATES * size
    return Forecast(
        collect_seconds=pictures * picture_seconds,
        fit_seconds=fit,
        memory_bytes=int(weights + max(states, attention)),
        disk_bytes=int(min(pictures * picture_bytes, settings.cache_gb * 1e9)),
    )

"""Threads that load models at the same time: transformers' stand-ins never meet, and each thread gets the whole model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.checkpoint import save_small
from trimkit import ModelError
from trimkit.bench.build import build_llava
from trimkit.bench.shapes import SHAPES
from trimkit.demo import demo_model_path
from trimkit.loading import load_checkpoint, load_model
from trimkit.scorers.checkpoint import EncoderCheckpoint, read_config

CLIP = str(demo_model_path() / "clip")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left of a race here spoils no other test."""
    for name in ("tie_weights", "init_weights"):
        monkeypatch.setattr(transformers.PreTrainedModel, name, getattr(transformers.PreTrainedModel, name))


def in_threads(*works: Callable[[], object]) -> list[str]:
    """What was raised."""
    faults: list[str] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            faults.append(str(error))

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults


def test_models_load_in_several_threads(tmp_path: Path) -> None:
    before = (transformers.PreTrainedModel.tie_weights, torch.nn.init.normal_, torch.get_default_dtype())
    path = str(save_small(tmp_path / "model"))
    demo = lambda: load_model("demo", dtype="bfloat16")  # noqa: E731 - its weights are tied
    faults = in_threads(demo, lambda: load_model(path), demo, lambda: load_model(path), demo)
    assert faults == []
    assert before == (transformers.PreTrainedModel.tie_weights, torch.nn.init.normal_, torch.get_default_dtype())


class _Watch:
    """Counts how many build at one time."""

    def __init__(self) -> None:
        self.inside, self.most = 0, 0

    def __call__(self, build: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.05)
            try:
                return build(*args, **kwargs)
            finally:
                self.inside -= 1

        return watched


def test_models_and_scorers_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, watch = str(save_small(tmp_path / "model")), _Watch()
    for each in (transformers.LlavaForConditionalGeneration, transformers.CLIPModel):
        monkeypatch.setattr(each, "__init__", watch(each.__init__))
    cpu = torch.device("cpu")
    faults = in_threads(
        lambda: load_checkpoint(path, "cpu", "auto", lambda config: transformers.LlavaForConditionalGeneration),
        lambda: EncoderCheckpoint(CLIP, read_config(CLIP)).encoder(),
        lambda: build_llava(SHAPES["small"], device=cpu, dtype=torch.float32),
        lambda: load_model(path),
    )
    assert faults == []
    assert watch.most == 1


def test_what_other_threads_broke_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty_func(*args: Any, **kwargs: Any) -> None:
        """As transformers names it."""

    monkeypatch.setattr(transformers.PreTrainedModel, "tie_weights", empty_func)
    with pytest.raises(ModelError, match="another thread") as caught:
        load_model("demo")
    assert "incomplete" not in str(caught.value)

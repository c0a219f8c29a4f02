"""The embedded demo model: a small synthetic world, its questions, and a stock LLaVA trained on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Sample", "SampleQuestion", "demo_model_path", "load_demo", "sample_images"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class SampleQuestion:
    """A question about a packaged picture, the right answer, and its type (see ``trimkit.demo.questions.TYPES``)."""

    question: str
    answer: str
    type: str


@dataclass(frozen=True)
class Sample:
    """A packaged picture and what can be asked about it; ``question`` and ``answer`` are those that the commands take."""

    path: Path
    questions: tuple[SampleQuestion, ...]

    @property
    def question(self) -> str:
        return self._first.question

    @property
    def answer(self) -> str:
        return self._first.answer

    @property
    def _first(self) -> SampleQuestion:
        # One that names what it needs, with more answers than yes and no.
        return next((entry for entry in self.questions if entry.type == "attribute"), self.questions[0])


def demo_model_path() -> Path:
    """Directory of the packaged model, in the layout of ``save_pretrained``; its CLIP is in ``clip``."""
    return _HERE / "model"


def load_demo(device: str = "cpu") -> tuple[Any, Any]:
    """The packaged model and its processor, through ``trimkit.loading.load_model``."""
    from trimkit.loading import load_model

    return load_model("demo", device=device)


def sample_images() -> dict[str, Sample]:
    """The packaged pictures by name, in the order of ``samples/samples.json``."""
    folder = _HERE / "samples"
    entries = json.loads((folder / "samples.json").read_text(encoding="utf-8"))["samples"]
    return {
        Path(entry["file"]).stem: Sample(
            folder / entry["file"], tuple(SampleQuestion(**question) for question in entry["questions"])
        )
        for entry in entries
    }

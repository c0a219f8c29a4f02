"""Every image-text-to-text architecture of the installed transformers: reduced right, or refused in one line; nothing else."""

from __future__ import annotations

import pytest
import torch
import transformers
from packaging.version import Version

from benchmarks.records import load
from tests.architectures.build import architectures, tiny_model
from tests.architectures.sweep import try_architecture

QUICK = {
    "blip-2",
    "chameleon",
    "exaone4_5",
    "fuyu",
    "gemma4",
    "granite4_vision",
    "granite_docling",
    "idefics2",
    "inkling_mm_model",
    "llama4",
    "mllama",
    "molmo2",
    "ovis2",
    "qwen3_omni_moe_thinker",
    "video_llama_3",
}
KINDS = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in architectures()]


@pytest.mark.filterwarnings("ignore")  # what a hundred stock models say while they are built and called
@pytest.mark.parametrize("kind", KINDS)
def test_an_architecture_is_reduced_right_or_refused_in_one_line(kind: str) -> None:
    outcome = try_architecture(kind)
    version = transformers.__version__
    if outcome.result == "not built" and Version(version) < Version("5.23"):
        pytest.skip(f"transformers {version} cannot build it: {outcome.note}")
    assert outcome.result in {"reduced", "refused"}, outcome.note
    recorded = (load("architectures") or {"runs": {}})["runs"].get(version)
    if recorded is not None:  # what the docs say of it
        rows = {row["kind"]: row["result"] for row in recorded["architectures"]}
        assert rows[kind] == outcome.result


@pytest.mark.filterwarnings("ignore")
def test_the_sweep_sees_a_model_that_runs_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attachment that leaves the call alone must not count as one that reduces it."""
    from trimkit.attach.attached_model import AttachedModel

    monkeypatch.setattr(AttachedModel, "covers", lambda self, inputs: False)
    assert try_architecture("llava").result == "failed"


@pytest.mark.filterwarnings("ignore")
def test_the_sweep_sees_wrong_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features in another order must not count as reduced right."""
    from trimkit.models.generic import Generic

    right = Generic.project
    monkeypatch.setattr(Generic, "project", lambda *args: [image.flip(0) for image in right(*args)])
    assert try_architecture("got_ocr2").result == "failed"


@pytest.mark.filterwarnings("ignore")
def test_a_tiny_model_answers_differently_to_another_picture() -> None:
    model = tiny_model("llava")
    ids = torch.tensor([[1, *[model.config.image_token_id] * 64, 125]])
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        one, other = (model(input_ids=ids, pixel_values=pictures[i : i + 1]).logits for i in range(2))
    assert not torch.allclose(one, other, atol=1e-3)

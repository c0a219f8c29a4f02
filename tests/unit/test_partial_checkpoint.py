"""A checkpoint without its language model: whatever its layout, complete or refused, and no more memory than its weights."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import tiny
from trimkit import ModelError, VisionEncoder
from trimkit.demo import load_demo
from trimkit.loading import load_model
from trimkit.pipeline.partial_checkpoint import load_without_language_model


def saved(model: Any, folder: Path, **options: Any) -> str:
    """A model with some image processor beside it."""
    model.save_pretrained(folder, **options)
    load_demo()[1].save_pretrained(folder)
    return str(folder)


def test_the_language_model_is_not_there() -> None:
    model, _ = load_without_language_model("demo")
    names = [name for name, _ in model.named_parameters()]
    assert len(names) > 10
    assert not any("language_model" in name or "lm_head" in name for name in names)
    assert type(model) is type(load_demo()[0])
    assert not model.training


def old_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As LLaVA's checkpoints on the hub have them."""
    found = {}
    for name, value in state.items():
        name = name.replace("model.language_model.", "language_model.model.").replace(
            "lm_head", "language_model.lm_head"
        )
        name = name.replace("model.vision_tower.", "vision_tower.vision_model.")
        found[name.replace("model.multi_modal_projector", "multi_modal_projector")] = value
    return found


@pytest.mark.parametrize("layout", ["saved", "sharded", "old", "new"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_checkpoints_of_any_layout(family: str, layout: str, tmp_path: Path) -> None:
    model = getattr(tiny, family)()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    saved(model, tmp_path, **({"max_shard_size": "50KB"} if layout == "sharded" else {}))
    if layout in ("old", "new"):
        if layout == "old":
            state = (
                old_names(state)
                if family == "llava"
                else {
                    name.replace("model.visual", "visual").replace("model.language_model", "model"): value
                    for name, value in state.items()
                }
            )
        save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    assert (tmp_path / "model.safetensors.index.json").is_file() == (layout == "sharded")
    encoder = VisionEncoder.from_pretrained(str(tmp_path), method="random", budget=4)
    whole = model.state_dict()
    loaded = encoder.model.state_dict()
    assert len(loaded) > 10
    assert all(torch.equal(value, whole[name]) for name, value in loaded.items())


def tiny_pixels() -> dict[str, Tensor]:
    return {"pixel_values": tiny.pixels(1)}


def without(folder: Path, part: str) -> str:
    """The checkpoint with the first tensor of ``part`` taken out."""
    path = folder / "model.safetensors"
    state = load_file(path)
    del state[next(name for name in sorted(state) if part in name and name.endswith("weight"))]
    save_file(state, path, {"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector"])
def test_an_incomplete_checkpoint_is_refused_in_one_line(part: str, tmp_path: Path) -> None:
    saved(tiny.llava(), tmp_path)
    with pytest.raises(ModelError, match=r"lacks? 1 tensors .*; copy") as caught:
        VisionEncoder.from_pretrained(without(tmp_path, part), method="random")
    assert "\n" not in str(caught.value)


def test_what_the_language_model_lacks_does_not_matter(tmp_path: Path) -> None:
    saved(tiny.llava(), tmp_path)
    folder = without(tmp_path, "language_model")
    with pytest.raises(ModelError):
        load_model(folder)
    assert VisionEncoder.from_pretrained(folder, method="random", budget=4)(tiny_pixels())[0].embeddings.shape == (
        4,
        32,
    )


# Memory

_MEASURE = """
import gc, json, os, sys
import torch, transformers
import trimkit

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

trimkit.VisionEncoder.from_pretrained("demo")  # imports and thread pools are nobody's weights
gc.collect()
before = resident()
encoder = trimkit.VisionEncoder.from_pretrained(sys.argv[1], scorer=sys.argv[2], dtype=sys.argv[3])
parts = [encoder.model, encoder.scorer.text_model, encoder.scorer._post_layernorm, encoder.scorer._visual_projection]
weights = 0
for name, tensor in [each for part in parts for each in (*part.named_parameters(), *part.named_buffers())]:
    tensor.max()  # what is mapped from the file is resident once it is used
    own = "language_model" not in name and "lm_head" not in name
    weights += own * tensor.numel() * tensor.element_size()
gc.collect()
print(json.dumps({"resident": resident() - before, "weights": weights}))
"""


def save_large(folder: Path) -> None:
    """LLaVA-1.5's tower before a language model of 12 x 1024, and the CLIP that the tower belongs to; weights are zeros."""
    from transformers import CLIPModel, LlavaForConditionalGeneration

    from trimkit.bench.build import clip_config, llava_config
    from trimkit.bench.shapes import SHAPES

    shape = SHAPES["clip-l-336"]
    clip = clip_config(shape)
    clip.vision_config.num_hidden_layers = shape.vision[0]
    for kind, config, place in (
        (LlavaForConditionalGeneration, llava_config(shape), folder),
        (CLIPModel, clip, folder / "clip"),
    ):
        with torch.device("meta"):
            model: Any = kind._from_config(config, dtype=torch.bfloat16)  # type: ignore[attr-defined]
        model = model.to_empty(device="cpu")
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data.zero_()
        model.save_pretrained(place)
    processor = load_demo()[1]
    processor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder / "clip")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="resident memory is read from /proc")
def test_memory_is_little_more_than_its_weights() -> None:
    with tempfile.TemporaryDirectory() as name:  # 1.8 GB, which pytest's own directories would keep for three runs
        save_large(Path(name))
        for dtype, least in (("auto", 0.9e9), ("float32", 1.5e9)):  # mapped from the file, and converted
            command = [sys.executable, "-c", _MEASURE, name, str(Path(name) / "clip"), dtype]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(out.splitlines()[-1])
            assert found["weights"] > least
            assert found["resident"] <= 1.15 * found["weights"], (dtype, found)
            print(dtype, found["resident"] / found["weights"])

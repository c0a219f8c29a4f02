"""Writes the shipped artefacts (stock LLaVA, CLIP, profile) from the recipe's checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from recipes.demo.lm_data import load_clip
from recipes.demo.shapes import CACHE, MODEL_DIR, clip_processor, llava_processor, new_llava

PROFILE = {"clip": "clip", "sign": 1, "normalize": False, "temperature": 1.0}


def _halve(folder: Path) -> None:
    """Store the weights as fp16 while the config still asks for float32, so that models load in float32."""
    path = folder / "model.safetensors"
    halved = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file(halved, path, metadata={"format": "pt"})
    path.chmod(0o644)
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        part["dtype"] = "float32"
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def export(target: Path = MODEL_DIR) -> None:
    clip, llava = load_clip(), new_llava()  # without a checkpoint of its own the shipped tower stays
    llava.load_state_dict(torch.load(CACHE / "llava_main.pt", map_location="cpu", weights_only=True))
    llava.model.vision_tower.load_state_dict(
        {k.removeprefix("vision_model."): v for k, v in clip.vision_model.state_dict().items()}
        if not any(k.startswith("vision_model.") for k in llava.model.vision_tower.state_dict())
        else {f"vision_model.{k}": v for k, v in clip.vision_model.state_dict().items()}
    )
    llava.save_pretrained(target)
    llava_processor().save_pretrained(target)
    clip.save_pretrained(target / "clip")
    clip_processor().save_pretrained(target / "clip")
    _halve(target)
    _halve(target / "clip")
    (target / "trimkit.json").write_text(json.dumps(PROFILE, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    export()

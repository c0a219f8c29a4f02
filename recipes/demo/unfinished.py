"""A training that is not at its end, kept in the repository until it is.

``python -m recipes.demo.unfinished`` writes the cache's last checkpoint: projector, language model and helper heads in half
precision; the tower is the shipped one. ``train_lm --resume`` goes on from it where the cache has no checkpoint. It is removed
when weights are shipped.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.demo.shapes import CACHE

PATH = Path(__file__).with_name("unfinished.safetensors")
MODEL, HEADS = CACHE / "llava_main.pt", CACHE / "lm_probes.pt"
_PARTS = {"model": MODEL, "heads": HEADS}
_TOWER = "vision_tower"


def keep() -> None:
    """Write the last checkpoint of the cache."""
    found: dict[str, Tensor] = {}
    for part, path in _PARTS.items():
        for name, value in torch.load(path, map_location="cpu", weights_only=True).items():
            if _TOWER not in name and "lm_head" not in name:  # the head is tied to the embeddings
                found[f"{part}.{name}"] = value.half().contiguous()
    save_file(found, PATH)
    print(f"wrote {PATH.name}, {PATH.stat().st_size / 1e6:.1f} MB")


def kept() -> dict[str, dict[str, Tensor]] | None:
    """Weights of the model (without its tower) and of the heads by name; None where nothing is kept."""
    if not PATH.exists():
        return None
    weights = load_file(PATH)
    return {
        part: {
            name.removeprefix(f"{part}."): value.float()
            for name, value in weights.items()
            if name.startswith(f"{part}.")
        }
        for part in _PARTS
    }


if __name__ == "__main__":
    keep()

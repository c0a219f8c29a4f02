"""``trimkit models``: the catalogue of model families."""

from __future__ import annotations

from trimkit.cli import _common as common

NAME = "models"


def command(as_json: common.JsonOption = False) -> None:
    """List the model families.

    A name is the model_type of a checkpoint's config; '*' stands for all others.
    """
    from trimkit.models import families

    entries = [
        {
            "name": name,
            "family": family.title,
            "relevance": "native" if family.native else "external",
            "images": True,
            "video": family.video,
            "batch": family.batch,
            "training": family.training,
            "status": family.tested or "untested",
        }
        for name, family in families()
    ]
    if as_json:
        common.print_json(entries)
        return
    for entry in entries:
        relevance = "its own CLIP tower" if entry["relevance"] == "native" else "an external scorer"
        print(f"{entry['name']:<16} {entry['family']}")
        media = "images and video" if entry["video"] else "images"
        print(f"{'':<16} {media}; relevance from {relevance}; tested: {entry['status']}")

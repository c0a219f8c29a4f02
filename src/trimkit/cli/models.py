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
        {"name": name, "family": family.title, "native": family.native, "tested": family.tested}
        for name, family in families()
    ]
    if as_json:
        common.print_json(entries)
        return
    for entry in entries:
        native = "own CLIP relevance" if entry["native"] else "needs a scorer, or a method that does not read the text"
        print(f"{entry['name']:<12} {entry['family']}")
        print(f"{'':<12} {native}; tested: {entry['tested'] or 'nothing yet'}")

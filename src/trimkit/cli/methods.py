"""``trimkit methods``: the catalogue of reduction methods."""

from __future__ import annotations

from typing import Any

from trimkit.cli import _common as common

NAME = "methods"


def command(as_json: common.JsonOption = False) -> None:
    """List the reduction methods with their options."""
    from trimkit.methods import method_classes

    entries: list[dict[str, Any]] = [
        {
            "name": name,
            "summary": cls.summary,
            "stage": cls.stage,
            "uses_text": cls.uses_text,
            "signals": sorted(cls.signals),
            "paper": cls.paper,
            "options": cls().model_dump(mode="json"),
        }
        for name, cls in method_classes()
    ]
    if as_json:
        common.print_json(entries)
        return
    for entry in entries:
        print(f"{entry['name']:<14} {entry['summary']}")
        print(f"{'':<14} stage    {entry['stage']}{_needs(entry)}")
        print(f"{'':<14} options  {', '.join(f'{key}={value}' for key, value in entry['options'].items())}")
        if entry["paper"]:
            print(f"{'':<14} source   {entry['paper']}")


def _needs(entry: dict[str, Any]) -> str:
    needs = (["the question"] if entry["uses_text"] else []) + entry["signals"]
    return f", needs {', '.join(needs)}" if needs else ""

"""``trimkit methods``: the catalogue of reduction methods."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from trimkit.cli import _common as common

NAME = "methods"


def command(as_json: common.JsonOption = False) -> None:
    """List the reduction methods: what they need, where they work, what others measured, and their options."""
    from trimkit.methods import method_classes

    entries = [_entry(cls) for _, cls in method_classes()]
    if as_json:
        common.print_json(entries)
        return
    for entry in entries:
        print(f"{entry['name']:<14} {entry['summary']}")
        print(f"{'':<14} stage    {entry['stage']}{_needs(entry)}")
        print(f"{'':<14} vLLM     {'yes, with a fixed budget' if entry['vllm'] else 'no'}")
        print(f"{'':<14} options  {', '.join(f'{key}={value}' for key, value in entry['options'].items())}")
        if entry["paper"]:
            print(f"{'':<14} source   {entry['paper']}")
        for each in entry["published"] or ():
            kept = ", ".join(f"{percent} % at {tokens}" for tokens, percent in each["kept"].items())
            print(f"{'':<14} measured {each['model']} keeps {kept} tokens: {each['source']}")


def _entry(cls: Any) -> dict[str, Any]:
    """What is known of a method; ``published`` is null where nothing is, and so is its ``date``."""
    method = cls()
    return {
        "name": cls.name,
        "summary": cls.summary,
        "stage": cls.stage,
        "uses_text": cls.uses_text,
        "signals": sorted(method.asked_signals),
        "deterministic": cls.deterministic,
        "vllm": cls(budget=64).fits_engines,
        "paper": cls.paper,
        "published": [asdict(each) for each in vars(cls).get("published", ())] or None,
        "options": method.model_dump(mode="json"),
    }


def _needs(entry: dict[str, Any]) -> str:
    needs = (["the question"] if entry["uses_text"] else []) + entry["signals"]
    return f", needs {', '.join(needs)}" if needs else ""

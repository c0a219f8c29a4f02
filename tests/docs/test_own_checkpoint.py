"""The commands of docs/own-checkpoint.md do what the page says, on a checkpoint of nobody's, with no network in reach."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
from PIL import Image

from tests.checkpoint import save_small
from tests.docs.test_readme import ROOT, blocks
from trimkit.cli import run
from trimkit.demo import demo_model_path

PAGE = ROOT / "docs" / "own-checkpoint.md"


def _places(folder: Path) -> dict[str, str]:
    """What the words in capitals stand for."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(8):
        Image.linear_gradient("L").rotate(45 * number).convert("RGB").save(pictures / f"{number}.png")
    return {
        "MODEL": str(save_small(folder / "model", context=1024)),
        "CLIP": str(demo_model_path() / "clip"),
        "PICTURE": str(pictures / "0.png"),
        "PICTURES": str(pictures),
        "VIDEO": str(pictures),
        "EXPORTED": str(folder / "exported"),
    }


@pytest.mark.slow
def test_the_commands_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError("no network")

    places = _places(tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    lines = [line for source, _ in blocks(PAGE, "sh") for line in source.splitlines() if line.strip()]
    assert len(lines) >= 10
    for line in lines:
        words = [places.get(word, word) for word in shlex.split(line)]
        assert words[0] == "trimkit"
        code = run(words[1:])
        seen = capsys.readouterr()
        assert code == 0, f"{line}: {seen.err}"
    assert {"out.png", "config.json", "exported"} <= {path.name for path in tmp_path.iterdir()}

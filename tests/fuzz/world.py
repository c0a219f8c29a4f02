"""The directory in which fuzzed commands run: good files, bad ones, and names that lead to no file at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from tests.checkpoint import save_small
from trimkit.attach.export import export

DEEP = "[" * 5000 + "]" * 5000
DIGITS = "9" * 40

CONFIG = {"version": 1, "reduce": {"method": "random", "budget": 3}}
CONFIGS: dict[str, object] = {
    "config.json": json.dumps(CONFIG),
    "deep.json": f'{{"version": 1, "reduce": {{"method": "trim", "budget": {DEEP}}}}}',
    "shallow.json": f'{{"version": 1, "reduce": {{"method": "trim", "profile": {"[" * 60 + "]" * 60}}}}}',
    "digits.json": f'{{"version": 1, "reduce": {{"method": "random", "seed": {DIGITS}}}}}',
    "newer.json": '{"version": 7, "reduce": {"method": "trim"}}',
    "list.json": "[1, 2]",
    "half.json": '{"version": 1, "reduce": {"method": "tr',
    "nan.json": '{"version": 1, "reduce": {"method": "trim", "temperature": NaN}}',
    "surrogate.json": '{"version": 1, "reduce": {"method": "\\ud800"}}',
    "latin.json": '{"version": 1, "reduce": {"method": "é"}}'.encode("latin-1"),
    "long.json": json.dumps({"version": 1, "reduce": {"method": "x" * 300}}),
}
QUESTIONS: dict[str, object] = {
    "questions.txt": "What is red?\nHow many?\n",
    "questions.jsonl": '{"image": "one.png", "question": "What is red?"}\n{"question": "How many?"}\n',
    "questions.csv": "image,question\none.png,What is red?\n",
    "surrogate.jsonl": '{"question": "What \\ud800?"}\n',
    "deep.jsonl": f'{{"question": {DEEP}}}\n',
    "latin.txt": "Où est-ce?\n".encode("latin-1"),
    "empty.txt": "",
    "torn.jsonl": '{"question": "Wh\n',
    "columns.csv": "a,b\n1,2\n",
}
ROWS: dict[str, object] = {
    "rows.jsonl": '{"image": "picture.png", "question": "What is red?"}\n{"id": 7, "images": ["soft.png", "nan.tif"]}\n',
    "rows-odd.jsonl": f'[]\n{{"image": {DEEP}}}\n{{"image": "\\ud800", "question": {DIGITS}}}\n"x\n\n{{"images": []}}\n',
    "rows-places.jsonl": "".join(
        json.dumps({"image": place, "question": "?"}) + "\n"
        for place in (
            "/dev/zero",
            "pipe",
            "x" * 300,
            "a\0b",
            "~nobody-has-this-name/x",
            "data:image/png,??",
            "http://[",
        )
    ),
    "rows-latin.jsonl": b'{"question": "\xe9"}\n\xff\xfe\n',
    "rows-empty.jsonl": "",
    "rows-no.parquet": "PAR1 is what it begins with",
}


def build(folder: Path) -> None:
    """Fill ``folder``."""
    ramp = np.linspace(0, 255, 60, dtype=np.uint8)[None, :].repeat(40, axis=0)
    picture = Image.fromarray(ramp).convert("RGB")
    picture.save(folder / "picture.png")
    (folder / "pictures").mkdir()
    for name in ("one.png", "two.jpg"):
        picture.save(folder / "pictures" / name)
    (folder / "pictures" / "three.png").write_bytes(b"no picture")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(np.where(ramp > 9, ramp, np.nan).astype(np.float32)).save(folder / "nan.tif")
    Image.fromarray(np.where(ramp > 9, ramp, np.inf).astype(np.float32)).save(folder / "inf.tif")
    (folder / "cut.png").write_bytes((folder / "picture.png").read_bytes()[:60])
    frames = [picture.rotate(90 * number) for number in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame.save(folder / "frames" / f"{number}.png")
    (folder / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    Image.new("1", (30_000, 30_000)).save(folder / "bomb.png")
    table = {"image": ["picture.png", None], "question": ["What is red?", None]}
    parquet.write_table(pyarrow.table(table), folder / "rows.parquet")
    for name, content in {**CONFIGS, **QUESTIONS, **ROWS}.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else str(content).encode())
    (folder / "read-only.json").write_text("{}")
    (folder / "read-only.json").chmod(0o444)
    os.link(folder / "picture.png", folder / "hard.png")
    os.symlink("picture.png", folder / "soft.png")
    os.symlink("nowhere.png", folder / "dangling.png")
    os.symlink("loop.png", folder / "loop.png")
    os.mkfifo(folder / "pipe")
    (folder / "empty-directory").mkdir()
    with (folder / "sparse.json").open("wb") as file:
        file.truncate(2**40)
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:
        file.write((folder / "picture.png").read_bytes())
    _models(folder)


def _models(folder: Path) -> None:
    """Checkpoints: one that works, and copies with one thing wrong."""
    small = save_small(folder / "model")
    for name, change in {
        "model-layer": {"vision_feature_layer": 99},
        "model-layers": {"vision_feature_layer": [-2, "x"]},
        "model-token": {"image_token_index": -(10**40)},
        "model-type": {"model_type": "x" * 300},
    }.items():
        shutil.copytree(small, folder / name)
        config = json.loads((small / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps({**config, **change}))
    for name, settings in {
        "model-above": '{"clip": "../model"}',
        "model-absolute": json.dumps({"clip": str(small)}),
        "model-hub": '{"clip": "no-such-owner/no-such-clip"}',
        "model-number": '{"clip": 7, "sign": 5, "temperature": "x"}',
        "model-deep": f'{{"clip": {DEEP}}}',
        "model-reduce": f'{{"reduce": {{"method": "random", "budget": {DIGITS}}}}}',
    }.items():
        shutil.copytree(small, folder / name)
        (folder / name / "trimkit.json").write_text(settings)
    for name, config in {"model-config": DEEP, "model-list": "[1, 2]"}.items():
        shutil.copytree(small, folder / name)
        (folder / name / "config.json").write_text(config)
    shutil.copytree(small, folder / "model-cut")
    os.truncate(folder / "model-cut" / "model.safetensors", 5000)
    export(small, folder / "model-exported", method="random", budget=3)
    shutil.copytree(small, folder / "model-pipe")
    os.mkfifo(folder / "model-pipe" / "tokenizer_extra.json")
    shutil.copytree(small, folder / "model-zero")
    os.symlink("/dev/zero", folder / "model-zero" / "generation_config.json.bak")
    (folder / "model-zero" / "generation_config.json").unlink()
    os.symlink("/dev/zero", folder / "model-zero" / "generation_config.json")


def contents(folder: Path) -> dict[str, bytes]:
    """The user's own files that no command may change."""
    kept = [*CONFIGS, *QUESTIONS, *ROWS, "rows.parquet", "moving.gif", "picture.png", "hard.png", "read-only.json"]
    kept += ["pictures/one.png", "pictures/two.jpg"]
    kept += ["model/config.json", "model/model.safetensors", "cut.png", "sixteen.png"]
    return {name: (folder / name).read_bytes() for name in kept}


def names(folder: Path) -> set[str]:
    """All files and directories that are there, however deep."""
    found = (os.path.join(place, name) for place, below, here in os.walk(folder) for name in (*below, *here))
    return {os.path.relpath(path, folder) for path in found}

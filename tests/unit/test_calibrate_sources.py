"""Calibration: which pictures and questions are read, drawn, skipped and refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from tests.calibration import spots, write_spots
from trimkit import InputError
from trimkit.calibration import GENERIC_QUESTIONS, _sources, read_sources
from trimkit.calibration._sources import make_pairs


def test_pictures_are_read_and_damaged_ones_named(tmp_path: Path) -> None:
    folder = write_spots(tmp_path / "pictures", 4)
    (folder / "below").mkdir()
    spots(1)["00.png"].save(folder / "below" / "more.png")
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(b"no picture")
    found = read_sources(folder)
    assert list(found.pictures) == ["00.png", "01.png", "02.png", "03.png", "below/more.png"]
    assert [name for name, _ in found.skipped] == ["bad.png"]
    drawn = [list(read_sources(folder, limit=2, seed=seed).pictures) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({tuple(each) for each in drawn}) > 1
    assert all(len(each) == 2 for each in drawn)


FILES = {
    "q.txt": ("What?\n\n  Why? \n", ["What?", "Why?"]),
    "separator.jsonl": ('{"question": "What\u2028now?"}\n', ["What\u2028now?"]),
    "shared.jsonl": ('{"question": "What?"}\n', ["What?"]),
    "q.jsonl": (
        '{"image": "00.png", "question": "A?"}\n\n{"image": "00.png", "question": "B?"}\n{"question": "C?"}',
        {"00.png": ["A?", "B?", "C?"], "01.png": ["C?"]},
    ),
    "q.csv": ('image,question,label\n01.png,"A, or B?",x\ngone.png,C?,y\n', {"01.png": ["A, or B?"]}),
}


@pytest.mark.parametrize("name", FILES)
def test_questions_are_read(name: str, tmp_path: Path) -> None:
    text, wanted = FILES[name]
    folder = write_spots(tmp_path, 2)
    (folder / name).write_text(text)
    found = read_sources(folder, folder / name)
    questions = found.questions
    assert ({k: v for k, v in questions.items() if v} if isinstance(questions, dict) else questions) == wanted
    assert [n for n, _ in found.skipped] == (["gone.png"] if name == "q.csv" else [])


def test_common_questions_take_turns_beside_those_of_one_picture(tmp_path: Path) -> None:
    folder = write_spots(tmp_path / "pictures", 4)
    lines = tmp_path / "q.jsonl"
    lines.write_text(
        '{"image": "00.png", "question": "own?"}\n' + "".join(f'{{"question": "{i}?"}}\n' for i in range(4))
    )
    found = read_sources(folder, lines)
    asked = [(pair.picture, pair.question) for pair in make_pairs(found.pictures, found.questions, 2)]
    assert asked[:2] == [(0, "own?"), (0, "0?")]
    assert {question for _, question in asked} == {"own?", "0?", "1?", "2?", "3?"}


BROKEN = {
    "no.jsonl": ("no json\n", "line 1 is not a JSON object"),
    "list.jsonl": ("[1]\n", "line 1 is not a JSON object"),
    "empty.jsonl": ('{"question": "A?"}\n{"image": "00.png", "question": " "}\n', "line 2: no question"),
    "number.jsonl": ('{"image": 3, "question": "A?"}\n', "image 3 is not a name"),
    "columns.csv": ("a,b\n1,2\n", "no column 'question'"),
    "nothing.txt": ("\n", "holds no question"),
    "other.jsonl": ('{"image": "gone.png", "question": "A?"}\n', "is about a picture in"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_questions_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    text, cause = BROKEN[name]
    folder = write_spots(tmp_path / "pictures", 1)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=cause) as caught:
        read_sources(folder, tmp_path / name)
    assert "\n" not in str(caught.value)


def test_what_the_csv_reader_refuses_is_one_line(tmp_path: Path) -> None:
    folder = write_spots(tmp_path / "pictures", 1)
    (tmp_path / "long.csv").write_text(f"question\nA?\n{'x' * 101}\n")
    before = csv.field_size_limit(100)
    try:
        with pytest.raises(InputError, match=r"line 3 is not CSV \(field larger than field limit"):
            read_sources(folder, tmp_path / "long.csv")
    finally:
        csv.field_size_limit(before)


def test_questions_take_turns() -> None:
    pictures = {str(number): None for number in range(3)}
    asked = [pair.question for pair in make_pairs(pictures, ["A", "B", "C", "D"], 2)]
    assert asked == ["A", "B", "C", "D", "A", "B"]
    generic = make_pairs(pictures, None, 2)
    assert {pair.question for pair in generic} == set(GENERIC_QUESTIONS)
    assert len(make_pairs(pictures, ["A"], 3)) == 3


def test_directories_that_hold_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text("no picture")
    monkeypatch.setattr("trimkit.calibration._sources._MOST_SKIPPED", 20)
    with pytest.raises(InputError, match=r"only 0 of the first 21 files .* give a directory of pictures"):
        read_sources(tmp_path)
    monkeypatch.setattr("trimkit.calibration._sources._MOST_FILES", 30)
    with pytest.raises(InputError, match="more than 30 files"):
        read_sources(tmp_path)


def test_pictures_that_fill_the_memory_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        Image.new("RGB", (100, 100)).save(tmp_path / f"{number}.png")
    assert len(read_sources(tmp_path).pictures) == 4
    monkeypatch.setattr(_sources, "_room", lambda: 70_000)
    with pytest.raises(InputError, match="half of this machine's memory"):
        read_sources(tmp_path)
    assert len(read_sources(tmp_path, longest=50).pictures) == 4

"""Letters of any script on a picture: never a box, right to left where they run so, code points where there is no font."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from trimkit.viz import bidi, fonts, lettering
from trimkit.viz.lettering import Font, notes_on, wrap

TEXTS = {
    "Cyrillic": "Сколько машин на картинке?",
    "Chinese": "图片里有几辆车？",
    "Arabic": "كم عدد السيارات في الصورة؟",
    "Hebrew": "כמה מכוניות?",
    "Hindi": "कितनी कारें हैं?",
    "emoji": "How many 🚗 and 👍🏽?",
}


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with Pillow's own font alone."""
    monkeypatch.setattr(fonts, "_files", list)
    for each in (fonts._faces, fonts.face_of, lettering._parts):
        each.cache_clear()
    yield
    monkeypatch.undo()
    for each in (fonts._faces, fonts.face_of, lettering._parts):
        each.cache_clear()


def _drawn(text: str, size: int = 24) -> np.ndarray:
    sheet = Image.new("RGB", (1200, 60), "white")
    Font(size).draw(sheet, (4, 4), text, "black")
    return np.asarray(sheet)


def _written(text: str) -> str:
    return "".join(part.text for part in lettering._parts(text))


@pytest.mark.parametrize("name", TEXTS)
def test_no_letter_is_drawn_as_a_box(name: str) -> None:
    """Whatever fonts this machine has: each part is drawn by a face that has its letters, or is written in ASCII."""
    for part in lettering._parts(TEXTS[name]):
        for letter in part.text:
            marks = unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cf") or 0x1F3FB <= ord(letter) <= 0x1F3FF
            assert letter.isspace() or marks or part.face.draws(letter), f"{letter!r} would be a box"


@pytest.mark.parametrize("name", TEXTS)
def test_without_fonts_code_points_are_written_and_said(name: str, no_fonts: None) -> None:
    text = TEXTS[name]
    strange = next(letter for letter in text if not letter.isascii())
    assert f"\\u{ord(strange):04x}" in _written(text)
    assert _written(text).isascii()
    (note,) = notes_on(text)
    assert "no font on this machine has" in note
    assert notes_on("How many cars?") == []
    assert (_drawn(text) < 128).any()


def test_a_font_of_the_machine_is_found_by_its_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dejavu = next((path for path in fonts._files() if path.name == "DejaVuSans.ttf"), None)
    if dejavu is None:
        pytest.skip("no DejaVu on this machine")
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "Broken-Regular.ttf").write_bytes(b"no font at all")
    (tmp_path / "fonts" / "Some.ttf").write_bytes(dejavu.read_bytes())
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "nothing"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for each in (fonts._faces, fonts.face_of, lettering._parts):
        each.cache_clear()
    try:
        assert _written(TEXTS["Cyrillic"]) == TEXTS["Cyrillic"]
        assert notes_on(TEXTS["Cyrillic"]) == []
        assert "\\u56fe" in _written(TEXTS["Chinese"])
    finally:
        monkeypatch.undo()
        for each in (fonts._faces, fonts.face_of, lettering._parts):
            each.cache_clear()


def test_text_from_right_to_left_ends_at_the_right_edge() -> None:
    sheet = Image.new("RGB", (600, 40), "white")
    text = "كم سيارة" if fonts.face_of("ك") is not None else "abc"
    if text == "abc":
        pytest.skip("no Arabic font on this machine")
    Font(24).draw(sheet, (0, 4), text, "black", 600)
    columns = np.flatnonzero(np.asarray(sheet).min(axis=(0, 2)) < 128)
    assert columns.min() > 300
    assert columns.max() > 580


def test_the_first_letter_of_a_right_to_left_word_is_its_last_column() -> None:
    """With or without libraqm: aleph is drawn right of bet."""
    if fonts.face_of("א") is None:
        pytest.skip("no Hebrew font on this machine")

    def ink(text: str) -> np.ndarray:
        return 255 - _drawn(text)[..., 0].astype(int)

    both, alone = ink("אב"), ink("ב")
    width = np.flatnonzero(alone.any(axis=0)).max() + 1
    assert np.abs(both[:, :width] - alone[:, :width]).mean() < 3, "bet comes first from the left"


@pytest.mark.parametrize(
    ("text", "base", "levels"),
    [
        ("abc", 0, "000"),
        ("אבג", 1, "111"),
        ("a אב c", 0, "001100"),
        ("אב cd", 1, "11122"),
        ("אב 12", 1, "11122"),
        ("a אב 1.5 c", 0, "0011122200"),
        ("אב (c) ג", 1, "11112111"),
        ("a 12", 0, "0000"),
    ],
)
def test_levels_are_those_of_uax_9(text: str, base: int, levels: str) -> None:
    assert bidi.base_level(text) == base
    assert "".join(map(str, bidi.levels(text, base))) == levels


def test_parts_are_reordered_as_uax_9_says() -> None:
    assert bidi.visual_order([0, 1, 1, 2, 1, 0]) == [0, 4, 3, 2, 1, 5]
    assert bidi.visual_order([1, 2, 1]) == [2, 1, 0]
    assert bidi.visual_order([]) == []


def test_lines_of_a_script_without_spaces_fit() -> None:
    font = Font(24)
    lines = wrap("图片里有几辆车" * 30, font, 500, 4)
    assert len(lines) == 4
    assert all(font.getlength(line) <= 500 for line in lines)
    assert lines[-1].endswith("…")


def test_latin_is_drawn_by_pillows_own_font() -> None:
    sheet = Image.new("RGB", (1200, 60), "white")
    ImageDraw.Draw(sheet).text(
        (4, 4 + 0.93 * 24), "How many cars?", font=ImageFont.load_default(24), fill="black", anchor="ls"
    )
    assert np.array_equal(_drawn("How many cars?"), np.asarray(sheet))

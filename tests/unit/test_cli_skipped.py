"""What is left out is named, and of thousands with one reason only how many they are."""

from __future__ import annotations

import pytest

from trimkit.cli._skipped import print_skipped


def test_few_are_named_and_many_counted_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    known = [(f"{number:03}.png", "the scorer was fitted on it") for number in range(600)]
    print_skipped([("a.txt", "no picture"), *known, ("b\nc.png", "cut\noff")])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "skipped a.txt: no picture"
    assert lines[1:11] == [f"skipped {number:03}.png: the scorer was fitted on it" for number in range(10)]
    assert lines[11] == "skipped 590 more: the scorer was fitted on it"
    assert len(lines) == 13


def test_nothing_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_skipped([])
    assert capsys.readouterr() == ("", "")

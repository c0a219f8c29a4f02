"""Options and fixtures shared by all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell that starts tests in the background has interrupts ignored, and whatever tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=Path(__file__).parent / "golden" / "vectors",
        help="directory with manifest.json and <case>.safetensors of the released TRIM",
    )
    parser.addoption(
        "--rivals-dir",
        type=Path,
        action="append",
        help="directory with manifest.json and vectors of published code (repeatable); see tests/golden/rivals/README.md",
    )
    parser.addoption("--fuzz-commands", type=int, default=2000, help="how many command lines make fuzz runs")
    parser.addoption("--fuzz-seed", type=int, help="of these; by default the number of the day")
    parser.addoption("--matrix", type=Path, help="write what the contract tests found, by family, to this JSON file")
    parser.addoption("--matrix-missing", action="store_true", help="run only families that the file of --matrix lacks")


def pytest_configure(config: pytest.Config) -> None:
    # Where tests run side by side (pytest -n): before any fixture computes with more threads.
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)
    path = config.getoption("--matrix")
    if path is not None:
        from tests.matrix import Matrix

        config.pluginmanager.register(Matrix(path, missing=config.getoption("--matrix-missing")))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" in metafunc.fixturenames:
        import json

        directory = metafunc.config.getoption("--golden-dir")
        names = sorted(json.loads((directory / "manifest.json").read_text()))
        metafunc.parametrize("golden_case", names)
    if "rival_vector" in metafunc.fixturenames:
        from tests.rivals.vectors import names_in

        golden = Path(__file__).parent / "golden"
        directories = metafunc.config.getoption("--rivals-dir") or [golden / "rivals", golden / "more"]
        vectors = [(directory, name) for directory in directories for name in names_in(directory)]
        metafunc.parametrize("rival_vector", vectors, ids=[name.removesuffix(".safetensors") for _, name in vectors])


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Two threads at most: reductions over many would differ between machines, and small models are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 2))
    yield
    torch.set_num_threads(before)

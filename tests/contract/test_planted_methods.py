"""The checks on methods see what is wrong: each broken method here fails the check that is meant for it.

And a method in one new file is in the command line, the docs table and the contract tests, with no other edit.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.contract.method_checks import CHECKS, Case, check_dtype
from tests.contract.test_methods_on_models import random_case
from trimkit.core.types import Selection, TokenBatch
from trimkit.methods import Method
from trimkit.models import _signals
from trimkit.pipeline import encoding, selecting

ROOT = Path(__file__).resolve().parents[2]


class Sound(Method):
    """Ranks by feature norm."""

    name: ClassVar[str] = "planted"
    summary: ClassVar[str] = "for a test"

    def scores(self, batch: TokenBatch) -> Tensor:
        return torch.linalg.vector_norm(batch.features.float(), dim=-1)


class Unsorted(Sound):
    def select(self, batch: TokenBatch) -> list[Selection]:
        return [replace(each, indices=each.indices.flip(0)) for each in super().select(batch)]


class Greedy(Sound):
    """One more than the budget has."""

    def _patch_counts(self, totals: Sequence[int]) -> list[int]:
        return [count + 1 for count in super()._patch_counts(totals)]


class Twice(Sound):
    def select(self, batch: TokenBatch) -> list[Selection]:
        return [replace(each, indices=each.indices[:1].repeat(len(each.indices))) for each in super().select(batch)]


class Batchwise(Sound):
    """Distance from the mean of all pictures of the batch."""

    def scores(self, batch: TokenBatch) -> Tensor:
        return torch.linalg.vector_norm(batch.features - batch.features.mean(dim=(0, 1)), dim=-1)


class Merging(Sound):
    """Merges though nothing is dropped."""

    @property
    def keeps_all(self) -> bool:
        return False

    def select(self, batch: TokenBatch) -> list[Selection]:
        chosen = super().select(batch)
        return [replace(each, mixing=torch.full((len(each.indices), each.total), 1.0 / each.total)) for each in chosen]


class Always(Sound):
    """Always drops one."""

    @property
    def keeps_all(self) -> bool:
        return False

    def _patch_counts(self, totals: Sequence[int]) -> list[int]:
        return [min(count, max(totals) - 1) for count in super()._patch_counts(totals)]


class Drawing(Sound):
    """Draws from the global random state."""

    def scores(self, batch: TokenBatch) -> Tensor:
        return torch.rand(batch.mask.shape)


class Attending(Sound):
    """Asks for a signal, so that the tower is listened to."""

    signals: ClassVar[frozenset[str]] = frozenset({"cls_attention"})


@pytest.fixture(scope="module")
def case() -> Case:
    return random_case()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("method", [Sound, Attending])
def test_a_sound_method_passes(check: str, method: type[Method], case: Case) -> None:
    CHECKS[check](case, method())


@pytest.mark.parametrize(
    ("check", "method"),
    [
        ("selection", Unsorted),
        ("selection", Twice),
        ("selection", Greedy),
        ("batch", Batchwise),
        ("keep-all", Always),
        ("deterministic", Drawing),
    ],
)
def test_a_broken_method_is_caught(check: str, method: type[Method], case: Case) -> None:
    with pytest.raises((AssertionError, ValueError)):  # what has no place in the prompt is refused on the way, too
        CHECKS[check](case, method())


def test_merging_though_all_is_kept_is_caught(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Selection, "keeps_all", False)  # or the features are not even looked at
    with pytest.raises(AssertionError):
        CHECKS["keep-all"](case, Merging())


def test_another_dtype_is_caught(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    half = case.half()
    check_dtype(half, Sound())
    stock = selecting._reduced
    monkeypatch.setattr(selecting, "_reduced", lambda *given: [each.float() for each in stock(*given)])
    with pytest.raises((AssertionError, RuntimeError)):
        check_dtype(half, Sound())


def test_hooks_left_behind_are_caught(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def careless(source: Any, signals: frozenset[str]) -> Iterator[_signals.SignalRecorder]:
        heard = _signals.SignalRecorder(source, signals)
        handles = list(heard.hooks())
        yield heard
        for handle in handles:  # not when something fails
            handle.remove()

    monkeypatch.setattr(encoding, "record_signals", careless)
    with pytest.raises(AssertionError):
        CHECKS["cleanup"](random_case(), Attending())


SOURCE = '''
"""For a test."""
from typing import ClassVar
import torch
from torch import Tensor
from trimkit.core.budget import Budget, BudgetField
from trimkit.methods import Method
from trimkit.core.types import TokenBatch

class Planted(Method):
    """Ranks by place."""
    name: ClassVar[str] = "{name}"
    summary: ClassVar[str] = "ranks by place, for a test"
    budget: BudgetField = Budget("ratio", 0.5)

    def scores(self, batch: TokenBatch) -> Tensor:
        place = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        return {scores}.float().expand(batch.mask.shape)
'''
PLUGIN = """
from pathlib import Path
import trimkit.methods
trimkit.methods.__path__.append(str(Path(__file__).parent / "methods"))
"""
LISTED = """
import beside, sys
from docs import generate
from trimkit.cli import main
print(generate.methods(), generate.options())
sys.argv = ["trimkit", "methods", "--json"]
main()
"""
TESTED = """
import beside, pytest, sys
sys.exit(pytest.main(sys.argv[1:]))
"""
SCORES = {"every-second": "(place % 2 + 1)", "batch-bound": "(place - len(batch.mask) * 7).abs()"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder beside the packaged methods, with one file that is sound and one whose rows depend on the batch."""
    (tmp_path / "methods").mkdir()
    for name, scores in SCORES.items():
        (tmp_path / "methods" / f"{name.replace('-', '_')}.py").write_text(SOURCE.format(name=name, scores=scores))
    for name, text in (("beside", PLUGIN), ("listed", LISTED), ("tested", TESTED)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def _run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_one_new_file_is_in_the_command_line_and_the_docs(folder: Path) -> None:
    out = _run(folder / "listed.py")
    assert "| `every-second` | ranks by place, for a test |" in out.stdout, out.stderr
    assert "| `every-second` | `budget=0.5`" in out.stdout
    assert '"name": "every-second"' in out.stdout


def test_one_new_file_is_in_the_contract_tests(folder: Path) -> None:
    files = ["tests/contract/test_methods.py", "tests/contract/test_methods_on_models.py"]
    chosen = "(every-second or batch-bound) and not demo"
    done = _run(folder / "tested.py", *files, "-q", "--tb=no", "-p", "no:cacheprovider", "-k", chosen)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert done.returncode == 1, done.stdout + done.stderr
    assert not any("every-second" in line for line in failed), done.stdout
    for test in ("test_a_row_does_not_depend_on_the_others[", "test_a_method_keeps_to_the_contract[batch-bound-batch"):
        assert any(test in line for line in failed), done.stdout

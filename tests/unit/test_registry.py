"""A new method is one new file; a clash or a typo is one clear line."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import trimkit
from tests import tiny
from trimkit import methods
from trimkit.models import families, family_of

SOURCE = '''
"""Keeps the features of the largest norm."""
from typing import ClassVar
from torch import Tensor
from trimkit.methods import Method
from trimkit.core.types import TokenBatch

class Norm(Method):
    """Largest L2 norm first."""
    name: ClassVar[str] = "{name}"
    summary: ClassVar[str] = "largest feature norm"

    def scores(self, batch: TokenBatch) -> Tensor:
        return batch.features.norm(dim=-1)
'''


@pytest.fixture
def method_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A method in one temporary file beside the packaged ones."""
    module = f"planted_{request.node.name.split('[')[0]}"
    name = "norm" if "clash" not in request.node.name else "trim"
    (tmp_path / f"{module}.py").write_text(SOURCE.format(name=name))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setattr(methods._registry, "_entries", None)
    return module


def test_one_file_is_one_method(method_file: str) -> None:
    assert "norm" in dict(methods.method_classes())
    model = tiny.llava()
    with trimkit.reduce(model, method="norm", budget=5) as trim:
        model.generate(**tiny.llava_batch([1]), max_new_tokens=2, do_sample=False)
        image = trim.report.images[0]
    assert image.tokens_after == 5
    assert image.scores is not None
    assert torch.equal(image.indices, image.scores.topk(5).indices.sort().values)


def test_a_clash_is_refused(method_file: str) -> None:
    with pytest.raises(trimkit.ConfigError, match="'trim' is defined twice"):
        methods.method_classes()


def test_near_names_are_offered() -> None:
    with pytest.raises(trimkit.UnknownNameError, match="did you mean 'random'"):
        trimkit.get_method("randon")
    with pytest.raises(trimkit.UnknownNameError, match=r"known: .*none, .*random, .*trim"):
        trimkit.get_method("zzz")


def test_families_are_found_by_model_type() -> None:
    assert {"*", "llava", "qwen2_5_vl"} <= set(dict(families()))
    assert type(family_of(tiny.llava())).__name__ == "Llava"
    assert type(family_of(tiny.llava_next())).__name__ == "LlavaNext"
    assert type(family_of(tiny.qwen2_5_vl())).__name__ == "QwenVL"


def _plugin(name: str, value: str) -> metadata.EntryPoint:
    return metadata.EntryPoint(name=name, value=value, group="trimkit.methods")


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise RuntimeError('no licence\\nserver')", "RuntimeError: no licence server"),
        ("import a_module_that_is_not_there", "No module named 'a_module_that_is_not_there'"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        (SOURCE.format(name="trim"), "'trim' is defined twice"),
    ],
)
def test_a_broken_plugin_is_named_and_skipped(
    source: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text(source)
    (tmp_path / "good_plugin.py").write_text(SOURCE.format(name="plugged"))
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [_plugin("theirs", "broken_plugin"), _plugin("good", "good_plugin")]
    monkeypatch.setattr("trimkit.registry.entry_points", lambda group: points if group == "trimkit.methods" else [])
    monkeypatch.setattr(methods._registry, "_entries", None)
    try:
        with pytest.warns(UserWarning, match="plugin 'theirs'.*broken_plugin.*is skipped") as caught:
            names = [name for name, _ in methods.method_classes()]
        assert cause in str(caught[0].message)
        assert "\n" not in str(caught[0].message)
        assert {"trim", "plugged"} <= set(names)
        assert type(trimkit.get_method("trim")).__module__ == "trimkit.methods.trim"
    finally:
        for module in ("broken_plugin", "good_plugin"):
            sys.modules.pop(module, None)

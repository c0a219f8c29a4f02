"""``load_model``: the demo model comes as any other checkpoint does, and the Python API raises what the command prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trimkit import ConfigError, ModelError, TrimkitError, UnsupportedError
from trimkit.demo import demo_model_path, load_demo
from trimkit.loading import load_model


def test_the_demo_model_is_stock_and_in_float32() -> None:
    model, processor = load_demo()
    assert type(model).__module__.startswith("transformers.")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert processor.tokenizer.padding_side == "left"


def test_the_demo_model_by_its_path_is_the_same() -> None:
    named, _ = load_model("demo")
    by_path, _ = load_model(str(demo_model_path()))
    state = by_path.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in named.state_dict().items())


def test_dtype_is_taken_when_given() -> None:
    assert load_model("demo", dtype="bfloat16")[0].dtype == torch.bfloat16


def test_loading_changes_no_global_setting() -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled(), torch.get_default_dtype())
    load_demo()
    assert before == (logging.get_verbosity(), logging.is_progress_bar_enabled(), torch.get_default_dtype())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": "/no/such/model"}, ModelError),
        ({"name": "nothing"}, ModelError),
        ({"name": ""}, ModelError),
        ({"name": __file__}, ModelError),
        ({"name": str(Path(__file__).parent)}, ModelError),
        ({"name": str(demo_model_path() / "clip")}, UnsupportedError),
        ({"device": "toaster"}, ConfigError),
        ({"device": "cuda:99"}, ConfigError),
        ({"dtype": "float13"}, ConfigError),
    ],
)
def test_errors_are_one_line(arguments: dict[str, str], error: type[TrimkitError]) -> None:
    with pytest.raises(error) as caught:
        load_model(**arguments)
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value)

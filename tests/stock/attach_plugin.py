"""A pytest plugin for transformers' own tests: only generation tests run, and models come out of their class attached.

``tests.stock.run`` loads it into a pytest of a transformers checkout, as a top-level module: ``tests`` is theirs in there.
Without ``--trimkit-attach`` the tests are chosen and recorded in the same way, and the models are stock.
"""

from __future__ import annotations

import functools
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SEVERITY = ("passed", "skipped", "failed")


class Record:
    """What became of each test, and what went through an attachment."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.messages: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.tests_through: set[str] = set()
        self.running = ""

    def add(self, name: str, outcome: str, message: str) -> None:
        """Setup, call, teardown and subtests of one test add up to the worst of them."""
        worst = max(outcome, self.outcomes.get(name, "passed"), key=SEVERITY.index)
        self.outcomes[name] = worst
        if outcome == "failed":
            self.messages.setdefault(name, message)

    def count(self, kind: str) -> None:
        self.calls[kind] += 1
        self.tests_through.add(self.running)

    def write(self, path: Path) -> None:
        found = {
            "outcomes": dict(sorted(self.outcomes.items())),
            "messages": self.messages,
            "calls": dict(self.calls),
            "tests_through": len(self.tests_through),
        }
        path.write_text(json.dumps(found, indent=2), encoding="utf-8")


RECORD = Record()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trimkit-attach", metavar="CLASS", help="attach trimkit to every instance of this model class")
    parser.addoption(
        "--trimkit-record", metavar="FILE", type=Path, required=True, help="where the outcomes go, as JSON"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if is_generation_test(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def is_generation_test(item: pytest.Item) -> bool:
    """Whether the mixin for generation has it, or a model's own class names it so. Integration tests need the hub."""
    classes = getattr(getattr(item, "cls", None), "__mro__", ())
    mixin = next((each for each in classes if each.__name__ == "GenerationTesterMixin"), None)
    name = getattr(item, "originalname", None) or item.name
    return mixin is not None and (name in vars(mixin) or "generat" in name)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    crash = getattr(report.longrepr, "reprcrash", None)
    message = (crash.message if crash is not None else str(report.longrepr)).strip().partition("\n")[0]
    RECORD.add(report.nodeid.partition("::")[2], report.outcome, message[:200])


def pytest_sessionfinish(session: pytest.Session) -> None:
    RECORD.write(session.config.getoption("--trimkit-record"))


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Both runs see the same weights and inputs; transformers' tests draw them from generators of their own."""
    from transformers import set_seed

    set_seed(0)
    common = sys.modules.get("tests.test_modeling_common")
    drawn = getattr(common, "global_rng", None)
    if isinstance(drawn, random.Random):
        drawn.seed(0)


@pytest.fixture(autouse=True)
def _attached_models(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For the length of one test, a model of the class is attached, with everything kept, as soon as it is built."""
    name = request.config.getoption("--trimkit-attach")
    if name is None:
        yield
        return
    import transformers

    from trimkit.attach.forwarding import ReducedForward
    from trimkit.attach.generating import ReducedGenerate
    from trimkit.pipeline.input_reducer import InputReducer

    RECORD.running = request.node.nodeid
    model_class = getattr(transformers, name)
    monkeypatch.setattr(model_class, "__init__", _attaching(model_class))
    for owner, method, kind in (
        (ReducedGenerate, "__call__", "generate"),
        (ReducedForward, "__call__", "forward"),
        (InputReducer, "reduce", "with_images"),
    ):
        monkeypatch.setattr(owner, method, _counted(getattr(owner, method), kind))
    yield


def _attaching(model_class: type) -> Callable[..., None]:
    """The class's ``__init__``, and the attachment behind it."""
    import trimkit

    stock = model_class.__init__

    @functools.wraps(stock)
    def build(model: Any, *args: Any, **kwargs: Any) -> None:
        stock(model, *args, **kwargs)
        if type(model) is model_class:
            trimkit.attach(model, method="random", budget=1.0)

    return build


def _counted(method: Callable[..., Any], kind: str) -> Callable[..., Any]:
    import torch

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():  # a count that a compiled graph depends on would have it compiled anew
            RECORD.count(kind)
        return method(*args, **kwargs)

    return call

"""What every method has to keep to on a real model, as functions: contract tests run them, planted bugs must fail them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

import trimkit
from trimkit.methods import Method

STEPS: dict[str, Any] = {
    "max_new_tokens": 3,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}


@dataclass(frozen=True)
class Case:
    """A model, two prompts of different length as a padded batch and alone, and a budget."""

    model: Any
    processor: Any
    batch: dict[str, Tensor]
    singles: tuple[dict[str, Tensor], ...]
    budget: float | int
    attached: dict[str, Any] = field(default_factory=dict)
    query: tuple[str, ...] | None = None

    def reduce(self, method: str | Method, **options: Any) -> Any:
        """Attached with ``method`` at this case's budget."""
        return trimkit.reduce(self.model, self.processor, method=method, **self.attached, **options)

    def asked(self, row: int | None = None) -> dict[str, Any]:
        """The question, where the prompt does not hold it."""
        if self.query is None:
            return {}
        return {"query": list(self.query) if row is None else [self.query[row]]}

    @cached_property
    def stock(self) -> Tensor:
        """Logits of the first prompt without trimkit."""
        with torch.no_grad():
            logits: Tensor = self.model(**self.singles[0]).logits
        return logits

    def half(self) -> Case:
        """The same in bfloat16."""
        model = copy.deepcopy(self.model).to(torch.bfloat16)
        return Case(model, self.processor, self.batch, self.singles, self.budget, self.attached, self.query)


def check_selection(case: Case, method: str | Method) -> None:
    """Ascending indices in range, each once; as many tokens as the budget says."""
    with case.reduce(method, budget=case.budget) as trim, torch.no_grad():
        case.model(**case.batch, **case.asked())
        assert len(trim.report.images) == len(case.singles)
        for image in trim.report.images:
            indices = image.indices.tolist()
            assert indices == sorted(set(indices))
            assert indices[0] >= 0
            assert indices[-1] < image.tokens_before
            assert image.tokens_after == len(indices) + image.aggregated + image.class_token
            assert image.tokens_after <= trim.method.fixed_tokens(image.tokens_before) or trim.method.name in MORE


MORE = {"none", "trim-released"}  # keeps all by definition; the released code's aggregated token comes on top


def check_batch(case: Case, method: str | Method) -> None:
    """A batch is its rows: greedy tokens and logits."""
    width = case.batch["input_ids"].shape[1]
    with case.reduce(method, budget=case.budget, cache_images=0):
        together = case.model.generate(**case.batch, **case.asked(), **STEPS)
        for row, single in enumerate(case.singles):
            alone = case.model.generate(**single, **case.asked(row), **STEPS)
            new = alone.sequences[0, single["input_ids"].shape[1] :]
            assert together.sequences[row, width : width + len(new)].tolist() == new.tolist()
            for step in range(len(new)):
                torch.testing.assert_close(together.logits[step][row], alone.logits[step][0], rtol=1e-4, atol=1e-4)


def check_keep_all(case: Case, method: str | Method) -> None:
    """With everything kept, the stock model's logits to the last bit."""
    more = case.singles[0]["input_ids"].numel()  # than there are image tokens: what is kept is found out by choosing
    for budget in (1.0, more):
        with torch.no_grad(), case.reduce(method, budget=budget):
            logits = case.model(**case.singles[0], **case.asked(0)).logits
        assert torch.equal(case.stock, logits)


def check_dtype(half: Case, method: str | Method) -> None:
    """Features go to the projector as the tower gives them, and logits come in the model's dtype."""
    seen: list[Tensor] = []
    projector = half.model.model.multi_modal_projector
    handle = projector.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        with half.reduce(method, budget=half.budget), torch.no_grad():
            logits = half.model(**half.singles[0], **half.asked(0)).logits
    finally:
        handle.remove()
    assert {(each.dtype, each.device) for each in seen} == {(torch.bfloat16, half.model.device)}
    assert logits.dtype == torch.bfloat16
    assert bool(torch.isfinite(logits).all())


def check_deterministic(case: Case, method: str | Method) -> None:
    """The same call gives the same tokens and logits, whatever the global random state."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with case.reduce(method, budget=case.budget) as trim, torch.no_grad():
            logits = case.model(**case.singles[0], **case.asked(0)).logits
            found.append((logits, [image.indices.tolist() for image in trim.report.images]))
    assert found[0][1] == found[1][1]
    assert torch.equal(found[0][0], found[1][0])


def check_cleanup(case: Case, method: str | Method) -> None:
    """An exception in the tower, and in the language model, leaves no hook and no shadow; the next call is the stock one."""
    tower = case.model.model.vision_tower
    before = hooks(case.model)
    for failing in (getattr(tower, "vision_model", tower).encoder.layers[0].mlp, case.model.lm_head):
        handle = failing.register_forward_pre_hook(_fail)
        try:
            with pytest.raises(ZeroDivisionError):
                _call(case, method)
        finally:
            handle.remove()
        assert hooks(case.model) == before
        assert "generate" not in vars(case.model)
        assert "forward" not in vars(case.model)


def _call(case: Case, method: str | Method) -> None:
    with case.reduce(method, budget=case.budget, cache_images=0):  # the tower has to run
        case.model.generate(**case.singles[0], **case.asked(0), max_new_tokens=1)


def _fail(module: Any, args: Any) -> None:
    raise ZeroDivisionError


def hooks(model: Any) -> int:
    """All hooks on all modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


CHECKS: dict[str, Callable[[Case, Any], None]] = {
    "selection": check_selection,
    "batch": check_batch,
    "keep-all": check_keep_all,
    "deterministic": check_deterministic,
    "cleanup": check_cleanup,
}

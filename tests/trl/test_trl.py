"""TRL's own trainers on an attached model: what they train on is what the report says, whoever comes first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trimkit
from trimkit.demo import load_demo
from trimkit.demo.items import sample_item

trl = pytest.importorskip("trl", reason="TRL is not installed: run `make test-trl`")
datasets = pytest.importorskip("datasets")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ITEMS = [sample_item(5, index) for index in range(4)]


def _rows(**columns: Callable[[int, Any], Any]) -> Any:
    return datasets.Dataset.from_list(
        [
            {
                "images": [picture],
                "prompt": [{"role": "user", "content": question.text}],
                **{name: make(index, question) for name, make in columns.items()},
            }
            for index, (picture, question) in enumerate(ITEMS)
        ]
    )


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _reward(completions: list[Any], **columns: Any) -> list[float]:
    return [float(len(str(completion)) + index) for index, completion in enumerate(completions)]


DATA: dict[str, Callable[[], Any]] = {
    "SFT": lambda: _rows(completion=lambda i, question: _said(question.answer)),
    "DPO": lambda: _rows(chosen=lambda i, question: _said(question.answer), rejected=lambda i, question: _said("no")),
    "KTO": lambda: _rows(completion=lambda i, question: _said(question.answer), label=lambda i, question: i % 2 == 0),
    "GRPO": _rows,
    "RLOO": _rows,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "SFT": {"max_length": None},
    "DPO": {"max_length": None},
    "KTO": {"max_length": None},
    "GRPO": {"num_generations": 2, "max_completion_length": 4},
    "RLOO": {"num_generations": 2, "max_completion_length": 4},
}


def _trainer(kind: str, model: Any, processor: Any, where: Path, *, lora: bool = False, **options: Any) -> Any:
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(where),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
        **{"learning_rate": 1e-5, **OPTIONS[kind], **options},
    )
    extra: dict[str, Any] = {"reward_funcs": _reward} if kind in ("GRPO", "RLOO") else {}
    if lora:
        from peft import LoraConfig

        extra["peft_config"] = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return getattr(trl, f"{kind}Trainer")(
        model=model, args=config, train_dataset=DATA[kind](), processing_class=processor, **extra
    )


class Columns:
    """Columns that a model's language model is given, inside the base model."""

    def __init__(self, model: Any) -> None:
        self.seen: list[int] = []
        self._hook = model.get_decoder().register_forward_hook(self._take)

    def _take(self, module: Any, args: Any, out: Any) -> None:
        if out.last_hidden_state.shape[1] > 1:  # no decoding step
            self.seen.append(out.last_hidden_state.shape[1])


class Reports:
    """For every call: the longest row of the prompt as given, less what the report says was taken out of that row."""

    def __init__(self, trim: trimkit.Attachment, monkeypatch: pytest.MonkeyPatch) -> None:
        self.columns: list[int] = []
        attached = trim._attached_model
        stock = attached.reduce

        def reduce(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            reduced = stock(inputs, *args, **kwargs)
            rows = inputs["attention_mask"].sum(dim=1).tolist()
            for image in reduced.report.images:
                rows[image.row] -= image.tokens_before - image.tokens_after
            self.columns.append(max(rows))
            return reduced

        monkeypatch.setattr(attached, "reduce", reduce)


@pytest.fixture
def demo() -> tuple[Any, Any]:
    model, processor = load_demo()
    return model, processor


@pytest.mark.parametrize("lora", [False, True], ids=["all-weights", "lora"])
@pytest.mark.parametrize("first", ["attached", "trainer"])
@pytest.mark.parametrize("kind", sorted(DATA))
def test_the_language_model_sees_what_the_report_says(
    kind: str, first: str, lora: bool, demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = demo
    columns = Columns(model)
    trim = trimkit.reduce(model, processor, method="trim")
    reports = Reports(trim, monkeypatch)
    if first == "attached":
        with trim:
            _trainer(kind, model, processor, tmp_path, lora=lora).train()
    else:
        trainer = _trainer(kind, model, processor, tmp_path, lora=lora)
        with trim:
            trainer.train()
    assert columns.seen
    assert columns.seen == reports.columns
    assert max(columns.seen) < 576
    assert trim.report.tokens_after < trim.report.tokens_before


def test_the_loss_is_that_of_the_reduced_inputs(demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = demo
    given: list[dict[str, Any]] = []
    with trimkit.reduce(model, processor, method="trim"):
        trainer = _trainer("SFT", model, processor, tmp_path, learning_rate=0.0)
        stock = trainer.compute_loss

        def compute_loss(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            given.append(dict(inputs))
            return stock(model, inputs, *args, **kwargs)

        monkeypatch.setattr(trainer, "compute_loss", compute_loss)
        found = trainer.train().training_loss
    (inputs,) = given
    model.train()
    prepared = trimkit.prepare(model, processor, inputs, method="trim", generating=False)
    with torch.no_grad():
        expected = model(**prepared.inputs).loss
    assert prepared.inputs["input_ids"].shape[1] < inputs["input_ids"].shape[1]
    assert found == pytest.approx(float(expected), abs=1e-5)


def test_a_reference_model_is_attached_apart(demo: Any, tmp_path: Path) -> None:
    """Without it the policy's reduced prompts would be held against full ones: rewards that are none."""
    model, processor = demo
    trainer = _trainer("DPO", model, processor, tmp_path, learning_rate=0.0)
    with trimkit.reduce(model, processor), trimkit.reduce(trainer.ref_model, processor):
        trainer.train()
    (log,) = (entry for entry in trainer.state.log_history if "rewards/chosen" in entry)
    assert log["rewards/chosen"] == pytest.approx(0.0, abs=1e-4)
    assert log["rewards/rejected"] == pytest.approx(0.0, abs=1e-4)

"""Training with the reduction on: stock ``Trainer``, its options, losses and metrics outside the model, and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration, Trainer, TrainingArguments

import trimkit
from tests import tiny

pytest.importorskip("accelerate", reason="Trainer needs accelerate")

LEARNT = 3  # last tokens of a row that have labels
# What torch, transformers and accelerate say of themselves is not this library's.
pytestmark = pytest.mark.filterwarnings("ignore")


def _rows(count: int) -> list[dict[str, torch.Tensor]]:
    rows = []
    for seed in range(count):
        one = tiny.llava_batch([1], seed=seed)
        labels = one["input_ids"][0].clone()
        labels[:-LEARNT] = -100
        rows.append({"input_ids": one["input_ids"][0], "labels": labels, "pixel_values": one["pixel_values"][0]})
    return rows


def collate(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What TRL's vision collator gives, too: ids, mask, labels and pixels, padded on the right."""
    batch = tiny.pad_rows([item["input_ids"].tolist() for item in items], "right")
    batch["labels"] = torch.full_like(batch["input_ids"], -100)
    for row, item in zip(batch["labels"], items, strict=True):
        row[: len(item["labels"])] = item["labels"]
    batch["pixel_values"] = torch.stack([item["pixel_values"] for item in items])
    return batch


def collate_all(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """As TRL without masks: everything but padding has a label, placeholders included."""
    batch = collate(items)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return batch


def _trainer(model: Any, where: Path, metrics: Any = None, **options: Any) -> Trainer:
    loss = options.pop("compute_loss_func", None)
    settings: dict[str, Any] = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(where), **{**settings, **options}),
        train_dataset=_rows(8),  # type: ignore[arg-type]
        eval_dataset=_rows(3),  # type: ignore[arg-type]
        data_collator=collate,
        compute_metrics=metrics,
        compute_loss_func=loss,
    )


def _reduce(model: Any, **options: Any) -> trimkit.Attachment:
    return trimkit.reduce(model, scorer=tiny.ToyScorer(), query="what is it", **options)


def _lengths(model: Any) -> list[int]:
    """Lengths of the sequences that the language model is given from now on."""
    seen: list[int] = []
    inner = getattr(model, "get_base_model", lambda: model)().model.language_model
    inner.register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state.shape[1]))
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_accumulation_steps": 2},
        {"bf16": True},
        {"freeze": True},
    ],
    ids=lambda options: "-".join(map(str, options)) or "plain",
)
def test_trainer_trains_on_the_shorter_sequence(tmp_path: Path, options: dict[str, Any]) -> None:
    model = tiny.llava()
    model.model.vision_tower.requires_grad_(not options.pop("freeze", False))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    lengths = _lengths(model)
    with _reduce(model):
        trainer = _trainer(model, tmp_path, **options)
        assert trainer.model_accepts_loss_kwargs
        trainer.train()
    assert lengths
    assert max(lengths) < tiny.TOKENS
    for name, weight in model.named_parameters():
        moved = not torch.equal(weight, before[name])
        if "post_layernorm" in name or "encoder.layers.2" in name:
            continue  # LLaVA reads the tower's last layer but one
        assert moved == weight.requires_grad, name
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_a_step_is_the_mean_over_its_labels(tmp_path: Path) -> None:
    """``num_items_in_batch``, counted on uncut labels, is right for the shortened ones."""
    model = tiny.llava()
    seen: list[dict[str, torch.Tensor]] = []
    with _reduce(model):
        trainer = _trainer(model, tmp_path, gradient_accumulation_steps=2, learning_rate=0.0)
        trainer.data_collator = lambda items: seen.append(collate(items)) or seen[-1]  # type: ignore[func-returns-value]
        trainer.train()
        with torch.no_grad():
            each = [model(**batch).loss.item() for batch in seen[:4]]
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx([sum(each[:2]) / 2, sum(each[2:]) / 2], rel=1e-3)


def test_labels_meet_their_own_logits_when_spread() -> None:
    """Spread logits and uncut labels give the loss that the model makes of what it was given."""
    model = tiny.llava()
    batch = collate(_rows(3))
    with torch.no_grad():
        with _reduce(model):
            expected = model(**batch).loss
        with _reduce(model, full_logits=True) as trim:
            out = model(**batch)
    assert trim.report.tokens_after < trim.report.tokens_before
    assert out.logits.shape[:2] == batch["input_ids"].shape
    assert out.loss == pytest.approx(expected.item())
    spread = cross_entropy(out.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert spread.item() == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_and_a_loss_of_ones_own_need_full_logits(tmp_path: Path) -> None:
    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs.logits[:, :-1].flatten(0, 1)
        return cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch

    losses = {}
    for name, options in (
        ("plain", {}),
        ("own", {"compute_loss_func": loss}),
        ("smooth", {"label_smoothing_factor": 0.1}),
    ):
        model = tiny.llava()
        with _reduce(model, full_logits=name != "plain"):
            trainer = _trainer(model, tmp_path, max_steps=1, **options)
            trainer.train()
        losses[name] = trainer.state.log_history[0]["loss"]
    assert losses["own"] == pytest.approx(losses["plain"], rel=1e-4)
    assert losses["smooth"] != pytest.approx(losses["plain"], rel=1e-3)


def test_evaluation_gives_the_loss_and_with_full_logits_metrics(tmp_path: Path) -> None:
    def right(prediction: Any) -> dict[str, float]:
        logits, *_ = prediction.predictions  # LLaVA gives its image features, too
        guesses, labels = logits.argmax(-1)[:, :-1], prediction.label_ids[:, 1:]
        counted = labels != -100
        return {"right": float((guesses == labels)[counted].mean()), "counted": float(counted.sum())}

    model = tiny.llava()
    with _reduce(model):
        plain = _trainer(model, tmp_path, prediction_loss_only=True).evaluate()
        with torch.no_grad():
            out = model(**collate(_rows(2)))
    with _reduce(model, full_logits=True):
        measured = _trainer(model, tmp_path, right).evaluate(ignore_keys=["past_key_values"])
    assert measured["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-4)
    assert measured["eval_counted"] == 3 * LEARNT
    assert out.logits.shape[1] < tiny.TOKENS
    assert 0 <= measured["eval_right"] <= 1


def test_what_trl_computes_from_logits_and_labels(tmp_path: Path) -> None:
    """Entropy under the mask and token accuracy, on a batch in which all but padding has a label."""
    model = tiny.llava()
    batch = collate_all(_rows(3))
    with _reduce(model, full_logits=True):
        out = model(**batch, use_cache=False)
    out.loss.backward()
    chances = out.logits.detach().log_softmax(-1)
    entropy = -(chances.exp() * chances).sum(-1) * batch["attention_mask"]
    assert torch.isfinite(entropy).all()
    learnt = batch["labels"][:, 1:] != -100
    right = (out.logits[:, :-1].argmax(-1) == batch["labels"][:, 1:]) & learnt
    assert right.shape == learnt.shape


def test_full_logits_leave_the_last_few_and_refuse_tuples() -> None:
    model = tiny.llava()
    batch = tiny.llava_batch([1])
    with _reduce(model, full_logits=True), torch.no_grad():
        assert model(**batch, logits_to_keep=2).logits.shape[1] == 2
        with pytest.raises(trimkit.UnsupportedError, match="return_dict"):
            model(**batch, return_dict=False)
    with _reduce(model, method="none", full_logits=True), torch.no_grad():
        assert model(**batch).logits.shape[1] == batch["input_ids"].shape[1]


def test_gradient_reaches_what_the_aggregated_token_stands_for() -> None:
    """The loss moves the features of dropped patches, too, through their mean."""
    model = tiny.llava().train()
    batch = collate(_rows(1))
    features: list[torch.Tensor] = []

    def keep(module: Any, arguments: Any, output: Any) -> None:
        output.hidden_states[-2].retain_grad()
        features.append(output.hidden_states[-2])

    model.model.vision_tower.register_forward_hook(keep)
    with _reduce(model) as trim:
        model(**batch).loss.backward()
    (image,) = trim.report.images
    assert image.aggregated
    assert features[0].grad is not None
    gradient = features[0].grad[0, 1:]
    dropped = torch.ones(tiny.TOKENS, dtype=torch.bool)
    dropped[image.indices] = False
    assert (gradient.abs().sum(-1) > 0).all()
    assert torch.allclose(gradient[dropped], gradient[dropped][:1], rtol=1e-4)


@pytest.mark.parametrize("attached_first", [True, False])
def test_checkpoints_are_plain(tmp_path: Path, attached_first: bool) -> None:
    """Weights, names and config of what is saved in training are those of a model that was never attached."""
    model = tiny.llava()
    if attached_first:
        trim = _reduce(model).attach()
        trainer = _trainer(model, tmp_path / "run", save_strategy="steps", save_steps=1)
    else:
        trainer = _trainer(model, tmp_path / "run", save_strategy="steps", save_steps=1)
        trim = _reduce(model).attach()
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    trim.detach()
    assert not {"generate", "forward"} & set(model.__dict__)
    model.save_pretrained(tmp_path / "detached")
    for name in ("run/checkpoint-2", "out"):
        saved = LlavaForConditionalGeneration.from_pretrained(tmp_path / name)
        assert saved.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(weight, model.state_dict()[key]) for key, weight in saved.state_dict().items())
        configs = [json.loads((tmp_path / where / "config.json").read_text()) for where in (name, "detached")]
        assert configs[0] == configs[1]


def test_a_model_that_accelerate_unwraps_still_reduces() -> None:
    """It binds the forward that it had wrapped to the model; the shadow must not take the model for an argument."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # Trainer's settings of the tests before
    model = tiny.llava().train()
    batch = collate(_rows(2))
    with _reduce(model) as trim:
        accelerator = Accelerator(mixed_precision="bf16", cpu=True)
        prepared = accelerator.prepare(model)
        prepared(**batch).loss.backward()
        unwrapped = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        short = unwrapped(batch["input_ids"], batch["pixel_values"], batch["attention_mask"]).logits.shape[1]
        assert short < batch["input_ids"].shape[1]
        assert trim.report.tokens_after < trim.report.tokens_before
    assert unwrapped(**batch).logits.shape[1] == batch["input_ids"].shape[1]


def test_half_precision_scores_as_full_precision_does() -> None:
    """Autocast reaches the tower, but not the scores: those of the same features are the same to the bit."""
    clip, model = tiny.clip(), tiny.llava()
    scorer = trimkit.ClipNativeScorer(clip, _Words())
    batch = tiny.llava_batch([1])
    images = [trimkit.ImageTokens(features=torch.randn(tiny.TOKENS, 32))]
    expected = scorer.similarity(images, ["what"])[0]
    pipeline_images: list[Any] = []

    class Same:
        profile = scorer.profile

        def similarity(self, given: Any, queries: Any, **options: Any) -> Any:
            pipeline_images.append(scorer.similarity(images, queries, **options)[0])
            return pipeline_images[-1:]

    with trimkit.reduce(model, scorer=Same(), query="what"), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        model(**batch)
    assert torch.equal(pipeline_images[0], expected)


class _Words:
    """A tokenizer of one word."""

    def __call__(self, text: Any, **options: Any) -> dict[str, Any]:
        return {"input_ids": [1, 5, 2]}


def test_lora_trains_its_adapters_alone(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(tiny.llava(), config)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    lengths = _lengths(model)
    with _reduce(model):
        trainer = _trainer(model, tmp_path, max_steps=3, learning_rate=1e-2, gradient_checkpointing=True)
        trainer.train()
        trainer.save_model(str(tmp_path / "out"))
    assert max(lengths) < tiny.TOKENS
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert any("language_model" in name for name in moved)
    assert all("lora_" in name for name in moved)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    again = peft.PeftModel.from_pretrained(tiny.llava(), tmp_path / "out")
    batch = collate(_rows(2))
    with torch.no_grad():
        model.eval()
        assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_a_question_a_row_comes_through_the_collator(tmp_path: Path) -> None:
    def with_questions(items: list[Any]) -> dict[str, Any]:
        return {**collate(items), "query": [f"question of {len(item['labels'])}" for item in items]}

    model = tiny.llava()
    with trimkit.reduce(model, scorer=tiny.ToyScorer()) as trim:
        trainer = _trainer(model, tmp_path, remove_unused_columns=False, max_steps=1)
        trainer.data_collator = with_questions
        trainer.train()
    assert all(image.query and image.query.startswith("question of") for image in trim.report.images)

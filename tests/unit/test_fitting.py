"""`trimkit fit`: what it learns from, that it goes on to the bit, what it refuses, and that no answer reaches the scorer."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from benchmarks import fit_world
from tests.calibration import QUESTIONS, Salience, spots, write_checkpoint
from trimkit import ConfigError, EncoderProfile, InputError, ModelError, export, reduce
from trimkit.ask import build_inputs
from trimkit.core.types import ImageTokens
from trimkit.demo import items
from trimkit.fitting import FitSettings, Fitting, Verdict, fit
from trimkit.fitting import _fit as fit_module
from trimkit.fitting import _records as records_module
from trimkit.fitting._divergence import divergence
from trimkit.fitting._networks import FittedWords
from trimkit.fitting._questions import asked_by_model
from trimkit.fitting._records import RecordStore
from trimkit.fitting._rows import MOST_SETS, row_prompts, row_sets
from trimkit.fitting._runs import Runs, Split
from trimkit.fitting._targets import _relaxed
from trimkit.fitting._training import Training, learning_rate
from trimkit.io import files
from trimkit.loading import load_model
from trimkit.scorers import FittedScorer, NetworkShape, ScoringNetwork, load_scorer, width_for
from trimkit.scorers.fitted_lines import _in_line

SETTINGS = FitSettings(per_picture=1, max_new_tokens=2, steps=4, every=2, batch=4, width=8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "random")


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> tuple[Any, Any]:
    return load_model(str(checkpoint))


@pytest.fixture(scope="module")
def folder(loaded: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(loaded, tmp_path_factory.mktemp("fit")).written or Path()


def fitted(loaded: tuple[Any, Any], place: Path, **options: Any) -> Fitting:
    how = {"work": place / "work", "settings": SETTINGS, "force": True, **options}
    pictures, questions = how.pop("pictures", None) or spots(40), how.pop("questions", QUESTIONS)
    return fit(*loaded, pictures, questions, place / "out", **how)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_network_stays_within_two_percent_of_the_demo_tower() -> None:
    tower, vocabulary, features = 2_893_824, 936, 192
    width = width_for(features, vocabulary, int(0.02 * tower))
    assert width == 40
    assert NetworkShape(features, vocabulary, width).parameters <= 0.02 * tower


def test_at_the_start_the_base_alone_ranks() -> None:
    network = ScoringNetwork(NetworkShape(6, 10, 8))
    with torch.no_grad():
        network.table.normal_()
    words, weight = network.words(network.table[torch.tensor([[1, 2]])], torch.ones(1, 2, dtype=torch.bool))
    base = torch.randn(1, 12)
    found = network.relevance(network.patches(torch.randn(1, 12, 6), (3, 4)), words, weight, base, (3, 4))
    assert torch.allclose(found - base, (found - base)[:, :1].expand_as(base), atol=1e-5)


def test_a_line_is_looked_along_in_four_directions() -> None:
    rows, columns = torch.randn(2, 12), torch.randn(2, 12)
    both = torch.stack([rows, 2 * rows], dim=1), torch.stack([columns, 2 * columns], dim=1)
    found = _in_line(*both, (3, 4))
    assert torch.allclose(found[..., 4:], 2 * found[..., :4], atol=1e-6)
    ways = found.unbind(dim=2)
    for each, axis, pair in ((rows, 2, ways[:2]), (columns, 1, ways[2:4])):
        window = (1, 3) if axis == 2 else (3, 1)
        padded = torch.nn.functional.pad(
            each.view(2, 1, 3, 4), (1, 1, 0, 0) if axis == 2 else (0, 0, 1, 1), value=torch.nan
        )
        smooth = torch.stack(
            [part.nanmean(dim=(-2, -1)) for part in padded.unfold(2, window[0], 1).unfold(3, window[1], 1)[:, 0]]
        )
        middle = smooth.amax(dim=axis).mean(dim=1).view(2, 1, 1)
        so_far = smooth.cummax(dim=axis).values - middle
        to_come = smooth.flip(axis).cummax(dim=axis).values.flip(axis) - middle
        assert torch.allclose(pair[0].view(2, 3, 4), so_far, atol=1e-6)
        assert torch.allclose(pair[1].view(2, 3, 4), to_come, atol=1e-6)


@pytest.mark.parametrize("with_lines", [True, False])
def test_it_learns_that_the_answer_stands_in_line_with_what_is_named(with_lines: bool) -> None:
    """Tables of eight marks and blank cells: the question names a mark, the answer is the last cell of its row."""
    torch.manual_seed(0)
    network = ScoringNetwork(NetworkShape(9, 8, 16))
    with torch.no_grad():
        network.table.copy_(torch.eye(8, 16) * 4)
    optimizer = torch.optim.AdamW([each for name, each in network.named_parameters() if name != "table"], lr=0.01)

    def right(count: int, *, learn: bool) -> float:
        marks = torch.stack([torch.randperm(8) for _ in range(count)])
        features = torch.zeros(count, 8, 4, 9)
        features[:, :, 0, :8] = torch.nn.functional.one_hot(marks, 8).float() * 4
        features[:, :, 3, 8] = 4.0  # nothing of a blank cell tells its row, and its row is not the neighbors'
        asked = torch.randint(0, 8, (count,))
        named = (marks == asked[:, None]).int().argmax(dim=1) * 4
        found = network(features.flatten(1, 2), asked[:, None], (8, 4) if with_lines else None)
        shares = found.log_softmax(dim=1)
        if learn:  # a model looks at both
            optimizer.zero_grad()
            (-shares.gather(1, torch.stack([named, named + 3], dim=1)).mean()).backward()
            optimizer.step()
        blank = shares.view(count, 8, 4)[:, :, 3].argmax(dim=1)
        return float((blank == named // 4).float().mean())

    for _ in range(40):
        right(32, learn=True)
    with torch.no_grad():
        assert (right(200, learn=False) > 0.9) == with_lines


def test_padding_of_a_question_changes_nothing() -> None:
    network = ScoringNetwork(NetworkShape(6, 10, 8))
    with torch.no_grad():
        for each in network.parameters():
            each.normal_(std=0.3)
    features = torch.randn(1, 12, 6)
    alone = network(features, torch.tensor([[1, 2]]), (3, 4))
    padded = network(features, torch.tensor([[1, 2, -1, -1]]), (3, 4))
    assert torch.allclose(alone, padded, atol=1e-5)


def test_two_words_that_fit_two_patches_leave_both_above_the_rest() -> None:
    network = ScoringNetwork(NetworkShape(6, 10, 8))
    patches = torch.zeros(1, 5, 8)
    patches[0, 1, 0] = patches[0, 3, 1] = 10.0
    words = torch.eye(8)[None, :2] * 3
    found = network.relevance(patches, words, torch.zeros(1, 2))[0]
    assert set(found.topk(2).indices.tolist()) == {1, 3}


def test_divergence_is_zero_from_itself_and_counts_the_rest() -> None:
    full = torch.randn(3, 40).log_softmax(-1)
    likely = full.topk(10, dim=-1)
    assert float(divergence(full, likely.values, likely.indices)) == pytest.approx(0.0, abs=1e-5)
    assert float(divergence(torch.randn(3, 40).log_softmax(-1), likely.values, likely.indices)) > 0.0


def test_rows_are_tried_for_completing_each_other_and_every_step_there_is_a_set() -> None:
    """Three tokens are needed: one layer finds two of them, another the third; one that finds one of the two adds nothing."""
    total, needed = 36, (3, 17, 30)
    attention = torch.full((2, 3, total), 1e-3)
    attention[0, 1, [3, 17]] = 1.0
    attention[1, 2, 30] = 1.0
    attention[0, 2, 3] = 1.0
    pair = SimpleNamespace(attention=attention)

    class Planted:
        store = SimpleNamespace(get=lambda number: SimpleNamespace(pairs=[pair]))

        def measure(self, pairs: Any, rank: Any, method: Any) -> Any:
            top = set(rank([None], [pair])[0].topk(3).indices.tolist())
            return np.array([float(len(set(needed) - top))]), np.ones(1)

    prompts: list[int] = []
    found = row_sets(Planted(), [(0, 0)], prompts.append)  # type: ignore[arg-type]
    assert found == [[(0, 1)], [(0, 1), (1, 2)]]
    assert 6 < sum(prompts) <= row_prompts(3, 1)


def test_the_first_row_is_tried_with_more_than_one_partner() -> None:
    """Each row finds a token of its own, so that all help; the partner that helps most is not the only one."""
    attention = torch.full((2, 3, 36), 1e-3)
    for place, (side, layer) in enumerate((side, layer) for side in range(2) for layer in range(3)):
        attention[side, layer, place] = 1.0
    pair = SimpleNamespace(attention=attention)

    class Planted:
        store = SimpleNamespace(get=lambda number: SimpleNamespace(pairs=[pair]))

        def measure(self, pairs: Any, rank: Any, method: Any) -> Any:
            row = rank([None], [pair])[0]
            found = [place for place in range(6) if row[place] > row[10:].max() + 0.5]
            return np.array([10.0 - sum(1.0 / (1 + place) for place in found)]), np.ones(1)

    found = row_sets(Planted(), [(0, 0)], lambda prompts: None)  # type: ignore[arg-type]
    pairs = [[(0, 0), (0, 1)], [(0, 0), (0, 2)], [(0, 0), (1, 0)]]
    assert found == [[(0, 0)], *pairs, [(0, 0), (0, 1), (0, 2)], [(0, 0), (0, 1), (0, 2), (1, 0)]]
    assert len(found) == MOST_SETS


@pytest.mark.parametrize(("best", "left"), [(0.0, 0.3), (1.0, 1.3)])
def test_what_it_builds_on_is_added_as_far_as_it_helps(
    best: float, left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training can take out a relevance that is right where nothing was learned."""
    network = FittedWords(NetworkShape(4, 6, 8), torch.zeros(6, 5), builds_on=True)
    network.network.set_base_weight(0.3)
    runs = Runs.__new__(Runs)
    runs._network = network
    far = lambda _, heat: abs(network.network.base_weight.item() - 0.3 - best)  # noqa: E731
    monkeypatch.setattr(Runs, "_far", far)
    before, steps = network.network.base_share.clone(), []
    tried = runs.add_base(1.0, far(runs, 1.0), steps.append)
    assert network.network.base_weight.item() == pytest.approx(left)
    assert list(tried) == ["0", "0.25", "0.5", "1", "2"]
    assert steps == [1, 1, 1, 1]
    assert best or torch.equal(network.network.base_share, before)


def test_attention_that_cannot_be_learned_is_not_aimed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set is trained from the same weights, and the one nearest after that is aimed at, wherever it stands in the row."""
    network = FittedWords(NetworkShape(4, 6, 8), torch.zeros(6, 5))
    runs = Runs(None, network, None, Split([(0, 0)], [(1, 0)], []), FitSettings(steps=3))  # type: ignore[arg-type]
    learned = {(0, 0): 0.3, (1, 4): 0.1, (1, 5): 0.2}
    seen: list[tuple[Any, float]] = []

    def training(self: Any, target: str, settings: FitSettings, path: Path, identity: str) -> Any:
        def run(advance: Callable[[int], None]) -> None:
            seen.append((path.name, float(network.network.free_words.detach().abs().sum())))
            network.network.free_words.data.add_(1.0)

        return SimpleNamespace(run=run)

    monkeypatch.setattr(Runs, "_training", training)
    monkeypatch.setattr(Runs, "_far", lambda self, heat: learned[self.rows[0]])
    start = runs.state()
    found = runs.race([[(0, 0)], [(1, 4)], [(1, 5)]], tmp_path, "", fit_module._silent)
    assert found == {"question 0": 0.3, "answer 4": 0.1, "answer 5": 0.2}
    assert runs.rows == [(1, 4)]
    assert [name for name, _ in seen] == [f"rows-{number}.safetensors" for number in range(3)]
    assert len({weights for _, weights in seen}) == 1
    assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())


def test_the_relaxed_choice_keeps_a_number_and_gains_nothing_from_relevance_that_rises_everywhere() -> None:
    row = torch.randn(30, requires_grad=True)
    selection, gate = _relaxed(row, 7, torch.Generator().manual_seed(0))
    assert len(selection.indices) == 7
    assert torch.equal(gate.detach(), torch.ones(7))
    gate.sum().backward()
    assert row.grad is not None
    assert float(row.grad.sum()) == pytest.approx(0.0, abs=1e-5)
    assert float(row.grad.abs().sum()) > 0.0


def test_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(FitSettings(steps=100), step) for step in range(100)]
    assert rates[0] < rates[5]
    assert rates[-1] < 0.01 * max(rates)


def test_a_fit_that_is_killed_goes_on_and_gives_the_same_weights(
    loaded: tuple[Any, Any], folder: Path, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def dying(doomed: str) -> Any:
        @contextlib.contextmanager
        def phase(title: str, total: int) -> Iterator[Callable[[int], None]]:
            done = 0

            def advance(steps: int) -> None:
                nonlocal done
                done += steps
                if title == doomed and done >= 3:
                    raise KilledError

            yield advance

        return phase

    for doomed in (
        "answers of the full model",
        "attention that can be learned",
        "fit to the attention",
        "fit to the answer",
    ):
        with pytest.raises(KilledError):
            fitted(loaded, tmp_path, phase=dying(doomed))
        assert not (tmp_path / "out").exists()
    assert weights(fitted(loaded, tmp_path).written or Path()) == weights(folder)


def test_another_fit_is_not_mixed_with_the_work_of_this_one(
    loaded: tuple[Any, Any], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="work of another fit"):
        fit(*loaded, spots(41), QUESTIONS, tmp_path / "out", work=folder.parent / "work", settings=SETTINGS)
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_go_on_with_a_training(loaded: tuple[Any, Any], folder: Path, tmp_path: Path) -> None:
    """Another seed splits the pictures anew: weights that have seen what they are to be judged by decide nothing."""
    shutil.copytree(folder.parent / "work", tmp_path / "work")
    other = replace(SETTINGS, seed=1)
    again = fitted(loaded, tmp_path, settings=other).written or Path()
    fresh = fitted(loaded, tmp_path / "fresh", settings=other).written or Path()
    assert weights(again) == weights(fresh) != weights(folder)


def test_a_weight_that_no_loss_reaches_is_saved_and_gone_on_with(tmp_path: Path) -> None:
    def trained(steps: int) -> Any:
        network = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 1), "unused": torch.nn.Linear(2, 1)})
        given: dict[str, Any] = {"loss": lambda numbers, draw: network["used"](torch.ones(2)).sum() ** 2}
        settings = replace(SETTINGS, steps=4, every=2)
        training = Training(
            network, settings, "attention", tmp_path / "state", identity="a", held_out=lambda: 1.0, pairs=4, **given
        )
        with contextlib.suppress(InterruptedError):
            training.run(lambda done: _stop(training, steps))
        return training

    def _stop(training: Any, steps: int) -> None:
        if training.progress.step > steps:
            raise InterruptedError

    assert trained(2).progress.step == 3
    assert trained(9).progress.ended


@pytest.mark.parametrize("part", ["language model", "baseline"])
def test_records_of_another_language_model_or_scorer_are_not_used(
    part: str, loaded: tuple[Any, Any], checkpoint: Path, folder: Path
) -> None:
    """Both have made what is recorded: answers, attention, and what the scorer is compared with."""
    other = load_model(str(checkpoint))
    weight = next(weight for name, weight in other[0].named_parameters() if "language_model.layers" in name)
    if part == "language model":
        with torch.no_grad():
            weight.add_(0.1)
    how: dict[str, Any] = {"work": folder.parent / "work", "settings": SETTINGS}
    how |= {"scorer": Salience()} if part == "baseline" else {}
    with pytest.raises(ConfigError, match="work of another fit"):
        fit(*other, spots(40), QUESTIONS, **how)


def test_a_model_with_another_language_model_is_another_one(checkpoint: Path, folder: Path) -> None:
    model, _ = load_model(str(checkpoint))
    scorer = load_scorer(folder)
    assert isinstance(scorer, FittedScorer)
    scorer.check_model(model)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "language_model" in name:
                each.mul_(1.5)
    with pytest.raises(ConfigError, match="fitted to another model"):
        scorer.check_model(model)
    for layer in model.get_decoder().layers:  # as an engine packs them: what is before decides alone
        layer.self_attn.packed = layer.self_attn.q_proj
        del layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.self_attn.o_proj, layer.mlp
        del layer.input_layernorm, layer.post_attention_layernorm
    scorer.check_model(model)


def test_the_model_is_left_as_it_was(loaded: tuple[Any, Any], folder: Path) -> None:
    model, _ = loaded
    assert folder.is_dir()
    assert all(each.requires_grad for each in model.parameters())
    assert model.get_decoder().config._attn_implementation != "eager"
    assert not any(layer.self_attn._forward_hooks for layer in model.get_decoder().layers)


def test_a_scorer_without_a_clip_stands_alone(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    settings = FitSettings(per_picture=1, max_new_tokens=2, steps=1, every=1, batch=2, width=8, targets=("attention",))
    found = fitted(loaded, tmp_path, scorer=Salience(), settings=settings)
    assert not (tmp_path / "out" / "base").exists()
    assert found.told["guard"]["against"] == "the relevance of Salience"


def test_the_folder_serves_where_a_scorer_is_named(loaded: tuple[Any, Any], folder: Path) -> None:
    model, processor = loaded
    picture, question = next(iter(spots(1).values())), QUESTIONS[0]
    inputs = build_inputs(model, processor, [picture], [question], max_new_tokens=2)
    with reduce(model, processor, method="focus", budget=16, scorer=str(folder)) as trim:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert trim.report.images[0].query == question
    assert trim.report.tokens_after == 16
    assert isinstance(load_scorer(folder), FittedScorer)
    assert {"README.md", "fit.json", "trimkit.json", "scorer.json"} <= {each.name for each in folder.iterdir()}


def test_what_it_builds_on_is_tried_on_top_of_what_was_learned(folder: Path) -> None:
    told = json.loads((folder / "fit.json").read_text())
    tried = told["held_out"]["added"]
    assert list(tried) == ["0", "0.25", "0.5", "1", "2"]
    assert tried["0"] == told["held_out"][told["target"]][f"{told['temperature']:g}"]


def test_no_answer_reaches_the_scorer(loaded: tuple[Any, Any], folder: Path) -> None:
    model, processor = loaded
    scorer = load_scorer(folder)
    assert isinstance(scorer, FittedScorer)
    image = ImageTokens(torch.randn(576, scorer.network.shape.features), (24, 24))
    asked: list[str] = []

    class Watching(FittedScorer):
        def similarity(self, images: Any, queries: Any, **options: Any) -> list[torch.Tensor]:
            asked.extend(queries)
            return super().similarity(images, queries, **options)

    watching = Watching(scorer.network, scorer.tokenizer, EncoderProfile(sign=1))
    picture, question = next(iter(spots(1).values())), QUESTIONS[0]
    inputs = dict(build_inputs(model, processor, [picture], [question], max_new_tokens=4))
    planted = processor.tokenizer(" rocket", add_special_tokens=False, return_tensors="pt")["input_ids"]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], planted], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -planted.shape[1] :] = planted
    with reduce(model, processor, method="focus", budget=16, scorer=watching):
        model(**inputs, labels=labels)
    assert set(asked) == {question}
    assert watching.similarity([image], [question])[0].shape == (576,)


def test_another_model_is_refused_in_one_line(checkpoint: Path, folder: Path) -> None:
    other = load_model(str(checkpoint))
    with torch.no_grad():
        for each in other[0].parameters():
            each.mul_(1.5)
    picture = next(iter(spots(1).values()))
    inputs = build_inputs(*other, [picture], ["what?"], max_new_tokens=2)
    with (
        pytest.raises(ConfigError, match="fitted to another model") as raised,
        reduce(*other, method="focus", budget=16, scorer=str(folder)),
    ):
        other[0].generate(**inputs, max_new_tokens=2)
    assert "\n" not in str(raised.value)


def test_a_model_in_half_precision_is_the_same_model(checkpoint: Path, folder: Path) -> None:
    model, processor = load_model(str(checkpoint), dtype="bfloat16")
    picture = next(iter(spots(1).values()))
    inputs = build_inputs(model, processor, [picture], ["what?"], max_new_tokens=2)
    with reduce(model, processor, method="focus", budget=16, scorer=str(folder)) as trim:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert trim.report.tokens_after == 16


def test_a_damaged_folder_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scorer.json").write_text('{"model_type": "trimkit_fitted"}', encoding="utf-8")
    with pytest.raises(ModelError, match="fit it again"):
        load_scorer(tmp_path)
    (tmp_path / "scorer.json").write_bytes((folder / "scorer.json").read_bytes())
    with pytest.raises(ModelError, match="copy the folder whole"):
        load_scorer(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(ModelError, match="fit it again"):
        load_scorer(tmp_path / "copy")


def test_export_takes_it_along(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    target = export(str(checkpoint), tmp_path / "exported", method="focus", budget=16, scorer=folder)
    model, processor = load_model(str(target))
    inputs = build_inputs(model, processor, [next(iter(spots(1).values()))], ["what?"], max_new_tokens=2)
    with reduce(model, processor, method="focus", budget=16) as trim:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert trim.report.tokens_after == 16
    assert isinstance(load_scorer(directory=target), FittedScorer)


def test_too_few_pictures_and_one_question_are_one_line(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few") as raised:
        fitted(loaded, tmp_path, pictures=spots(5))
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="one question only"):
        fitted(loaded, tmp_path, questions=["What is this?"])
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_is_said_before_the_model_is_asked(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    for output, work in (("a", "a"), ("a", "a/work"), ("file/scorer", "work")):
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError):
            fit(*loaded, spots(40), QUESTIONS, tmp_path / output, work=tmp_path / work, settings=SETTINGS)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    "name", ["attention.safetensors", "layers.json", "questions.json", "records/000003.safetensors"]
)
def test_damaged_work_is_one_line(name: str, loaded: tuple[Any, Any], folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder.parent / "work", tmp_path / "work")
    path = tmp_path / "work" / name
    content = save({"x": torch.zeros(1)}) if path.suffix == ".safetensors" else b"[1]"
    path.write_bytes(content)
    (tmp_path / "work" / "answer.safetensors").unlink()
    given = None if name == "questions.json" else QUESTIONS
    with pytest.raises((InputError, ConfigError)) as raised:
        fit(*loaded, spots(40), given, tmp_path / "out", work=tmp_path / "work", settings=SETTINGS)
    assert "remove it" in str(raised.value)


def test_a_full_disk_is_one_line(loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_write_and_rename", full)
    with pytest.raises(InputError, match="No space left on device") as raised:
        fitted(loaded, tmp_path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_small_records_are_held_in_memory_beyond_the_least(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps draw their pictures from all of them: what does not fit is read from the disk again and again."""
    records = folder.parent / "work" / "records"
    size = next(records.glob("*.safetensors")).stat().st_size
    for most, again in ((0, 1), (6 * size, 0)):
        monkeypatch.setattr(records_module, "_HELD", 2)
        monkeypatch.setattr(records_module, "_HELD_BYTES", most)
        store = RecordStore(records, json.loads((records / "identity.json").read_text()), 10**9)
        for number in range(4):
            store.get(number)
        read: list[Any] = []
        monkeypatch.setattr(store, "_read", lambda path: read.append(path) or SimpleNamespace())  # noqa: B023
        store.get(0)
        assert len(read) == again


def test_records_beyond_the_limit_are_one_line(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    small = FitSettings(**{**SETTINGS.to_plain(), "cache_gb": 1e-4, "targets": ("attention",), "shares": (0.1, 0.2)})
    with pytest.raises(InputError, match="--cache-gb"):
        fitted(loaded, tmp_path, settings=small)


@pytest.mark.parametrize("better", [True, False])
def test_the_guard_decides_what_is_written(
    better: bool, loaded: tuple[Any, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Verdict(better, -0.1, -0.2, -0.01, {"0.1": 0.1}, {"0.1": 0.2}, {"0.1": (0.9, 0.8)}, "CLIP's relevance", 8, 8)
    monkeypatch.setattr(fit_module, "guard", lambda *_: told)
    work = folder.parent / "work"
    found = fitted(loaded, tmp_path, force=False, work=work)
    assert found.verdict.better is better
    assert (found.written is not None) is better
    assert (tmp_path / "out").exists() is better


def test_without_questions_the_model_is_asked(loaded: tuple[Any, Any]) -> None:
    found = asked_by_model(*loaded, spots(3), 2, lambda steps: None)
    assert set(found) == set(spots(3))
    assert all(len(questions) == 2 for questions in found.values())


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"targets": ("luck",)}, {"shares": (0.5, 0.1)}, {"seed": -1}, {"width": 65}, {"cache_gb": 0.0}],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FitSettings(**wrong)


def test_batches_depend_on_the_step_alone() -> None:
    draws = [random.Random(f"0/answer/{step}").sample(range(100), 4) for step in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]
    assert np.isfinite(draws[2]).all()


def test_no_seed_of_a_test_set_draws_what_the_benchmark_fits_on(tmp_path: Path) -> None:
    assert fit_world.NAMESPACE not in {items.EVALUATION_NAMESPACE, items.DIALOGUE_NAMESPACE, items.TRAINING_NAMESPACE}
    fit_world.write_set(tmp_path / "set", 2, 2, 1)
    lines = (tmp_path / "set" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(set(json.loads(line)) == {"image", "question"} for line in lines)  # no answer among them

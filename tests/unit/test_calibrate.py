"""Calibration: what is compared, what is decided from it, and that the right sign comes out either way."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.calibration import QUESTIONS, Salience, spots, write_checkpoint
from trimkit import ConfigError, EncoderProfile, InputError, get_method
from trimkit.calibration import calibrate, count_passes
from trimkit.calibration._calibrate import choose_profile
from trimkit.calibration._choose import choose_budget, compare, interval, knee
from trimkit.calibration._measure import Arm, Probe, js_divergence, kl_divergence
from trimkit.calibration._sources import make_pairs
from trimkit.config import Config, Reduction, save_config
from trimkit.demo import demo_model_path
from trimkit.loading import load_model


@pytest.fixture(scope="module")
def random_llava(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return load_model(str(write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "random")))


@pytest.fixture(scope="module")
def probe(random_llava: tuple[Any, Any]) -> Probe:
    pairs = make_pairs(spots(8), QUESTIONS, 1)
    return Probe(*random_llava, pairs, scorer=Salience(), max_new_tokens=3, batch_size=3)


def arm(divergence: Any, agreement: Any = 1.0, share: float = 0.1, **options: Any) -> Arm:
    values = np.atleast_1d(np.asarray(divergence, dtype=np.float64))
    rest = {name: np.full(len(values), value) for name, value in (("kl", 0.0), ("full", 100.0), ("spread", 1.0))}
    rest |= {"agreement": np.full(len(values), agreement), "kept": np.full(len(values), 100.0 * share)}
    return Arm(get_method("trim", **options), values, **rest)


def test_divergence_is_zero_at_home_and_bounded() -> None:
    logp = torch.randn(3, 5, 40).log_softmax(-1)
    assert torch.allclose(js_divergence(logp, logp), torch.zeros(3, 5), atol=1e-6)
    apart = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert js_divergence(apart[0], apart[1]).item() == pytest.approx(math.log(2.0))
    assert kl_divergence(apart[0], apart[0]).item() == 0.0


def test_divergence_is_symmetric_and_as_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.1, 0.2, 0.7])
    assert js_divergence(p.log(), q.log()).item() == pytest.approx(js_divergence(q.log(), p.log()).item())
    middle = (p + q) / 2
    by_hand = sum(
        0.5 * float(side[i]) * math.log(float(side[i] / middle[i])) for side in (p, q) for i in range(3) if side[i] > 0
    )
    assert js_divergence(p.log(), q.log()).item() == pytest.approx(by_hand, rel=1e-5)
    assert kl_divergence(p.log(), q.log()).item() == pytest.approx(0.5 * math.log(5.0) + 0.5 * math.log(2.5), rel=1e-5)


def test_nothing_reduced_is_no_divergence(probe: Probe) -> None:
    found = probe.measure(get_method("trim", budget=0.999999, aggregate="none", min_tokens=1))
    everything = probe.measure(get_method("trim", budget=576))
    assert (everything.kept == 576).all()
    assert (everything.agreement == 1.0).all()
    assert everything.divergence.max() < 1e-6
    assert (found.kept == 575).all()


def test_full_answers_are_the_stock_model_s(random_llava: tuple[Any, Any], probe: Probe) -> None:
    model, _ = random_llava
    for number in range(len(probe.batches)):
        answers, (inputs, _) = probe.answer(number), probe.inputs(number)
        out = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        stock = torch.stack(out.logits, dim=1).log_softmax(-1)
        assert torch.equal(out.sequences[:, inputs["input_ids"].shape[1] :], answers.tokens)
        assert torch.allclose(stock, answers.logp, atol=1e-5)


def test_agreement_is_that_of_answers_really_generated(random_llava: tuple[Any, Any], probe: Probe) -> None:
    import trimkit

    model, processor = random_llava
    method = get_method("trim", budget=500)
    same = []
    for number in range(len(probe.batches)):
        answers, (inputs, texts) = probe.answer(number), probe.inputs(number)
        with trimkit.reduce(model, processor, method=method, scorer=Salience(), query=texts):
            out = model.generate(**inputs, max_new_tokens=answers.tokens.shape[1], do_sample=False)
        said = out[:, inputs["input_ids"].shape[1] :]
        same += [bool(torch.equal(*rows)) for rows in zip(said, answers.tokens, strict=True)]
    found = probe.measure(method)
    assert found.agreement.tolist() == [float(each) for each in same]
    assert 0 < sum(same) < len(same)  # else this says nothing


def test_each_picture_is_encoded_once(random_llava: tuple[Any, Any]) -> None:
    model, processor = random_llava
    seen: list[int] = []
    hook = model.model.vision_tower.register_forward_pre_hook(
        lambda module, given, named: seen.append(len(given[0] if given else named["pixel_values"])), with_kwargs=True
    )
    try:
        probe = Probe(model, processor, make_pairs(spots(3), QUESTIONS, 2), scorer=Salience(), max_new_tokens=2)
        probe.measure(get_method("trim", budget=9))
    finally:
        hook.remove()
    assert sum(seen) == 3


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("told", [1, -1])
def test_the_right_sign_is_found_whatever_the_profile_says(probe: Probe, inverted: bool, told: int) -> None:
    probe._scorer = Salience(inverted, told)
    best, arms, decisions = choose_profile(probe, get_method("trim"), EncoderProfile(sign=told), seed=0)
    assert best.method.profile is not None
    assert best.method.profile.sign == (-1 if inverted else 1)
    assert decisions["sign"].decided
    assert decisions["relevance_against_random"].difference < 0
    assert len(arms) == 5
    assert len({float(each.kept.mean()) for each in arms}) == 1  # nobody sees more than another


def test_calibrate_makes_a_config_and_leaves_the_model_alone(random_llava: tuple[Any, Any]) -> None:
    model, processor = random_llava
    steps: list[int] = []
    before = set(vars(model))
    found = calibrate(
        model,
        processor,
        spots(8),
        QUESTIONS,
        per_picture=1,
        max_new_tokens=2,
        scorer=Salience(True),
        agreement=0.1,
        advance=steps.append,
    )
    assert set(vars(model)) == before
    plain = json.loads(json.dumps(found.to_plain()))
    assert plain["config"]["reduce"]["method"] == "trim"
    assert plain["config"]["reduce"]["profile"] == plain["chosen"]["profile"]
    assert plain["chosen"]["profile"]["sign"] == -1
    assert plain["chosen"]["target_reached"]
    assert plain["chosen"]["agreement"] >= 0.1
    shares = [each["share"] for each in plain["curve"]]
    assert shares == sorted(shares)
    assert any(each["budget"] == "iqr" for each in plain["curve"])
    assert any("not +1 as the encoder's profile says" in note for note in plain["notes"])
    assert sum(steps) <= 8 * count_passes(get_method("trim"))
    kept = [each["image_tokens_kept"] for each in plain["temperatures"]]
    assert len(set(kept)) > 1


def test_a_method_without_text_has_its_budget_alone_chosen(random_llava: tuple[Any, Any]) -> None:
    model, processor = random_llava
    found = calibrate(model, processor, spots(2), ["Why?"], method="random", max_new_tokens=1, agreement=None)
    assert found.candidates == found.temperatures == ()
    assert found.chosen.method.name == "random"
    assert found.config.reduce.options.keys() == {"budget"}


def test_the_same_seed_gives_the_same(random_llava: tuple[Any, Any]) -> None:
    runs = [
        calibrate(*random_llava, spots(2), ["What?"], max_new_tokens=1, scorer=Salience(), seed=5).to_plain()
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_relevance_that_tells_nothing_decides_nothing(random_llava: tuple[Any, Any]) -> None:
    class Noise(Salience):
        def similarity(self, images: Any, queries: Any, **options: Any) -> Any:
            keys = [int(image.key[:8], 16) for image in images]
            return [
                torch.randn(len(image), generator=torch.Generator().manual_seed(key))
                for image, key in zip(images, keys, strict=True)
            ]

    found = calibrate(*random_llava, spots(8), QUESTIONS, per_picture=1, max_new_tokens=2, scorer=Noise(sign=-1))
    assert not found.decisions["sign"].decided
    assert found.chosen.method.profile == replace(EncoderProfile(), temperature=found.chosen.method.profile.temperature)
    assert any("do not decide the sign" in note for note in found.notes)
    assert any("not shown to be better than random" in note for note in found.notes)


def test_few_pictures_decide_nothing() -> None:
    assert compare(arm([0.1] * 8), arm([0.2] * 8), 0).decided
    assert not compare(arm([0.1] * 7), arm([0.2] * 7), 0).decided
    assert not compare(arm([0.1, 0.3] * 4), arm([0.2] * 8), 0).decided


def test_interval_holds_the_mean_and_narrows() -> None:
    random = np.random.default_rng(0)
    few, many = random.normal(1.0, 1.0, 10), random.normal(1.0, 1.0, 1000)
    widths = [high - low for low, high in (interval(few, 0), interval(many, 0))]
    assert widths[1] < widths[0] / 5
    low, high = interval(many, 0)
    assert low < many.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * many.std() / math.sqrt(1000), rel=0.1)


def test_the_smallest_budget_that_agrees_is_chosen() -> None:
    arms = [arm(0.3, 0.5, 0.03), arm(0.04, 0.96, 0.2), arm(0.05, 0.95, 0.1), arm(0.01, 0.99, 0.5)]
    assert choose_budget(arms, 0.95) == (arms[2], True)
    chosen, reached = choose_budget(arms, 0.999)
    assert not reached
    assert chosen is knee(arms)


def test_the_knee_is_where_more_stops_to_pay() -> None:
    arms = [
        arm(0.40, share=0.02),
        arm(0.10, share=0.1),
        arm(0.5, share=0.15),
        arm(0.08, share=0.3),
        arm(0.06, share=0.6),
    ]
    assert knee(arms) is arms[1]
    assert knee(arms[:1]) is arms[0]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"method": "none"}, "nothing to calibrate"),
    "fixed sign": ({"method": "trim-paper"}, "sets sign itself"),
    "given temperature": ({"temperature": 2.0}, "sets temperature itself"),
    "agreement": ({"agreement": 1.5}, "agreement 1.5 is not a share"),
    "seed": ({"seed": -1}, "seed -1"),
    "batch": ({"batch_size": 0}, "batch_size 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arguments(case: str, random_llava: tuple[Any, Any]) -> None:
    options, cause = WRONG[case]
    with pytest.raises(ConfigError, match=cause):
        calibrate(*random_llava, spots(1), QUESTIONS, scorer=Salience(), **options)


def test_a_question_that_cannot_be_asked_is_skipped_and_named(random_llava: tuple[Any, Any]) -> None:
    pairs = make_pairs(spots(2), {"00.png": ["What?"], "01.png": ["word " * 900]}, 1)
    probe = Probe(*random_llava, pairs, max_new_tokens=1)
    assert [pair.name for pair in probe.pairs] == ["00.png"]
    assert probe.skipped[0][0] == "01.png"
    with pytest.raises(InputError, match="no question that this model can be asked"):
        Probe(*random_llava, pairs[1:], max_new_tokens=1)


@pytest.mark.skipif(not (demo_model_path() / "model.safetensors").is_file(), reason="the demo model is not here")
def test_the_sign_of_the_demo_model_and_of_its_inverted_twin(tmp_path: Path) -> None:
    """Eight scenes with their questions, no answers: +1 as its profile says; -1 with CLIP's projection negated."""
    from benchmarks.bench_calibration import inverted_twin
    from trimkit.demo.items import sample_item
    from trimkit.scorers.resolve import resolve_scorer

    model, processor = load_model("demo")
    items = {f"{number}.png": sample_item(77, number) for number in (0, 1, 3, 5, 6, 7, 9, 11)}
    pairs = make_pairs(
        {name: image for name, (image, _) in items.items()},
        {name: [question.text] for name, (_, question) in items.items()},
        1,
    )
    probe = Probe(model, processor, pairs, max_new_tokens=4)
    tower = model.config.vision_config
    for folder, sign in ((demo_model_path(), 1), (inverted_twin(tmp_path / "twin"), -1)):
        probe._scorer = resolve_scorer(None, model, None, tower, directory=folder)
        best, _, decisions = choose_profile(probe, get_method("trim"), EncoderProfile(sign=1), seed=0)
        assert best.method.profile is not None
        assert best.method.profile.sign == sign
        assert decisions["sign"].decided


@pytest.mark.parametrize("name", ["missing/config.json", "folder"])
def test_a_config_that_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*: choose another place") as caught:
        save_config(tmp_path / name, Config(reduce=Reduction(method="trim")))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]

"""The vision tower: not run further than it is read, and with ``tower_keep`` on fewer patches behind its middle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import max_pool2d

import trimkit
from tests import tiny
from tests.tiny import GREEDY, SIDE, TOKENS
from trimkit.core.types import Selection
from trimkit.models._clip_tower import go_on, layer_states
from trimkit.pipeline.tower_pruning import TowerPruning, only_alive

ASKED = ["where is the cat", "what is red", "is there a dog"]
KEPT = TOKENS // 2


def attach(model: Any, **options: Any) -> Any:
    given = {"method": "trim", "budget": 9, "scorer": tiny.ToyScorer(), "tower_keep": 0.5, "tower_layer": 1}
    return trimkit.reduce(model, **{**given, **options})


def layers_of(model: Any) -> Any:
    return model.model.vision_tower.encoder.layers


def watch(model: Any) -> list[tuple[int, tuple[int, ...]]]:
    """Number and input shape of every layer that is run from now on."""
    seen: list[tuple[int, tuple[int, ...]]] = []
    for number, layer in enumerate(layers_of(model)):
        layer.register_forward_hook(lambda _, given, out, number=number: seen.append((number, tuple(given[0].shape))))
    return seen


@torch.no_grad()
def test_the_states_are_the_stock_towers(model: Any) -> None:
    tower, pixels = model.model.vision_tower, tiny.pixels(2)
    hidden = tower(pixels, output_hidden_states=True).hidden_states
    for wanted in ([-2], [0], [1, 3], [-1, -3, 0]):
        states = layer_states(tower, pixels, wanted)
        assert list(states) == wanted
        assert all(torch.equal(states[number], hidden[number]) for number in wanted)
    assert torch.equal(go_on(tower, hidden[1], 1, 3), hidden[3])
    with pytest.raises(IndexError, match="3 layers"):
        layer_states(tower, pixels, [4])


def test_the_last_layer_is_not_run(model: Any, batch: dict[str, torch.Tensor]) -> None:
    seen = watch(model)
    with trimkit.reduce(model, method="random", budget=0.2):
        model.generate(**batch, **GREEDY)
    assert [number for number, _ in seen] == [0, 1]


@pytest.mark.parametrize("how", ["hook", "forward"])
def test_a_tower_that_somebody_has_changed_is_called_as_a_whole(
    model: Any, batch: dict[str, torch.Tensor], how: str
) -> None:
    calls: list[int] = []
    tower = model.model.vision_tower
    if how == "hook":
        tower.register_forward_hook(lambda *_: calls.append(1))
    else:
        stock = tower.forward
        tower.forward = lambda *args, **kwargs: calls.append(1) or stock(*args, **kwargs)
    with trimkit.reduce(model, method="random", budget=0.2):
        model.generate(**batch, **GREEDY)
    assert calls == [1]


def test_later_layers_see_the_relevant_patches_alone(model: Any) -> None:
    one = tiny.llava_batch([1], seed=2)
    seen = watch(model)
    with attach(model, query=ASKED[0]) as trim, torch.no_grad():
        model(**one)
    assert seen == [(0, (1, 1 + TOKENS, 32)), (1, (1, 1 + KEPT, 32))]
    image = trim.report.images[0]
    assert (image.tokens_before, image.tokens_after) == (TOKENS, 9)

    with torch.no_grad():  # by hand
        states = layer_states(model.model.vision_tower, one["pixel_values"], [1])[1]
        first = _scores(states[0, 1:])
        around = max_pool2d(first.view(1, SIDE, SIDE), 3, stride=1, padding=1).flatten()
        alive = around.argsort(descending=True, stable=True)[:KEPT].sort().values
        through = torch.cat([states[:, :1], states[:, 1 + alive]], dim=1)
        final = layers_of(model)[1](through, None)[0, 1:]
        chosen = _scores(final).topk(8).indices.sort().values
    assert torch.equal(image.indices, alive[chosen])
    rest = torch.ones(KEPT, dtype=torch.bool)
    rest[chosen] = False
    features = torch.cat([final[chosen], final[rest].mean(0, keepdim=True)])
    with torch.no_grad():
        expected = _by_hand(model, one, model.model.multi_modal_projector(features))
    with attach(model, query=ASKED[0]), torch.no_grad():
        torch.testing.assert_close(model(**one).logits[:, -1], expected)


def _scores(features: torch.Tensor) -> torch.Tensor:
    (scores,) = tiny.ToyScorer().similarity([trimkit.ImageTokens(features)], [ASKED[0]])
    return scores


def _by_hand(model: Any, one: dict[str, torch.Tensor], projected: torch.Tensor) -> torch.Tensor:
    ids = one["input_ids"][0]
    places = (ids == tiny.IMAGE_TOKEN).nonzero().squeeze(1)
    embeds = model.get_input_embeddings()(ids.clamp(max=tiny.IMAGE_TOKEN - 1))
    row = torch.cat([embeds[: places[0]], projected, embeds[places[-1] + 1 :]])
    logits = model(inputs_embeds=row[None]).logits[:, -1]
    return torch.as_tensor(logits)


def test_a_batch_equals_its_rows(model: Any, batch: dict[str, torch.Tensor]) -> None:
    with attach(model, query=ASKED[:2]):
        together = model.generate(**batch, **GREEDY)
    for row in range(2):
        with attach(model, query=ASKED[row]):
            alone = model.generate(**tiny.single(batch, row, [1, 2]), **GREEDY)
        assert together[row, -6:].tolist() == alone[0, -6:].tolist()


def test_a_second_question_goes_on_from_the_middle(model: Any) -> None:
    one = tiny.llava_batch([1], seed=2)
    with attach(model) as trim:
        model.generate(**one, **GREEDY, query=ASKED[0])
        before = trim.report.images[0]
        seen = watch(model)
        model.generate(**one, **GREEDY, query=ASKED[1])
        after = trim.report.images[0]
        model.generate(**one, **GREEDY, query=ASKED[0])
    assert [number for number, _ in seen] == [1, 1]
    assert after.cached
    assert not torch.equal(before.indices, after.indices)
    assert torch.equal(before.indices, trim.report.images[0].indices)


@pytest.mark.parametrize("budget", ["iqr", "top-p:1.0", "top-p:0.999", 0.4])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_the_tower_dropped_is_never_chosen(model: Any, budget: Any, sign: int) -> None:
    one = tiny.llava_batch([1], seed=2)
    with attach(model, budget=budget, sign=sign, tower_keep=0.45, query=ASKED[0]) as trim, torch.no_grad():
        model(**one)
    if budget != "top-p:1.0":  # all are kept: nothing is dropped in the tower either
        assert trim.report.tokens_after <= round(0.45 * TOKENS) + 1
    assert trim.report.tokens_after >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tower_keep": 0.0}, r"outside \(0, 1\]"),
        ({"tower_keep": float("nan")}, r"outside \(0, 1\]"),
        ({"tower_keep": None}, "drops nothing without tower_keep"),
        ({"tower_layer": 0}, "outside 1 to 1"),
        ({"tower_layer": 2}, "outside 1 to 1"),
        ({"method": "random"}, "'random' does not do"),
        ({"method": "focus"}, "'focus' does not do"),
        ({"method": "cdpruner"}, "'cdpruner' does not do"),
    ],
)
def test_what_cannot_be_is_refused(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(trimkit.ConfigError, match=message):
        attach(model, **options)


class AsItIs(tiny.ToyScorer):
    """Features of width 1 are relevance."""

    def similarity(self, images: Any, queries: Any, **_: Any) -> Any:
        return [image.features[:, 0] for image in images]


def test_the_neighbours_of_a_relevant_patch_go_on() -> None:
    """One patch stands out; with a quarter of the patches, all around it are computed to the end."""
    spot = 2 * SIDE + 3
    relevance = torch.arange(TOKENS).float() / TOKENS
    relevance[spot] = 9.0
    image = trimkit.ImageTokens(relevance[:, None], grid=(SIDE, SIDE))
    (alive,) = TowerPruning(1, 0.25).alive([image], [("a",)], trimkit.get_method("trim"), AsItIs())
    around = {spot + dy * SIDE + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    assert around == set(alive.nonzero().flatten().tolist())


def test_with_every_living_patch_kept_there_is_no_mean_token() -> None:
    alive = torch.tensor([True, False, True, False])
    image = trimkit.ImageTokens(torch.randn(4, 3), alive=alive)
    chosen = Selection(indices=torch.tensor([0, 1, 2]), total=4, aggregated=True)
    kept = only_alive(image, chosen)
    assert (kept.indices.tolist(), kept.aggregated) == ([0, 2], False)
    fewer = only_alive(image, Selection(indices=torch.tensor([1, 2]), total=4, aggregated=True))
    assert (fewer.indices.tolist(), fewer.aggregated) == ([2], True)
    none = only_alive(image, Selection(indices=torch.tensor([1, 3]), total=4, aggregated=True))
    assert none.indices.tolist() == [0]  # a picture never disappears


def test_a_budget_beyond_what_is_left_is_refused(model: Any) -> None:
    with attach(model, budget=0.6, query=ASKED[0]), pytest.raises(trimkit.ConfigError, match="keeps more than the 18"):
        model.generate(**tiny.llava_batch([1]), **GREEDY)


def test_many_pictures_go_through_the_tower_in_groups(model: Any) -> None:
    counts = [3, 1, 4, 2, 1]
    batch = tiny.llava_batch(counts, seed=2)
    seen = watch(model)
    with trimkit.reduce(model, method="cls-attention", budget=0.3) as trim:
        together = model.generate(**batch, **GREEDY)
        assert [shape[0] for number, shape in seen if number == 0] == [8, 3]
        indices = [image.indices for image in trim.report.images]
        for row in range(len(counts)):
            alone = model.generate(**tiny.single(batch, row, counts), **GREEDY)
            assert together[row, -6:].tolist() == alone[0, -6:].tolist()
            first = sum(counts[:row])
            for image, expected in zip(trim.report.images, indices[first:], strict=False):
                assert torch.equal(image.indices, expected)


def test_another_family_is_refused() -> None:
    with pytest.raises(trimkit.UnsupportedError, match="runs in one piece"):
        attach(tiny.llava_next())


def test_with_everything_kept_it_does_nothing(model: Any, batch: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        expected = model(**batch).logits
        for options in ({"method": "none"}, {"budget": 1.0}):
            given = {"method": "trim", "scorer": tiny.ToyScorer(), "tower_keep": 0.5, "query": "a", **options}
            with trimkit.reduce(model, **given):
                assert torch.equal(model(**batch).logits, expected)

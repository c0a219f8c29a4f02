"""Methods that change the way of a picture through the vision tower, against the tower's layers run by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

import trimkit
from tests import tiny
from tests.tiny import GREEDY, TOKENS
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import get_method
from trimkit.methods.resize import grid_within


def llava(layers: int = 7) -> Any:
    """A tiny LLaVA whose tower has enough layers for patches to leave at several."""
    config = tiny.llava().config
    vision = CLIPVisionConfig(**{**config.vision_config.to_dict(), "num_hidden_layers": layers})
    torch.manual_seed(3)
    return tiny.ready(LlavaForConditionalGeneration(LlavaConfig(**{**config.to_dict(), "vision_config": vision})))


@torch.no_grad()
def flowcut_by_hand(model: Any, pixels: Tensor, target: int) -> tuple[list[int], Tensor, list[int]]:
    """Which patches of one picture come through, their features, and how many there are behind every layer."""
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    state = tower.pre_layrnorm(tower.embeddings(pixels))[0]
    last, left, total, lengths = len(tower.encoder.layers) - 1, list(range(len(state) - 1)), None, list[int]()
    for index, layer in enumerate(tower.encoder.layers[:last]):
        attention, heads = layer.self_attn, layer.self_attn.num_heads
        normed = layer.layer_norm1(state)
        query, key, value = (
            projection(normed).view(len(state), heads, -1).transpose(0, 1)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
        state = state + attention.out_proj((weights @ value).transpose(0, 1).flatten(1))
        state = state + layer.mlp(layer.layer_norm2(state))
        if len(left) > target:
            seen = weights[:, 0, 1:].mean(dim=0)
            flow = (value[:, :1] @ value.mT).softmax(dim=-1)[:, 0, 1:].mean(dim=0)
            score = (seen / seen.sum() + flow / flow.sum()) * value.mean(dim=0)[1:].abs().sum(dim=1)
            total = score if total is None else 0.5 * total + 0.5 * score
            ahead = last - 2 - index
            if ahead % 2 == 0:
                shares = seen / seen.sum()
                entropy = float(-(shares * shares.log()).sum() / torch.tensor(float(len(left))).log())
                gone = round((len(left) - target) / ahead**0.5 * (1 - entropy**2)) if ahead else len(left) - target
                keep = max(len(left) - gone, target)
                going = total.topk(keep).indices.sort().values
                total, left = total[going], [left[i] for i in going.tolist()]
                state = torch.cat([state[:1], state[1:][going]])
        lengths.append(len(left))
    return left, state[1:], lengths


@pytest.mark.parametrize("budget", [3, 9, 0.5])
def test_flowcut_is_that_by_hand(budget: Any) -> None:
    model, batch = llava(), tiny.llava_batch([1, 1], seed=4)
    target = get_method("flowcut", budget=budget).budget.tokens(TOKENS)
    seen: list[int] = []
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    with torch.no_grad(), trimkit.reduce(model, method="flowcut", budget=budget) as trim:
        handles = [
            layer.mlp.register_forward_hook(lambda m, a, out: seen.append(out.shape[1] - 1))
            for layer in tower.encoder.layers
        ]
        reduced = trimkit.prepare(model, None, batch, method="flowcut", budget=budget)
        for handle in handles:
            handle.remove()
        model(**batch)
        kept = [image.indices.tolist() for image in trim.report.images]
    by_hand = [flowcut_by_hand(model, pixels[None], target) for pixels in batch["pixel_values"]]
    assert kept == [indices for indices, _, _ in by_hand]
    assert {len(indices) for indices in kept} == {target}
    for tokens, (_, features, _) in zip(reduced.kept, by_hand, strict=True):
        torch.testing.assert_close(tokens.features, features, rtol=1e-4, atol=1e-5)
    behind = [[TOKENS, *lengths[:-1]] for _, _, lengths in by_hand]  # what each layer was given
    assert [seen[::2], seen[1::2]] == behind, "two pictures, layer by layer"
    assert len(set(behind[0])) >= 3, "patches leave at several layers"


@pytest.mark.parametrize("budget", [4, 7, 25])
def test_resize_is_the_stock_tower_on_a_smaller_picture(budget: int) -> None:
    model, batch = llava(3), tiny.llava_batch([1, 1], seed=4)
    rows, columns = grid_within(budget)
    tower = model.model.vision_tower
    with torch.no_grad():
        reduced = trimkit.prepare(model, None, batch, method="resize", budget=budget)
        small = torch.nn.functional.interpolate(
            batch["pixel_values"], (rows * 4, columns * 4), mode="bicubic", antialias=True
        )
        stock = tower(small, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[-2][:, 1:]
        with trimkit.reduce(model, method="resize", budget=budget) as trim:
            logits = model(**batch).logits
            found = [image.tokens_after for image in trim.report.images]
            expected = model.model.multi_modal_projector(stock)
    assert found == [rows * columns] * 2 == [get_method("resize", budget=budget).tokens(TOKENS)] * 2
    for image, features, embeddings in zip(reduced.images, stock, expected, strict=True):
        torch.testing.assert_close(image.tokens.features, features)
        torch.testing.assert_close(image.embeddings, embeddings)
    assert logits.shape[1] == reduced.inputs["input_ids"].shape[1]


def test_grids() -> None:
    assert {n: grid_within(n) for n in (1, 2, 3, 5, 32, 64, 128, 192)} == {
        **{1: (1, 1), 2: (1, 2), 3: (1, 2), 5: (2, 2)},
        **{32: (5, 6), 64: (8, 8), 128: (11, 11), 192: (13, 14)},
    }


@pytest.mark.parametrize("method", ["flowcut", "resize"])
def test_cached_pictures_are_kept_apart(method: str) -> None:
    """By method and budget: what is cached for one is not taken for another."""
    model, one = llava(), tiny.llava_batch([1], seed=4)
    cache = trimkit.FeatureCache(8)
    with torch.no_grad():
        for budget in (4, 9, 4):
            with trimkit.reduce(model, method=method, budget=budget, cache_images=cache) as trim:
                model.generate(**one, **GREEDY)
                assert trim.report.tokens_after == budget
        assert trim.report.images[0].cached
        with trimkit.reduce(model, method="uniform", budget=4, cache_images=cache) as trim:
            model.generate(**one, **GREEDY)
            assert not trim.report.images[0].cached


@pytest.mark.parametrize("method", ["flowcut", "resize"])
def test_towers_that_are_not_covered(method: str) -> None:
    with pytest.raises(UnsupportedError, match="works inside a CLIP tower") as caught:
        trimkit.reduce(tiny.qwen2_5_vl(), method=method)
    assert "\n" not in str(caught.value)
    for options in ({"budget": "iqr"}, {"aggregate": "mean"}, {"share": "prompt"}):
        with pytest.raises(ConfigError):
            get_method(method, **options)
    model, one = llava(), tiny.llava_batch([1], seed=4)
    handle = model.model.vision_tower.register_forward_hook(lambda *args: None)
    with torch.no_grad(), trimkit.reduce(model, method=method, budget=4):
        with pytest.raises(UnsupportedError):
            model(**one)
        handle.remove()
        model(**one)

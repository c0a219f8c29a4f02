"""The vLLM plugin's engine half without vLLM: what is held, how many pictures go through the tower, what a failure does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trimkit.core.content import content_key
from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.errors import ModelError
from trimkit.methods import get_method
from trimkit.serving.vllm import engine_counts
from trimkit.serving.vllm.base_model import ReducingModel
from trimkit.serving.vllm.choosing import Chooser, evenly_spaced
from trimkit.serving.vllm.engine_counts import Counts, leave, left_by, sweep
from trimkit.serving.vllm.engine_state import EngineState
from trimkit.serving.vllm.flat_tiles import FlatTilesModel
from trimkit.serving.vllm.held_features import HeldFeatures
from trimkit.serving.vllm.qwen_base import marked, placed
from trimkit.serving.vllm.settings import FIELD, Reduction, pack
from trimkit.serving.vllm.tower_names import with_vision_model

TOKENS, WIDTH = 10, 4


class ByMean:
    """A scorer: similarity is the mean of a token's features."""

    profile = EncoderProfile(sign=1)
    asked: tuple[str, ...] = ()

    def similarity(self, images: Any, queries: Any, *, normalize: bool = False, truncate: bool = False) -> list[Tensor]:
        self.asked = tuple(queries)
        return [image.features.mean(dim=1) for image in images]


class Broken:
    profile = EncoderProfile()

    def similarity(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        raise RuntimeError("out of order")


class Stock:
    """What a stock vLLM class does with pictures: one number a pixel, TOKENS times."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed_multimodal(self, pixel_values: Any = None, **kwargs: Any) -> list[Tensor]:
        self.batches.append(len(pixel_values))
        return [each.flatten()[:TOKENS].unsqueeze(1).expand(-1, WIDTH) for each in pixel_values]


class Model(ReducingModel, Stock):
    def __init__(self, scorer: Any = None, limit: int = 2**20) -> None:
        Stock.__init__(self)
        self._reducing = state_of(scorer or ByMean(), limit)


def state_of(scorer: Any, limit: int) -> EngineState:
    state = object.__new__(EngineState)
    state.chooser, state.held = Chooser(lambda: scorer), HeldFeatures(limit)
    state.started, state.device, state.counting = True, torch.device("cpu"), False
    state._scorer, state._reductions, state.layers = scorer, {}, None
    return state


def rows(reductions: list[Reduction]) -> list[Tensor]:
    return [torch.tensor(list(pack(each).encode()), dtype=torch.uint8) for each in reductions]


def asked(query: str = "x", budget: Any = 4) -> Reduction:
    return Reduction(get_method("trim", budget=budget, aggregate="none"), query)


def pixels(count: int) -> Tensor:
    return torch.arange(count * 3 * 16, dtype=torch.float32).view(count, 3, 4, 4)


def test_each_picture_gets_the_length_that_its_placeholders_have() -> None:
    reductions = [asked(budget=4), asked(budget=0.3), asked(budget=1.0)]
    found = Model().embed_multimodal(pixel_values=pixels(3), **{FIELD: rows(reductions)})
    assert [tuple(each.shape) for each in found] == [(4, WIDTH), (3, WIDTH), (TOKENS, WIDTH)]
    assert found[0][:, 0].tolist() == [6, 7, 8, 9]  # the largest means


def test_without_reductions_the_stock_class_answers() -> None:
    assert len(Model().embed_multimodal(pixel_values=pixels(2))[0]) == TOKENS


def test_the_tower_sees_few_pictures_at_a_time_and_each_once() -> None:
    model = Model()
    for budget in (4, 5):
        model.embed_multimodal(pixel_values=pixels(19), **{FIELD: rows([asked(budget=budget)] * 19)})
    assert model.batches == [8, 8, 3]
    counts = model._reducing.chooser.counts
    assert (counts.pictures, counts.feature_cache_hits) == (38, 19)
    assert (counts.image_tokens_before, counts.image_tokens_after) == (2 * 19 * TOKENS, 19 * (4 + 5))


def test_the_same_picture_twice_in_a_step_runs_once() -> None:
    model = Model(limit=0)
    twice = pixels(1).expand(2, -1, -1, -1)
    found = model.embed_multimodal(pixel_values=twice, **{FIELD: rows([asked(), asked("y", 2)])})
    assert model.batches == [1]
    assert [len(each) for each in found] == [4, 2]


def test_a_failure_falls_back_to_patches_at_equal_distances(caplog: pytest.LogCaptureFixture) -> None:
    model = Model(Broken())
    for _ in range(2):
        (found,) = model.embed_multimodal(pixel_values=pixels(1), **{FIELD: rows([asked()])})
    assert found[:, 0].tolist() == [0, 3, 6, 9]
    assert model._reducing.chooser.counts.fallbacks == 2
    assert caplog.text.count("equal distances") == 1


def test_a_scorer_that_cannot_be_loaded_ends_the_server_only_where_it_is_needed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Missing(EngineState):
        def scorer(self) -> Any:
            raise ModelError("no such checkpoint")

    state = object.__new__(Missing)
    with pytest.raises(ModelError):
        state.load_scorer(needed=True)
    state.load_scorer(needed=False)
    assert "no such checkpoint" in caplog.text


def test_what_is_not_finite_does_not_reach_the_language_model() -> None:
    model = Model()
    bad = pixels(1)
    bad[..., 1] = torch.nan
    (found,) = model.embed_multimodal(pixel_values=bad, **{FIELD: rows([asked(budget=9)])})
    assert len(found) == 9
    assert bool(torch.isfinite(found).all())


def test_a_wrong_length_falls_back() -> None:
    class Longer(type(get_method("uniform"))):  # type: ignore[misc]
        def tokens(self, total: int) -> int:
            return 3

    chooser = Chooser(ByMean)
    kept, selection = chooser.kept(ImageTokens(torch.ones(TOKENS, WIDTH)), Reduction(Longer(budget=5)))
    assert (len(kept), selection.indices.tolist(), chooser.counts.fallbacks) == (3, [0, 4, 9], 1)


@pytest.mark.parametrize(("total", "count"), [(1, 1), (5, 1), (5, 5), (576, 121)])
def test_evenly_spaced(total: int, count: int) -> None:
    found = evenly_spaced(total, count, torch.device("cpu"))
    assert len(set(found.tolist())) == len(found) == count
    assert int(found.max()) < total


def test_held_features_are_bounded_by_bytes() -> None:
    held = HeldFeatures(3 * 40)
    for number in range(5):
        held.put(str(number), torch.full((10, 1), float(number)))
    assert (len(held), held.bytes) == (3, 120)
    assert held.get("1") is None
    assert float(held.get("2")[0]) == 2.0  # type: ignore[index]
    held.put("5", torch.ones(10, 1))
    assert held.get("3") is None  # "2" was used since
    held.put("large", torch.ones(31, 1))
    held.put("5", torch.zeros(5, 1))
    assert held.get("large") is None
    assert held.bytes == 100


def test_held_features_do_not_keep_the_batch() -> None:
    held, batch = HeldFeatures(2**20), torch.ones(100, 4)
    held.put("one", batch[:2])
    batch.zero_()
    found = held.get("one")
    assert found is not None
    assert found.untyped_storage().nbytes() == 32
    assert bool((found == 1).all())


def test_tiles_are_ranked_one_by_one() -> None:
    class Tiles(Stock):
        def embed_multimodal(self, pixel_values: Any = None, num_patches: Any = None, **kwargs: Any) -> list[Tensor]:
            parts = [each.flatten()[:4].unsqueeze(1).expand(-1, WIDTH) for each in pixel_values]
            return list(torch.cat(parts).split([4 * int(n) for n in num_patches]))

    class Whole(FlatTilesModel, Tiles):
        tile_counts = "num_patches"

    model = Whole.__new__(Whole)
    Stock.__init__(model)
    model._reducing = state_of(ByMean(), 2**20)
    given = {"pixel_values": pixels(3), "num_patches": torch.tensor([2, 1]), FIELD: rows([asked(budget=2)] * 2)}
    found = model.embed_multimodal(**given)
    assert [each[:, 0].tolist() for each in found] == [[2, 3, 50, 51], [98, 99]]


def test_marks_of_kept_tokens_become_original_positions() -> None:
    """Prompt: two words, a picture of 300 columns of which three tokens stay, a word."""
    images = torch.tensor([False, False, True, True, True, False])
    positions = torch.tensor([[0, 1, 2, 2, 2, 302]]).expand(3, -1).clone()
    kept = marked(torch.zeros(3, WIDTH, dtype=torch.bfloat16), torch.tensor([0, 299, 300 * 299 + 257]), 300)
    assert kept.shape == (3, WIDTH + 5)
    marks = kept[:, WIDTH:].long()
    columns = torch.tensor([2, 3, 4])
    for _ in range(2):  # again for a request that is started anew
        positions = placed(positions, images, columns, marks)
        assert positions[:, 2:5].tolist() == [[2, 2, 2], [2, 2, 301], [2, 301, 259]]
    assert positions[:, [0, 1, 5]].tolist() == [[0, 1, 302]] * 3


def test_a_later_chunk_of_a_picture_starts_from_the_same_place() -> None:
    images = torch.tensor([True, True, True, False])
    positions = torch.zeros(3, 4, dtype=torch.long)
    kept = marked(torch.zeros(2, WIDTH), torch.tensor([4, 8]), 3)
    found = placed(positions, images, torch.tensor([1, 2]), kept[:, WIDTH:].long())
    assert found[:, 1:3].tolist() == [[0, 0], [1, 2], [1, 2]]


def test_what_has_no_place_of_its_own_keeps_its_position() -> None:
    positions = torch.arange(12).view(3, 4)
    whole = marked(torch.zeros(2, WIDTH))
    images = torch.tensor([False, True, True, False])
    assert torch.equal(placed(positions, images, torch.tensor([1, 2]), whole[:, WIDTH:].long()), positions)


def test_a_number_beside_the_pixels_is_part_of_a_picture() -> None:
    one, other = content_key({"token": torch.tensor(5)}), content_key({"token": torch.tensor(6)})
    assert one != other != content_key({"token": torch.tensor([6])})


def test_names_of_a_tower_saved_by_transformers_5() -> None:
    given = ["model.vision_tower.encoder.x", "vision_tower.vision_model.y", "model.language_model.z"]
    wanted = ["model.vision_tower.vision_model.encoder.x", given[1], given[2]]
    assert [name for name, _ in with_vision_model((name, torch.empty(0)) for name in given)] == wanted


def test_counts_reach_the_server_that_the_engine_belongs_to(tmp_path: Path) -> None:
    folder = tmp_path / "counts"
    counts = Counts(image_tokens_before=5)
    counts.choosing_seconds.add(0.5)
    leave(counts, folder)
    assert left_by([os.getpid(), 2**30], folder) == [counts]
    (folder / "7.json").write_text("[", encoding="utf-8")
    (folder / "8.json").write_text(json.dumps({"other": 1}), encoding="utf-8")
    assert left_by([7, 8], folder) == []
    (folder / f"{2**22 + 1}.json").write_text("{}", encoding="utf-8")
    sweep(folder)
    assert not (folder / f"{2**22 + 1}.json").exists()
    assert (folder / f"{os.getpid()}.json").exists()


def test_a_directory_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine_counts._said.clear()
    taken = tmp_path / "file"
    taken.write_text("", encoding="utf-8")
    for _ in range(2):
        leave(Counts(), taken)
    assert caplog.text.count("not shown") == 1

"""How often a scorer is loaded, whom it is shared with, when it goes; and scorers on the shelf that need no checkpoint."""

from __future__ import annotations

import copy
import gc
import json
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trimkit
from tests import tiny
from tests.tiny import GREEDY
from tests.unit.test_scorer import _tokenizer
from tests.unit.test_scorer_checkpoint import QUESTION, TOWER, save
from trimkit import ExternalScorer, ImageTokens
from trimkit.core.geometry import grid_view
from trimkit.pipeline import choosing
from trimkit.pipeline.model_store import scorer_of
from trimkit.scorers import EncoderCheckpoint, load_scorer, resolve


@pytest.fixture
def clip_dir(tmp_path: Path) -> Path:
    return save(tmp_path / "clip")


@pytest.fixture
def model(clip_dir: Path) -> Any:
    return _model(clip_dir)


def _model(clip_dir: Path) -> Any:
    """One whose checkpoint names the CLIP beside it."""
    model = tiny.llava()
    model.config._name_or_path = str(clip_dir.parent)
    (clip_dir.parent / "trimkit.json").write_text('{"clip": "clip", "sign": 1}')
    return model


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded, one entry a read of an encoder or of a tokenizer."""
    done: list[str] = []
    for name in ("encoder", "tokenizer"):
        stock = getattr(EncoderCheckpoint, name)

        def counted(self: Any, *args: Any, stock: Any = stock, name: str = name) -> Any:
            done.append(name)
            return stock(self, *args)

        monkeypatch.setattr(EncoderCheckpoint, name, counted)
    return done


def _ask(model: Any, **options: Any) -> Any:
    """One block with one call; its report."""
    with trimkit.reduce(model, query=QUESTION, budget=6, **options) as trim:
        model.generate(**tiny.llava_batch([1], seed=0), **GREEDY)
        return trim.report


def test_a_second_block_loads_nothing(model: Any, loads: list[str]) -> None:
    first = _ask(model)
    assert loads == ["encoder", "tokenizer"]
    gc.collect()  # the first attachment goes
    second = _ask(model)
    assert loads == ["encoder", "tokenizer"]
    assert second.images[0].indices.tolist() == first.images[0].indices.tolist()
    trimkit.prepare(model, None, tiny.llava_batch([1]), query=QUESTION)
    assert scorer_of(model) is scorer_of(model)
    assert loads == ["encoder", "tokenizer"]


def test_models_share_a_scorer(model: Any, loads: list[str]) -> None:
    other = tiny.llava()
    other.config._name_or_path = model.config._name_or_path
    assert scorer_of(model) is scorer_of(other)
    assert loads == ["encoder", "tokenizer"]


def test_a_scorer_of_another_device_dtype_or_reading_is_another(clip_dir: Path) -> None:
    scorers: list[Any] = [
        load_scorer(clip_dir, tower=TOWER),
        load_scorer(clip_dir, tower=TOWER, dtype=torch.bfloat16),
        load_scorer(clip_dir, tower=TOWER, device="meta"),
        load_scorer(clip_dir, tower=None),
    ]
    assert len({id(scorer) for scorer in scorers}) == 4
    assert load_scorer(clip_dir, tower=TOWER, device=torch.device("cpu")) is scorers[0]
    assert scorers[1].text_model.final_layer_norm.weight.dtype == torch.bfloat16
    (clip_dir.parent / "trimkit.json").write_text('{"clip": "clip", "temperature": 0.5}')
    named = load_scorer(directory=clip_dir.parent, tower=TOWER)
    assert named is not scorers[0]
    assert named.profile.temperature == 0.5
    assert load_scorer(directory=clip_dir.parent) is scorers[3], "what looks at pixels is read as its own file says"


def test_threads_load_once(clip_dir: Path, loads: list[str]) -> None:
    found: list[Any] = []
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        found.append(load_scorer(clip_dir, tower=TOWER))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["encoder", "tokenizer"]
    assert len({id(scorer) for scorer in found}) == 1


def test_a_failed_load_is_tried_again(clip_dir: Path, tmp_path: Path) -> None:
    weights = (clip_dir / "model.safetensors").rename(tmp_path / "away")
    with pytest.raises(trimkit.ModelError):
        load_scorer(clip_dir, tower=TOWER)
    weights.rename(clip_dir / "model.safetensors")
    assert load_scorer(clip_dir, tower=TOWER)


def _new_weights(folder: Path) -> None:
    tiny.clip(seed=7).save_pretrained(folder / "clip")


def _new_settings(folder: Path) -> None:
    (folder / "trimkit.json").write_text('{"clip": "clip", "sign": -1}')


def _new_clip(folder: Path) -> None:
    save(folder / "second", tiny.clip(seed=8))
    (folder / "trimkit.json").write_text('{"clip": "second", "sign": 1}')


@pytest.mark.parametrize("change", [_new_weights, _new_settings, _new_clip])
def test_changed_files_are_noticed(model: Any, change: Callable[[Path], None]) -> None:
    before = _ask(model).images[0]
    change(Path(model.config._name_or_path))
    after = _ask(model).images[0]
    trimkit.release(model)
    fresh = _ask(model).images[0]
    assert torch.equal(after.scores, fresh.scores)
    assert not torch.equal(after.scores, before.scores)


def test_a_model_that_moves_gets_a_scorer_there(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the scorer has the model's dtype."""
    dtypes = [torch.float32]
    for module in (choosing, resolve):
        monkeypatch.setattr(module, "placement", lambda model: (torch.device("cpu"), dtypes[-1]))
    with trimkit.reduce(model, query=QUESTION, budget=6) as trim:
        chooser = trim._attached_model.reducer.chooser
        first: Any = chooser.scorer()
        assert chooser.scorer() is first
        dtypes.append(torch.bfloat16)
        second: Any = chooser.scorer()
    assert second.text_model.final_layer_norm.weight.dtype == torch.bfloat16
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None, "nobody needs it where the model was"


# --- who holds it ---


def test_what_is_held_goes_with_the_model(clip_dir: Path) -> None:
    model = _model(clip_dir)
    _ask(model)
    with trimkit.reduce(model, method="random", budget=4) as trim:
        held = [weakref.ref(each) for each in (model, scorer_of(model), trim._attached_model.reducer.cache)]
    del trim
    gc.collect()
    assert all(each() is not None for each in held)
    del model
    gc.collect()
    assert [each() for each in held] == [None, None, None]


def test_a_scorer_alone_goes_with_its_last_user(clip_dir: Path) -> None:
    scorer = load_scorer(clip_dir, tower=TOWER)
    gone = weakref.ref(scorer)
    del scorer
    gc.collect()
    assert gone() is None


def test_release_lets_go_of_scorer_and_features(model: Any) -> None:
    _ask(model)
    gone = weakref.ref(scorer_of(model))
    trimkit.release(model)
    gc.collect()
    assert gone() is None
    assert not _ask(model).images[0].cached
    trimkit.release(tiny.llava())


def test_a_copy_of_a_model_starts_with_nothing(model: Any) -> None:
    _ask(model)
    assert not _ask(copy.deepcopy(model)).images[0].cached


# --- image features ---


def test_image_features_outlive_a_block(model: Any) -> None:
    assert not _ask(model).images[0].cached
    assert _ask(model).images[0].cached
    assert _ask(model, method="divprune").images[0].cached
    assert not _ask(model, cache_images=0).images[0].cached
    assert not _ask(model, cache_images=2).images[0].cached, "another limit is another cache"
    assert not _ask(tiny.llava(), method="divprune").images[0].cached
    with torch.no_grad():
        model.model.vision_tower.embeddings.patch_embedding.weight.add_(0.1)
    assert not _ask(model).images[0].cached
    with trimkit.reduce(model) as trim:
        assert trim.cached_images == 2, "under the weights of then and of now"
        trim.clear_cache()
    assert not _ask(model).images[0].cached


def test_an_external_scorer_that_models_share_tells_their_pixels_apart() -> None:
    """The same encoder input is another picture where another normalization is undone."""
    scorer, alone = (ExternalScorer(tiny.clip(), _tokenizer()) for _ in range(2))
    pixels = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(3))
    one, other = (
        ImageTokens(features=torch.zeros(36, 8), grid=(6, 6), key="same", views=(grid_view(each, 6, 6),))
        for each in (pixels, pixels * 0.5)
    )
    scorer.similarity([one], [QUESTION])
    assert torch.equal(scorer.similarity([other], [QUESTION])[0], alone.similarity([other], [QUESTION])[0])


# --- the shelf ---

BY_NAME = '''
"""For a test."""
from typing import Any, ClassVar, Self
import torch
from torch import Tensor
from trimkit.core.types import EncoderProfile
from trimkit.scorers import EncoderCheckpoint, EncoderScorer

class ByPlace(EncoderScorer):
    """Ranks by place."""
    name: ClassVar[str] = "by-place"

    def __init__(self, profile: EncoderProfile) -> None:
        self.profile = profile

    @classmethod
    def load(cls, checkpoint: EncoderCheckpoint) -> Self:
        return cls(checkpoint.profile or EncoderProfile(sign=1))

    def similarity(self, images: Any, queries: Any, *, normalize: bool = False, truncate: bool = False) -> list[Tensor]:
        return [torch.arange(len(image)).float() for image in images]
'''


@pytest.fixture
def _by_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from trimkit import scorers
    from trimkit.scorers import _shelf

    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "by_place.py").write_text(BY_NAME)
    monkeypatch.setattr(scorers, "__path__", [*scorers.__path__, str(tmp_path / "shelf")])
    monkeypatch.setattr(_shelf.registry, "_entries", None)
    yield
    sys.modules.pop("trimkit.scorers.by_place", None)
    monkeypatch.delattr(scorers, "by_place", raising=False)


@pytest.mark.usefixtures("_by_place")
def test_a_scorer_without_a_checkpoint_is_found_by_its_name(model: Any) -> None:
    assert "by-place" in dict(trimkit.scorers.scorer_classes())
    total = tiny.TOKENS
    wanted = _ask(model, scorer="by-place", aggregate="none").images[0]
    assert wanted.indices.tolist() == list(range(total - 6, total))
    folder = Path(model.config._name_or_path)
    (folder / "trimkit.json").write_text(json.dumps({"clip": "by-place", "sign": -1}))
    assert _ask(model, aggregate="none").images[0].indices.tolist() == list(range(6))


def test_a_name_of_one_that_needs_a_checkpoint_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # nothing is to be looked up
    with pytest.raises(trimkit.ModelError, match="cannot load the CLIP checkpoint 'clip-native'"):
        load_scorer("clip-native")
    with pytest.raises(trimkit.ConfigError, match="no scorer is named"):
        load_scorer(directory=tmp_path)

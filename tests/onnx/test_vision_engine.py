"""``vision_engine=``: the tower by ONNX Runtime and OpenVINO gives torch's answers, or a line that says why it does not."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trimkit
from tests import tiny
from trimkit.engines import ENGINES, TowerEngine, tower, tower_store
from trimkit.errors import ConfigError, MissingDependencyError, ModelError, UnsupportedError

for package in ("onnx", "onnxscript", *ENGINES):
    pytest.importorskip(package, reason="engines are not installed: run `make test-onnx`")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "llava"
    tiny.llava().save_pretrained(path)
    return path


@pytest.fixture
def model(saved: Path) -> Any:
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(saved).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return tiny.llava_batch([1, 2], seed=2)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[TowerEngine]:
    found = TowerEngine(request.param)
    yield found
    found.close()


def generate(model: Any, batch: dict[str, torch.Tensor], **options: Any) -> Any:
    return model.generate(**batch, **tiny.GREEDY, **options)


@pytest.mark.parametrize("method", ["divprune", "none", "fastv"])
def test_the_same_answers(model: Any, batch: dict[str, torch.Tensor], engine: TowerEngine, method: str) -> None:
    budget = {} if method == "none" else {"budget": 9}
    with trimkit.reduce(model, method=method, **budget):
        by_torch = generate(model, batch)
    with trimkit.reduce(model, method=method, vision_engine=engine, **budget) as trim:
        assert torch.equal(generate(model, batch), by_torch)
        assert trim.report.tokens_before == 3 * tiny.TOKENS


def test_torch_does_not_run_the_tower(model: Any, batch: dict[str, torch.Tensor], engine: TowerEngine) -> None:
    with trimkit.reduce(model, method="divprune", budget=9, vision_engine=engine):
        layer = model.model.vision_tower.encoder.layers[0]
        stock = type(layer).forward

        def broken(*_: Any, **__: Any) -> None:
            raise AssertionError("torch runs the tower")

        try:
            type(layer).forward = broken
            generate(model, batch)
        finally:
            type(layer).forward = stock


def test_a_method_that_reads_the_text(model: Any, batch: dict[str, torch.Tensor], engine: TowerEngine) -> None:
    scorer = tiny.ToyScorer()
    options: dict[str, Any] = {"scorer": scorer, "query": ["a b", "c d e"], "cache_images": 0}
    with trimkit.reduce(model, method="trim", budget=9, **options) as trim:
        by_torch = generate(model, batch)
        kept = [image.indices.tolist() for image in trim.report.images]
    with trimkit.reduce(model, method="trim", budget=9, vision_engine=engine, **options) as trim:
        assert torch.equal(generate(model, batch), by_torch)
        assert [image.indices.tolist() for image in trim.report.images] == kept


def test_the_feature_cache_works_and_is_not_torchs(
    model: Any, batch: dict[str, torch.Tensor], engine: TowerEngine
) -> None:
    with trimkit.reduce(model, method="divprune", budget=9) as trim:
        generate(model, batch)
        assert trim.cached_images == 3
    with trimkit.reduce(model, method="divprune", budget=9, vision_engine=engine) as trim:
        generate(model, batch)
        assert [image.cached for image in trim.report.images] == [False] * 3
        generate(model, batch)
        assert [image.cached for image in trim.report.images] == [True] * 3
        assert trim.cached_images == 6


def test_detach_lets_it_go_and_a_later_block_loads_it_again(model: Any, batch: dict[str, torch.Tensor]) -> None:
    trim = trimkit.reduce(model, method="divprune", budget=9, vision_engine="onnxruntime")
    engine = trim._engine
    assert isinstance(engine, TowerEngine)
    for _ in range(2):
        assert not engine.loaded
        with trim:
            assert engine.loaded
            generate(model, batch)
    assert not engine.loaded
    trim.clear_cache()
    with pytest.raises(ConfigError, match="attach it first"):
        trim.reduced_lengths(batch)


def test_an_engine_of_ones_own_stays_loaded(model: Any, batch: dict[str, torch.Tensor], engine: TowerEngine) -> None:
    for method in ("divprune", "l2-norm"):
        with trimkit.reduce(model, method=method, budget=9, vision_engine=engine):
            generate(model, batch)
        assert engine.loaded
    other = tiny.llava(seed=1)
    with pytest.raises(ConfigError, match="another model"):
        trimkit.attach(other, method="divprune", vision_engine=engine)
    assert generate(other, batch) is not None  # not attached


def test_exported_once_beside_the_checkpoint(
    model: Any, saved: Path, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with trimkit.reduce(model, method="divprune", vision_engine="onnxruntime"):
        pass
    held = list((saved / tower_store.FOLDER).rglob("*.onnx"))
    assert len(held) == 1
    monkeypatch.setattr(tower, "write_onnx", lambda *_: pytest.fail("exported again"))
    with trimkit.reduce(model, method="divprune", vision_engine="openvino"):
        generate(model, batch)


def test_a_read_only_checkpoint_leaves_it_in_the_cache(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.config._name_or_path = str(tmp_path / "not-there")
    monkeypatch.setattr(tower_store, "_cache", lambda: tmp_path / "cache")
    with trimkit.reduce(model, method="divprune", vision_engine="onnxruntime"):
        assert len(list((tmp_path / "cache").rglob(tower_store.FILE))) == 1


def test_a_model_in_memory_leaves_nothing(batch: dict[str, torch.Tensor], engine: TowerEngine) -> None:
    model = tiny.llava()
    with trimkit.reduce(model, method="divprune", vision_engine=engine):
        generate(model, batch)
        assert engine._held is not None
        file = engine._held.file
        assert file.is_file()
    engine.close()
    assert not file.exists()


def test_changed_weights_are_noticed(model: Any, batch: dict[str, torch.Tensor], engine: TowerEngine) -> None:
    with trimkit.reduce(model, method="divprune", budget=9, cache_images=0, vision_engine=engine):
        generate(model, batch)
        with torch.no_grad():
            model.model.vision_tower.encoder.layers[0].mlp.fc1.weight.mul_(1.5)
        with pytest.raises(ConfigError, match="no longer as it was"):
            generate(model, batch)
    with trimkit.reduce(model, method="divprune", budget=9, cache_images=0):
        by_torch = generate(model, batch)
    with trimkit.reduce(model, method="divprune", budget=9, cache_images=0, vision_engine=engine):  # exported anew
        assert torch.equal(generate(model, batch), by_torch)


def test_other_choices_are_refused(model: Any, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    stock = tower._features

    def off(session: Any, pixels: torch.Tensor) -> torch.Tensor:
        return stock(session, pixels) * torch.linspace(0.9, 1.1, tiny.TOKENS)[:, None]

    monkeypatch.setattr(tower, "_features", off)
    monkeypatch.setattr(tower, "_CLOSE", 1.0)
    with pytest.raises(ModelError, match="keeps other patches of a picture") as raised:
        trimkit.attach(model, method="l2-norm", budget=9, vision_engine="onnxruntime")
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(tower, "_CLOSE", 1e-6)
    with pytest.raises(ModelError, match="features differ from torch's by"):
        trimkit.attach(model, method="l2-norm", budget=9, vision_engine="onnxruntime")
    assert "generate" not in vars(model)


def test_hooks_gradients_and_sizes_are_refused(model: Any, batch: dict[str, torch.Tensor], engine: TowerEngine) -> None:
    with trimkit.reduce(model, method="divprune", budget=9, cache_images=0, vision_engine=engine):
        with pytest.raises(UnsupportedError, match="gives no gradients"):
            model(**batch)
        with torch.no_grad():
            model(**batch)
        model.model.vision_tower.requires_grad_(False)
        assert model(**batch).logits.requires_grad
        handle = model.model.vision_tower.register_forward_hook(lambda *_: None)
        with pytest.raises(UnsupportedError, match="pass over the hook"):
            generate(model, batch)
        handle.remove()
        with pytest.raises(UnsupportedError, match="leave vision_feature_layer out"):
            generate(model, batch, vision_feature_layer=-1)
        smaller = {**batch, "pixel_values": batch["pixel_values"][..., :20, :20]}
        with pytest.raises(UnsupportedError, match="takes pictures of 3 x 24 x 24"):
            generate(model, smaller)


def test_what_it_does_not_cover_is_one_line(model: Any) -> None:
    for name, said, options in (
        ("torchscript", "choose one of onnxruntime, openvino", {"method": "divprune"}),
        ("openvino", "cls_attention and cls_state and keys_mean from inside the vision tower", {"method": "visionzip"}),
    ):
        with pytest.raises((ConfigError, UnsupportedError), match=said) as raised:
            trimkit.attach(model, vision_engine=name, **options)
        assert "\n" not in str(raised.value)
    with pytest.raises(UnsupportedError, match="CLIP's vision tower before a projector"):
        trimkit.attach(tiny.llava_next(), method="divprune", vision_engine="openvino")
    with pytest.raises(UnsupportedError, match="float32 on the CPU"):
        trimkit.attach(model.bfloat16(), method="divprune", vision_engine="openvino")


def test_threads_at_once(model: Any, engine: TowerEngine) -> None:
    batches = [tiny.llava_batch([1], seed=seed) for seed in range(4)]
    with trimkit.reduce(model, method="divprune", budget=9, cache_images=0):
        expected = [generate(model, each) for each in batches]
    found: dict[int, Any] = {}
    with trimkit.reduce(model, method="divprune", budget=9, cache_images=0, vision_engine=engine):
        threads = [
            threading.Thread(target=lambda i=i: found.update({i: generate(model, batches[i])})) for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(found[i], expected[i]) for i in range(4))


def test_a_copy_of_an_attached_model_is_the_stock_model(model: Any, batch: dict[str, torch.Tensor]) -> None:
    stock = generate(model, batch)
    with trimkit.reduce(model, method="divprune", budget=9, vision_engine="onnxruntime"):
        assert torch.equal(generate(copy.deepcopy(model), batch), stock)


def test_a_missing_package_is_one_line(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'trimkit\[openvino\]'"):
        trimkit.attach(model, method="divprune", vision_engine="openvino")


def test_probe_pictures_are_finite_and_differ() -> None:
    from trimkit.engines.probes import probe_pixels

    pixels = probe_pixels(24).numpy()
    assert np.isfinite(pixels).all()
    assert not np.allclose(pixels[0], pixels[1])

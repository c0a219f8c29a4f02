"""An exported checkpoint, under plain transformers: reduced where its code is trusted, stock where it is not."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import trimkit
from tests import tiny
from tests.tiny import GREEDY
from trimkit.attach import export as checkpoint
from trimkit.demo import demo_model_path, load_demo, sample_images

BUDGET = 60


@pytest.fixture(autouse=True)
def _own_module_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies a checkpoint's code to where it imports it from."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trimkit.export("demo", tmp_path_factory.mktemp("exported") / "demo", method="trim", budget=BUDGET)


@pytest.fixture(scope="module")
def asked() -> Any:
    """Inputs for the demo model: two pictures with two questions."""
    processor = AutoProcessor.from_pretrained(demo_model_path())
    samples = list(sample_images().values())[:2]
    prompts = [f"USER: <image>\n{sample.question} ASSISTANT:" for sample in samples]
    pictures = [Image.open(sample.path) for sample in samples]
    return processor(images=pictures, text=prompts, padding=True, padding_side="left", return_tensors="pt")


@pytest.fixture(scope="module")
def expected(asked: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the demo model says with reduced and with all tokens; its answers are alike, its logits are not."""
    model, processor = load_demo()
    full = _said(model, asked)
    with trimkit.reduce(model, processor, method="trim", budget=BUDGET):
        reduced = _said(model, asked)
    assert not torch.equal(reduced, full), "the reduction changes nothing here: the tests prove nothing"
    return reduced, full


def _said(model: Any, inputs: Any, *positional: Any, **more: Any) -> torch.Tensor:
    """Logits of every step, ``[steps, B, V]``."""
    out = model.generate(*positional, **inputs, **GREEDY, **more, return_dict_in_generate=True, output_logits=True)
    return torch.stack(out.logits)


def _load(path: Path, *, trusted: bool = True) -> Any:
    return AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=trusted)


class _Lengths:
    """Lengths of the sequences that the language model is given, first pass first."""

    def __init__(self, model: Any) -> None:
        self.seen: list[int] = []
        self._handle = model.model.language_model.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module: Any, args: Any, kwargs: Any) -> None:
        self.seen.append(kwargs["inputs_embeds"].shape[1])

    def __enter__(self) -> list[int]:
        return self.seen

    def __exit__(self, *error: object) -> None:
        self._handle.remove()


def test_plain_transformers_gives_what_an_attached_model_gives(exported: Path, asked: Any, expected: Any) -> None:
    plain = _load(exported)
    width = asked["input_ids"].shape[1]
    with _Lengths(plain) as lengths:
        assert torch.equal(_said(plain, asked), expected[0])
    assert lengths[0] < width - 450, "the sequence did not shrink"
    assert "forward" not in plain.__dict__
    with torch.no_grad():
        assert plain(**asked).logits.shape[1] == width
    positional = {name: value for name, value in asked.items() if name != "input_ids"}
    assert torch.equal(_said(plain, positional, asked["input_ids"]), expected[0])
    assert torch.equal(_said(copy.deepcopy(plain), asked), expected[0])


def test_without_trust_it_is_the_checkpoint_it_was(exported: Path, asked: Any, expected: Any) -> None:
    plain = _load(exported, trusted=False)
    assert torch.equal(_said(plain, asked), expected[1])
    once = _said(plain, asked, custom_generate=str(exported), trust_remote_code=True)
    assert torch.equal(once, expected[0])
    assert torch.equal(_said(plain, asked), expected[1])


def test_beams_a_query_and_no_images(exported: Path, asked: Any) -> None:
    plain = _load(exported)
    model, processor = load_demo()
    text = {name: asked[name][:, -8:] for name in ("input_ids", "attention_mask")}
    queries = ["What is red?", "Where is it?"]
    calls: list[dict[str, Any]] = [{**asked, "num_beams": 2}, {**asked, "query": queries}, text]
    with trimkit.reduce(model, processor, method="trim", budget=BUDGET):
        wanted = [_said(model, call) for call in calls]
    for call, out in zip(calls, wanted, strict=True):
        assert torch.equal(_said(plain, call), out)


def test_threads(exported: Path, asked: Any, expected: Any) -> None:
    plain = _load(exported)
    got: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        got[index] = _said(plain, asked)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(got[index], expected[0]) for index in range(4))
    assert "forward" not in plain.__dict__


def test_an_exported_model_may_be_attached(exported: Path, asked: Any, expected: Any) -> None:
    plain = _load(exported)
    with trimkit.reduce(plain, method="random", budget=7) as trim:
        plain.generate(**asked, **GREEDY)
        assert trim.report.tokens_after == 14
    assert "_trimkit_exported" not in plain.__dict__, "the attachment has reduced already"
    assert torch.equal(_said(plain, asked), expected[0])


def test_pipeline(exported: Path) -> None:
    from transformers import pipeline

    sample = next(iter(sample_images().values()))
    prompt = f"USER: <image>\n{sample.question} ASSISTANT:"
    pipe = pipeline("image-text-to-text", model=str(exported), trust_remote_code=True)
    with _Lengths(pipe.model) as lengths:
        out = pipe(
            images=Image.open(sample.path),
            text=prompt,
            generate_kwargs=dict(GREEDY),
            return_full_text=False,
        )
    assert lengths[0] < 150
    model, processor = load_demo()
    inputs = processor(images=Image.open(sample.path), text=prompt, return_tensors="pt")
    with trimkit.reduce(model, processor, method="trim", budget=BUDGET):
        tokens = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    assert out[0]["generated_text"].strip() == processor.decode(tokens, skip_special_tokens=True).strip()


def test_a_model_in_memory_and_a_method_without_text(tmp_path: Path) -> None:
    model, batch = tiny.llava(), tiny.llava_batch([1, 2], seed=2)
    with trimkit.reduce(model, method="random", budget=0.2):
        expected = model.generate(**batch, **GREEDY)
    path = trimkit.export(model, tmp_path / "new" / "place", method="random", budget=0.2)
    settings = json.loads((path / "trimkit.json").read_text())
    assert settings["reduce"]["method"] == "random"
    assert settings["reduce"]["budget"] == 0.2
    assert torch.equal(_load(path).generate(**batch, **GREEDY), expected)
    assert (path / "custom_generate" / "requirements.txt").read_text() == f"trimkit>={trimkit.__version__}\n"


def test_in_place_and_again(tmp_path: Path, asked: Any) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(demo_model_path(), folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "trimkit.json"}
    assert trimkit.export(folder, method="trim", budget=0.5) == folder
    assert trimkit.export(folder, method="random", budget=9) == folder
    assert all(path.read_bytes() == content for path, content in before.items())
    settings = json.loads((folder / "trimkit.json").read_text())
    assert (settings["clip"], settings["sign"]) == ("clip", 1)
    plain = _load(folder)
    with _Lengths(plain) as lengths:
        plain.generate(**asked, **GREEDY)
    assert lengths[0] == asked["input_ids"].shape[1] - 576 + 9
    assert not list(folder.glob(".trimkit-*"))


def test_a_scorer_is_copied_along(tmp_path: Path, asked: Any, expected: Any) -> None:
    bare, clip = tmp_path / "bare", tmp_path / "its-clip"
    shutil.copytree(demo_model_path(), bare, ignore=shutil.ignore_patterns("clip"))
    (bare / "trimkit.json").write_text('{"sign": 1}')
    shutil.copytree(demo_model_path() / "clip", clip)
    path = trimkit.export(bare, tmp_path / "out", method="trim", budget=BUDGET, scorer=clip)
    shutil.rmtree(clip)
    assert json.loads((path / "trimkit.json").read_text())["clip"] == "clip"
    assert torch.equal(_said(_load(path), asked), expected[0])
    assert json.loads((bare / "trimkit.json").read_text()) == {"sign": 1}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A complete checkpoint without a processor."""
    tiny.llava().save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def _cases(small: Path) -> Iterator[tuple[type[trimkit.TrimkitError], str, Any]]:
    model = tiny.llava()
    foreign = small.parent / "foreign"
    shutil.copytree(small, foreign)
    (foreign / "custom_generate").mkdir()
    (foreign / "custom_generate" / "generate.py").write_text("def generate(model, **kwargs): ...\n")
    new = small.parent / "new"
    yield trimkit.UnknownNameError, "did you mean 'random'", lambda: trimkit.export(small, new, method="randm")
    yield trimkit.ConfigError, "there already", lambda: trimkit.export(small, foreign, method="random")
    yield trimkit.ConfigError, "not trimkit's", lambda: trimkit.export(foreign, method="random")
    yield trimkit.ConfigError, "not trimkit's", lambda: trimkit.export(foreign, new, method="random")
    yield trimkit.ConfigError, "is inside", lambda: trimkit.export(small, small / "deeper", method="random")
    yield trimkit.ConfigError, "needs a directory", lambda: trimkit.export(model, method="random")
    yield trimkit.ConfigError, "packaged model", lambda: trimkit.export("demo", method="random")
    yield trimkit.ConfigError, "no scorer directory", lambda: trimkit.export(small, new, method="random", scorer="./no")
    (small.parent / "loop").symlink_to("loop")
    yield trimkit.ConfigError, "loop of links", lambda: trimkit.export(small, small.parent / "loop", method="random")
    for scorer in ("", small.parent, "/"):
        yield trimkit.ConfigError, "no config.json", lambda scorer=scorer: trimkit.export(small, new, scorer=scorer)
    yield trimkit.ModelError, "no processor", lambda: trimkit.export(small, new, method="trim")
    yield trimkit.ModelError, "no model directory", lambda: trimkit.export("/no/such/place", new, method="random")
    yield trimkit.UnsupportedError, "not a vision-language", lambda: trimkit.export(demo_model_path() / "clip", new)
    yield trimkit.UnsupportedError, "not a transformers", lambda: trimkit.export(object(), new, method="random")


def test_errors_are_one_line_and_leave_nothing(small: Path) -> None:
    for error, part, call in _cases(small):
        before = sorted(small.parent.rglob("*"))
        with pytest.raises(error, match=part) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert sorted(small.parent.rglob("*")) == before, part


@pytest.mark.parametrize("place", ["new", None])
def test_a_full_disk_leaves_nothing_half_written(
    small: Path, place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(small.parent.rglob("*"))

    def fail(path: Path, text: str) -> None:
        if path.name == "requirements.txt":
            raise OSError(28, "No space left on device")
        path.write_text(text)

    monkeypatch.setattr(checkpoint, "_write_text", fail)
    with pytest.raises(trimkit.ConfigError, match="No space left on device"):
        trimkit.export(small, small.parent / place if place else None, method="random", budget=9)
    assert {path.name for path in set(small.parent.rglob("*")) - set(before)} <= {"trimkit.json"}


def test_at_run_time(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = tiny.llava_batch([1], seed=2)
    trimkit.export(small, method="random", budget=5)
    plain = _load(small)
    settings = (small / "trimkit.json").read_text()
    (small / "trimkit.json").write_text('{"sign": 1}')
    with pytest.raises(trimkit.ConfigError, match="no reduction settings beside"):
        plain.generate(**batch, **GREEDY)
    (small / "trimkit.json").write_text('{"reduce": "random"}')
    with pytest.raises(trimkit.ConfigError, match="names no method"):
        plain.generate(**batch, **GREEDY)
    (small / "trimkit.json").write_text(settings)
    assert plain.generate(**batch, **GREEDY).shape[1] > batch["input_ids"].shape[1]
    monkeypatch.setitem(sys.modules, "trimkit.attach.exported", None)
    with pytest.raises(ImportError, match=r"with the package trimkit: install it$"):
        plain.generate(**batch, **GREEDY)


def test_foreign_code_and_requirements_stay(small: Path) -> None:
    trimkit.export(small, method="random", budget=5)
    folder = small / "custom_generate"
    (folder / "requirements.txt").write_text("# mine\nnumpy>=1\ntrimkit>=0.0.1\ntrimkit-extras\n")
    (folder / "helper.py").write_text("mine = True\n")
    trimkit.export(small, method="random", budget=6)
    wanted = f"# mine\nnumpy>=1\ntrimkit-extras\ntrimkit>={trimkit.__version__}\n"
    assert (folder / "requirements.txt").read_text() == wanted
    assert (folder / "helper.py").read_text() == "mine = True\n"
    new = trimkit.export(small, small.parent / "copy", method="random", budget=7)
    assert (new / "custom_generate" / "requirements.txt").read_text() == wanted
    changed = (folder / "generate.py").read_text() + "# and a line of mine\n"
    (folder / "generate.py").write_text(changed)
    settings = (small / "trimkit.json").read_text()
    with pytest.raises(trimkit.ConfigError, match="is not trimkit's: move it away first"):
        trimkit.export(small, method="random", budget=8)
    assert (folder / "generate.py").read_text() == changed
    assert (small / "trimkit.json").read_text() == settings


def test_files_of_a_hub_cache_are_not_written_through(small: Path) -> None:
    """There a file is a link to one that other revisions share."""
    trimkit.export(small, method="random", budget=5)
    blobs = small.parent / "blobs"
    blobs.mkdir()
    shared = {
        name: blobs / str(number) for number, name in enumerate(["trimkit.json", "custom_generate/requirements.txt"])
    }
    for name, blob in shared.items():
        (small / name).rename(blob)
        (small / name).symlink_to(blob)
    before = {blob: blob.read_bytes() for blob in shared.values()}
    trimkit.export(small, method="random", budget=6)
    assert {blob: blob.read_bytes() for blob in shared.values()} == before
    assert json.loads((small / "trimkit.json").read_text())["reduce"]["budget"] == 6


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_is_exported_has_the_modes_that_the_umask_leaves(small: Path, umask: int) -> None:
    (small / "config.json").chmod(0o644)
    (small / "model.safetensors").chmod(0o600)
    before = os.umask(umask)
    try:
        new = trimkit.export(small, small.parent / "new", method="random", budget=5)
        saved = trimkit.export(tiny.llava(), small.parent / "saved", method="random", budget=5)
    finally:
        os.umask(before)
    for folder in (new, new / "custom_generate", saved, saved / "custom_generate"):
        assert folder.stat().st_mode & 0o777 == 0o777 & ~umask, folder
    for name in ("config.json", "trimkit.json", "custom_generate/generate.py"):
        assert (new / name).stat().st_mode & 0o777 == 0o666 & ~umask & 0o644, name
    assert (new / "model.safetensors").stat().st_mode & 0o777 == 0o600


def test_the_next_export_sweeps_what_a_killed_one_left(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trimkit.io import leftovers

    monkeypatch.setattr(leftovers, "_SETTLED", 0.0)
    left, mine = small.parent / leftovers.temporary_name(), small.parent / ".trimkit-mine"
    for folder in (left, mine):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x" * 1000)
    trimkit.export(small, small.parent / "new", method="random", budget=5)
    assert not left.exists()
    assert mine.exists()


def test_a_checkpoint_that_contains_itself(small: Path) -> None:
    (small / "again").symlink_to(".")
    with pytest.raises(trimkit.ConfigError, match="a link to a directory that it lies in"):
        trimkit.export(small, small.parent / "new", method="random", budget=5)
    assert not (small.parent / "new").exists()


def test_a_checkpoint_that_is_saved_again_is_reduced_again(
    exported: Path, asked: Any, expected: Any, tmp_path: Path
) -> None:
    """transformers saves weights alone; the reduction would be gone without a word."""
    model = _load(exported)
    _said(model, asked)
    copied = copy.deepcopy(model)
    for number, each in enumerate((model, copied)):
        again = tmp_path / str(number)
        each.save_pretrained(again)
        AutoProcessor.from_pretrained(exported).save_pretrained(again)
        assert (again / "trimkit.json").is_file()
        assert torch.equal(_said(_load(again), asked), expected[0])


def test_a_checkpoint_that_is_saved_before_its_first_generate_is_stock_until_the_files_are_copied(
    exported: Path, asked: Any, expected: Any, tmp_path: Path
) -> None:
    """No code of trimkit's runs before; docs/using.md says what to do."""
    _load(exported).save_pretrained(tmp_path / "saved")
    AutoProcessor.from_pretrained(exported).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "custom_generate").exists()
    assert torch.equal(_said(_load(tmp_path / "saved"), asked), expected[1])
    shutil.copy(exported / "trimkit.json", tmp_path / "saved")
    for folder in ("custom_generate", "clip"):
        shutil.copytree(exported / folder, tmp_path / "saved" / folder)
    assert torch.equal(_said(_load(tmp_path / "saved"), asked), expected[0])


def test_saving_over_a_checkpoint_leaves_what_is_there(exported: Path, asked: Any, tmp_path: Path) -> None:
    model = _load(exported)
    _said(model, asked)
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text("# somebody's\n")
    (tmp_path / "trimkit.json").write_text("{}")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "custom_generate" / "generate.py").read_text() == "# somebody's\n"
    assert (tmp_path / "trimkit.json").read_text() == "{}"

"""``Attachment.compiled``: reduced prompts in few lengths, each compiled once, with the answers of plain generation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch

import trimkit
from tests import tiny
from tests.contract.families import FAMILIES
from trimkit.core.types import Selection, TokenBatch
from trimkit.methods import Method

BUCKETS = (24, 40, 64)
GREEDY: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}


class AnyCount(Method):
    """Keeps another number of tokens of every picture, as its pixels have it: from one to all of them."""

    name: ClassVar[str] = "any-count"
    summary: ClassVar[str] = "a number that follows from the picture"

    def select(self, batch: TokenBatch) -> list[Selection]:
        found = []
        for features, real in zip(batch.features, batch.mask, strict=True):
            total = int(real.sum())
            kept = 1 + int(features.abs().sum() * 1000) % total
            found.append(Selection(torch.arange(kept), total))
        return found


class Counting:
    """A compiler backend that compiles nothing and counts how often it is asked to."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.lengths.append(max(each.shape[1] for each in inputs if each.ndim == 3))
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def answers(model: Any, asked: list[dict[str, torch.Tensor]], backend: Any = None, **options: Any) -> list[Any]:
    """What is generated behind each prompt; compiled where there is a backend."""
    found = []
    with trimkit.reduce(model, method=AnyCount(), **options) as trim:
        if backend is None:
            return [model.generate(**one, **GREEDY)[:, one["input_ids"].shape[1] :] for one in asked]
        with trim.compiled(max_new_tokens=GREEDY["max_new_tokens"], backend=backend) as fast:
            for one in asked:
                out = fast.generate(**one, **GREEDY)
                assert torch.equal(out[:, : one["input_ids"].shape[1]], one["input_ids"])
                found.append(out[:, one["input_ids"].shape[1] :])
    return found


def check(model: Any, asked: list[dict[str, torch.Tensor]]) -> None:
    """Equal answers, and one compilation for each bucket and batch size beside that of decoding."""
    model.generation_config.eos_token_id = None
    expected = answers(model, asked)
    counting = Counting()
    found = answers(model, asked, counting, buckets=BUCKETS)
    assert [each.tolist() for each in found] == [each.tolist() for each in expected]
    batches = len({len(one["input_ids"]) for one in asked})
    assert set(counting.lengths) == {1, *BUCKETS}, "every bucket has been used"
    recompilations = len(counting.lengths) - 1
    assert recompilations <= batches * len(BUCKETS)


def test_each_bucket_is_compiled_once() -> None:
    check(tiny.llava(), [tiny.llava_batch([1], seed=seed) for seed in range(10)])


@pytest.mark.slow
def test_two_hundred_pictures_of_any_count_compile_once_a_bucket() -> None:
    check(tiny.llava(), [tiny.llava_batch([1], seed=seed) for seed in range(200)])


@pytest.mark.slow
def test_a_batch_size_is_compiled_once_more() -> None:
    asked = [tiny.llava_batch([1] * rows, seed=seed) for seed in range(12) for rows in (1, 3)]
    model = tiny.llava()
    model.generation_config.eos_token_id = None
    counting = Counting()
    found = answers(model, asked, counting, buckets=BUCKETS)
    assert [each.tolist() for each in found] == [each.tolist() for each in answers(model, asked)]
    assert len(counting.lengths) <= 2 * (1 + len(BUCKETS))


@pytest.mark.parametrize("name", ["qwen2_5_vl", pytest.param("llava_next", marks=pytest.mark.slow)])
def test_other_families_say_the_same(name: str) -> None:
    case = FAMILIES[name]
    model, batch = case.build(), case.batch("left")
    model.generation_config.eos_token_id = None
    expected = answers(model, [batch])
    assert torch.equal(answers(model, [batch], "eager", buckets=(40, 80, 160, 320))[0], expected[0])


def test_without_buckets_each_length_is_compiled_anew() -> None:
    """What the tests above would see if padding did nothing: more lengths than buckets."""
    model, lengths = tiny.llava(), set()
    with trimkit.reduce(model, method=AnyCount()) as trim:
        for seed in range(12):
            lengths.update(trim.reduced_lengths(tiny.llava_batch([1], seed=seed)))
    assert len(lengths) > 2 * len(BUCKETS)


def test_what_cannot_be_compiled_is_refused() -> None:
    model, one = tiny.llava(), tiny.llava_batch([1], seed=0)
    with (
        trimkit.reduce(model, method=AnyCount()) as trim,
        pytest.raises(trimkit.ConfigError, match="needs bucket lengths"),
    ):
        trim.compiled()
    with pytest.raises(trimkit.ConfigError, match="not lengths"):
        trimkit.reduce(model, method="random", buckets=(0, 8))
    with pytest.raises(trimkit.ConfigError, match="give one of them"):
        trimkit.reduce(model, method="random", buckets=(8,), pad_to_multiple_of=8)
    with (
        trimkit.reduce(model, method="fastv", buckets=(64,)) as trim,
        pytest.raises(trimkit.UnsupportedError, match="inside the language model"),
    ):
        trim.compiled()
    decoder = model.get_decoder()
    with trimkit.reduce(model, method="random", budget=20, buckets=(16,)) as trim:
        with trim.compiled(max_new_tokens=2, backend="eager") as fast:
            assert "forward" in vars(decoder)
            with pytest.raises(trimkit.InputError, match="longer than the largest bucket"):
                fast.generate(**one, do_sample=False)
            with pytest.raises(trimkit.ConfigError, match="more than the 2"):
                fast.generate(**one, max_new_tokens=3)
            with pytest.raises(trimkit.InputError, match="brings its own cache"):
                fast.generate(**one, cache_implementation="static")
            with pytest.raises(trimkit.InputError, match="one sequence a row"):
                fast.generate(**one, num_beams=2)
        assert "forward" not in vars(decoder), "the hook is gone"
        with pytest.raises(trimkit.ConfigError, match="closed"):
            fast.generate(**one)

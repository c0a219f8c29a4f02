"""Cases that are not everyday: each gives the right answer, or one line that says what to do. See docs/using.md."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

import trimkit
from tests import tiny
from tests.contract.families import FAMILIES
from tests.tiny import GREEDY

Batch = dict[str, torch.Tensor]


@pytest.fixture
def model() -> Any:
    return tiny.llava()


@pytest.fixture
def batch() -> Batch:
    return tiny.llava_batch([1, 2], seed=2)


def _is_stock(model: Any) -> bool:
    return not {"generate", "forward"} & set(model.__dict__)


class _Calls(BaseStreamer):
    """Calls ``act`` at every step, the prompt's included, with the number of steps before."""

    def __init__(self, act: Callable[[int], object]) -> None:
        self.act = act
        self.steps = 0

    def put(self, value: torch.Tensor) -> None:
        self.act(self.steps)
        self.steps += 1

    def end(self) -> None: ...


class TestPrompts:
    """Rows without images, without a question, and questions that nobody can read."""

    def test_a_text_only_row_among_others(self, model: Any) -> None:
        per_row = [1, 0, 2]
        mixed = tiny.llava_batch(per_row, seed=7)
        width = mixed["input_ids"].shape[1]
        with trimkit.reduce(model, method="random", budget=0.2) as trim:
            together = model.generate(**mixed, **GREEDY)[:, width:]
            assert [image.row for image in trim.report.images] == [0, 2, 2]
        alone = tiny.single(mixed, 1, per_row)
        expected = model.generate(**alone, **GREEDY)[0, alone["input_ids"].shape[1] :]
        assert together[1][: len(expected)].tolist() == expected.tolist()

    @pytest.mark.parametrize("query", ["", "  \n"])
    def test_no_question_for_a_method_that_reads_it(self, model: Any, batch: Batch, query: str) -> None:
        clip = _StrictScorer()
        with trimkit.reduce(model, method="trim", scorer=clip, query=query):
            for call in (lambda: model.generate(**batch, **GREEDY), lambda: model(**batch)):
                with pytest.raises(trimkit.InputError, match="question is empty"):
                    call()

    def test_a_picture_alone_for_a_method_that_does_not(self, model: Any) -> None:
        prompt = {
            "input_ids": torch.tensor([[1, *[tiny.IMAGE_TOKEN] * tiny.TOKENS]]),
            "attention_mask": torch.ones(1, 1 + tiny.TOKENS, dtype=torch.long),
            "pixel_values": tiny.pixels(1),
        }
        with trimkit.reduce(model, method="random", budget=5) as trim:
            out = model.generate(**prompt, **GREEDY)
            assert out.shape[1] > 1 + tiny.TOKENS
            assert trim.report.tokens_after == 5

    def test_without_a_processor(self, model: Any, batch: Batch) -> None:
        with trimkit.reduce(model, method="trim", scorer=tiny.ToyScorer()):
            with pytest.raises(trimkit.ConfigError, match="pass the model's processor, or query="):
                model.generate(**batch, **GREEDY)
            by_call = model.generate(**batch, **GREEDY, query="where")
        with trimkit.reduce(model, method="trim", scorer=tiny.ToyScorer(), query="where"):
            assert torch.equal(model.generate(**batch, **GREEDY), by_call)

    def test_errors_are_one_line(self, model: Any, batch: Batch) -> None:
        with trimkit.reduce(model, method="trim", scorer=tiny.ToyScorer()):
            for wrong in (["one for two rows"], [1, 2], None):
                with pytest.raises(trimkit.TrimkitError) as caught:
                    model.generate(**batch, **GREEDY, query=wrong)
                assert "\n" not in str(caught.value)
                assert ": " in str(caught.value)


class _StrictScorer(tiny.ToyScorer):
    """Refuses an empty question, as the scorers that come with the library do."""

    def text_embeddings(self, queries: Any, *, truncate: bool = False) -> Any:
        from trimkit.scorers._text import TextEncoder

        encoder = TextEncoder(
            lambda ids: torch.ones(1, 4), lambda text, **k: {"input_ids": [1, 3, 2]}, 8, lambda: "cpu"
        )
        return encoder(queries, truncate=truncate)


class TestThreads:
    """One attachment, many threads."""

    def test_each_gets_its_own_answer_and_report(self, model: Any) -> None:
        pictures = [tiny.pixels(1, seed=seed) for seed in range(3)]
        prompts = tiny.llava_batch([1], seed=3)
        jobs = [({**prompts, "pixel_values": pictures[i % 3]}, f"question {i}") for i in range(6)]
        budgets = {"method": "trim", "budget": "top-p:0.6", "scorer": tiny.ToyScorer()}
        expected, kept = [], []
        for inputs, query in jobs:
            with trimkit.reduce(model, **budgets) as alone:
                expected.append(model.generate(**inputs, **GREEDY, query=query))
                kept.append(alone.report.images[0].indices)
        assert len({tuple(one[0].tolist()) for one in expected}) > 3, "the answers are too much alike to prove anything"
        got: dict[int, tuple[torch.Tensor, trimkit.Report]] = {}
        start = threading.Barrier(len(jobs))
        with trimkit.reduce(model, **budgets) as trim:

            def work(index: int) -> None:
                inputs, query = jobs[index]
                start.wait(timeout=60)
                for _ in range(2):
                    out = model.generate(**inputs, **GREEDY, query=query)
                got[index] = (out, trim.report)

            _in_threads(work, len(jobs))
            assert trim.cached_images == 3
        for index, (_, query) in enumerate(jobs):
            out, report = got[index]
            assert torch.equal(out, expected[index])
            assert [image.query for image in report.images] == [query]
            assert torch.equal(report.images[0].indices, kept[index])

    def test_a_thread_without_calls_sees_the_last_report(self, model: Any, batch: Batch) -> None:
        with trimkit.reduce(model, method="random", budget=4) as trim:
            _in_threads(lambda _: model.generate(**batch, **GREEDY), 1)
            assert trim.report.tokens_after == 12

    def test_detaching_in_another_thread(self, model: Any, batch: Batch) -> None:
        stock = model.generate(**batch, **GREEDY)
        trim = trimkit.attach(model, method="random", budget=0.2)
        expected = model.generate(**batch, **GREEDY)
        running, detached = threading.Event(), threading.Event()

        def pause(step: int) -> None:
            running.set()
            assert detached.wait(timeout=60)

        one = tiny.single(batch, 0, [1, 2])
        alone = model.generate(**one, **GREEDY)
        outs: list[torch.Tensor] = []
        thread = threading.Thread(
            target=lambda: outs.append(model.generate(**one, **GREEDY, streamer=_Calls(pause))), daemon=True
        )
        thread.start()
        assert running.wait(timeout=60)
        trim.detach()
        assert torch.equal(model.generate(**batch, **GREEDY), stock)
        with torch.no_grad():
            assert model(**batch).logits.shape[1] == batch["input_ids"].shape[1]
        detached.set()
        thread.join(timeout=60)
        assert torch.equal(outs[0], alone)
        assert _is_stock(model)
        assert not torch.equal(stock, expected)


def _in_threads(work: Callable[[int], object], count: int) -> None:
    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class TestDetaching:
    """In the middle of a call."""

    @pytest.mark.parametrize("step", [0, 2])
    @pytest.mark.parametrize("family", ["llava", "paligemma", "qwen2_5_vl"])
    def test_in_a_stream(self, family: str, step: int) -> None:
        model, one = _tiny(family)
        stock = model.generate(**one, **GREEDY)
        trim = trimkit.attach(model, method="random", budget=0.2)
        expected = model.generate(**one, **GREEDY)
        streamer = _Calls(lambda at: trim.detach() if at == step else None)
        assert torch.equal(model.generate(**one, **GREEDY, streamer=streamer), expected)
        assert streamer.steps > step
        assert not trim.attached
        assert _is_stock(model)
        assert torch.equal(model.generate(**one, **GREEDY), stock)
        assert not torch.equal(stock, expected), "the reduction changes nothing here: the test proves nothing"

    @pytest.mark.parametrize("family", ["llava", "paligemma"])
    def test_and_attaching_anew(self, family: str) -> None:
        model, one = _tiny(family)
        with trimkit.reduce(model, method="random", budget=9):
            later = model.generate(**one, **GREEDY)
        trim = trimkit.attach(model, method="random", budget=4)
        expected = model.generate(**one, **GREEDY)
        others: list[trimkit.Attachment] = []

        def swap(step: int) -> None:
            if step == 1:
                trim.detach()
                others.append(trimkit.attach(model, method="random", budget=9))

        assert torch.equal(model.generate(**one, **GREEDY, streamer=_Calls(swap)), expected)
        assert torch.equal(model.generate(**one, **GREEDY), later)
        others[0].detach()
        assert _is_stock(model)

    def test_an_exception_in_a_stream_leaves_nothing(self, model: Any) -> None:
        one = tiny.llava_batch([1], seed=2)

        def fail(step: int) -> None:
            if step == 2:
                raise RuntimeError("planted")

        with trimkit.reduce(model, method="random", budget=0.2) as trim:
            expected = model.generate(**one, **GREEDY)
            with pytest.raises(RuntimeError, match="planted"):
                model.generate(**one, **GREEDY, streamer=_Calls(fail))
            assert torch.equal(model.generate(**one, **GREEDY), expected)
            with torch.no_grad():
                assert model(**one).logits.shape[1] < one["input_ids"].shape[1]
            trim.detach()
            assert _is_stock(model)


def _tiny(family: str) -> tuple[Any, Batch]:
    case = FAMILIES[family]
    return case.build(), case.single(case.batch("left"), 0)


class TestNesting:
    """A call within a call, and a model beside a model."""

    @pytest.mark.parametrize(("family", "method"), [("llava", "random"), ("paligemma", "random"), ("llava", "fastv")])
    def test_generate_and_forward_inside_generate(self, family: str, method: str) -> None:
        model, first = _tiny(family)
        second = FAMILIES[family].single(FAMILIES[family].batch("left"), 1)
        with trimkit.reduce(model, method=method, budget=0.2), torch.no_grad():
            expected = model.generate(**first, **GREEDY), model.generate(**second, **GREEDY), model(**second).logits
            seen: list[tuple[torch.Tensor, torch.Tensor]] = []

            def ask_another(step: int) -> None:
                if step in (0, 2):
                    seen.append((model.generate(**second, **GREEDY), model(**second).logits))

            assert torch.equal(model.generate(**first, **GREEDY, streamer=_Calls(ask_another)), expected[0])
            assert len(seen) == 2
            for out, logits in seen:
                assert torch.equal(out, expected[1])
                assert torch.equal(logits, expected[2])

    def test_guidance_runs_on_a_cache_of_its_own_inside_generate(self) -> None:
        model, batch = _tiny("llava")
        words = {"input_ids": torch.arange(3, 83)[None]}  # longer than the prompt
        with trimkit.reduce(model, method="fastv", budget=0.2) as trim, torch.no_grad():
            logits = model(**words).logits
            seen: list[torch.Tensor] = []
            model.generate(
                **batch,
                **GREEDY,
                guidance_scale=1.5,
                streamer=_Calls(lambda step: seen.append(model(**words).logits) if step == 2 else None),
            )
            assert trim.report.tokens_after < trim.report.tokens_before
        assert torch.equal(seen[0], logits)

    def test_two_models_with_two_methods(self, batch: Batch) -> None:
        first, second = tiny.llava(0), tiny.llava(1)
        with trimkit.reduce(first, method="random", budget=4):
            alone = first.generate(**batch, **GREEDY)
        with trimkit.reduce(second, method="trim", budget=9, scorer=tiny.ToyScorer(), query="what"):
            other_alone = second.generate(**batch, **GREEDY)
        with (
            trimkit.reduce(first, method="random", budget=4) as one,
            trimkit.reduce(second, method="trim", budget=9, scorer=tiny.ToyScorer(), query="what") as other,
        ):
            assert torch.equal(first.generate(**batch, **GREEDY), alone)
            assert torch.equal(second.generate(**batch, **GREEDY), other_alone)
            assert torch.equal(first.generate(**batch, **GREEDY), alone)
            assert (one.report.method, one.report.tokens_after) == ("random", 12)
            assert (other.report.method, other.report.tokens_after) == ("trim", 27)

    def test_a_copy_made_after_detaching_is_stock(self, model: Any, batch: Batch) -> None:
        stock = tiny.llava().generate(**batch, **GREEDY)
        trimkit.attach(model, method="random", budget=0.2).detach()
        pickled = pickle.dumps(model)  # once it was called, transformers' own hooks do not pickle
        with trimkit.reduce(model, method="random", budget=0.2):
            model.generate(**batch, **GREEDY)
        for copied in (copy.deepcopy(model), pickle.loads(pickled)):
            assert _is_stock(copied)
            assert torch.equal(copied.generate(**batch, **GREEDY), stock)

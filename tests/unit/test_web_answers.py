"""The page's choices and answers on the embedded model: nothing is carried over, everything is counted, two at once."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from trimkit import ask
from trimkit.errors import ConfigError, InputError, ModelError
from trimkit.web import flops, markup
from trimkit.web.answers import Progress, stream_answer
from trimkit.web.choices import build_method, choose, draw, inputs_for
from trimkit.web.conversation import MOST_TURNS, reply
from trimkit.web.model import LazyModel, Loaded
from trimkit.web.pictures import Picture, sample_picture, samples

NAME = "scene1"
QUESTION = samples()[NAME].question


@pytest.fixture(scope="module")
def lazy() -> LazyModel:
    return LazyModel()


@pytest.fixture
def loaded(lazy: LazyModel) -> Loaded:
    return lazy.get()


@pytest.fixture
def picture() -> Picture:
    return sample_picture(NAME)


def answer(loaded: Loaded, picture: Picture, method: str | None, share: float | None = 0.2) -> list[Progress]:
    inputs = inputs_for(loaded, picture, QUESTION)
    chosen = None if method is None else build_method(method, share)
    return list(stream_answer(loaded, inputs, QUESTION, chosen, 8))


def test_it_is_loaded_once_and_late() -> None:
    lazy = LazyModel()
    assert not lazy.is_loaded
    assert lazy.get() is lazy.get()


def test_a_failed_load_is_told_each_time() -> None:
    lazy = LazyModel("/no/such/directory")
    for _ in range(2):
        with pytest.raises(ModelError):
            lazy.get()
    assert not lazy.is_loaded


def test_a_choice_needs_no_language_model(loaded: Loaded, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = loaded.model.get_decoder()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the language model ran")

    monkeypatch.setattr(decoder, "forward", fail)
    found = choose(loaded, picture, QUESTION, build_method("trim", 0.2))
    assert found.report.tokens_after == 115
    drawn = draw(found.report)
    assert drawn is not None
    assert drawn.kept.size == drawn.ranked.size
    html = markup.figures(drawn, found.report, found.seconds)
    assert 'alt="115 of 576 image tokens kept (20%)' in html


def test_a_choice_is_that_of_the_answer(loaded: Loaded, picture: Picture) -> None:
    found = choose(loaded, picture, QUESTION, build_method("focus", 0.1)).report.images[0]
    report = answer(loaded, picture, "focus", 0.1)[-1].report
    assert report is not None
    assert report.images[0].indices.tolist() == found.indices.tolist()


def test_a_method_inside_the_language_model_is_not_chosen_without_it(loaded: Loaded, picture: Picture) -> None:
    with pytest.raises(ConfigError, match="press Ask"):
        choose(loaded, picture, QUESTION, build_method("fastv", 0.2))
    done = answer(loaded, picture, "fastv")[-1]
    assert done.tokens_kept == 115
    assert done.report is not None


@pytest.mark.parametrize("method", [None, "trim"])
def test_an_answer_is_the_library_s(loaded: Loaded, picture: Picture, method: str | None) -> None:
    how = {"method": "none"} if method is None else {"method": method, "budget": 0.2}
    expected = ask.ask(loaded.model, loaded.processor, picture.image, QUESTION, max_new_tokens=8, **how)
    done = answer(loaded, picture, method)[-1]
    assert (done.text, done.tokens_kept) == (expected.answer, expected.image_tokens_kept)


def test_an_answer_says_how_far_it_is(loaded: Loaded, picture: Picture) -> None:
    said = answer(loaded, picture, "trim")
    assert said[0].state in ("waiting", "reading")
    done = said[-1]
    assert done.state == "done"
    assert done.first_s is not None
    assert 0 < done.first_s <= done.seconds
    assert done.new_tokens >= 1
    full = answer(loaded, picture, None)[-1]
    assert (full.tokens_full, full.tokens_kept, full.report) == (576, 576, None)
    assert done.flops is not None
    assert full.flops is not None
    assert done.flops < 0.6 * full.flops


def test_layers_that_see_fewer_tokens_count_for_less(loaded: Loaded, picture: Picture) -> None:
    late, early = answer(loaded, picture, "fastv")[-1], answer(loaded, picture, "trim")[-1]
    full = answer(loaded, picture, None)[-1]
    assert early.flops is not None
    assert late.flops is not None
    assert full.flops is not None
    assert early.flops < late.flops < full.flops


def test_no_formula_no_figure(loaded: Loaded) -> None:
    assert flops.answer_flops(loaded.model, build_method("flowcut", 0.2), 20, 115, [], 3) is None


def test_a_reader_who_goes_stops_the_answer(loaded: Loaded, picture: Picture) -> None:
    running = stream_answer(loaded, inputs_for(loaded, picture, QUESTION), QUESTION, None, 200)
    next(running)
    running.close()
    assert loaded.answering.acquire(timeout=60)  # and the model is free
    loaded.answering.release()


def test_two_users_wait_for_each_other(loaded: Loaded) -> None:
    found: dict[str, Progress] = {}

    def run(name: str) -> None:
        picture, question = sample_picture(name), samples()[name].question
        inputs = inputs_for(loaded, picture, question)
        found[name] = list(stream_answer(loaded, inputs, question, build_method("trim", None), 8))[-1]

    names = list(samples())[:3]
    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        alone = ask.ask(
            loaded.model, loaded.processor, sample_picture(name).image, samples()[name].question, max_new_tokens=8
        )
        assert found[name].text == alone.answer


def test_a_conversation_chooses_for_the_last_question(loaded: Loaded, picture: Picture) -> None:
    method = build_method("trim", 0.1)
    first = list(reply(loaded, picture, [QUESTION], method, 8))[-1]
    second = list(reply(loaded, picture, [QUESTION, first.text, "is there a clock?"], method, 8))[-1]
    assert first.report is not None
    assert second.report is not None
    assert second.report.images[0].query == "is there a clock?"
    assert first.report.images[0].indices.tolist() != second.report.images[0].indices.tolist()


def test_conversations_end(loaded: Loaded, picture: Picture) -> None:
    with pytest.raises(InputError, match="empty"):
        reply(loaded, picture, [" "], None, 8)
    with pytest.raises(InputError, match=f"{MOST_TURNS} questions"):
        reply(loaded, picture, [*["a"] * 2 * MOST_TURNS, "b"], None, 8)


def test_own_positions_wait_for_a_running_answer(loaded: Loaded, picture: Picture) -> None:
    """Preparing a request marks such a model, and the answer that runs reads the mark."""
    careful = replace(loaded, own_positions=True)
    done = threading.Event()

    def run() -> None:
        choose(careful, picture, QUESTION, build_method("trim", None))
        done.set()

    thread = threading.Thread(target=run)
    with careful.answering:
        thread.start()
        assert not done.wait(0.3)
    thread.join()
    assert done.is_set()

"""``turns="auto"``: a picture's questions prefill no more image tokens than the whole picture has."""

from __future__ import annotations

import pytest

from trimkit.serving.vllm.own_choices import OwnChoices
from trimkit.serving.vllm.settings import ServerSettings

SIZE = (336, 336)


@pytest.mark.parametrize(
    ("full", "kept", "own"), [(576, 121, 3), (576, 64, 8), (576, 230, 1), (576, 400, 0), (9, 9, 0)]
)
def test_own_choices_and_the_shared_one_are_at_most_the_whole_picture(full: int, kept: int, own: int) -> None:
    choices = OwnChoices()
    choices.learn(SIZE, "trim", full, kept)
    found = [choices.own(f"{number}?", "picture", SIZE, "trim") for number in range(20)]
    assert found == [True] * own + [False] * (20 - own)
    assert (own + 1) * kept <= full or own == 0


def test_a_question_that_chose_for_itself_does_so_again() -> None:
    choices = OwnChoices()
    choices.learn(SIZE, "trim", 576, 230)
    assert [choices.own(question, "picture", SIZE, "trim") for question in ("a?", "b?", "a?")] == [True, False, True]
    assert choices.own("b?", "another", SIZE, "trim")
    assert choices.own("b?", "picture", SIZE, "focus")  # nothing is known of it


def test_questions_choose_for_themselves_until_the_number_of_tokens_is_known() -> None:
    choices = OwnChoices()
    assert all(choices.own(f"{number}?", "picture", size, "trim") for number in range(9) for size in (SIZE, None))
    choices.learn(SIZE, "trim", 576, 121)
    assert not choices.own("9?", "picture", SIZE, "trim")
    assert choices.own("8?", "picture", SIZE, "trim")


def test_the_shared_choice_reads_no_question_and_keeps_the_budget() -> None:
    request = ServerSettings().request({"method": "focus", "budget": 121, "turns": "auto"})
    shared = request.shared()
    assert (shared.method.name, shared.query, shared.tokens(576)) == ("divprune", None, 121)

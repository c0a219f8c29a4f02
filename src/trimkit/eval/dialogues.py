"""Accuracy on dialogues about held-out scenes of the demo world: several turns on one picture, each about other objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trimkit.ask import build_chat_inputs, decode
from trimkit.attach import Attachment, reduce
from trimkit.core.choices import Positions, TurnPolicy
from trimkit.eval.tally import NEW_TOKENS, check_arguments, summary, whole
from trimkit.io.provenance import versions
from trimkit.methods import Method, get_method
from trimkit.pipeline.feature_cache import FeatureCache

__all__ = ["evaluate"]

TURNS = 3


def evaluate(
    model: Any,
    processor: Any,
    *,
    seed: int,
    n: int,
    method: str | Method = "trim",
    turns: TurnPolicy = "refresh",
    positions: Positions = "auto",
    batch_size: int = 16,
    scorer: Any = None,
    advance: Callable[[int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Hold ``n`` dialogues of three turns and grade every reply.

    The questions of a dialogue are of different types and about different objects. Each turn is asked on top of the model's own
    earlier replies, and questions are read from the prompt as in any chat.

    Args:
        model, processor: as ``trimkit.loading.load_model`` gives them.
        seed, n: which dialogues, how many.
        method, turns, positions, scorer, options: as ``trimkit.reduce`` takes them.
        batch_size: dialogues per ``generate`` call.
        advance: called with the number of dialogues done after each batch.

    Returns:
        ``dialogues``, ``n`` (questions), ``accuracy``, ``accuracy_by_type``, ``accuracy_by_turn``, their ``ci95``,
        ``image_tokens_full``, ``image_tokens_kept_mean`` (per question), ``image_tokens_kept_by_turn``, and what was run.

    Raises:
        ConfigError: seed, n or batch size; the method or its options.
    """
    from trimkit.demo.items import sample_dialogue

    check_arguments(seed, n, batch_size, positions, [turns])
    chosen = get_method(method, **options)
    tally = _Tally()
    cache = FeatureCache(batch_size)  # its own: what was asked before is not to have a say in the last bit
    how: dict[str, Any] = {"method": chosen, "scorer": scorer, "turns": turns, "positions": positions}
    with reduce(model, processor, **how, cache_images=cache) as trim:
        for start in range(0, n, batch_size):
            items = [sample_dialogue(seed, index, TURNS) for index in range(start, min(start + batch_size, n))]
            _hold(trim, processor, items, tally)
            if advance is not None:
                advance(len(items))
    settings = {"method": chosen.name, "budget": chosen.budget.to_plain(), "seed": seed, "batch_size": batch_size}
    return {
        "dialogues": n,
        **tally.result(n),
        **settings,
        "turns": turns,
        "positions": positions,
        "options": chosen.model_dump(mode="json"),
        "versions": versions(),
    }


class _Tally:
    """Grades and token counts, by turn."""

    def __init__(self) -> None:
        self.by_type: dict[str, list[bool]] = {}
        self.by_turn: dict[str, list[bool]] = {f"turn {turn + 1}": [] for turn in range(TURNS)}
        self.full, self.kept = 0, [0] * TURNS

    def add(self, turn: int, kind: str, hit: bool) -> None:
        self.by_type.setdefault(kind, []).append(hit)
        self.by_turn[f"turn {turn + 1}"].append(hit)

    def result(self, n: int) -> dict[str, Any]:
        turned = summary(self.by_turn)
        return {
            **summary(self.by_type),
            "accuracy_by_turn": list(turned["accuracy_by_type"].values()),
            "ci95_by_turn": list(turned["ci95_by_type"].values()),
            "image_tokens_full": whole(self.full / (TURNS * n)),
            "image_tokens_kept_mean": sum(self.kept) / (TURNS * n),
            "image_tokens_kept_by_turn": [count / n for count in self.kept],
        }


def _hold(trim: Attachment, processor: Any, items: Sequence[tuple[Any, Sequence[Any]]], tally: _Tally) -> None:
    """A batch of dialogues, turn by turn."""
    from trimkit.demo.questions import grade

    images = [image for image, _ in items]
    chats: list[list[str]] = [[] for _ in items]
    for turn in range(TURNS):
        for chat, (_, questions) in zip(chats, items, strict=True):
            chat.append(questions[turn].text)
        inputs = build_chat_inputs(trim.model, processor, images, chats, max_new_tokens=NEW_TOKENS)
        out = trim.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        tally.full += trim.report.tokens_before
        tally.kept[turn] += trim.report.tokens_after
        for chat, reply, (_, questions) in zip(chats, decode(processor, inputs, out), items, strict=True):
            chat.append(reply)
            tally.add(turn, questions[turn].type, grade(reply, questions[turn]))

"""The second tab: four methods on the same picture, question and budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from trimkit.web import markup
from trimkit.web.answers import Progress, stream_answer
from trimkit.web.ask_tab import checked
from trimkit.web.choices import build_method, draw, inputs_for, method_kinds
from trimkit.web.messages import explain
from trimkit.web.model import LazyModel
from trimkit.web.pictures import Picture
from trimkit.web.side import Side, budget_of

__all__ = ["FIRST", "MethodsTab"]

FIRST = ("trim", "focus", "visionzip", "random")


class MethodsTab:
    """Builds the tab within its ``gr.Tab`` and answers its events.

    Args:
        model: the page's model.
        side: what is asked; its method is not used here.
    """

    def __init__(self, model: LazyModel, side: Side) -> None:
        self._model, self._side = model, side
        names = [kind.name for kind in method_kinds()]
        gr.Markdown(
            "Four methods on the same picture and question, with the budget set on the side. Each one runs the model."
        )
        self._picks: list[Any] = []
        self._cards: list[Any] = []
        compare = gr.Button("Compare the four", variant="primary", elem_id="tk-compare")
        for pair in (FIRST[:2], FIRST[2:]):
            with gr.Row(equal_height=True):
                for first in pair:
                    with gr.Column(min_width=280):
                        number = len(self._picks) + 1
                        pick = gr.Dropdown(names, value=first, label=f"Method {number}", elem_id=f"tk-pick-{number}")
                        self._picks.append(pick)
                        self._cards.append(gr.HTML(markup.answer_card(first, None), elem_id=f"tk-cell-{number}"))
        inputs = [side.picture, side.question, side.own, side.share, *self._picks]
        options: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "once", "api_visibility": "private"}
        options |= {"concurrency_limit": 8, "concurrency_id": "answers"}
        compare.click(self.compare, inputs, [side.message, *self._cards], **options)

    def compare(
        self, picture: Picture | None, question: str, own: bool, share: float, *names: str
    ) -> Iterator[list[Any]]:
        """Answers one after the other: the message and four cells."""
        cells: list[Any] = [markup.answer_card(name, None) for name in names]
        yield [markup.note(""), *cells]
        for number, name in enumerate(names):
            try:
                for cell in self._cell(checked(picture, question), question, name, budget_of(own, share)):
                    cells[number] = cell
                    yield [gr.skip(), *cells]
            except Exception as error:
                cells[number] = markup.alert(f"{name}: {explain(error)}")
                yield [gr.skip(), *cells]

    def _cell(self, picture: Picture, question: str, name: str, share: float | None) -> Iterator[str]:
        method, loaded, tokens = build_method(name, share), self._model.get(), self._model.new_tokens
        inputs = inputs_for(loaded, picture, question, tokens)
        progress = Progress()
        for progress in stream_answer(loaded, inputs, question, method, tokens):
            yield markup.answer_card(name, progress)
        if progress.report is not None:
            yield markup.kept_figure(draw(progress.report), progress.report) + markup.answer_card(name, progress)

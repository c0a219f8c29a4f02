"""The third tab: a conversation about the picture, whose every turn chooses its own patches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from trimkit.web import markup
from trimkit.web.answers import Progress
from trimkit.web.ask_tab import checked
from trimkit.web.choices import build_method, draw
from trimkit.web.conversation import reply
from trimkit.web.messages import explain
from trimkit.web.model import LazyModel
from trimkit.web.pictures import Picture
from trimkit.web.side import QUESTION_LETTERS, Side, budget_of

__all__ = ["ChatTab"]

Said = tuple[str, list[str]]
"""Key of the picture, and questions and answers in turn."""


class ChatTab:
    """Builds the tab within its ``gr.Tab`` and answers its events.

    Args:
        model: the page's model.
        side: picture, method and budget.
    """

    def __init__(self, model: LazyModel, side: Side) -> None:
        self._model, self._side = model, side
        self._said = gr.State(time_to_live=3600)
        gr.Markdown(
            "Every question chooses its own patches of the same picture. Method and budget are those on the side."
        )
        looks: dict[str, Any] = {"height": 320, "buttons": [], "feedback_options": None, "elem_id": "tk-chat"}
        self._chat = gr.Chatbot(label="Conversation", render_markdown=False, **looks)  # what is said is shown as it is
        with gr.Row():
            self._line = gr.Textbox(
                label="Next question", max_length=QUESTION_LETTERS, scale=4, max_lines=3, elem_id="tk-line"
            )
            send = gr.Button("Send", variant="primary", min_width=90, elem_id="tk-send")
            clear = gr.Button("Start over", min_width=90, elem_id="tk-clear")
        self._kept = gr.HTML(elem_id="tk-chat-kept")
        self._wire(send, clear)

    def talk(
        self, said: Said | None, line: str, picture: Picture | None, name: str, own: bool, share: float
    ) -> Iterator[list[Any]]:
        """The next answer as it comes: message, state, line, conversation, kept patches."""
        try:
            picture = checked(picture, line)
            before = said[1] if said is not None and said[0] == picture.key else []
            turns = [*before, line.strip()]
            method, loaded = build_method(name, budget_of(own, share)), self._model.get()
            progress = Progress()
            for progress in reply(loaded, picture, turns, method, self._model.new_tokens):
                yield [markup.note(""), gr.skip(), "", _messages([*turns, progress.text or "…"]), gr.skip()]
            done = [*turns, progress.text or "(nothing)"]
            yield [gr.skip(), (picture.key, done), "", _messages(done), self._last(progress)]
        except Exception as error:
            shown = [] if said is None else _messages(said[1])
            yield [markup.alert(explain(error)), gr.skip(), line, shown, gr.skip()]

    def _last(self, progress: Progress) -> str:
        if progress.report is None:
            return ""
        first = "–" if progress.first_s is None else markup.seconds_text(progress.first_s)
        head = (
            f"<p>Last turn: first token after {first}, whole answer after {markup.seconds_text(progress.seconds)}.</p>"
        )
        return head + markup.kept_figure(draw(progress.report), progress.report)

    def _wire(self, send: Any, clear: Any) -> None:
        side = self._side
        inputs = [self._said, self._line, side.picture, side.method, side.own, side.share]
        shown = [side.message, self._said, self._line, self._chat, self._kept]
        options: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "once", "api_visibility": "private"}
        for event in (send.click, self._line.submit):
            event(self.talk, inputs, shown, concurrency_limit=8, concurrency_id="answers", **options)
        clear.click(lambda: [markup.note(""), None, "", [], ""], None, shown, **options)


def _messages(said: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]

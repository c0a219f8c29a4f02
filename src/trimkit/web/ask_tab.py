"""The first tab: what is kept, drawn as soon as anything changes; and the answers of reduced and full model side by side."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from trimkit.core.report import Report
from trimkit.errors import InputError
from trimkit.web import markup
from trimkit.web.answers import Progress, stream_answer
from trimkit.web.choices import build_method, choose, draw, inputs_for
from trimkit.web.messages import explain
from trimkit.web.model import LazyModel
from trimkit.web.pictures import Picture
from trimkit.web.side import Side, budget_of, method_hint

__all__ = ["AskTab", "checked"]

_ONE_RUN = "Times are of one run each on this server, from pixels to the answer. They are no benchmark."
_NOT_TRAINED = "The packaged model knows only its own rendered scenes, not photographs. Start with --model for yours."
_CLICK = "() => { const file = document.querySelector('#tk-file'); (file.querySelector('a') || file).click(); }"
FULL, REDUCED = "Full model: all image tokens", "Reduced"


def checked(picture: Picture | None, question: str) -> Picture:
    """The picture, where it and a question are there.

    Raises:
        InputError: one is missing.
    """
    from trimkit.ask import check_question

    if picture is None:
        raise InputError("there is no picture: drop one, or choose a sample")
    check_question(question)
    return picture


class AskTab:
    """Builds the tab within its ``gr.Tab`` and answers its events.

    Args:
        model: the page's model.
        side: what is asked.
    """

    def __init__(self, model: LazyModel, side: Side) -> None:
        self._model, self._side = model, side
        self._folder = tempfile.TemporaryDirectory(prefix="trimkit-page-")  # goes with the page
        with gr.Row():
            self.ask = gr.Button("Ask", variant="primary", elem_id="tk-ask")
            self.download = gr.Button("Download the overlay", elem_id="tk-download")
        self.figures = gr.HTML("<p>Loading the model …</p>", elem_id="tk-figures", min_height=120)
        self._file = gr.DownloadButton("overlay", visible="hidden", elem_id="tk-file")
        with gr.Row(equal_height=True):
            self._reduced = gr.HTML(markup.answer_card(REDUCED, None), elem_id="tk-reduced")
            self._full = gr.HTML(markup.answer_card(FULL, None), elem_id="tk-full")
        gr.Markdown(_ONE_RUN, elem_classes="tk-dim")
        self._wire()

    def listen(self, event: Any, *, quiet: bool = False) -> None:
        """Draw the choice anew when ``event`` happens; ``quiet`` leaves the message as it is, unless choosing fails."""
        side = self._side
        shown = [side.message, self.figures, side.report, side.hint]
        event(self.choose_quietly if quiet else self.choose, side.asked, shown, **_quick("always_last"))

    def choose(self, picture: Picture | None, question: str, name: str, own: bool, share: float) -> list[Any]:
        """What the method keeps, without the language model: message, figures, report, hint."""
        message, *shown = self.choose_quietly(picture, question, name, own, share)
        return [self.note_of(picture) if isinstance(message, dict) else message, *shown]

    def choose_quietly(self, picture: Picture | None, question: str, name: str, own: bool, share: float) -> list[Any]:
        """The same; the message is as it was, unless choosing fails."""
        hint = method_hint(name)
        try:
            method = build_method(name, budget_of(own, share))
            if method.prunes_llm:
                return [gr.skip(), "<p>This method chooses inside the language model. Press Ask.</p>", None, hint]
            choice = choose(self._model.get(), checked(picture, question), question, method)
            html = markup.figures(draw(choice.report), choice.report, choice.seconds)
            return [gr.skip(), html, choice.report, hint]
        except Exception as error:
            return [markup.alert(explain(error)), gr.skip(), None, hint]

    def choose_share(self, picture: Picture | None, question: str, name: str, own: bool, share: float) -> list[Any]:
        """A moved slider means a fixed budget."""
        return [*self.choose(picture, question, name, False, share), False]

    def answers(
        self, picture: Picture | None, question: str, name: str, own: bool, share: float
    ) -> Iterator[list[Any]]:
        """Both answers as they come: message, figures, report, reduced card, full card."""
        try:
            method, loaded = build_method(name, budget_of(own, share)), self._model.get()
            picture = checked(picture, question)
            tokens = self._model.new_tokens
            inputs = inputs_for(loaded, picture, question, tokens)
            title = f"{REDUCED} by {method.name}"
            reduced, full = Progress(), Progress()
            for reduced in stream_answer(loaded, inputs, question, method, tokens):
                yield [self.note_of(picture), *self._drawn(reduced), *_cards(title, reduced, None)]
            for full in stream_answer(loaded, inputs, question, None, tokens):
                yield [gr.skip(), gr.skip(), gr.skip(), *_cards(title, reduced, full)]
        except Exception as error:
            yield [markup.alert(explain(error)), *[gr.skip()] * 4]

    def overlay(self, report: Report | None, question: str) -> list[Any]:
        """A file with the sheet that ``trimkit show`` draws: message and where the file is."""
        if report is None:
            return [markup.alert("there is nothing to download yet: choose a picture and ask"), None]
        try:
            return [gr.skip(), str(report.save(self._new_file(), question=question))]
        except Exception as error:
            return [markup.alert(explain(error)), None]

    def _new_file(self) -> Path:
        """A name for an overlay; those of an hour ago, which Gradio has copied, are deleted."""
        folder = Path(self._folder.name)
        for path in folder.glob("*/*.png"):
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink(missing_ok=True)
        return Path(tempfile.mkdtemp(dir=folder)) / "trimkit-overlay.png"

    def _wire(self) -> None:
        side = self._side
        for component in (side.question, side.method, side.own):
            self.listen(component.input)
        shown = [side.message, self.figures, side.report, side.hint, side.own]
        side.share.input(self.choose_share, side.asked, shown, **_quick("always_last"))
        cards = [side.message, self.figures, side.report, self._reduced, self._full]
        for event in (self.ask.click, side.question.submit):
            event(self.answers, side.asked, cards, concurrency_limit=8, concurrency_id="answers", **_quick("once"))
        made = self.download.click(
            self.overlay, [side.report, side.question], [side.message, self._file], **_quick("once")
        )
        made.success(None, None, None, js=_CLICK)

    def note_of(self, picture: Picture | None) -> str:
        """What is to be known of the picture, for the status line."""
        notes = [] if picture is None or not picture.note else [picture.note]
        if self._model.name == "demo" and picture is not None and picture.sample is None:
            notes.append(_NOT_TRAINED)
        return markup.note(" ".join(notes))

    def _drawn(self, progress: Progress) -> list[Any]:
        if progress.report is None:
            return [gr.skip(), gr.skip()]
        return [markup.figures(draw(progress.report), progress.report), progress.report]


def _cards(title: str, reduced: Progress, full: Progress | None) -> list[str]:
    return [markup.answer_card(title, reduced, full), markup.answer_card(FULL, full)]


def _quick(mode: str) -> dict[str, Any]:
    return {"show_progress": "hidden", "trigger_mode": mode, "api_visibility": "private"}

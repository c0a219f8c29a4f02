"""The left column: picture, question, method and budget, which all tabs share; and what happens when one changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from trimkit.web import markup
from trimkit.web.choices import method_kinds
from trimkit.web.links import Settings
from trimkit.web.messages import explain
from trimkit.web.pictures import Picture, read_picture, sample_picture, samples

__all__ = ["QUESTION_LETTERS", "Side", "budget_of", "build_side", "opened_values", "wire_pictures"]

QUESTION_LETTERS = 500


@dataclass(frozen=True)
class Side:
    """Components of the column; ``picture`` and ``report`` are the session's state, ``message`` stands above the tabs."""

    picture: Any
    report: Any
    upload: Any
    preview: Any
    buttons: dict[str, Any]
    question: Any
    method: Any
    hint: Any
    own: Any
    share: Any
    link: Any
    message: Any

    @property
    def asked(self) -> list[Any]:
        """Inputs of everything that chooses: picture, question, method, own budget, share."""
        return [self.picture, self.question, self.method, self.own, self.share]


def build_side(message: Any) -> Side:
    """Lay the column out, within a ``gr.Column``."""
    gr.Markdown("## 1. Picture")
    preview = gr.HTML(elem_id="tk-preview")
    upload = gr.File(label="Your picture", file_types=["image"], height=150, elem_id="tk-upload")
    gr.Markdown("Or take a sample:", elem_classes="tk-dim")
    with gr.Row(elem_classes="tk-samples"):
        buttons = {
            name: gr.Button(name, icon=str(sample.path), size="sm", min_width=60) for name, sample in samples().items()
        }
    gr.Markdown("## 2. Question and budget")
    question = gr.Textbox(label="Question", max_length=QUESTION_LETTERS, lines=1, max_lines=4, elem_id="tk-question")
    names = [kind.name for kind in method_kinds()]
    method = gr.Dropdown(names, value="trim", label="Method", elem_id="tk-method")
    hint = gr.HTML(method_hint("trim"))
    own = gr.Checkbox(True, label="Let the method decide how many image tokens stay", elem_id="tk-own")
    share = gr.Slider(1, 100, 20, step=1, label="Or keep this share of the image tokens (%)", elem_id="tk-share")
    link = gr.Textbox(
        label="Link to these settings", buttons=["copy"], interactive=False, max_lines=1, elem_id="tk-link"
    )
    state: dict[str, Any] = {"time_to_live": 3600}
    return Side(
        gr.State(**state),
        gr.State(**state),
        upload,
        preview,
        buttons,
        question,
        method,
        hint,
        own,
        share,
        link,
        message,
    )


def wire_pictures(side: Side, choose: Any, note_of: Callable[[Picture], str]) -> None:
    """A dropped file or a sample becomes the picture; then ``choose`` listens, and leaves the message as it is.

    Args:
        side: the column.
        choose: draws the choice anew, see ``AskTab.listen``.
        note_of: what is to be known of a picture.
    """
    shown = [side.picture, side.preview, side.question, side.upload, side.message]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    uploaded = partial(_uploaded, note_of)
    events = [side.upload.upload(uploaded, [side.upload, side.picture], shown[:2] + shown[3:], **quiet)]
    side.upload.upload(None, None, side.link, js="() => trimkitLink({sample: null})", **quiet)
    for name, button in side.buttons.items():
        events.append(button.click(_sample_loader(name), None, shown, **quiet))
        button.click(None, None, side.link, js=f"() => trimkitLink({{sample: '{name}', question: null}})", **quiet)
    for event in events:
        choose(event.success, quiet=True)


def opened_values(settings: Settings) -> list[Any]:
    """Values of picture, preview, question, method, hint, own and share for a link."""
    picture = sample_picture(settings.sample)
    own = settings.share is None
    return [
        picture,
        preview_of(picture),
        settings.question,
        settings.method,
        method_hint(settings.method),
        own,
        20 if settings.share is None else settings.share,
    ]


def budget_of(own: bool, share: float) -> float | None:
    """The share as a fraction; None where the method decides."""
    return None if own else float(share) / 100


def method_hint(name: str) -> str:
    """What a method does and where it comes from."""
    kind = next(each for each in method_kinds() if each.name == name)
    paper = f' <a href="{markup.escaped(kind.paper)}">Paper</a>' if kind.paper else ""
    reads = "It reads the question." if kind.reads_text else "It does not read the question."
    inside = " It chooses inside the language model: press Ask to see what it keeps." if kind.in_model else ""
    return (
        f'<p class="tk-dim">{markup.escaped(kind.summary[:1].upper() + kind.summary[1:])}. {reads}{inside}{paper}</p>'
    )


def preview_of(picture: Picture) -> str:
    """The picture, small."""
    return markup.thumbnail(picture.image, f"The picture in use: {picture.name}", picture.name)


def _uploaded(note_of: Callable[[Picture], str], path: str | None, before: Picture | None) -> list[Any]:
    """The new picture; the one before where the file cannot be used. The drop zone is empty again."""
    try:
        picture = read_picture(path)
    except Exception as error:
        return [before, gr.skip(), None, markup.alert(explain(error))]
    return [picture, preview_of(picture), None, note_of(picture)]


def _sample_loader(name: str) -> Any:
    def load() -> list[Any]:
        picture = sample_picture(name)
        return [picture, preview_of(picture), samples()[name].question, None, markup.note("")]

    return load

"""The page: header, the shared column, and four tabs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from trimkit.version import __version__
from trimkit.web import markup
from trimkit.web.ask_tab import AskTab
from trimkit.web.chat_tab import ChatTab
from trimkit.web.cost_tab import CostTab
from trimkit.web.links import TABS, from_query
from trimkit.web.methods_tab import MethodsTab
from trimkit.web.model import LazyModel
from trimkit.web.side import Side, build_side, opened_values, wire_pictures

__all__ = ["build_page", "launch_options"]

_HERE = Path(__file__).parent
_TITLES = ("Ask", "Compare methods", "Conversation", "What does it cost me")
_FONTS, _MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # nothing is fetched
_LINK = """(question, method, own, share) =>
    trimkitLink({question: question, method: method, share: own ? null : String(share)})"""


def build_page(model: LazyModel) -> Any:
    """A ``gr.Blocks`` that is ready for ``launch(**launch_options())``; the model is loaded when the page is first opened."""
    page = gr.Blocks(
        title="trimkit: fewer image tokens", analytics_enabled=False, delete_cache=(1800, 3600), fill_width=True
    )
    with page:
        gr.HTML(_header(model.name), elem_id="tk-header")
        with gr.Row(elem_id="tk-main"):
            with gr.Column(scale=1, min_width=300):
                message = gr.HTML(markup.note(""), elem_id="tk-message", render=False)
                side = build_side(message)
            with gr.Column(scale=2, min_width=320):
                message.render()
                tabs, ask = _tabs(model, side)
        _wire(page, side, tabs, ask)
    page.queue(default_concurrency_limit=8, max_size=64)
    return page


def launch_options() -> dict[str, Any]:
    """What ``launch`` is given wherever the page runs: looks, limits, nothing recorded, nothing sent."""
    return {
        "theme": _theme(),
        "css_paths": _HERE / "page.css",
        "head": f"<script>{(_HERE / 'page.js').read_text(encoding='utf-8')}</script>",
        "max_file_size": "100mb",
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": ["settings"],
        "ssr_mode": False,
        "show_error": True,
    }


def _theme() -> Any:
    """Gradio's default with system fonts, and buttons dark enough for white text."""
    theme = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=_FONTS, font_mono=_MONO)
    fills = {"button_primary_background_fill": "*primary_700", "button_primary_background_fill_hover": "*primary_800"}
    return theme.set(**fills, **{f"{name}_dark": color for name, color in fills.items()})


def _header(name: str) -> str:
    return (
        "<header><h1>trimkit: fewer image tokens, faster answers</h1>"
        "<p>Vision-language models read a picture as hundreds of tokens. Keep the ones that your question is about, and see "
        f"what changes. Model: <code>{markup.escaped(name)}</code>, trimkit {__version__}.</p></header>"
    )


def _tabs(model: LazyModel, side: Side) -> tuple[Any, AskTab]:
    with gr.Tabs(selected="ask") as tabs:
        found: list[Any] = []
        for name, title in zip(TABS, _TITLES, strict=True):
            with gr.Tab(title, id=name) as tab:
                found.append(_filled(name, model, side))
            tab.select(None, None, side.link, js=f"() => trimkitLink({{tab: '{name}'}})", api_visibility="private")
            if isinstance(found[-1], CostTab):
                found[-1].listen(tab.select)
    return tabs, found[0]


def _filled(name: str, model: LazyModel, side: Side) -> Any:
    if name == "ask":
        return AskTab(model, side)
    if name == "methods":
        return MethodsTab(model, side)
    return ChatTab(model, side) if name == "chat" else CostTab()


def _wire(page: Any, side: Side, tabs: Any, ask: AskTab) -> None:
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [side.picture, side.preview, side.question, side.method, side.hint, side.own, side.share]
    opened = page.load(_opened, None, [*shown, tabs, side.message], **quiet)
    ask.listen(opened.success, quiet=True)
    opened.success(None, None, side.link, js="() => trimkitOpen()", **quiet)
    wire_pictures(side, ask.listen, ask.note_of)
    settings = [side.question, side.method, side.own, side.share]
    changes = [each.input for each in settings]
    gr.on(changes, None, settings, side.link, js=_LINK, **quiet)


def _opened(request: gr.Request) -> list[Any]:
    settings = from_query(dict(request.query_params))
    notes = "; ".join(settings.notes)
    return [*opened_values(settings), gr.Tabs(selected=settings.tab), markup.note(notes)]

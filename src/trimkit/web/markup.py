"""HTML that the page shows: figures with alternative texts, messages, answers with their cost, tables. All text is escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from trimkit.core.report import Report
from trimkit.web.answers import Progress
from trimkit.web.choices import Drawn

__all__ = [
    "alert",
    "answer_card",
    "escaped",
    "figures",
    "flops_text",
    "kept_figure",
    "note",
    "seconds_text",
    "table",
    "thumbnail",
]

_STATES = {
    "waiting": "waiting for another answer to end …",
    "reading": "reading the picture …",
    "answering": "answering …",
}


def escaped(text: str) -> str:
    """Fit for HTML and for the page's templates, which read braces."""
    return html.escape(text).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def alert(message: str) -> str:
    """What is wrong, read aloud at once."""
    return (
        f'<div class="tk-alert" role="alert"><strong>Please check:</strong> {escaped(message)}</div>' if message else ""
    )


def note(message: str) -> str:
    """What is good to know, read aloud when there is time."""
    return f'<div class="tk-note" role="status">{escaped(message)}</div>' if message else '<div role="status"></div>'


def figures(drawn: Drawn | None, report: Report, seconds: float | None = None) -> str:
    """Kept patches and relevance side by side, with what they show in words."""
    counted = f"{report.tokens_after} of {report.tokens_before} image tokens kept ({1 - report.removed:.0%})"
    took = "" if seconds is None else f", chosen in {1000 * seconds:.0f} ms without the language model"
    head = f'<p class="tk-count"><strong>{counted}</strong> by {escaped(report.method)}{took}.</p>'
    if drawn is None:
        return f"{head}<p>There is nothing to draw: where this model's tokens look is not known.</p>"
    kept = _figure(drawn.kept, f"{counted}: kept patches in color, the others gray", drawn.kept_title)
    ranked_alt = f"Map of the picture: {drawn.ranked_title}" if drawn.ranked_title else "The picture, without a ranking"
    ranked = _figure(drawn.ranked, f"{ranked_alt}; bright is high", drawn.ranked_title)
    return f'{head}<div class="tk-pair">{kept}{ranked}</div>'


def kept_figure(drawn: Drawn | None, report: Report) -> str:
    """Kept patches alone, small."""
    counted = f"{report.tokens_after} of {report.tokens_before} image tokens kept ({1 - report.removed:.0%})"
    return "" if drawn is None else _figure(drawn.kept, f"{counted} by {report.method}", counted)


def thumbnail(picture: Image.Image, alt: str, caption: str) -> str:
    """A small picture."""
    small = picture.copy()
    small.thumbnail((360, 360))
    return _figure(small, alt, caption)


def answer_card(title: str, progress: Progress | None, against: Progress | None = None) -> str:
    """An answer with its cost; with ``against``, how much less that is."""
    if progress is None:
        return f'<section class="tk-card"><h3>{escaped(title)}</h3><p class="tk-dim">–</p></section>'
    said = escaped(progress.text) or "(nothing)"
    state = "" if progress.state == "done" else f'<p class="tk-dim">{_STATES[progress.state]}</p>'
    answer = f'<p class="tk-answer">{said}</p>' if progress.text or progress.state == "done" else ""
    rows = _cost_rows(progress, against if progress.state == "done" else None)
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    busy = "false" if progress.state == "done" else "true"
    return (
        f'<section class="tk-card" aria-busy="{busy}"><h3>{escaped(title)}</h3>'
        f'{answer}{state}<dl class="tk-cost">{cells}</dl></section>'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table that scrolls sideways on a phone; the first column names its row."""
    head = "".join(f'<th scope="col">{escaped(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{escaped(row[0])}</th>{"".join(f"<td>{escaped(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="tk-scroll" tabindex="0" role="region" aria-label="{escaped(caption)}"><table class="tk-table">'
        f"<caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def seconds_text(value: float) -> str:
    """``1.20 s`` or ``35 ms``."""
    if value >= 100:
        return f"{value:.0f} s"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def flops_text(value: int | None) -> str:
    """``2.4 T``, or a dash where nothing is known."""
    if value is None:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def _cost_rows(progress: Progress, against: Progress | None) -> list[tuple[str, str]]:
    kept = progress.tokens_full if progress.tokens_kept is None else progress.tokens_kept
    tokens = f"{kept} of {progress.tokens_full}" if progress.state == "done" else "…"
    first = "…" if progress.first_s is None else seconds_text(progress.first_s)
    rows = [("image tokens", tokens), ("first token", first), ("whole answer", seconds_text(progress.seconds))]
    rows.append(("new tokens", str(progress.new_tokens)))
    if progress.state == "done":
        rows.append(("FLOPs", flops_text(progress.flops)))
    if against is not None and against.state == "done":
        rows.append(("speed-up", f"{against.seconds / max(progress.seconds, 1e-9):.2f} ×"))
    return rows


def _figure(picture: Image.Image, alt: str, caption: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=82)
    source = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure class="tk-figure"><img alt="{escaped(alt)}" width="{picture.width}" height="{picture.height}" '
        f'src="data:image/jpeg;base64,{source}"><figcaption>{escaped(caption)}</figcaption></figure>'
    )

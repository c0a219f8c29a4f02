"""How a number and a table look, wherever they are printed."""

from __future__ import annotations

__all__ = ["interval", "percent", "points", "table"]


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, marks, *rows])


def percent(value: float) -> str:
    """0.9312 as 93.1 %."""
    return f"{100 * value:.1f} %"


def interval(low_high: list[float]) -> str:
    """[0.91, 0.94] as 91.0 to 94.0."""
    return f"{100 * low_high[0]:.1f} to {100 * low_high[1]:.1f}"


def points(difference: dict[str, object]) -> str:
    """A difference of accuracies with its interval, bold where it is significant: **+2.1** (0.4 to 3.9)."""
    value, low_high = difference["value"], difference["ci95"]
    if not (isinstance(value, float) and isinstance(low_high, list)):
        return ""
    text = f"{100 * value:+.1f}"
    return (
        f"{f'**{text}**' if difference['significant'] else text} ({100 * low_high[0]:+.1f} to {100 * low_high[1]:+.1f})"
    )

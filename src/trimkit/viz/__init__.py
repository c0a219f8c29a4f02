"""Pictures that show what a reduction kept: kept patches clear, dropped ones dimmed, relevance beside, counts below.

Everything is drawn on the pixels that the model's encoder was given, after the processor's resize, crop and tiling.
"""

from __future__ import annotations

from trimkit.viz.crops import Box, coordinates, draw_given, seen_box
from trimkit.viz.files import check_output, report_html, save_picture
from trimkit.viz.overlays import overlay, seen_by_model
from trimkit.viz.sheet import Line, draw_report

__all__ = [
    "Box",
    "Line",
    "check_output",
    "coordinates",
    "draw_given",
    "draw_report",
    "overlay",
    "report_html",
    "save_picture",
    "seen_box",
    "seen_by_model",
]

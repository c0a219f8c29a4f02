"""The fourth tab: what fewer image tokens are worth on a device, predicted, beside what was measured."""

from __future__ import annotations

from typing import Any

import gradio as gr

from trimkit.web import markup
from trimkit.web.estimates import device_names, estimate, measured_table, shape_names
from trimkit.web.messages import explain

__all__ = ["CostTab"]


class CostTab:
    """Builds the tab within its ``gr.Tab`` and answers its events; it needs no model."""

    def __init__(self) -> None:
        gr.Markdown("Where the time of a request goes, and what fewer image tokens save, before you run anything.")
        with gr.Row():
            model = gr.Dropdown(
                shape_names(), value="llava-1.5-7b", label="Model", min_width=220, elem_id="tk-cost-model"
            )
            device = gr.Dropdown(device_names(), value="h100", label="Device", min_width=220, elem_id="tk-cost-device")
            share = gr.Slider(
                1, 100, 21, step=1, label="Image tokens to keep (%)", min_width=220, elem_id="tk-cost-share"
            )
        with gr.Row():
            pictures = gr.Slider(1, 16, 1, step=1, label="Pictures of a request", min_width=120)
            new_tokens = gr.Slider(1, 512, 32, step=1, label="New tokens", min_width=120)
            clients = gr.Slider(1, 64, 1, step=1, label="Requests at once", min_width=120)
            compiled = gr.Checkbox(False, label="Compiled")
        self._inputs = [model, device, share, pictures, new_tokens, clients, compiled]
        self._shown = gr.HTML("<p>Calculating …</p>", elem_id="tk-cost")
        gr.HTML(measured_table(), elem_id="tk-measured")
        for each in self._inputs:
            self.listen(each.input)

    def listen(self, event: Any) -> None:
        """Calculate anew when ``event`` happens; not before the tab is first opened, since it takes imports."""
        options = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
        event(self.predict, self._inputs, self._shown, **options)

    def predict(
        self, model: str, device: str, share: float, pictures: float, new: float, clients: float, compiled: bool
    ) -> str:
        """The verdict and its tables."""
        try:
            return estimate(model, device, share / 100, int(pictures), int(new), int(clients), compiled=compiled)
        except Exception as error:
            return markup.alert(explain(error))

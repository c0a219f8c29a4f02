"""What a method chooses at each of its cuts, from what is left of every image and what the prompt attends to there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimkit.attach.llm_pruning.attention import AttentionProbe
from trimkit.attach.llm_pruning.layer_layout import LayerLayout, Prompts, plan_layers
from trimkit.attach.llm_pruning.llm_signals import llm_signals
from trimkit.core.layer_read import LayerRead, TextRows
from trimkit.core.signals import OF_LLM
from trimkit.core.types import Selection
from trimkit.methods import Method
from trimkit.pipeline.selecting import select_by_attention

__all__ = ["StageChooser"]

_AT_ONCE = 8  # rows of attention that are asked for together


class StageChooser:
    """Chooses stage after stage; an image's tokens are known by their numbers in the uncut image all the way.

    Args:
        method: what chooses.
        prompts: the prompts, with their images.
        module: the language model.

    Attributes:
        selections: of every image, what is left of it now.
    """

    def __init__(self, method: Method, prompts: Prompts, module: Any) -> None:
        self._method, self._prompts, self._module = method, prompts, module
        self._columns = list(prompts.columns)  # where what is left of each image stands
        self._own = [torch.arange(len(columns), device=columns.device) for columns in prompts.columns]
        self._raters: list[Tensor] = []
        self.selections: list[Selection] = []

    def read_embeddings(self, embeddings: Tensor) -> None:
        """Find the text tokens whose attention counts, from what the first layer is given, ``[R, L, D]``."""
        every = len(embeddings) // len(self._prompts.places)
        self._raters = []
        for columns, row in zip(self._prompts.columns, self._prompts.rows, strict=True):
            states, behind = embeddings[row * every], self._text_behind(columns, row)
            with torch.no_grad():
                chosen = self._method.raters(states[columns.to(states.device)], states[behind.to(states.device)])
            self._raters.append(behind[chosen.to(behind.device)] if bool(chosen.any()) else behind[-1:])

    def choose(
        self, stage: int, probe: AttentionProbe, hidden: Tensor, before: LayerLayout | None
    ) -> LayerLayout | None:
        """Choose at a cut, and plan what goes on; None where everything does.

        Args:
            stage: its number.
            probe: has recorded the layer that is asked.
            hidden: ``[R, L, D]`` hidden states before the cut, dropped columns among them.
            before: what that layer was given, where it was not everything.
        """
        prompts, every = self._prompts, len(hidden) // len(self._prompts.places)
        attention = self._from_last(probe, before, every)
        rows = self._text_rows(probe, before, every) if self._method.asks_raters else ()
        pairs = zip(self._columns, prompts.rows, strict=True)
        features = [hidden[row * every, columns.to(hidden.device)].detach() for columns, row in pairs]
        signals = self._signals(probe, hidden, before, every)
        probe.forget()
        read = LayerRead(stage, tuple(len(columns) for columns in prompts.columns), tuple(rows))
        with torch.no_grad():
            found = select_by_attention(attention, features, prompts.rows, self._method, read, signals)
        layout = plan_layers(prompts.places, prompts.real, found, prompts.rows, self._columns)
        self._narrow(found)
        return layout

    def _signals(
        self, probe: AttentionProbe, hidden: Tensor, before: LayerLayout | None, every: int
    ) -> list[dict[str, Tensor]] | None:
        """What the method asks the layer for beside attention, of every image; None where that is nothing."""
        names = self._method.asked_signals & OF_LLM
        if not names:
            return None
        keys = probe.keys(self._length(before), every)

        def place(columns: Tensor, row: int) -> Tensor:
            return self._place(columns, row, before)

        with torch.no_grad():
            return llm_signals(names, self._prompts, self._columns, hidden[::every], keys, self._module, place)

    def _narrow(self, found: Sequence[Selection]) -> None:
        """Take note of what is left; a token that several went into counts under the number of the first of them."""
        first = not self.selections
        for i, selection in enumerate(found):
            own, columns = self._own[i], self._columns[i]
            at = selection.indices if selection.mixing is None else selection.mixing.argmax(dim=1)
            self._own[i] = own[at.to(own.device)]
            self._columns[i] = columns[selection.indices.to(columns.device)]
            if first:
                self.selections.append(selection)
            else:
                kept = self._own[i].sort().values
                self.selections[i] = replace(self.selections[i], indices=kept, mixing=None, weights=None)

    def _from_last(self, probe: AttentionProbe, before: LayerLayout | None, every: int) -> list[Tensor]:
        """``[n]`` of every image: what the last token of its prompt attends to there, mean over heads."""
        rows = list(dict.fromkeys(self._prompts.rows))
        of_row = {
            row: [columns for columns, at in zip(self._columns, self._prompts.rows, strict=True) if at == row]
            for row in rows
        }
        last = torch.stack([self._place(self._prompts.last[row], row, before) for row in rows])
        asked = [self._place(torch.cat(of_row[row]), row, before) for row in rows]
        columns = torch.nn.utils.rnn.pad_sequence(asked, batch_first=True)
        length = self._length(before)
        weights = probe.attention_to(columns, last, torch.tensor(rows) * every, length).mean(dim=1)
        found: dict[int, list[Tensor]] = {}
        for row, each in zip(rows, weights, strict=True):
            lengths = [len(columns) for columns in of_row[row]]
            found[row] = list(each[: sum(lengths)].split(lengths))
        return [found[row].pop(0) for row in self._prompts.rows]

    def _text_rows(self, probe: AttentionProbe, before: LayerLayout | None, every: int) -> list[TextRows]:
        """What each image's raters attend to at it."""
        return [self._rows_of(probe, i, before, every) for i in range(len(self._columns))]

    def _rows_of(self, probe: AttentionProbe, image: int, before: LayerLayout | None, every: int) -> TextRows:
        columns, raters, row = self._columns[image], self._raters[image], self._prompts.rows[image]
        at, length = self._place(columns, row, before), self._length(before)
        parts = []
        for part in torch.split(self._place(raters, row, before), _AT_ONCE):
            rows = torch.full((len(part),), row * every, dtype=torch.int64)
            parts.append(probe.attention_to(at.expand(len(part), -1), part, rows, length))
        positions = (self._prompts.real[row].cumsum(dim=0) - 1).clamp(min=0)
        weights = torch.cat(parts).transpose(0, 1)
        return TextRows(weights, positions[raters], positions[columns], probe.head_dim, probe.theta)

    def _text_behind(self, columns: Tensor, row: int) -> Tensor:
        """Columns of the text between an image and the end of the prompt; that of its last token where there is none."""
        prompts = self._prompts
        number = torch.arange(prompts.places.shape[1], device=prompts.places.device)
        last = prompts.last[row]
        behind = prompts.real[row] & ~prompts.places[row] & (number > columns[-1]) & (number <= last)
        return behind.nonzero().squeeze(1) if bool(behind.any()) else last.reshape(1)

    def _length(self, before: LayerLayout | None) -> int:
        return int(self._prompts.places.shape[1] if before is None else before.columns.shape[1])

    @staticmethod
    def _place(columns: Tensor, row: int, before: LayerLayout | None) -> Tensor:
        """Columns of the prompt as the layer numbers them."""
        return columns if before is None else torch.searchsorted(before.columns[row].to(columns.device), columns)

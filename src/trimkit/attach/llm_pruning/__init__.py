"""Dropping image tokens inside the language model, behind its first layers: wraps a prepared call."""

from __future__ import annotations

from trimkit.attach.llm_pruning.decoder import PrunableDecoder
from trimkit.attach.llm_pruning.layer_layout import Prompts
from trimkit.attach.llm_pruning.pruned_call import PrunedCall

__all__ = ["Prompts", "PrunableDecoder", "PrunedCall"]

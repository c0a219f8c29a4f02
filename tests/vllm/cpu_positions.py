"""Starts vLLM's server with what its CPU runner lacks (0.32, 0.33): it never asks a pruning model for positions anew.

The GPU runners set this flag when a model is loaded. For tests of the Qwen families without a GPU it is set here, in every
process of the server: processes that are spawned import this module again.
"""

from __future__ import annotations

import runpy
from typing import Any

from vllm.model_executor.models.interfaces import supports_multimodal_pruning
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from trimkit.serving.vllm import qwen_base, qwen_processor

_stock = CPUModelRunner.load_model


def _load_model(self: Any, *args: Any, **kwargs: Any) -> None:
    _stock(self, *args, **kwargs)
    pruning = self.model_config.multimodal_config.is_multimodal_pruning_enabled()
    self.is_multimodal_pruning_enabled = supports_multimodal_pruning(self.model) and pruning


CPUModelRunner.load_model = _load_model
qwen_base.asks_for_positions = qwen_processor.asks_for_positions = lambda: True

if __name__ == "__main__":
    # This module stays __main__, so that processes that are spawned import it.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")

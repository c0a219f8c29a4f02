"""Starts vLLM's server with a fault: the question does not go into a picture's identifier. The equality suite has to see it."""

from __future__ import annotations

import runpy
from dataclasses import replace
from typing import Any

from trimkit.serving.vllm import base_processor


def _get_mm_hashes(self: Any, inputs: Any) -> Any:
    arguments = {name: value for name, value in inputs.hf_processor_mm_kwargs.items() if name != base_processor.KEY}
    return super(base_processor.ReducingProcessor, self)._get_mm_hashes(
        replace(inputs, hf_processor_mm_kwargs=arguments)
    )


base_processor.ReducingProcessor._get_mm_hashes = _get_mm_hashes  # type: ignore[method-assign]

if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)

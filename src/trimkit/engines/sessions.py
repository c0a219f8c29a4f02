"""ONNX files run on the CPU by ONNX Runtime or OpenVINO, in float32: the same call for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from trimkit.engines.packages import need
from trimkit.errors import ConfigError, ModelError

__all__ = ["ENGINES", "EngineName", "Session", "check_engine", "open_session"]

EngineName = Literal["onnxruntime", "openvino"]
ENGINES: tuple[str, ...] = get_args(EngineName)
Array = np.ndarray[Any, Any]


class Session:
    """A graph that is loaded and ready; may be called from several threads at once.

    Args:
        engine: its name.
        version: of the package.
        run: from inputs by name to outputs by name.
    """

    def __init__(self, engine: str, version: str, run: Callable[[Mapping[str, Array]], dict[str, Array]]) -> None:
        self.engine, self.version, self._run = engine, version, run

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs, by their names."""
        return self._run(inputs)


def check_engine(name: str) -> None:
    """Refuse a name that is no engine, or one that is not installed.

    Raises:
        ConfigError, MissingDependencyError: that.
    """
    if name not in ENGINES:
        raise ConfigError(f"vision_engine={name!r} is not known: choose one of {', '.join(ENGINES)}")
    need(name)


def open_session(engine: str, path: Path, threads: int | None = None) -> Session:
    """Load a graph.

    Args:
        engine: one of ``ENGINES``.
        path: an ONNX file.
        threads: by default as many as torch uses.

    Raises:
        ConfigError: there is no such engine.
        MissingDependencyError: it is not installed.
        ModelError: it cannot load the file.
    """
    check_engine(engine)
    load = _onnxruntime if engine == "onnxruntime" else _openvino
    try:
        return load(path, threads or torch.get_num_threads())
    except Exception as error:  # engines fail in ways of their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{engine} cannot load {path} ({lines[0][:200]}): export it again") from error


def _onnxruntime(path: Path, threads: int) -> Session:
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    # Its threads would wait by turning, on the cores that the language model needs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [each.name for each in session.get_outputs()]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))

    return Session("onnxruntime", runtime.__version__, run)


def _openvino(path: Path, threads: int) -> Session:
    openvino = need("openvino")
    # f32: where the CPU multiplies bfloat16, OpenVINO would do so unasked, and choose other patches.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(str(path), "CPU", settings)
    names = [each.get_any_name() for each in model.outputs]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        found = model.create_infer_request().infer(dict(inputs), share_inputs=True)  # one a call: threads share none
        return {name: np.array(found[number]) for number, name in enumerate(names)}

    return Session("openvino", openvino.__version__.partition("-")[0], run)

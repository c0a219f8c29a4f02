"""Write the vision half of a checkpoint, choice included, as one ONNX graph: ``trimkit export CHECKPOINT -o DIR --onnx``.

The directory holds ``model.onnx`` (and its weights in ``model.onnx.data`` where they are large), ``trimkit-onnx.json``, which
says what goes in and out and what it was made of, and the processor and tokenizer that make the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimkit.engines.choices import refuse_method
from trimkit.engines.graph import Built, reduced_vision
from trimkit.engines.onnx_file import refuse_weights, weights_hash, write_onnx
from trimkit.engines.packages import need, version_of
from trimkit.engines.probes import probe_pixels
from trimkit.engines.relevance import TextInput
from trimkit.engines.sessions import open_session
from trimkit.errors import ConfigError, ModelError
from trimkit.io.directories import built as built_directory
from trimkit.io.directories import new_directory
from trimkit.io.files import write_atomically
from trimkit.io.provenance import versions
from trimkit.io.text import json_text
from trimkit.methods import Method, get_method
from trimkit.pipeline.model_store import scorer_of
from trimkit.pipeline.partial_checkpoint import load_without_language_model
from trimkit.pipeline.selecting import no_scorer

__all__ = ["SETTINGS", "export_onnx"]

SETTINGS = "trimkit-onnx.json"
_CLOSE = 1e-4  # embeddings of the graph and of torch


def export_onnx(
    checkpoint: str,
    path: str | Path | None,
    *,
    method: str | Method = "trim",
    scorer: str | Path | None = None,
    **options: Any,
) -> Path:
    """Write tower, relevance, choice and projector as one ONNX graph, and run it once beside torch.

    Args:
        checkpoint: ``demo``, a directory or a hub id; its language model is not read.
        path: the directory to write, new or empty.
        method, options: as ``trimkit.reduce`` takes them; the budget has to be a number or a fraction.
        scorer: the CLIP of the tower, or a scorer that ``trimkit fit`` wrote: a directory or hub id; by default what the
            checkpoint names.

    Returns:
        The directory.

    Raises:
        UnknownNameError, ConfigError: method, options or ``path``; or the method needs a scorer and none is known.
        UnsupportedError: the model, the method or its budget cannot be a graph.
        MissingDependencyError: the extra ``trimkit[onnx]`` is not installed.
        ModelError: there is no such checkpoint; or the graph does not choose as torch does.
    """
    chosen = get_method(method, **options)
    refuse_method(chosen)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package)
    target = new_directory(path, "an ONNX graph")
    model, processor = load_without_language_model(checkpoint, "cpu", "float32")
    found = scorer_of(model, scorer) if chosen.needs_relevance else None
    if chosen.needs_relevance and found is None:
        raise no_scorer(chosen)
    graph = reduced_vision(model, chosen, found)
    refuse_weights(graph.module, "an ONNX graph")
    try:
        with built_directory(target) as directory:
            _write(directory, graph, checkpoint, processor)
    except OSError as error:
        raise ConfigError(f"cannot write the graph ({error.strerror or error}): choose another directory") from None
    return target


def _write(directory: Path, graph: Built, checkpoint: str, processor: Any) -> None:
    file = directory / "model.onnx"
    inputs: dict[str, Tensor] = {"pixel_values": probe_pixels(graph.parts.side)}
    dynamic = {"pixel_values": {0: "batch"}}
    texts = () if graph.module.relevance is None else graph.module.relevance.texts
    for text in texts:
        inputs[text.name] = text.example(len(inputs["pixel_values"]))
        dynamic[text.name] = {0: "batch", 1: text.length}
    write_onnx(graph.module, file, inputs, ("embeddings", "indices"), dynamic)
    checked = _checked(file, graph, inputs)
    processor.save_pretrained(directory / "processor")
    for text in texts:
        text.tokenizer.save_pretrained(directory / text.folder)
    settings = _settings(graph, checkpoint, texts, checked)
    write_atomically(directory / SETTINGS, lambda out: out.write(json_text(settings).encode()))


def _checked(file: Path, graph: Built, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Run the file beside torch.

    Raises:
        ModelError: it chooses other patches, or its embeddings are not close.
    """
    session = open_session("onnxruntime", file)
    found = session({name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        embeddings, indices = graph.module(**inputs)
    difference = float(np.abs(found["embeddings"] - embeddings.numpy()).max())
    if not np.array_equal(found["indices"], indices.numpy()) or difference > _CLOSE:
        raise ModelError(
            f"onnxruntime {session.version} does not compute what torch does (embeddings differ by {difference:.1e}, kept "
            "patches in some places): nothing was written"
        )
    return {
        "engine": f"onnxruntime {session.version}",
        "pictures": len(indices),
        "same_indices": True,
        "largest_difference": difference,
    }


def _settings(graph: Built, checkpoint: str, texts: Sequence[TextInput], checked: dict[str, Any]) -> dict[str, Any]:
    method, side = graph.choice.method, graph.parts.side
    tokens = graph.choice.count + int(graph.choice.aggregated)
    inputs: dict[str, Any] = {"pixel_values": {"dtype": "float32", "shape": ["batch", 3, side, side]}}
    inputs |= {text.name: text.to_plain() for text in texts}
    return {
        "version": 1,
        "reduce": {"method": method.name, **method.model_dump(mode="json")},
        "inputs": inputs,
        "outputs": {
            "embeddings": {"dtype": "float32", "shape": ["batch", tokens, graph.width]},
            "indices": {"dtype": "int64", "shape": ["batch", graph.choice.count]},
        },
        "image_tokens": {"before": graph.total, "after": tokens, "aggregated_last": graph.choice.aggregated},
        "checkpoint": checkpoint,
        "weights_sha256": weights_hash(graph.module),
        "versions": {**versions(), "onnx": version_of("onnx"), "onnxscript": version_of("onnxscript")},
        "checked": checked,
    }

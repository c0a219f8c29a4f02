"""``trimkit serve``: an OpenAI-compatible server, by vLLM where it is installed, else by transformers."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Any, Literal

import typer

from trimkit.cli import _common as common
from trimkit.cli import _evaluation as evaluation
from trimkit.cli._serve_extra import needing_serve_extra
from trimkit.errors import ConfigError, MissingDependencyError
from trimkit.io.text import one_line

NAME = "serve"

_METHOD = ("method", "config", "budget", "settings")
_LIMITS = ("max_queue", "max_tokens", "max_pixels", "max_body", "deadline", "grace", "remote_pictures", "device")
_OWN = (*_LIMITS, "fallback", "threshold", "recheck", "risk")


def command(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="'demo' (the packaged model), a directory, or a hub id OWNER/NAME.")
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- VLLM_ARGUMENTS...]", help="Further arguments for vLLM."),
    ] = None,
    engine: Annotated[
        Literal["auto", "vllm", "transformers"],
        typer.Option("--engine", help="'auto' takes vLLM where it is installed."),
    ] = "auto",
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[
        str | None,
        typer.Option("--served-model-name", help="Name of the model in requests.", show_default="MODEL"),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", envvar="TRIMKIT_API_KEY", help="Key that clients must send; safer through the variable."
        ),
    ] = None,
    origins: Annotated[
        list[str] | None, typer.Option("--cors-origin", help="A site whose pages may ask, or '*'; repeatable.")
    ] = None,
    method: common.MethodOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    scorer: common.ScorerOption = None,
    fallback: common.FallbackOption = None,
    threshold: common.ThresholdOption = None,
    recheck: Annotated[
        float,
        typer.Option(
            "--recheck", min=0, max=1, help="Share of replies asked again with all tokens, to watch a promise."
        ),
    ] = 0.0,
    risk: Annotated[
        float | None,
        typer.Option(
            "--risk", help="With --recheck: the promised share of changed replies.", show_default="the config's"
        ),
    ] = None,
    remote_pictures: Annotated[
        bool, typer.Option("--remote-pictures", help="Fetch pictures from public http(s) addresses for clients.")
    ] = False,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, max=256, help="Replies generated at a time.")] = 16,
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=1, max=10_000, help="Requests that may wait; others get a 429.")
    ] = 64,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=100_000, help="Most tokens of a reply.")] = 1024,
    max_pictures: Annotated[
        int, typer.Option("--max-pictures", min=1, max=256, help="Most pictures of one request.")
    ] = 8,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, max=200_000_000, help="Most pixels (width x height) of one picture.")
    ] = 40_000_000,
    max_body: Annotated[int, typer.Option("--max-body", min=1, max=1024, help="Largest request, in MiB.")] = 32,
    deadline: Annotated[float, typer.Option("--deadline", min=0.1, max=86_400, help="Seconds for a request.")] = 300.0,
    grace: Annotated[
        float,
        typer.Option(
            "--grace", min=0.1, max=3600, help="Seconds for running requests to finish when the server stops."
        ),
    ] = 30.0,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
) -> None:
    """Serve a model with fewer image tokens, for any client of the OpenAI chat API.

    With vLLM installed, this starts vLLM's server with trimkit's plugin; of the limits, only --max-batch and --max-pictures
    then apply. Without vLLM, it serves the same API from transformers, on any machine.
    """
    from trimkit.serving.server import vllm_command

    chosen = common.pick_method(method, budget, settings, config, model, whole=True)
    version = None if engine == "transformers" else vllm_command.vllm_version()
    if version is None and engine == "vllm":
        raise MissingDependencyError(
            "vLLM is not installed: pip install 'trimkit[vllm]', or give --engine transformers"
        )
    named = name or model
    call = common.pick_call(config, model, fallback, threshold, scorer)
    if version is not None:
        _refuse_own(context)
        evaluation.tell_left(call)
        options = vllm_command.VllmOptions(
            model=_directory(model),
            name=named,
            host=host,
            port=port,
            method=chosen if any(common.is_given(context, each) for each in _METHOD) else None,
            scorer=scorer,
            dtype=dtype,
            batch=max_batch if common.is_given(context, "max_batch") else None,
            pictures=max_pictures if common.is_given(context, "max_pictures") else None,
            origins=tuple(origins or ()),
            more=more or (),
        )
        _start_vllm(model, version, options, api_key)
        return
    if more:
        raise ConfigError(
            f"{' '.join(more)[:80]!r}: further arguments are vLLM's, which is not used here: leave them out"
        )
    limits: dict[str, Any] = {"batch": max_batch, "queue": max_queue, "tokens": max_tokens, "pictures": max_pictures}
    limits |= {"pixels": max_pixels, "body_bytes": max_body * 2**20, "held_bytes": max(256, max_body) * 2**20}
    limits |= {"deadline": deadline, "grace": grace}
    extra = {name: call.pop(name, None) for name in ("scorer", "fallback")} | {"recheck": _watch(recheck, config, risk)}
    evaluation.tell_left(call)
    access = {"api_key": api_key, "origins": tuple(origins or ()), "remote_pictures": remote_pictures}
    _serve((model, device, dtype), (host, port), chosen, extra, limits, {"model_name": named, **access})


def _start_vllm(model: str, version: str, options: Any, api_key: str | None) -> None:
    from trimkit.serving.server import vllm_command

    arguments = vllm_command.vllm_arguments(options)
    print(f"serving {one_line(model)} by vLLM {version}: {one_line(shlex.join(arguments[1:]))}", file=sys.stderr)
    vllm_command.replace_process(arguments, api_key)


def _serve(
    wanted: tuple[str, str, str],
    place: tuple[str, int],
    method: Any,
    extra: dict[str, Any],
    limits: dict[str, Any],
    access: dict[str, Any],
) -> None:
    with needing_serve_extra():
        from trimkit.serving.server import process
    from trimkit.core.confidence import fallback_of
    from trimkit.serving.server.settings import Access, Limits

    extra = {**extra, "fallback": fallback_of(extra["fallback"])}
    held, allowed = Limits(**limits), Access(**access)
    with process.listening(*place) as listener, common.quiet():
        model, processor = common.load(*wanted)
        app, engine = process.assemble(model, processor, method, held, allowed, **extra)
        host = f"[{place[0]}]" if ":" in place[0] else place[0]
        address = f"http://{host}:{listener.getsockname()[1]}/v1"
        how = f"{method.name}, budget {method.budget.in_words()}{', with a fallback' if extra['fallback'] else ''}"
        said = f"serving {one_line(allowed.model_name)} by transformers ({how}) at {address}"
        process.serve(app, engine, held, listener, lambda: print(said, file=sys.stderr, flush=True))


def _watch(share: float, config: str | None, risk: float | None) -> Any:
    """The share of replies that is asked again, what watches the promise (the given one, else the config's), and how many
    tokens of a reply that is about.

    Raises:
        ConfigError: there is no promise, or it is about something else than replies that change.
    """
    if share == 0:
        return None
    from trimkit.calibration import DriftMonitor
    from trimkit.config import read_config

    said = (read_config(config).calibration or {}) if config is not None else {}
    promised = said.get("risk") if risk is None else risk
    if promised is None:
        raise ConfigError("--recheck watches a promise: give --risk, or a --config that trimkit calibrate --risk wrote")
    if risk is None and said.get("measure", "answer") != "answer":
        raise ConfigError(
            f"--recheck counts replies that change, and the config's promise is about {said['measure']!r}: give --risk, the "
            "share that may change"
        )
    monitor = DriftMonitor(promised, said.get("confidence", 0.95) if risk is None else 0.95)
    return share, monitor, said.get("max_new_tokens") if risk is None else None


def _directory(model: str) -> str:
    from trimkit.demo import demo_model_path

    return str(demo_model_path()) if model == "demo" else model


def _refuse_own(context: typer.Context) -> None:
    """Refuse options that vLLM is not told of.

    Raises:
        ConfigError: one is given.
    """
    for name in _OWN:
        if common.is_given(context, name):
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option} is for --engine transformers: leave it out, or give vLLM's own argument behind '--'"
            )

"""``trimkit encode-server``: OpenAI's chat API with pictures, in front of an engine that runs the language model alone."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.errors import ConfigError, MissingDependencyError

NAME = "encode-server"


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint's directory, a hub id OWNER/NAME, or 'demo'.")],
    upstream: Annotated[
        str, typer.Option("--upstream", metavar="URL", help="vLLM with this checkpoint's language model.")
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen at.")] = 8000,
    method: common.MethodOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    scorer: common.ScorerOption = None,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    cache_images: Annotated[int, typer.Option("--cache-images", min=0, help="Pictures whose features are held.")] = 256,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="TRIMKIT_API_KEY", help="Clients have to send it.")
    ] = None,
    upstream_key: Annotated[
        str | None, typer.Option("--upstream-key", envvar="TRIMKIT_UPSTREAM_KEY", help="The engine wants it.")
    ] = None,
    fetch_images: Annotated[
        bool, typer.Option("--fetch-images", help="Fetch pictures that requests name by http(s) addresses.")
    ] = False,
    max_body: Annotated[int, typer.Option("--max-body", min=1, help="MiB of a request; more is answered 413.")] = 32,
    max_pictures: Annotated[int, typer.Option("--max-pictures", min=1, help="Pictures of a request.")] = 16,
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Pixels of a picture.")] = 40_000_000,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=1, help="Requests under way; one more is answered 429.")
    ] = 128,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1.0, help="Seconds that the engine may say nothing.")
    ] = 300.0,
) -> None:
    """Encode pictures in front of a text-only vLLM.

    Takes OpenAI chat requests, keeps the image tokens that matter to the question, and sends the engine text and embeddings.
    'trimkit language-model' writes what the engine serves, with --enable-prompt-embeds. Positions are 1-D: LLaVA and its like.
    """
    try:
        import uvicorn

        from trimkit.serving.encode.app import create_app
    except ImportError as error:
        raise MissingDependencyError(f"a server needs {error.name}: pip install 'trimkit[serve]'") from None
    from trimkit.serving.encode.encoder import PictureEncoder
    from trimkit.serving.openai_api.limits import Limits

    limits = Limits(max_body * 2**20, max_pictures, max_pixels, max_waiting, timeout)
    chosen = common.pick_method(method, budget, settings, config, model)
    with common.quiet():
        encoder = PictureEncoder.from_pretrained(
            model, method=chosen, scorer=scorer, device=device, dtype=dtype, cache_images=cache_images
        )
    app = create_app(
        encoder, upstream, limits=limits, api_key=api_key, upstream_key=upstream_key, addresses=fetch_images
    )
    print(
        f"trimkit: {chosen.name} for {model}, at http://{host}:{port}/v1, engine {upstream}",
        file=sys.stderr,
        flush=True,
    )
    _run(uvicorn, app, host, port)


def _run(uvicorn: Any, app: Any, host: str, port: int) -> None:
    """Serve until interrupted or terminated.

    Raises:
        ConfigError: the port is taken, or the address is not this machine's.
    """
    server = uvicorn.Server(
        uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=30)
    )
    try:
        server.run()
    except SystemExit:  # how uvicorn says that it could not begin
        raise ConfigError(f"cannot listen at {host}:{port}: choose another --port or --host") from None

"""``trimkit encode-server``: OpenAI's chat API with pictures, in front of an engine that runs the language model alone."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.cli._serve_extra import needing_serve_extra
from trimkit.io.text import one_line

NAME = "encode-server"


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint's directory, a hub id OWNER/NAME, or 'demo'.")],
    upstream: Annotated[
        str, typer.Option("--upstream", metavar="URL", help="vLLM with this checkpoint's language model.")
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    method: common.MethodOption = None,
    config: common.ConfigOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    scorer: common.ScorerOption = None,
    device: common.DeviceOption = "cpu",
    dtype: common.DtypeOption = "auto",
    cache_images: Annotated[
        int, typer.Option("--cache-images", min=0, help="Pictures whose features are cached.")
    ] = 256,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="TRIMKIT_API_KEY", help="Key that clients must send.")
    ] = None,
    upstream_key: Annotated[
        str | None, typer.Option("--upstream-key", envvar="TRIMKIT_UPSTREAM_KEY", help="Key of the engine.")
    ] = None,
    remote_pictures: Annotated[
        bool, typer.Option("--remote-pictures", help="Fetch pictures from public http(s) addresses for clients.")
    ] = False,
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=1, max=10_000, help="Most requests at a time; others get a 429.")
    ] = 64,
    max_pictures: Annotated[
        int, typer.Option("--max-pictures", min=1, max=256, help="Most pictures of one request.")
    ] = 8,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, max=200_000_000, help="Most pixels (width x height) of one picture.")
    ] = 40_000_000,
    max_body: Annotated[int, typer.Option("--max-body", min=1, max=1024, help="Largest request, in MiB.")] = 32,
    deadline: Annotated[
        float, typer.Option("--deadline", min=0.1, max=86_400, help="Seconds to wait for the engine.")
    ] = 300.0,
) -> None:
    """Encode pictures in front of a text-only vLLM.

    It takes OpenAI chat requests, keeps the image tokens that matter to the question, and sends the engine text and embeddings.
    The engine serves what 'trimkit language-model' wrote, with --enable-prompt-embeds. It works for 1-D positions, as in LLaVA.
    """
    with needing_serve_extra():
        import uvicorn

        from trimkit.serving.encode.app import create_app
        from trimkit.serving.encode.upstream import check_upstream
        from trimkit.serving.server.process import listening
    from trimkit.serving.encode.encoder import PictureEncoder
    from trimkit.serving.server.settings import Limits, check_own_key

    limits = Limits(
        body_bytes=max_body * 2**20,
        held_bytes=max(256, max_body) * 2**20,
        pictures=max_pictures,
        pixels=max_pixels,
        queue=max_queue,
        deadline=deadline,
    )
    check_upstream(upstream, upstream_key)
    check_own_key(api_key)
    chosen = common.pick_method(method, budget, settings, config, model, scorer=scorer)
    with listening(host, port) as listener, common.quiet():
        encoder = PictureEncoder.from_pretrained(
            model, method=chosen, scorer=scorer, device=device, dtype=dtype, cache_images=cache_images
        )
        keys: dict[str, Any] = {"api_key": api_key, "upstream_key": upstream_key}
        app = create_app(encoder, upstream, limits=limits, remote_pictures=remote_pictures, **keys)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1"
        how = f"{chosen.name}, budget {chosen.budget.in_words()}"
        print(f"encoding for {one_line(model)} ({how}) at {address}, engine {one_line(upstream)}", file=sys.stderr)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=30)
        )
        server.run(sockets=[listener])

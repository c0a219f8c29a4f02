"""What ``show --server`` asks a server, and how its report is drawn on the picture as the user has it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any

from trimkit.errors import InputError
from trimkit.io.addresses import is_sendable_key, is_server_address
from trimkit.io.text import one_line, parse_json

__all__ = ["ServerAnswer", "ask_server", "draw_answer"]

_MAX_BYTES = 64 * 2**20
_SECONDS = 600.0


class ServerAnswer:
    """What a server said: ``text``, ``seconds`` until it was whole, ``trim``, the report, and ``usage``."""

    def __init__(self, content: Any, seconds: float) -> None:
        self.seconds = seconds
        try:
            self.text = str(content["choices"][0]["message"]["content"] or "").strip()
            self.usage: dict[str, Any] = dict(content.get("usage") or {})
            self.trim = content.get("trim")
        except (KeyError, IndexError, TypeError):
            raise InputError("the server's answer is no chat completion: give the address of an OpenAI API") from None


def ask_server(
    url: str, pictures: Sequence[Any], question: str, trim: dict[str, Any], tokens: int, key: str | None
) -> ServerAnswer:
    """Ask the first model of a server about pictures, for the reply and the report.

    Args:
        url: ``http://host:port``, with ``/v1`` behind it or not.
        pictures: PIL images.
        question: what to ask.
        trim: how to reduce.
        tokens: length limit of the reply.
        key: the API key, or None.

    Raises:
        InputError: the address, the key, the connection, or what the server refuses.
    """
    base = _base(url)
    if not is_sendable_key(key):
        raise InputError("the API key holds what no header can carry: give it without spaces, in plain letters")
    models = _call(f"{base}/models", None, key)
    try:
        model = str(models["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{base}/models names no model: give the address of an OpenAI API") from None
    content = [{"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in pictures]
    body = {
        "model": model,
        "max_tokens": tokens,
        "temperature": 0,
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": question}]}],
        "mm_processor_kwargs": {"trim": {**trim, "report": True}},
    }
    began = time.perf_counter()
    answer = _call(f"{base}/chat/completions", json.dumps(body).encode(), key)
    return ServerAnswer(answer, time.perf_counter() - began)


def draw_answer(answer: ServerAnswer, pictures: Sequence[Any], question: str) -> Any:
    """The report drawn on the pictures, each cut to the part that the model saw.

    Raises:
        InputError: the server gave no report, or one that does not fit these pictures.
    """
    from trimkit import viz
    from trimkit.serving.report_json import report_of

    if answer.trim is None:
        raise InputError("the server gave no report of what it kept: is it one of trimkit's?")
    try:
        report = report_of(answer.trim)
        views = [_views(*each) for each in zip(report.images, answer.trim["images"], pictures, strict=True)]
    except (KeyError, IndexError, TypeError, ValueError):
        raise InputError("the server's report does not fit these pictures: is it of this trimkit's version?") from None
    cost = f"{report.tokens_after} image tokens, {answer.seconds:.2f} s"
    line = (report.method, cost, one_line(answer.text) or "(nothing)")
    return viz.draw_report(report, views, question=question, lines=[line])


def _views(image: Any, told: dict[str, Any], picture: Any) -> list[Any]:
    """The picture with the grid that its tokens lie on; empty where the server names none."""
    import numpy as np
    import torch

    from trimkit.core.geometry import grid_view

    if image.grid is None or image.grid[0] * image.grid[1] != image.tokens_before:
        return []
    box = told.get("box") or (0.0, 0.0, 1.0, 1.0)
    left, top, right, bottom = (min(max(float(side), 0.0), 1.0) for side in box)
    width, height = picture.size
    edges = (round(left * width), round(top * height), round(right * width), round(bottom * height))
    seen = picture.crop((*edges[:2], max(edges[2], edges[0] + 1), max(edges[3], edges[1] + 1)))
    seen.thumbnail((1200, 1200))
    pixels = torch.from_numpy(np.array(seen.convert("RGB"))).permute(2, 0, 1).float() / 255
    return [grid_view(pixels, *image.grid)]


def _base(url: str) -> str:
    if not is_server_address(url.strip()):
        raise InputError(
            f"server {url[:120]!r} is not an http or https address: give for example http://localhost:8000"
        )
    return url.strip().rstrip("/").removesuffix("/v1") + "/v1"


def _call(url: str, body: bytes | None, key: str | None) -> Any:
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    try:
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            text = answer.read(_MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise InputError(f"{url} answers {error.code}: {_told(error)}") from None
    except (OSError, HTTPException, ValueError) as error:  # another protocol answers by an HTTPException
        cause = getattr(error, "reason", None) or error
        raise InputError(f"{url} cannot be reached ({cause}): check the address, and that the server runs") from None
    if len(text) > _MAX_BYTES:
        raise InputError(f"{url} answers with more than {_MAX_BYTES >> 20} MiB: is it a server of models?")
    try:
        return parse_json(text.decode())
    except ValueError:
        raise InputError(f"{url} does not answer with JSON: give the address of an OpenAI API") from None


def _told(error: urllib.error.HTTPError) -> str:
    """The message of an error object, else the status in words."""
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError, AttributeError):
        return one_line(str(parse_json(error.read(100_000).decode())["error"]["message"]))
    return one_line(str(error.reason))


def _data_url(picture: Any) -> str:
    held = io.BytesIO()
    picture.convert("RGB").save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()

"""How a request is reduced, and whether the engine can do it: server settings, a request's own, and the form that travels.

The later wins: ``trimkit.json`` beside the checkpoint (its ``reduce``); ``--hf-overrides '{"trimkit": {...}}'``; the request's
``mm_processor_kwargs={"trim": {...}}``. Everything is checked here, in the API server, where a fault is an answer with status
400. In the engine it would end the server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from trimkit.core.choices import check_choice
from trimkit.errors import ConfigError, TrimkitError
from trimkit.io.settings import load_settings
from trimkit.methods import Method, get_method
from trimkit.pipeline.image_queries import each_row
from trimkit.pipeline.text_free import text_free
from trimkit.serving.vllm.engine_reports import asked_number
from trimkit.serving.vllm.questions import ServedTurns
from trimkit.serving.vllm.tower_signals import LayerNumbers

__all__ = ["DEFAULT", "FIELD", "KEY", "Reduction", "Request", "ServerSettings", "pack", "unpack"]

KEY = "trim"
"""In ``mm_processor_kwargs``."""

FIELD = "trimkit_reduction"
"""Beside the pixels of every picture on their way to the engine: the UTF-8 of ``pack``, uint8."""

DEFAULT: dict[str, Any] = {"method": "trim", "budget": 0.21}
"""Where nobody says anything: TRIM, with the share of tokens that the paper keeps."""

_SERVER = ("scorer", "tower_cache_mb", "turns")
_REQUEST = ("query", "turns")
_SHARED = ("budget", "profile", "turns")  # what another method takes over
_COUNTS = ("budget", "min_tokens", "max_tokens")  # what says how many tokens are kept
_TELLER = "trimkit.serving.vllm.reports.ReportMiddleware"
_LONGEST_QUERY = 16_384  # characters
_PROBE = 576  # tokens of some image, to see whether a method knows its count beforehand


@dataclass(frozen=True)
class Reduction:
    """What is done to one image: travels to the engine with its pixels, and into every cache's key.

    Attributes:
        method: what chooses.
        query: the question, or None where the method reads no text.
        report: under which name the engine leaves what it keeps, or None where nobody asks.
    """

    method: Method
    query: str | None = None
    report: str | None = None

    def tokens(self, total: int) -> int:
        """Tokens of an image of ``total``; ``check_method`` has made sure that it is known."""
        found = self.method.tokens(total)
        return total if found is None else found


@dataclass(frozen=True)
class Request:
    """What one request asks for.

    Attributes:
        method: what chooses.
        query: the question that it gives, or None to read it from the prompt.
        turns: which question chooses.
        report: number of the report that it wants, or None.
    """

    method: Method
    query: str | None = None
    turns: ServedTurns = "refresh"
    report: str | None = None

    def reduction(self, query: str | None) -> Reduction:
        """For an image about which ``query`` is asked; where nobody says a word, patches at equal distances."""
        if not self.method.needs_relevance:
            return Reduction(self.method)
        return Reduction(self.method, query) if query else Reduction(text_free(self.method))

    def shared(self) -> Reduction:
        """For an image about which many questions are asked: as many tokens, unlike each other, whatever is asked."""
        plain = text_free(self.method)
        return Reduction(get_method("divprune", **{name: getattr(plain, name) for name in _COUNTS}))


@dataclass(frozen=True)
class ServerSettings:
    """What holds for every request that says nothing else.

    Attributes:
        asked: method, options and ``turns``, as a request gives them.
        explicit: whether somebody asked for it; else it is the default.
        scorer: a CLIP or SigLIP checkpoint in place of the one that ``trimkit.json`` names, or None.
        tower_cache_mb: how much of the vision tower's features is held in main memory.
        layers: of the tower, where it gives signals; None where it gives none.
    """

    asked: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT))
    explicit: bool = False
    scorer: str | None = None
    tower_cache_mb: int = 256
    layers: LayerNumbers | None = None

    @classmethod
    def read(cls, model: str, overrides: Any, layers: LayerNumbers | None = None) -> ServerSettings:
        """From a checkpoint's directory (a hub id has no settings beside it) and ``--hf-overrides``.

        Raises:
            ConfigError: one of them says something that cannot be.
        """
        said = load_settings(model).get("reduce") if Path(model).is_dir() else None
        asked = _merged(DEFAULT, _mapping(said, "trimkit.json")) if said else dict(DEFAULT)
        given = _mapping(overrides, "--hf-overrides trimkit")
        _refuse_unknown(given, "--hf-overrides trimkit", reserved=("query", "report"))
        own = {name: given.pop(name) for name in ("scorer", "tower_cache_mb") if name in given}
        size = own.get("tower_cache_mb", 256)
        settings = cls(_merged(asked, given), bool(said or given), own.get("scorer"), size, layers)
        if settings.scorer is not None and not (isinstance(settings.scorer, str) and settings.scorer):
            raise ConfigError(f"--hf-overrides trimkit: scorer {settings.scorer!r} is no directory and no hub id")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ConfigError(f"--hf-overrides trimkit: tower_cache_mb {size!r} is no whole number of megabytes")
        settings.request(None)
        return settings

    def request(self, given: object) -> Request:
        """What a request asks for, checked.

        Args:
            given: its ``mm_processor_kwargs["trim"]``, or None.

        Raises:
            ConfigError: a wrong type, an unknown option, or a method or budget that vLLM cannot serve, with the reason.
        """
        asked = dict(_mapping(given, KEY))
        _refuse_unknown(asked, KEY, reserved=("scorer", "tower_cache_mb"))
        options = _merged(self.asked, asked)
        query = _checked_query(options.pop("query", None))
        turns = options.pop("turns", "refresh")
        if not isinstance(turns, str):
            raise ConfigError(f"{KEY}: turns {turns!r} should be a string")
        if turns == "union":
            raise ConfigError("turns='union' has no fixed number of tokens, which vLLM needs: use 'refresh' or 'first'")
        check_choice("turns", turns, ServedTurns)
        report = _checked_report(options.pop("report", None))
        method = _built(options)
        check_method(method, self.layers)
        return Request(method, query, cast("ServedTurns", turns), report)


def check_method(method: Method, layers: LayerNumbers | None = None) -> None:
    """Refuse what the engine could not do.

    Args:
        method: what is asked for.
        layers: of the tower, where it gives signals.

    Raises:
        ConfigError: with the reason.
    """
    if method.prunes_llm:
        raise ConfigError(
            f"method {method.name!r} drops tokens inside the language model, which vLLM runs: use another"
        )
    if method.tower_plan is not None:
        raise ConfigError(
            f"method {method.name!r} changes the way through the vision tower, which vLLM runs: use another"
        )
    asked = sorted(method.asked_signals - {"projected"})
    missing = asked if layers is None else [name for name in asked if layers.number(name) is None]
    if missing:
        raise ConfigError(
            f"method {method.name!r} needs {' and '.join(missing)}, which vLLM does not give for this model: use 'trim', "
            "'focus', 'divprune' or another without signals of the tower"
        )
    if method.tokens(_PROBE) is None:
        what = f"share={method.share!r}" if method.share != "image" else f"budget {method.budget}"
        raise ConfigError(
            f"{what} decides how many tokens an image gets after the image was seen, and vLLM has to know it before: give "
            "a whole number such as 121 or a fraction such as 0.2, for each image"
        )


def pack(reduction: Reduction) -> str:
    """As text, the same for equal reductions."""
    options = reduction.method.model_dump(mode="json")
    content = {"method": reduction.method.name, "options": options, "query": reduction.query}
    if reduction.report is not None:
        content["report"] = reduction.report
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def unpack(text: str) -> Reduction:
    """What ``pack`` gave."""
    content = json.loads(text)
    method = get_method(content["method"], **content["options"])
    return Reduction(method, content["query"], content.get("report"))


def _mapping(given: object, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ConfigError(f'{where} should be an object such as {{"budget": 64}}, and is {_short(given)}')
    return dict(given)


def _merged(known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given wins; another method takes over the budget, and not the options that are the known one's own."""
    if "method" in given and given["method"] != known.get("method"):
        known = {name: value for name, value in known.items() if name in _SHARED}
    return {**known, **given}


def _refuse_unknown(given: Mapping[str, Any], where: str, reserved: tuple[str, ...]) -> None:
    for name in reserved:
        if name in given:
            raise ConfigError(f"{where}: {name} cannot be given here")


def _checked_query(query: object) -> str | None:
    if query is None:
        return None
    if not isinstance(query, str):
        raise ConfigError(f"{KEY}: query should be a string, and is {_short(query)}")
    if len(query) > _LONGEST_QUERY:
        raise ConfigError(f"{KEY}: query has {len(query)} characters: give at most {_LONGEST_QUERY}")
    return each_row(query, 1)[0].strip()


def _checked_report(report: object) -> str | None:
    number = asked_number(report)
    if report is True:
        raise ConfigError(
            f"{KEY}: reports need a server that was started by 'trimkit serve', or with --middleware {_TELLER}"
        )
    if number is None and report not in (None, False):
        raise ConfigError(f"{KEY}: report should be true or false, and is {_short(report)}")
    return number


def _built(options: dict[str, Any]) -> Method:
    name = options.pop("method")
    if not isinstance(name, str):
        raise ConfigError(f"{KEY}: method should be a string, and is {_short(name)}")
    try:
        return get_method(name, **options)
    except TrimkitError:
        raise
    except Exception as error:  # a value so odd that a validator stumbles over it
        raise ConfigError(f"{KEY}: {type(error).__name__}: {_short(str(error))}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

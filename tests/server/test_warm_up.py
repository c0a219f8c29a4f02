"""Before the server opens: do the model's steps give what its own ``generate`` gives, and can rows share a cache?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.conftest import Make
from trimkit.errors import UnsupportedError
from trimkit.serving.server import kv_batch
from trimkit.serving.server.kv_batch import KVBatch
from trimkit.serving.server.process import assemble
from trimkit.serving.server.service import Service
from trimkit.serving.server.settings import Access, Limits
from trimkit.serving.server.warm_up import warm_up


@pytest.fixture(scope="module")
def service(demo: tuple[Any, Any]) -> Service:
    from trimkit.methods import get_method

    return Service(*demo, get_method("trim", budget=16), Limits(), Access("demo"))


def test_rows_of_the_demo_model_share_a_cache(demo: tuple[Any, Any], service: Service) -> None:
    assert warm_up(demo[0], service)


def test_rows_that_cannot_share_run_side_by_side(
    demo: tuple[Any, Any], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(parts: Any) -> Any:
        raise AttributeError("this layer has no keys")

    monkeypatch.setattr(kv_batch, "_joined", refuses)
    assert not warm_up(demo[0], service)
    assert not service.prefill.merges


def test_rows_that_see_each_other_do_not_share(
    demo: tuple[Any, Any], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masked columns are not masked: a joined row is wrong, one alone is right."""
    padded = kv_batch._padded

    def unmasked(values: Any, width: int, dim: int) -> Any:
        out = padded(values, width, dim)
        return out.clamp(min=1) if values.ndim == 2 else out

    monkeypatch.setattr(kv_batch, "_padded", unmasked)
    assert not warm_up(demo[0], service)


def test_steps_that_are_wrong_are_refused(
    demo: tuple[Any, Any], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = KVBatch.join
    monkeypatch.setattr(KVBatch, "join", lambda self, cache, length, at: join(self, cache, length, at + 7))
    with pytest.raises(UnsupportedError, match="step by step"):
        warm_up(demo[0], service)


def test_a_method_inside_the_language_model_is_refused(demo: tuple[Any, Any], make: Make) -> None:
    from trimkit.methods import get_method

    with pytest.raises(UnsupportedError, match="inside the language model"):
        assemble(*demo, get_method("fastv"), Limits(), Access("demo"))

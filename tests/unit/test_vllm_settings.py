"""The vLLM plugin's settings: which of three places wins, what is refused in the API server, what travels to the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimkit.errors import ConfigError
from trimkit.methods import get_method, method_classes
from trimkit.serving.vllm.settings import DEFAULT, Reduction, Request, ServerSettings, pack, unpack

CAN = ["trim", "focus", "divprune", "cdpruner", "dart", "uniform", "random", "l2-norm", "avg-pool", "none"]


def checkpoint(folder: Path, reduce: dict[str, Any] | None) -> str:
    said = {} if reduce is None else {"reduce": reduce}
    (folder / "trimkit.json").write_text(json.dumps(said), encoding="utf-8")
    return str(folder)


def test_nobody_says_anything(tmp_path: Path) -> None:
    settings = ServerSettings.read(str(tmp_path), None)
    assert (dict(settings.asked), settings.explicit) == (DEFAULT, False)
    assert settings.request(None).method == get_method("trim", budget=0.21)
    assert ServerSettings.read("owner/name-on-a-hub", None).explicit is False


def test_the_later_wins(tmp_path: Path) -> None:
    name = checkpoint(tmp_path, {"method": "trim", "budget": 100, "temperature": 2.0})
    file = ServerSettings.read(name, None)
    assert file.request(None).method == get_method("trim", budget=100, temperature=2.0)
    flags = ServerSettings.read(name, {"budget": 50, "scorer": "clip", "tower_cache_mb": 7})
    assert (flags.explicit, flags.scorer, flags.tower_cache_mb) == (True, "clip", 7)
    assert flags.request(None).method == get_method("trim", budget=50, temperature=2.0)
    assert flags.request({"budget": 25}).method == get_method("trim", budget=25, temperature=2.0)


def test_another_method_takes_over_the_budget_alone(tmp_path: Path) -> None:
    name = checkpoint(tmp_path, {"method": "trim", "budget": 100, "temperature": 2.0})
    request = ServerSettings.read(name, None).request({"method": "divprune"})
    assert request.method == get_method("divprune", budget=100)


def test_which_question_chooses_is_the_servers_word_or_the_requests(tmp_path: Path) -> None:
    settings = ServerSettings.read(str(tmp_path), {"turns": "once"})
    assert [settings.request(each).turns for each in (None, {"turns": "first"})] == ["once", "first"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget": "iqr"}, "before"),
        ({"budget": "top-p:0.5"}, "before"),
        ({"share": "prompt"}, "share='prompt'"),
        ({"share": "frame"}, "share='frame'"),
        ({"method": "fastv"}, "inside the language model"),
        ({"method": "visionzip"}, "cls_attention and cls_state and keys_mean"),
        ({"turns": "union"}, "union"),
        ({"turns": None}, "turns None"),
        ({"turns": "x"}, "turns='x'"),
        ({"method": None}, "method should be a string"),
        ({"method": "trimm"}, "unknown method"),
        ({"budget": 0}, "budget 0"),
        ({"budget": float("nan")}, "budget nan"),
        ({"query": 3}, "query should be a string"),
        ({"query": "x" * 20_000}, "20000 characters"),
        ({"scorer": "/"}, "scorer cannot be given"),
        ({"tower_cache_mb": 1}, "tower_cache_mb cannot be given"),
        ({"no_such": 1}, "no option 'no_such'"),
        ({3: 4}, "should be an object"),
        ([], "should be an object"),
        ("budget", "should be an object"),
        (7, "should be an object"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_in_one_line(given: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")) as error:
        ServerSettings.read(str(tmp_path), None).request(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides", [{"query": "x"}, {"scorer": 5}, {"tower_cache_mb": -1}, {"budget": "iqr"}, 5, "trim"]
)
def test_server_settings_are_checked_at_start_up(overrides: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        ServerSettings.read(str(tmp_path), overrides)


def test_every_method_is_served_or_refused_by_name(tmp_path: Path) -> None:
    settings = ServerSettings.read(str(tmp_path), None)
    for name, kind in method_classes():
        if not kind(budget=64).fits_engines:  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match=name):
                settings.request({"method": name})
        else:
            assert settings.request({"method": name}).method.name == name


@pytest.mark.parametrize("name", CAN)
@pytest.mark.parametrize("query", ["Where is the dog?", 'quotes " and ümlauts', None])
def test_a_reduction_travels(name: str, query: str | None) -> None:
    reduction = Reduction(get_method(name, budget=0.5), query)
    assert unpack(pack(reduction)) == reduction
    assert pack(unpack(pack(reduction))) == pack(reduction)


def test_a_profile_travels() -> None:
    reduction = Reduction(get_method("trim", budget=9, profile={"sign": 1, "normalize": True, "temperature": 0.5}), "x")
    assert unpack(pack(reduction)) == reduction


def test_what_reads_no_text_is_the_same_for_every_question() -> None:
    request = Request(get_method("divprune", budget=9))
    assert request.reduction("one") == request.reduction("two") == request.reduction(None)


def test_a_silent_picture_gets_patches_at_equal_distances() -> None:
    request = Request(get_method("trim", budget=9))
    assert request.reduction("").method == get_method("uniform", budget=9, aggregate="mean")
    assert request.reduction("").tokens(100) == request.reduction("words").tokens(100) == 9

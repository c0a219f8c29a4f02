"""Budgets from Python, JSON and the command line."""

from __future__ import annotations

import pytest

from trimkit import Budget, ConfigError, get_method, parse_budget


@pytest.mark.parametrize(
    ("given", "kind", "value"),
    [
        ("iqr", "iqr", 0),
        ("IQR", "iqr", 0),
        ("0.2", "ratio", 0.2),
        (0.2, "ratio", 0.2),
        ("1.0", "ratio", 1.0),
        (1.0, "ratio", 1.0),
        ("1", "count", 1),
        (1, "count", 1),
        ("121", "count", 121),
        ("top-p:0.9", "top-p", 0.9),
        ("auto", "auto", 0.5),
        ("Auto:2", "auto", 2.0),
        ("auto:0.25", "auto", 0.25),
    ],
)
def test_accepted(given: object, kind: str, value: float) -> None:
    budget = parse_budget(given)
    assert (budget.kind, budget.value) == (kind, value)
    assert parse_budget(budget.to_plain()) == budget
    assert parse_budget(str(budget)) == budget


@pytest.mark.parametrize(
    "given",
    [-1, 0, "-1", "0", "0.0", 2.0, "2.0", float("nan"), "nan", "NaN", "inf", float("inf"), "", "lots", True, None, [], "1e3",
     "top-p:2.0", "top-p:", "-0.5", "auto:", "auto:0", "auto:-1", "auto:nan", "auto:inf", "auto:x"],
)  # fmt: skip
def test_refused_in_one_line_with_a_remedy(given: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_budget(given)
    assert "\n" not in str(caught.value)
    assert "0.2" in str(caught.value)


def test_a_number_counts_every_token() -> None:
    assert Budget("ratio", 0.2).tokens(576) == 115
    assert Budget("count", 121).tokens(576) == 121
    assert Budget("count", 900).tokens(576) == 576
    assert Budget("ratio", 0.001).tokens(576) == 1
    with pytest.raises(ConfigError):
        Budget("iqr").tokens(576)


def test_methods_round_trip_through_json() -> None:
    for name, options in (("trim", {"budget": 0.2, "sign": -1}), ("random", {"budget": 7, "seed": 3}), ("none", {})):
        method = get_method(name, **options)
        assert type(method).model_validate_json(method.model_dump_json()) == method
        assert get_method(method) == method


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("trimm", {}, "did you mean 'trim'"),
        ("trim", {"keep": 3}, "no option 'keep'"),
        ("trim", {"budget": 2.0}, "outside (0, 1]"),
        ("trim", {"sign": 0}, "sign"),
        ("trim", {"temperature": 0.0}, "temperature"),
        ("trim", {"temperature": float("nan")}, "temperature"),
        ("trim", {"min_tokens": 0}, "min_tokens"),
    ],
)
def test_bad_options_are_one_line(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_method(name, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": "hot"}, "method 'trim', option 'temperature': 'hot' should be 'auto' or a valid number"),
        ({"temperature": [1]}, "method 'trim', option 'temperature': [1] should be 'auto' or a valid number"),
        ({"normalize": "x"}, "method 'trim', option 'normalize': 'x' should be 'auto' or a valid boolean"),
        ({"profile": {"normalize": 3, "temperature": "x"}}, "method 'trim', option 'profile"),
    ],
)
def test_alternatives_of_an_option_are_one_message(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_method("trim", **options)
    said = str(caught.value)
    assert said.startswith(message)
    assert "literal[" not in said
    assert "\n" not in said

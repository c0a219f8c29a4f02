"""The demo model in real vLLM servers: every greedy reply is transformers + trimkit's, token for token."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vllm import cases
from tests.vllm.requests import Case, Reference, Turn, body
from tests.vllm.server import Server, serving
from trimkit.demo import demo_model_path, load_demo

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

BUDGETS = [121, 64, 0.4, 1.0]
METHODS = ("focus", "divprune", "cdpruner", "uniform", "avg-pool", "cls-attention", "visionzip", "hiprune", "prunesid")
FLAGS = ("--max-model-len", "2048", "--middleware", "trimkit.serving.vllm.reports.ReportMiddleware")
BAD: list[Any] = [
    {"query": 5},
    {"query": ["a"]},
    {"query": "a" * 20_000},
    {"method": "trimm"},
    {"method": 5},
    {"method": "fastv"},
    {"method": "prumerge"},
    {"budget": 0},
    {"budget": -3},
    {"budget": None},
    {"budget": "x"},
    {"budget": [1]},
    {"budget": True},
    {"budget": 1.5},
    {"budget": "iqr"},
    {"budget": "top-p:0.9"},
    {"share": "prompt"},
    {"aggregate": 7},
    {"profile": 5},
    {"profile": {"sign": 3}},
    {"temperature": -1},
    {"turns": "union"},
    {"turns": 5},
    {"report": 1},
    {"report": "../../x"},
    {"scorer": "/etc"},
    {"no_such_option": 1},
    [],
    "trim",
    5,
]


def all_cases() -> list[Case]:
    shown = cases.pictures(small=False)
    return [
        *cases.single(shown, BUDGETS, 4),
        *cases.two_pictures(shown, 64),
        *cases.two_turns(shown, 64),
        *cases.settings(shown[1], 30, METHODS),
        *cases.named(shown, 64),
    ]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(*load_demo(), {"method": "trim", "budget": 0.21})


@pytest.fixture(scope="module")
def wanted(reference: Reference) -> list[tuple[Case, list[int]]]:
    return [(case, reference.ids(case)) for case in all_cases()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(demo_model_path(), tmp_path_factory.mktemp("log") / "log.txt", *FLAGS) as started:
        yield started


def wrong(server: Server, wanted: list[tuple[Case, list[int]]], clients: int) -> list[Case]:
    given = server.all_ids([body(case) for case, _ in wanted], clients)
    return [case for (case, ids), mine in zip(wanted, given, strict=True) if ids != mine]


def test_one_client(server: Server, wanted: list[tuple[Case, list[int]]]) -> None:
    assert len({tuple(ids) for _, ids in wanted}) > 7  # the replies tell choices apart
    assert wrong(server, wanted, 1) == []


def test_sixteen_clients_and_warm_caches(server: Server, wanted: list[tuple[Case, list[int]]]) -> None:
    shuffled = wanted * 2
    random.Random(0).shuffle(shuffled)
    assert wrong(server, shuffled, 16) == []


def test_fewer_tokens_are_prefilled(server: Server) -> None:
    shown = (Turn("What is there?", (cases.pictures(small=False)[0],)),)
    lengths = []
    for budget in (1.0, 121, 0.4):
        _, answer = server.post("/v1/chat/completions", body(Case(shown, {"budget": budget})))
        lengths.append(answer["usage"]["prompt_tokens"])
    assert [lengths[0] - each for each in lengths] == [0, 576 - 121, 576 - 230]


def test_a_report_says_what_was_kept(server: Server, reference: Reference) -> None:
    picture = cases.pictures(small=False)[0]
    for turns in ((Turn("What is there?", (picture,)),), (Turn("Which color?", (picture, picture)),)):
        for held in (False, True):
            case = Case(turns, {"method": "trim", "budget": 64, "report": True})
            _, answer = server.post("/v1/chat/completions", body(case))
            trim, expected = answer["trim"], reference.report(Case(turns, {"method": "trim", "budget": 64}))
            assert (trim["method"], trim["fallback"]) == ("trim", False)
            assert [each["indices"] for each in trim["images"]] == [each.indices.tolist() for each in expected.images]
            assert [each["grid"] for each in trim["images"]] == [[24, 24]] * len(expected.images)
            assert [each["box"] for each in trim["images"]] == [[0.0, 0.0, 1.0, 1.0]] * len(expected.images)
            assert not held or all(each["cached"] for each in trim["images"])
    streamed = server.raw("/v1/chat/completions", body(case, stream=True)).split("\n\n")
    assert [json.loads(each.removeprefix("data: ")).get("trim", {}).get("image_tokens") for each in streamed[:2]] == [
        128,
        None,
    ]


def test_auto_chooses_for_the_first_questions_and_once_for_all_others(server: Server, reference: Reference) -> None:
    picture = cases.pictures(small=False)[2].rotate(90)  # that no other test shows
    asked = [f"{question} {word}" for question in cases.questions()[:3] for word in ("Say it.", "Please.")]
    for question in (*asked, asked[0], asked[-1]):
        method = "focus" if question in asked[:3] else "divprune"  # 576 // 121 - 1 choose for themselves
        shown, plain = (Turn(question, (picture,)),), {"method": method, "budget": 121}
        auto = Case(shown, {"method": "focus", "budget": 121, "turns": "auto"})
        assert server.ids(body(auto)) == reference.ids(Case(shown, plain)), question
        told = server.post("/v1/chat/completions", body(Case(shown, {**auto.trim, "report": True})))[1]["trim"]
        wanted = reference.report(Case(shown, plain)).images[0].indices.tolist()
        assert (told["method"], told["images"][0]["indices"]) == (method, wanted), question


def test_metrics_are_those_of_the_other_server(server: Server) -> None:
    text = server.text("/metrics")
    numbers = {name: float(value) for name, value in re.findall(r"^(trimkit_\w+) (\S+)$", text, re.MULTILINE)}
    assert numbers["trimkit_pictures_total"] > numbers["trimkit_feature_cache_hits_total"] > 0
    assert numbers["trimkit_image_tokens_before_total"] > numbers["trimkit_image_tokens_after_total"] > 0
    assert numbers["trimkit_choosing_seconds_count"] == numbers["trimkit_pictures_total"]
    assert numbers["trimkit_fallbacks_total"] == 0


def test_what_a_request_gets_wrong_is_a_400(server: Server, wanted: list[tuple[Case, list[int]]]) -> None:
    case = Case((Turn("What is there?", (cases.pictures(small=False)[0],)),))
    for settings in BAD:
        status, answer = server.post("/v1/chat/completions", body(case, mm_processor_kwargs={"trim": settings}))
        assert status == 400, (settings, answer)
        said = answer["error"]["message"]
        assert "\n" not in said, (settings, said)
        assert said, settings
    assert wrong(server, wanted[:4], 4) == []
    assert "trimkit: patches at equal distances" not in server.said()


def test_pictures_in_chunks_and_a_tensor_parallel_model(wanted: list[tuple[Case, list[int]]], tmp_path: Path) -> None:
    """A chunk holds half a reduced picture; two processes share every layer."""
    flags = (*FLAGS, "--max-num-batched-tokens", "64", "--tensor-parallel-size", "2", "--max-num-seqs", "16")
    # The encoder's budget is at least a whole picture, whatever a chunk holds.
    with serving(demo_model_path(), tmp_path / "log.txt", *flags) as started:
        assert wrong(started, wanted, 1) == []
        assert wrong(started, wanted * 2, 16) == []


def test_the_suite_sees_a_question_left_out_of_the_identifier(
    wanted: list[tuple[Case, list[int]]], tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    with serving(demo_model_path(), log, *FLAGS, launcher="tests.vllm.without_question") as started:
        plain = [each for each in wanted[:20] if each[0].trim["budget"] != 1.0]
        same = [(Case(case.turns, {"budget": 64}), ids) for case, ids in plain]
        anew = [(case, started.ids(body(case, cache_salt=str(i)))) for i, (case, _) in enumerate(same)]
        assert wrong(started, anew, 4) != [] or wrong(started, wanted, 4) != []

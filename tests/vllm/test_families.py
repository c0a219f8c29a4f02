"""Every family in a vLLM server, on tiny random checkpoints: greedy replies equal transformers + trimkit's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm import cases
from tests.vllm.checkpoints import FAMILIES
from tests.vllm.requests import Case, Reference, body
from tests.vllm.server import Server, serving
from trimkit.loading import load_model

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

BUDGETS = [5, 0.3, 9, 1.0]
METHODS = ("focus", "divprune", "cdpruner", "uniform")
FLAGS = ("--max-model-len", "2048", "--max-num-batched-tokens", "2048")
CAUSAL = {"gemma3"}  # vLLM's attention on CPUs knows no other order; its GPU backends let image tokens look both ways
SINGLE = {"llava_onevision"}  # stock vLLM tiles each of several pictures, transformers none of them


def all_cases(family: str) -> list[Case]:
    shown, several = cases.pictures(small=True), family not in SINGLE
    return [
        *cases.single(shown, BUDGETS, 3),
        *(cases.two_pictures(shown, 6) if several else []),
        *cases.two_turns(shown, 0.4, several=several),
        *cases.settings(shown[1], 7, METHODS),
        *cases.named(shown, 6),
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(family)
    FAMILIES[family](folder)
    return folder


@pytest.fixture(scope="module")
def wanted(family: str, checkpoint: Path) -> list[tuple[Case, list[int]]]:
    loaded, default = load_model(str(checkpoint)), {"method": "trim", "budget": 0.21}
    reference = Reference(*loaded, default, causal=family in CAUSAL)
    return [(case, reference.ids(case)) for case in all_cases(family)]


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with serving(checkpoint, log, *FLAGS, launcher="tests.vllm.cpu_positions") as started:
        yield started


def test_equal_at_one_client_and_at_sixteen(server: Server, wanted: list[tuple[Case, list[int]]]) -> None:
    assert len({tuple(ids) for _, ids in wanted}) > len(wanted) // 2  # the replies tell choices apart
    for clients, asked in ((1, wanted), (16, wanted * 2)):
        given = server.all_ids([body(case) for case, _ in asked], clients)
        assert [case for (case, ids), mine in zip(asked, given, strict=True) if ids != mine] == []
    assert "trimkit: patches at equal distances" not in server.said()

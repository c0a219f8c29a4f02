"""A crowd, and thousands of hostile requests: no server error, no wrong reply, no growing memory."""

from __future__ import annotations

import asyncio

import pytest

from tests.serve.hostile import LIMITS, Case, expected_replies, hostile, many_clients
from tests.serve.process import running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def replies() -> dict[Case, str]:
    return expected_replies()


def test_64_clients(replies: dict[Case, str]) -> None:
    with running(*LIMITS, "--max-queue", "32") as server:
        outcome = asyncio.run(many_clients(server, replies, 64, 4))
        assert set(outcome.statuses["good"]) <= {"200", "429"}
        assert outcome.wrong == []
        assert server.process.poll() is None


def test_2000_hostile_requests(replies: dict[Case, str]) -> None:
    with running(*LIMITS) as server:
        outcome = asyncio.run(hostile(server, replies, 2000, seed=16))
        assert server.process.poll() is None
    assert outcome.wrong == []
    assert outcome.server_errors == 0
    assert set(outcome.statuses["good"]) == {"200"}
    assert outcome.statuses["malformed"].keys() == {"400"}
    assert outcome.statuses["oversize"].keys() == {"413"}
    for kind in ("bomb", "no numbers"):
        assert outcome.statuses[kind].keys() == {"400"}
    assert outcome.statuses["wrong type"].keys() <= {"200", "400", "404"}
    assert outcome.resident[2000] <= 1.05 * outcome.resident[500]

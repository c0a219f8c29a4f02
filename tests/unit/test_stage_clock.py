"""Seconds of stages: by the CPU's clock, or from marks in a GPU's queue that nobody waits for before the seconds are read."""

from __future__ import annotations

import pickle
import time
from dataclasses import asdict
from typing import Any

import pytest
import torch

from trimkit.core.types import StageSeconds
from trimkit.pipeline.stage_clock import StageClock


class Event:
    """A mark in a queue that moves on by one second a mark."""

    now = 0.0
    waited = 0

    def __init__(self, **options: Any) -> None:
        assert options == {"enable_timing": True}

    def record(self, stream: Any) -> None:
        Event.now += 1.0
        self.at = Event.now

    def synchronize(self) -> None:
        Event.waited += 1

    def elapsed_time(self, end: Event) -> float:
        return 1000.0 * (end.at - self.at)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StageClock:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    Event.waited = 0
    return StageClock(torch.device("cuda"))


def run(clock: StageClock) -> None:
    with clock.stage("text"):
        pass
    clock.start_prefill()
    with clock.stage("select"):
        pass
    clock.stop_prefill()
    with clock.stage("text"):
        pass
    clock.start_prefill()  # a later pass
    clock.stop_prefill()


def test_a_gpu_is_waited_for_when_seconds_are_read(gpu: StageClock) -> None:
    run(gpu)
    assert Event.waited == 0
    assert (gpu.seconds.text, gpu.seconds.select, gpu.seconds.vision) == (2.0, 1.0, 0.0)
    assert gpu.seconds.prefill == 2.0  # three between its marks, without the stage within
    waited = Event.waited
    assert waited > 0
    assert asdict(gpu.seconds)["text"] == 2.0
    assert Event.waited == waited  # once


def test_seconds_of_a_gpu_travel_as_numbers(gpu: StageClock) -> None:
    run(gpu)
    copy = pickle.loads(pickle.dumps(gpu.seconds))
    assert type(copy) is StageSeconds
    assert (copy.text, copy.prefill) == (2.0, 2.0)


def test_the_cpus_clock_counts_no_second_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    clock = StageClock(torch.device("cpu"))
    run(clock)
    assert (clock.seconds.text, clock.seconds.select, clock.seconds.prefill) == (2.0, 1.0, 2.0)


def test_a_stage_that_follows_begins_where_the_one_before_has_ended() -> None:
    clock = StageClock(torch.device("cpu"))
    before = time.perf_counter()
    with clock.stage("select"):
        pass
    time.sleep(0.01)
    with clock.stage("project", follows=True):
        pass
    assert 0.01 <= clock.seconds.project <= time.perf_counter() - before
    other = StageClock(torch.device("cpu"))
    with other.stage("project", follows=True):  # after none
        pass
    assert other.seconds.project < 0.01

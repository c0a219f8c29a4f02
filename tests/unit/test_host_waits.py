"""How often a call asks a GPU for a value, and how much it gives it to do: counted on the CPU, with limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import trimkit
from trimkit.ask import build_inputs
from trimkit.bench.host_waits import HostWaits
from trimkit.core import transfer
from trimkit.demo import load_demo
from trimkit.demo.items import sample_item

GREEDY = ("focus", "cdpruner", "divprune", "scope", "mmr", "mmtok")
# The published code of these decides on the host: PruneSID by singular vectors; FlowCut at each layer that patches leave, how
# many (one layer of the demo model's tower). So many waits with a fixed budget, whatever the batch, and no more.
ON_THE_HOST = {"flowcut": 2, "prunesid": 2}
ON_THE_HOST_PER_IMAGE = {"prunesid": 3}
METHODS = sorted(name for name, cls in trimkit.methods.method_classes() if cls.stage == "tower" and name != "none")
ADDED = dict.fromkeys(METHODS, 500) | dict.fromkeys(GREEDY, 3000) | {"trim": 350}
ADDED |= {"vispruner": 800}
HERE = torch.device("cpu")

Call = Callable[[torch.Tensor], Any]


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: float(x[0]),
        lambda x: x[x > 0],
        lambda x: x[x.argmax()],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x + torch.tensor([1.0], device=HERE),
        lambda x: x + torch.ones(3).to(HERE),
        lambda x: x.__setitem__(x.argmax(), 0.0),
        lambda x: torch.equal(x, x),
        lambda x: torch.linalg.eigh(x * x[:, None]),
    ],
)
def test_what_waits_is_counted(waiting: Call) -> None:
    x = torch.randn(3)
    with HostWaits() as counted:
        waiting(x)
    assert counted.waits == 1


@pytest.mark.parametrize(
    "free",
    [
        lambda x: x[1:2] + x[0],
        lambda x: x.gather(0, x.argmax(dim=0, keepdim=True)),
        lambda x: torch.ones(3).tolist(),
        lambda x: torch.arange(3)[torch.tensor([True, False, True])],
        lambda x: x + torch.ones(3).to(HERE, non_blocking=True),
        lambda x: transfer.upload([1, 2], x.device) + 1,
        lambda x: x.masked_fill(x > 0, 1.0),
        lambda x: x.to(torch.float64),
        lambda x: torch.linalg.solve_ex(torch.eye(3) + x * x[:, None], x),
    ],
)
def test_what_does_not_wait_is_not(free: Call) -> None:
    x = torch.randn(3)
    with HostWaits() as counted:
        free(x)
    assert counted.waits == 0
    assert counted.calls > 0


def test_what_was_fetched_is_read_without_a_wait() -> None:
    tensors = [torch.arange(6).view(2, 3), torch.ones(4, dtype=torch.bool), torch.randn(2, 2)]
    with HostWaits() as counted:
        ids, mask, pixels = transfer.fetch(tensors)
        assert ids[0].tolist() == [0, 1, 2]
        assert bool(mask.all())
        pixels.numpy()
    assert counted.waits == 1


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return load_demo()


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops and groups that a GPU gets."""
    monkeypatch.setattr(transfer, "ONE_BY_ONE", frozenset())


def counted(demo: tuple[Any, Any], method: str, images: int, budget: Any) -> HostWaits:
    """Of one ``generate`` with new pictures and new questions; the scorer is loaded."""
    model, processor = demo
    pictures, questions = zip(*(sample_item(414141, number) for number in range(images)), strict=True)
    asked = [question.text for question in questions]
    inputs = build_inputs(model, processor, list(pictures), asked, max_new_tokens=1)
    options = {} if method == "none" else {"budget": budget}
    arm = trimkit.attach(model, processor, method=method, **options)
    try:
        if arm.method.needs_relevance:
            arm._attached_model.reducer.chooser.scorer()
        arm.clear_cache()
        with torch.no_grad(), HostWaits() as waits:
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
    finally:
        arm.detach()
    return waits


@pytest.fixture(scope="module")
def stock(demo: tuple[Any, Any]) -> dict[int, int]:
    """Our calls where everything stays, by images."""
    return {images: counted(demo, "none", images, None).our_calls for images in (1, 16)}


@pytest.mark.parametrize("method", METHODS)
def test_a_fixed_budget_waits_once(demo: tuple[Any, Any], stock: dict[int, int], method: str) -> None:
    waits = counted(demo, method, 1, 121)
    assert waits.our_waits <= ON_THE_HOST.get(method, 1), dict(+waits.waits_at)
    assert waits.our_calls - stock[1] <= ADDED[method]


@pytest.mark.parametrize(
    ("method", "budget"), [("trim", "iqr"), ("trim", "auto"), ("prumerge", "iqr"), ("uniform", "iqr")]
)
def test_a_budget_per_image_waits_twice(demo: tuple[Any, Any], method: str, budget: str) -> None:
    waits = counted(demo, method, 1, budget)
    assert waits.our_waits <= 2, dict(+waits.waits_at)


FREE = [name for name in METHODS if not trimkit.methods.get_method(name).fixed_budget]
IMAGE_BY_IMAGE = (
    "apet",
    "avg-pool",
    "flowcut",
    "mmr",
    "mmtok",
    "prumerge",
    "prumerge-plus",
    "prunesid",
    "visionzip",
    "vispruner",
)


@pytest.mark.slow
@pytest.mark.parametrize("method", FREE)
def test_every_method_waits_twice_with_a_budget_per_image(demo: tuple[Any, Any], method: str) -> None:
    waits = counted(demo, method, 1, "top-p:0.5")
    assert waits.our_waits <= ON_THE_HOST_PER_IMAGE.get(method, 2), dict(+waits.waits_at)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [121, "iqr"])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_waits_no_more_than_an_image(
    demo: tuple[Any, Any], stock: dict[int, int], method: str, budget: Any
) -> None:
    """Sixteen pictures with sixteen questions, and no more calls than one may add; some work image by image."""
    if budget == "iqr" and method not in FREE:
        pytest.skip("needs a fixed budget")
    waits = counted(demo, method, 16, budget)
    limit = ON_THE_HOST.get(method, 1) if budget == 121 else ON_THE_HOST_PER_IMAGE.get(method, 2)
    assert waits.our_waits <= limit, dict(+waits.waits_at)
    if budget == 121 and method not in IMAGE_BY_IMAGE:
        assert waits.our_calls - stock[16] <= ADDED[method]

"""What choosing adds to a call on a GPU: calls of an attached model beside the same tokens fed by hand, in turn."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.steps import Run
from benchmarks.gpu.work_list import ADDED_METHODS

_ROUNDS = 12


def added(run: Run) -> None:
    """7B at 121 tokens: the time to the first token of each method, less that of evenly spaced patches by hand."""
    import trimkit
    from trimkit.bench.shapes import SHAPES
    from trimkit.bench.stats import orders, spread
    from trimkit.bench.subject import RandomModel

    device = torch.device(run.device)
    shape, kept = SHAPES["small" if run.dry else "llava-1.5-7b"], 21 if run.dry else 121
    subject = RandomModel(shape, 40, device, torch.float32 if run.dry else torch.bfloat16, 0)
    for batch in (1, 8) if not run.dry else (2,):
        if not run.fits(12, batch=batch):
            continue
        requests = [subject.request(batch, picture, 0, 1) for picture in range(2)]
        calls: dict[str, Callable[[Any], object]] = {"by hand": _by_hand(subject.model, kept)}
        arms: dict[str, Any] = {"by hand": contextlib.nullcontext()}
        for name in ADDED_METHODS:
            options: dict[str, Any] = {} if name == "random" else {"aggregate": "none"}
            how = {"scorer": subject.scorer, "cache_images": 0, "method": name, "budget": kept, **options}
            arms[name] = trimkit.reduce(subject.model, subject.processor, **how)
            calls[name] = _attached(subject.model)
        names = list(calls)
        times: dict[str, list[float]] = {name: [] for name in names}
        for number, order in enumerate(orders(len(names), 2 if run.dry else _ROUNDS + 2)):
            for which in order:
                with arms[names[which]]:
                    seconds = _timed(calls[names[which]], requests[number % 2], device)
                if number >= (0 if run.dry else 2):
                    times[names[which]].append(seconds)
        for name in names:
            beyond = [mine - its for mine, its in zip(times[name], times["by hand"], strict=True)]
            row = {"first_token_s": spread(times[name]), "added_s": spread(beyond)}
            run.write(batch=batch, kept=kept, method=name, text_tower="warm", **row)
        if run.fits(10, batch=batch, method="driver calls"):
            for name in names:
                with arms[name]:
                    run.write(batch=batch, method=name, driver_calls=_driver_calls(calls[name], requests[0]))


def _driver_calls(call: Callable[[Any], object], request: Any) -> dict[str, int]:
    """How often a call uses the GPU's driver, by function: launches, copies, waits."""
    from torch.profiler import ProfilerActivity, profile

    cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU, *cuda]) as seen:
        call(request)
    counts = {event.key: int(event.count) for event in seen.key_averages()}
    return {name: count for name, count in sorted(counts.items()) if name.startswith(("cuda", "cu", "Memcpy"))}


def _attached(model: Any) -> Callable[[Any], object]:
    def call(request: Any) -> object:
        return model.generate(**request.inputs, max_new_tokens=1, do_sample=False, query=request.query)

    return call


def _by_hand(model: Any, kept: int) -> Callable[[Any], object]:
    """The tower over all patches, then ``kept`` of them through projector and language model, with no line of trimkit's."""

    def call(request: Any) -> object:
        ids = request.inputs["input_ids"]
        inner = model.model
        hidden = inner.vision_tower(request.inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
        step = hidden.shape[1] / kept
        places = torch.tensor([int(step * number) for number in range(kept)]).to(ids.device, non_blocking=True)
        tokens = inner.multi_modal_projector(hidden.index_select(1, places))
        words = model.get_input_embeddings()
        embeddings = torch.cat([words(ids[:, :4]), tokens.to(words.weight.dtype), words(ids[:, -36:])], dim=1)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=ids.device)
        return model.generate(inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=1, do_sample=False)

    return call


def _timed(call: Callable[[Any], object], request: Any, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    with torch.no_grad():
        call(request)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def kernels(run: Run) -> None:
    """The greedy loops in torch, as a CUDA graph and as a Triton kernel: seconds, and whether they choose as on the CPU."""
    device = torch.device(run.device)
    cells = [(24, 1), (24, 8), (53, 1), (53, 8)] if not run.dry else [(6, 2)]  # a side of 53 is 2,809 patches
    for side, images in cells:
        for loop in ("relevant_and_new", "largest_volume"):
            if run.fits(8, side=side, images=images, loop=loop):
                _kernel(run, side, images, loop, device)


def _kernel(run: Run, side: int, images: int, loop: str, device: torch.device) -> None:
    from benchmarks.bench_choosing import patches
    from trimkit.core import greedy

    batch = patches("smooth", images, 0, side, 64 if run.dry else 1024)
    kept = 9 if run.dry else 121 if side == 24 else 320
    worth = batch.relevance.sigmoid() + 1e-3  # type: ignore[union-attr]
    total = [side * side] * images

    def choose(where: torch.device) -> Callable[[], torch.Tensor]:
        given = worth.to(where), batch.features.to(where)
        return lambda: getattr(greedy, loop)(*given, [kept] * images, total)

    expected = choose(torch.device("cpu"))()
    forms = {"kernel": choose(device), "torch": choose(device)}
    if device.type == "cuda":
        forms["graph"] = _graph(loop, worth.to(device), batch.features.to(device), kept)
    for form, call in forms.items():
        allowed = set(greedy.KERNELS_ON)
        if form == "torch":
            greedy.KERNELS_ON.clear()
        try:
            start = time.perf_counter()
            same = int((call().cpu() == expected).all(dim=1).sum())
            first = time.perf_counter() - start
            times = [_timed(lambda _, call=call: call(), None, device) for _ in range(5 if form == "torch" else 20)]  # type: ignore[misc]
        finally:
            greedy.KERNELS_ON.update(allowed)
        row = {"loop": loop, "tokens": side * side, "kept": kept, "images": images, "form": form}
        run.write(
            **row, images_as_on_cpu=same, first_call_s=first, median_s=statistics.median(times), least_s=min(times)
        )


def _graph(loop: str, worth: torch.Tensor, features: torch.Tensor, kept: int) -> Callable[[], torch.Tensor]:
    """The plain loop captured once; a call replays it."""
    from trimkit.core import _greedy_device

    relevant = torch.full((len(worth),), kept, device=worth.device)
    arguments: tuple[Any, ...] = (kept, relevant, 1.0) if loop == "relevant_and_new" else (kept,)

    def plain() -> torch.Tensor:
        return getattr(_greedy_device, loop)(worth, features, *arguments, torch.float64)  # type: ignore[no-any-return]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        plain()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = getattr(_greedy_device, loop)(worth, features, *arguments, torch.float64)

    def replay(*_read_by_the_graph: torch.Tensor) -> torch.Tensor:
        graph.replay()
        return out  # type: ignore[no-any-return]

    return partial(replay, worth, features, relevant)

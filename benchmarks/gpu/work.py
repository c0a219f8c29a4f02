"""What each step of ``python -m benchmarks.gpu`` does."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.blocks import ROOT
from benchmarks.gpu.steps import Run
from benchmarks.gpu.work_list import CLAIM_RUNS, METHODS, SHAPE_RUNS


def tests(run: Run) -> None:
    """``pytest -m gpu`` on the files that have such tests."""
    files = [
        str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if _has_gpu_tests(path.read_text("utf-8"))
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    if run.dry:  # they are skipped without a GPU; that they can be collected is seen by the test suite
        run.write(files=len(files), said="not run in a dry run")
        return
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    tail = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    failed = [line[:300] for line in tail if line.startswith(("FAILED", "ERROR"))]
    run.write(pytest_exit=done.returncode, files=len(files), said=tail[-1] if tail else "", failed=failed)
    if done.returncode:
        print(done.stdout[-20_000:])
        raise SystemExit(f"pytest -m gpu: {tail[-1] if tail else 'said nothing'}")


def _has_gpu_tests(text: str) -> bool:
    return "pytest.mark." + "gpu" in text


def waits(run: Run) -> None:
    """How often the host waits for the device during a call, beyond a stock one; fixed budgets and those of each picture."""
    from trimkit.bench.arms import Arm
    from trimkit.bench.shapes import SHAPES
    from trimkit.bench.subject import RandomModel
    from trimkit.methods import get_method

    device = torch.device(run.device)
    subject = RandomModel(SHAPES["small"], 12, device, torch.float32 if run.dry else torch.bfloat16, 0)
    for batch in (1, 16) if not run.dry else (2,):
        stock = _waits(Arm(subject, None, batch, 1), device)
        run.write(method="none", batch=batch, waits=stock, counted_on=device.type)
        for name in METHODS if not run.dry else METHODS[:2]:
            for budget in ("21", "iqr") if name == "trim" else ("21",):
                found = _waits(Arm(subject, get_method(name, budget=budget), batch, 1), device)
                run.write(method=name, budget=budget, batch=batch, waits=found - stock, counted_on=device.type)


def _waits(arm: Any, device: torch.device) -> int:
    """Of one call, with its caches empty."""
    from trimkit.advice.calls import Waits

    request = arm.request()
    arm.call(request)
    arm.forget()
    if device.type == "cpu":
        with Waits() as counter:
            arm.call(request)
        return counter.count
    torch.cuda.synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            arm.call(request)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(each.message) for each in caught)


def choosing(run: Run) -> None:
    """Seconds of choosing alone, by method, tokens and batch; features and relevance are noise."""
    from trimkit.methods import get_method

    device = torch.device(run.device)
    cells = [
        (n, batch) for n in ((576, 2880) if not run.dry else (36,)) for batch in ((1, 8, 32) if not run.dry else (1, 2))
    ]
    for tokens, batch in cells:
        given = _noise(tokens, batch, device)
        for name in METHODS:
            if not run.fits(5, method=name, tokens=tokens, batch=batch):
                continue
            method = get_method(name, budget=round(0.21 * tokens) if tokens < 2000 else 320)
            times = _timed(lambda method=method, given=given: method.select(given), device, 3 if run.dry else 15)  # type: ignore[misc]
            run.write(method=name, tokens=tokens, batch=batch, kept=method.budget.to_plain(), select_s=_spread(times))


def _noise(tokens: int, batch: int, device: torch.device) -> Any:
    from trimkit.core.types import EncoderProfile, TokenBatch

    torch.manual_seed(0)
    side = int(tokens**0.5)
    grid = (side, side) if side * side == tokens else None
    features = torch.randn(batch, tokens, 1024, device=device)
    return TokenBatch(
        features=features,
        mask=torch.ones(batch, tokens, dtype=torch.bool, device=device),
        relevance=torch.randn(batch, tokens, device=device),
        profile=EncoderProfile(sign=-1),
        grids=(grid,) * batch,
        keys=tuple(str(row) for row in range(batch)),
        cls_attention=torch.rand(batch, tokens, device=device),
        tower_keys=torch.randn(batch, tokens, 64, device=device),
        signals={"projected": tuple(features)},
        lengths=(tokens,) * batch,
    )


def _timed(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    found = []
    with torch.no_grad():
        for number in range(repeats + 2):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= 2:
                found.append(time.perf_counter() - start)
    return found


def _spread(times: list[float]) -> Any:
    from trimkit.bench.stats import spread

    return spread(times)


def _bench(run: Run, **settings: Any) -> None:
    """One call of ``trimkit bench``, written as a part."""
    from trimkit.bench.run import Settings, bench

    common = {"device": run.device, "dtype": "float32" if run.dry else "bfloat16", "repeats": 1 if run.dry else 5}
    start = time.monotonic()
    try:
        found = bench(Settings(**{**common, **settings}))
    except torch.cuda.OutOfMemoryError:
        run.write(settings=_named(settings), status="not run", why="out of memory on this GPU")
        return
    finally:
        if run.device == "cuda":
            torch.cuda.empty_cache()
    run.write(settings=_named(settings), took_s=time.monotonic() - start, bench=found)


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def shapes(run: Run) -> None:
    """Full against reduced, eager: 7B at batch 1, 8 and 32, then LLaVA-NeXT, then long answers."""
    if run.dry:
        for shape, kept in (("small", "21"), ("small-next", "9")):
            _bench(
                run, random=shape, batch_sizes=(2,), new_tokens=(2,), budgets=(kept,), methods=("trim",), memory=10**9
            )
        return
    for shape, batch, new, methods, seconds in SHAPE_RUNS:
        kept = "320" if "next" in shape else "121"
        what: dict[str, Any] = {"random": shape, "batch_sizes": (batch,), "new_tokens": (new,), "budgets": (kept,)}
        if run.fits(seconds, settings=_named(what)):
            _bench(run, **what, methods=methods, memory=80_000_000_000, repeats=5 if new < 20 else 1)


def compiled(run: Run) -> None:
    """Prefill and decoding compiled (CUDA graphs), full and reduced; those that matter most first."""
    from trimkit.bench.shapes import SHAPES
    from trimkit.bench.subject import RandomModel

    device = torch.device(run.device)
    shape = SHAPES["small" if run.dry else "llava-1.5-7b"]
    subject = RandomModel(shape, 40, device, torch.float32 if run.dry else torch.bfloat16, 0)
    subject.model.generation_config.eos_token_id = None
    for batch in (8, 1, 32) if not run.dry else (2,):
        for kept in (round(0.21 * shape.image_tokens), shape.image_tokens):
            what = {"batch": batch, "image_tokens": kept}
            if run.fits(30, **what):
                _compiled(run, subject, shape, what)


def _compiled(run: Run, subject: Any, shape: Any, what: dict[str, int]) -> None:
    """Seconds of prefill and of a decoding step, eager and compiled; with CUDA graphs, or without where they fail."""
    import trimkit

    batch, kept = what["batch"], what["image_tokens"]
    whole = kept == shape.image_tokens
    method: dict[str, Any] = {"method": "none"} if whole else {"method": "random", "budget": kept}
    new, bucket = (3 if run.dry else 17), kept + 40
    request = subject.request(batch, 0, 0, new)
    options: dict[str, Any] = {"max_new_tokens": new, "do_sample": False}
    if request.query is not None and not whole:
        options["query"] = request.query
    found: dict[str, Any] = {"bucket": bucket, "new_tokens": new}
    with trimkit.reduce(subject.model, subject.processor, scorer=subject.scorer, buckets=(bucket,), **method) as trim:
        found["eager"] = _passes(run, subject.model, lambda: subject.model.generate(**request.inputs, **options))
        for mode in (None, "default"):
            torch.compiler.reset()
            start = time.monotonic()
            try:
                with trim.compiled(max_new_tokens=new, backend="eager" if run.dry else "inductor", mode=mode) as fast:
                    fast.generate(**request.inputs, **options)
                    found |= {"mode": mode, "compile_s": time.monotonic() - start}
                    found["compiled"] = _passes(run, subject.model, lambda: fast.generate(**request.inputs, **options))
            except Exception as error:
                found[f"failed_{mode}"] = f"{type(error).__name__}: {error}"[:600]
                continue
            break
    run.write(**what, **found)


def _passes(run: Run, model: Any, call: Callable[[], object]) -> dict[str, Any]:
    """The language model's first pass, the others, and the whole call; medians."""
    decoder, device = model.get_decoder(), model.device
    at: list[float] = []

    def note(*_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        at.append(time.perf_counter())

    first, steps, wholes = [], [], []
    for number in range(3 if run.dry else 6):
        at.clear()
        hooks = [decoder.register_forward_pre_hook(note), decoder.register_forward_hook(note)]
        start = time.perf_counter()
        try:
            call()
        finally:
            for hook in hooks:
                hook.remove()
        if number:  # the first may still capture a graph
            spans = [end - begin for begin, end in zip(at[::2], at[1::2], strict=True)]
            first.append(spans[0])
            steps.append(statistics.median(spans[1:]))
            wholes.append(at[-1] - start)
    return {"prefill_s": _spread(first), "step_s": _spread(steps), "whole_s": _spread(wholes)}


def claim(run: Run) -> None:
    """The paper's claim: 67 % less time and 30 % less memory, at the batches where they can be."""
    for name, rows, new, seconds in CLAIM_RUNS if not run.dry else (("small", 2, 2, 0),):
        what: dict[str, Any] = {"random": name, "batch_sizes": (rows,), "new_tokens": (new,)}
        if run.fits(seconds, settings=_named(what)):
            _bench(run, **what, methods=("trim",), budgets=("21" if run.dry else "121",), repeats=2 if rows > 8 else 5)

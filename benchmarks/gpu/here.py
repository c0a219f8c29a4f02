"""What ``trimkit advise --device here`` finds on the GPU, and what a kernel costs within a model's layers."""

from __future__ import annotations

import torch

from benchmarks.gpu.steps import Run

WAY = 2
"""Of measuring: the first took launches for bandwidth, since what it timed on a GPU was as short as they are."""


def here(run: Run) -> None:
    """The device's figures, by which ratios of the other steps are predicted."""
    from trimkit.advice.calls import calls_of
    from trimkit.advice.here import measured
    from trimkit.bench.arms import Arm
    from trimkit.bench.shapes import SHAPES
    from trimkit.bench.subject import RandomModel

    device = torch.device(run.device)
    if run.dry:
        run.write(device=None, why="ten seconds are too long for a dry run")
    else:
        run.write(device=measured(device).to_plain(), way=WAY)
    shape, new = SHAPES["small"], 4 if run.dry else 32
    arm = Arm(RandomModel(shape, 40, device, torch.float32 if run.dry else torch.bfloat16, 0), None, 1, new)
    request = arm.request()
    times = [arm.time(request).times["decode_per_token_s"] for _ in range(3 if run.dry else 6)]
    calls = calls_of("llava", None)
    kernels = shape.layers * calls.layer + calls.around + calls.step
    run.write(shape="small", decode_step_s=min(times), kernels=kernels, launch_s=min(times) / kernels)

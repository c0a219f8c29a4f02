"""``trimkit bench ask``: prefill time against FLOPs on random weights."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trimkit.cli import _common as common

NAME = "bench ask"


def command(
    shape: Annotated[
        str, typer.Option("--shape", help="'clip-l-336' (CLIP-L/14-336, 12-layer 1024-wide LM) or 'small'.")
    ] = "clip-l-336",
    keep: Annotated[int | None, typer.Option("--keep", help="Image tokens kept.", show_default="21 % of them")] = None,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Tokens of the prompt beside the picture.")] = 40,
    repeats: Annotated[int, typer.Option("--repeats", help="Timed runs of each call.")] = 9,
    seed: Annotated[int, typer.Option("--seed", help="Of weights and inputs.")] = 0,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Also write the JSON to this file.")] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Measure prefill time against FLOPs.

    A random-weight LLaVA answers with all image tokens and with the kept ones, in turn, on the CPU in float32.
    """
    from trimkit.bench.ask import bench

    target = None if output is None else common.check_json_output(output)
    with common.quiet(), common.progress("runs", 2 * repeats) as advance:
        result = bench(shape, keep=keep, text_tokens=text_tokens, repeats=repeats, seed=seed, advance=advance)
    if target is not None:
        common.write_json(target, result)
    if as_json:
        common.print_json(result)
        return
    print(f"{result['image_tokens_full']} -> {result['image_tokens_kept']} image tokens, {text_tokens} text tokens")
    for part, about in (("prefill", "language model alone"), ("whole", "vision, question, selection, prefill")):
        print(f"{part} ({about})")
        _print(result[part])


def _print(part: dict[str, Any]) -> None:
    for arm in ("full", "reduced"):
        spread = part["seconds"][arm]
        quartiles = f"{spread['q1']:.4f} to {spread['q3']:.4f}"
        print(f"  {arm:<8} {spread['median']:.4f} s ({quartiles})  {part['flops'][arm] / 1e9:.2f} GFLOPs")
    quotient = part["time_ratio_over_flop_ratio"]
    print(f"  time x {part['time_ratio']:.3f}, FLOPs x {part['flop_ratio']:.3f}: quotient {quotient:.2f}")

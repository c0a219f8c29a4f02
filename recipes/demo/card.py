"""Writes the model card from the evaluation's JSON, so that its numbers are never typed by hand."""

from __future__ import annotations

import json
from typing import Any

from recipes.demo.evaluate import RESULT, table
from recipes.demo.shapes import LM_LAYERS, LM_WIDTH, MODEL_DIR, VISION_LAYERS, VISION_WIDTH
from trimkit.demo.world import COLOURS, NAMES, WORDS

CARD = """# The embedded demo model

A stock `LlavaForConditionalGeneration` and the stock `CLIPModel` its vision tower comes from, small enough to ship in
a package and trained to really answer questions about one small synthetic world. It exists so that image-token
reduction can be tried, tested and measured on any machine with no download. **Numbers on it say nothing about
LLaVA-7B or any other model.**

## What it can do
Pictures of 336 x 336 pixels rendered by `trimkit.demo`: 6 to 12 emoji objects out of {names} kinds on varied
backgrounds, some with a disc of one of {colours} colours behind them, sometimes a sign with one of {words} short
words. Questions in English, answered in one word: existence, the colour of a disc (or what is on it), counting to
four, left/right/above/below, reading the sign, multiple choice A to D, which of two things is nearer a third, and the
cell of a 4 x 4 grid that a thing is in. Less reliably: pages (tables, receipts and charts of numbers), and all discs
together (how many, which colour is commonest).

## What it cannot do
Anything else. Photographs, drawings and other emoji sets give arbitrary answers; so do questions in other words than
those of `trimkit.demo`, counts above four, several signs, two pictures at once and more than three turns. It has no
world knowledge and no safety training. {pooled}

## Accuracy
{n} questions on held-out scenes, seed {seed}, greedy stock `generate`, float32 on CPU; 95 % Wilson intervals. TRIM:
profile {profile}, softmax, IQR rule per image, mean of the dropped features as one more token, the whole question as
the query. Random: as many patches, drawn at random, same extra token. Full data:
`benchmarks/results/demo_model.json`.

{table}

Answers kept by TRIM, as a share of the accuracy with all tokens: {shares}.
{weak}

## How it was made
See `recipes/demo`: hours on two CPU cores, then eight minutes on an H100; no pretrained weights and no data but the
generator's. Tower: {vlayers} layers, width {vwidth}, patch 14, 576 patches; trained on patch-to-name alignment with a
background class, on the relevance of whole questions to the patches they are about, and on helper heads (colour,
count, centre, place, the numbers and words of pages) that are dropped. As in LLaVA-1.5 the language model reads
`hidden_states[-2]`, so the last layer is never used. Language model: Llama, {llayers} layers, width {lwidth}, tied
embeddings; the tower is frozen, projector and language model are trained together, with helper heads and attention
targets that are dropped. **It was trained on full and on TRIM-reduced sequences mixed**, as the paper fine-tunes with
TRIM on; a model that never saw reduced sequences would lose more. Conversations of up to three turns were among them.
Training scenes and evaluation scenes come from disjoint generator namespaces (`items.py`): no seed you choose can hit
a training scene. Weights are stored in fp16 and load in float32.

## Licence
Apache-2.0. The emoji pictures are from Noto Color Emoji (Apache-2.0); the sign's letters are drawn with Pillow's
default font.
"""

POOLED = "CLIP's pooled image embedding is untrained (only patches were aligned with texts): do not use it for image retrieval."


def card(report: dict[str, Any]) -> str:
    shares = ", ".join(
        f"{kind.replace('_', ' ')} {100 * share:.1f} %" for kind, share in report["trim_over_none"].items()
    )
    return CARD.format(
        names=len(NAMES),
        colours=len(COLOURS),
        words=len(WORDS),
        pooled=POOLED,
        n=report["config"]["n"],
        seed=report["config"]["seed"],
        profile=f"`{json.dumps(report['config']['profile'])}`",
        table=table(report),
        shares=shares,
        weak=weak(report),
        vlayers=VISION_LAYERS,
        vwidth=VISION_WIDTH,
        llayers=LM_LAYERS,
        lwidth=LM_WIDTH,
    )


def weak(report: dict[str, Any]) -> str:
    """One sentence that names the types of question this model is bad at."""
    full = report["results"]["none"]
    below = [kind.replace("_", " ") for kind, found in full.items() if kind != "overall" and found["accuracy"] < 0.85]
    told = f"Not counted as learned, below 85 % even with all tokens: {', '.join(below)}."
    return told if below else "No type is below 85 %."


def main() -> None:
    report = json.loads(RESULT.read_text(encoding="utf-8"))
    (MODEL_DIR / "README.md").write_text(card(report), encoding="utf-8")


if __name__ == "__main__":
    main()

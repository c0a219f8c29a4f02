"""The model card of a fitted scorer: what it was fitted on, how, and what the guard found."""

from __future__ import annotations

from typing import Any

__all__ = ["model_card"]


def model_card(told: dict[str, Any]) -> str:
    """Markdown from what ``Fitting.told`` holds."""
    settings = ", ".join(f"{name} {value}" for name, value in told["settings"].items())
    return "\n".join(
        [
            *_HEAD,
            f"It ranks the image tokens of one model, `{told['model']}`, by their relevance to a question. `trimkit fit` has",
            "distilled it from that model without labels; another model is refused.",
            *_USE,
            *_data(told["data"]),
            *_comparison(told["guard"]),
            "## Fit",
            "",
            f"Target: {told['target']}; temperature {told['temperature']:g}; {told['parameters']:,} parameters,",
            f"{told['parameters_share']:.2%} of the vision tower's. Settings: {settings}.",
            *_curves(told["curves"]),
            "The scorer sees the pictures' features and the question, and no answer.",
            "",
        ]
    )


_HEAD = ("---", "library_name: trimkit", "tags: [trimkit, token-reduction]", "---", "", "# A fitted scorer", "")
_USE = (
    "",
    "```python",
    'trimkit.reduce(model, processor, method="focus", budget=0.11, scorer="path/of/this/folder")',
    "```",
    "",
)


def _data(data: dict[str, Any]) -> list[str]:
    return [
        "## Data",
        "",
        f"{data['pictures']} pictures, {data['pairs']} pairs of picture and question ({data['questions']}):",
        f"{data['train']} to fit, {data['valid']} for early stopping and the choice of target, {data['guard']} for the",
        "comparison below. No answer was given: the model answered itself.",
        "",
    ]


def _comparison(guard: dict[str, Any]) -> list[str]:
    low, high = guard["ci95"]
    verdict = "better, with 95% confidence" if guard["better"] else "not better with 95% confidence"
    far, same = guard["divergence_by_share"], guard["agreement_by_share"]
    return [
        "## Comparison on held-out pictures",
        "",
        f"`focus` with this scorer against `focus` with {guard['against']}: mean divergence",
        f"{guard['difference']:+.4f} nats (95% interval {low:+.4f} to {high:+.4f}, {guard['pictures']} pictures):",
        f"{verdict}.",
        "",
        "| tokens kept | divergence | without | same answers | without |",
        "|---|---|---|---|---|",
        *(
            f"| {float(key):.1%} | {far['fitted'][key]:.4f} | {value:.4f} | {same[key]['fitted']:.1%} | "
            f"{same[key]['baseline']:.1%} |"
            for key, value in far["baseline"].items()
        ),
        "",
    ]


def _curves(curves: dict[str, list[dict[str, float]]]) -> list[str]:
    rows = [
        f"| {target} | {point['step']:.0f} | {point.get('loss', float('nan')):.4f} | {point['held_out']:.4f} |"
        for target, points in curves.items()
        for point in points
    ]
    return ["", "| target | step | loss | held out |", "|---|---|---|---|", *rows, ""]

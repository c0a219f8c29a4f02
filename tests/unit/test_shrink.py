"""Where every column of a shrunk batch comes from."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from trimkit import InputError, Selection
from trimkit.core.prompt_columns import rows_of_counts
from trimkit.core.prompt_layout import plan_prompt

IMAGE = 9


def _selection(kept: list[int], total: int, aggregated: bool) -> Selection:
    return Selection(indices=torch.tensor(kept, dtype=torch.int64), total=total, aggregated=aggregated)


@pytest.mark.parametrize(
    ("kept", "aggregated", "columns"),
    [
        ([0, 1, 2, 3], False, [0, 1, 2, 3, 4, 5]),
        ([1, 3], False, [0, 2, 4, 5]),
        (
            [1, 3],
            True,
            [0, 2, 4, 3, 5],
        ),  # the aggregated token behind the last kept one, in the middle dropped one's place
        ([], True, [0, 3, 5]),
        ([0, 2, 3], True, [0, 1, 3, 4, 2, 5]),  # as many tokens as before, in another order
    ],
)
def test_columns(kept: list[int], aggregated: bool, columns: list[int]) -> None:
    ids = torch.tensor([[1, IMAGE, IMAGE, IMAGE, IMAGE, 2]])
    plan = plan_prompt(ids, None, IMAGE, [_selection(kept, 4, aggregated)], "left")
    assert plan.sources.tolist() == [columns]
    assert plan.identity == (columns == list(range(6)))


def test_text_between_the_pieces_of_an_image_stays_in_its_place() -> None:
    ids = torch.tensor([[1, IMAGE, IMAGE, 5, IMAGE, IMAGE, 6]])
    plan = plan_prompt(ids, None, IMAGE, [_selection([1], 4, True)], "left")
    assert plan.sources.tolist() == [[0, 2, 4, 3, 6]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_stripped_and_made_anew(side: str) -> None:
    ids = torch.tensor([[0, 0, 1, IMAGE, IMAGE, 2], [1, IMAGE, IMAGE, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    chosen = [_selection([0], 2, False), _selection([1], 2, False)]
    plan = plan_prompt(ids, mask, IMAGE, chosen, side)  # type: ignore[arg-type]
    short, whole = [2, 3, 5], [0, 2, 3, 4, 5]
    padded = [-1, -1, *short] if side == "left" else [*short, -1, -1]
    assert plan.sources.tolist() == [padded, whole]
    out = plan.apply({"input_ids": ids, "attention_mask": mask, "labels": ids}, pad_token_id=7)
    assert out["input_ids"][0].tolist() == [7 if c < 0 else int(ids[0, c]) for c in padded]
    assert out["attention_mask"][0].tolist() == [int(c >= 0) for c in padded]
    assert out["labels"][0].tolist() == [-100 if c < 0 else int(ids[0, c]) for c in padded]


@pytest.mark.parametrize("side", ["left", "right"])
def test_spread_logits_stand_where_labels_look_for_them(side: str) -> None:
    """A text column has its own; the last placeholder of an image, and all before it, those in front of the next text."""
    ids = torch.tensor([[0, 1, IMAGE, IMAGE, IMAGE, IMAGE, 2, 3], [1, IMAGE, IMAGE, 5, IMAGE, IMAGE, 6, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 0]])
    chosen = [_selection([1, 3], 4, True), _selection([1], 4, True)]
    plan = plan_prompt(ids, mask, IMAGE, chosen, side)  # type: ignore[arg-type]
    assert [[c for c in row if c >= 0] for row in plan.sources.tolist()] == [[1, 3, 5, 4, 6, 7], [0, 2, 4, 3, 6]]
    logits = torch.arange(6.0).expand(2, 6).unsqueeze(-1)  # a column's logits are its number
    spread = plan.spread(logits, ids == IMAGE).squeeze(-1).tolist()
    late = int(side == "left")  # one column of padding in front of the shorter row
    assert spread[0][1:] == [0, 3, 3, 3, 3, 4, 5]
    assert spread[1][:7] == [0 + late, 2 + late, 2 + late, 3 + late, 3 + late, 3 + late, 4 + late]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("seed", range(20))
def test_what_the_host_knows_is_what_a_gather_gives(side: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows, masks, chosen = [], [], []
    for _ in range(3):
        row: list[int] = [1] * int(draw.integers(0, 3))
        for _ in range(int(draw.integers(0, 3))):
            total = int(draw.integers(1, 6))
            kept = sorted(draw.choice(total, int(draw.integers(0, total + 1)), replace=False).tolist())
            joined = bool(draw.integers(2)) and len(kept) < total
            order = torch.tensor(draw.permutation(len(kept))) if draw.integers(2) else None
            chosen.append(
                replace(_selection(kept, total, joined), order=order, class_token=joined and len(kept) + 1 < total)
            )
            row += [IMAGE] * total + [2] * int(draw.integers(0, 2))
        rows.append([*row, 3])
        masks.append([int(draw.integers(4) > 0 or token == IMAGE) for token in rows[-1]])
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + row for row in masks])
    plan = plan_prompt(ids, mask, IMAGE, chosen, side, multiple=int(draw.integers(1, 5)))  # type: ignore[arg-type]
    plan = plan.padded_to(plan.length + int(draw.integers(3)), side)  # type: ignore[arg-type]
    given = {"input_ids": ids, "attention_mask": mask}
    assert plan.identity or plan.known is not None
    by_host, by_device = plan.apply(given, 7, given), plan.apply(given, 7)
    for name, value in by_device.items():
        assert by_host[name].tolist() == value.tolist()
        assert by_host[name].dtype == value.dtype
    there = ids == IMAGE
    assert plan.places(there, ids.device).tolist() == plan.take(there, 0).tolist()
    if not plan.identity:
        without = plan.apply({"input_ids": ids}, 7, {"input_ids": ids})["attention_mask"]
        assert without.tolist() == plan.take(torch.ones_like(ids), 0).tolist()


def test_a_layout_can_be_pickled() -> None:
    ids = torch.tensor([[1, IMAGE, IMAGE, 2]])
    plan = plan_prompt(ids, None, IMAGE, [_selection([1], 2, False)], "left")
    copied = pickle.loads(pickle.dumps(plan))
    assert copied.sources.tolist() == plan.sources.tolist() == [[0, 2, 3]]
    assert copied.apply({"input_ids": ids}, 7)["input_ids"].tolist() == [[1, IMAGE, 2]]


def test_where_tokens_of_an_image_differ_it_matters_which_stay() -> None:
    ids, mask = torch.tensor([[1, IMAGE, IMAGE, IMAGE, 2]]), torch.tensor([[1, 1, 0, 1, 1]])
    plan = plan_prompt(ids, mask, IMAGE, [_selection([1], 3, False)], "left")
    given = {"input_ids": ids, "attention_mask": mask}
    assert plan.apply(given, 7, given)["attention_mask"].tolist() == [[1, 0, 1]]
    between = torch.tensor([[1, IMAGE, 5, IMAGE, 2]])
    plan = plan_prompt(between, None, IMAGE, [_selection([1], 2, False)], "left")
    assert plan.known is None
    assert plan.apply({"input_ids": between}, 7, {"input_ids": between})["input_ids"].tolist() == [[1, 5, IMAGE, 2]]
    assert plan.places(between == IMAGE, ids.device).tolist() == [[False, False, True, False]]


def test_images_find_their_rows() -> None:
    counts = [0, 4, 2]  # placeholders of each row
    assert rows_of_counts(counts, [3, 1, 2], "image") == [1, 1, 2]
    assert rows_of_counts([0], [], "image") == []
    for totals in ([3, 1], [4, 2, 1], [2, 3, 1], [6]):
        with pytest.raises(InputError, match="one image placeholder per image"):
            rows_of_counts(counts, totals, "image")

"""Where every column of a shrunk batch comes from."""

from __future__ import annotations

import pytest
import torch

from trimkit import InputError, Selection
from trimkit.core.prompt_layout import image_rows, plan_prompt

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


def test_images_find_their_rows() -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5], [IMAGE, IMAGE, IMAGE, 4, IMAGE], [1, 2, 3, IMAGE, IMAGE]])
    assert image_rows(ids, IMAGE, [3, 1, 2]) == [1, 1, 2]
    assert image_rows(ids[:1], IMAGE, []) == []
    for totals in ([3, 1], [4, 2, 1], [2, 3, 1], [6]):
        with pytest.raises(InputError, match="one image placeholder per image"):
            image_rows(ids, IMAGE, totals)

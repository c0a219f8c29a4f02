"""Focus: relevance as far as the map has a peak, coverage for the rest, no repetition, and the greedy choice it claims."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimkit.core import transfer, worth
from trimkit.core.greedy import relevant_and_new
from trimkit.core.text_lines import MOST_ALIKE, alike, along_lines, few_alike
from trimkit.core.types import EncoderProfile, ImageTokens, Selection, TokenBatch
from trimkit.core.weighing import weigh
from trimkit.core.worth import MOST_COVERAGE, is_page, two_views
from trimkit.errors import ConfigError
from trimkit.methods import get_method
from trimkit.methods.focus import Focus
from trimkit.pipeline.selecting import make_batch


def select(features: torch.Tensor, relevance: torch.Tensor, sign: int = 1, **options: Any) -> Selection:
    batch = make_batch([ImageTokens(features)], [relevance], ["what?"], EncoderProfile(sign=sign))
    return get_method("focus", compare="features", **options).select(batch)[0]


def pick(
    worth: torch.Tensor, features: torch.Tensor, count: int, redundancy: float = 1.0, relevant: int | None = None
) -> torch.Tensor:
    """The choice of one image, in its order."""
    weighed = None if relevant is None else torch.tensor([relevant])
    return relevant_and_new(worth[None], features[None], [count], [len(worth)], weighed, redundancy)[0]


def vagueness(relevance: torch.Tensor) -> float:
    return float(worth.vagueness(relevance))


def picture(background: int = 12) -> torch.Tensor:
    """Patches of a background, 6 of one object, 6 of another, each one's much alike."""
    generator = torch.Generator().manual_seed(1)
    base = torch.eye(3, 16).repeat_interleave(torch.tensor([background, 6, 6]), dim=0)
    return base + 0.25 * torch.randn(background + 12, 16, generator=generator)


def test_vagueness_is_one_for_noise_and_for_nothing_and_falls_with_the_peak() -> None:
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert vagueness(noise) == pytest.approx(1.0, abs=0.05)
    assert vagueness(torch.zeros(50)) == vagueness(torch.ones(1)) == 1.0
    assert vagueness(torch.full((60,), 0.1, dtype=torch.float64)) == 1.0
    assert vagueness(torch.linspace(0, 1, 100)) == 1.0  # no tail at all
    assert vagueness(torch.eye(50)[3]) == 0.0
    higher = [vagueness(noise + peak * (torch.arange(4000) < 200)) for peak in (2.0, 4.0, 8.0)]
    assert 0.9 > higher[0] > higher[1] > higher[2] > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quartiles_are_those_of_torch_to_the_last_bit(dtype: torch.dtype) -> None:
    for total in [*range(1, 60), 100, 576, 2809]:
        relevance = torch.randn(2, total, generator=torch.Generator().manual_seed(total), dtype=dtype)
        low, middle, high = torch.quantile(relevance, torch.tensor([0.25, 0.5, 0.75], dtype=dtype), dim=-1)
        peak = relevance.topk(max(int(worth.PEAK * total), 1)).values.mean(dim=-1) - middle
        vague = (worth.NOISE * (high - low) / peak).clamp(max=1.0)
        flat = relevance.amax(dim=-1) == relevance.amin(dim=-1)
        expected = torch.where(flat | ~(peak > 0), 1.0, vague)
        assert torch.equal(worth.vagueness(relevance), expected)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_vagueness_does_not_depend_on_the_scale(scale: float) -> None:
    relevance = torch.randn(576, generator=torch.Generator().manual_seed(6), dtype=torch.float64).exp()
    assert vagueness(scale * relevance - 7) == pytest.approx(vagueness(relevance))


def test_a_peak_is_kept() -> None:
    relevance = torch.zeros(24)
    relevance[12:18] = 12.0
    kept = select(picture(), relevance, budget=7).indices.tolist()
    assert set(kept) == {12, 13, 14, 15, 16, 17}


def test_both_of_two_relevant_objects_are_seen() -> None:
    """One is more relevant throughout: TRIM gives it every place, focus does not."""
    relevance = torch.zeros(24)
    relevance[12:18], relevance[18:] = 8.0, 7.0
    few = {"budget": 6, "aggregate": "none", "coverage": 0.0}
    plain = select(picture(), relevance, redundancy=0.0, **few).indices
    assert plain.tolist() == list(range(12, 18))
    kept = set(select(picture(), relevance, **few).indices.tolist())
    assert kept & set(range(18, 24))
    assert kept & set(range(12, 18))
    assert not kept & set(range(12))


@pytest.mark.parametrize("level", [0.0, 0.1, -7.0])
def test_a_map_without_a_peak_is_covered(level: float) -> None:
    """Nothing stands out: every kind of patch is kept, however small its part of the picture is."""
    kept = select(picture(), torch.full((24,), level), budget=3, aggregate="none").indices
    assert sorted((kept >= 12).int().add((kept >= 18).int()).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("part", [0.2, 0.3, 0.45])
def test_a_thing_that_covers_much_of_the_picture_is_not_passed_over(part: float) -> None:
    """Beyond a quarter of the picture it looks vague; half of the places stay with it all the same."""
    generator = torch.Generator().manual_seed(9)
    of_it = torch.arange(200) < part * 200
    relevance = 0.3 * torch.randn(200, generator=generator) + 5.0 * of_it
    features = torch.eye(2, 64)[of_it.long()] + 0.25 * torch.randn(200, 64, generator=generator)
    kept = select(features, relevance, budget=40, aggregate="none").indices
    assert int((kept < part * 200).sum()) >= 20


def test_what_relevance_misses_is_covered() -> None:
    """A text tower that is sure of the wrong object does not take all places: one is left for the other."""
    relevance = torch.randn(112, generator=torch.Generator().manual_seed(7))
    relevance[100:106] += 4.0
    relevance[106:] -= 9.0

    def of_each(coverage: Any) -> list[int]:
        kept = select(picture(100), relevance, budget=12, aggregate="none", coverage=coverage).indices
        return [int(((kept >= low) & (kept < low + 6)).sum()) for low in (100, 106)]

    assert of_each(0.0) == [6, 0]
    asked, other = of_each("auto")
    assert asked >= 5
    assert other >= 1


@pytest.mark.parametrize("coverage", ["auto", 0.0, 0.3, 1.0])
def test_coverage_is_a_share_of_the_places(coverage: Any) -> None:
    """The first places go by relevance x novelty, the others by novelty alone."""
    generator = torch.Generator().manual_seed(8)
    features, relevance = torch.randn(60, 32, generator=generator), torch.randn(60, generator=generator).exp()
    found = set(select(features, relevance, budget=20, aggregate="none", coverage=coverage).indices.tolist())
    c = min(vagueness(relevance) ** 2, MOST_COVERAGE) if coverage == "auto" else coverage
    assert coverage != "auto" or 0.1 < c < 0.5
    share = two_views(relevance.softmax(dim=0)[None].double(), relevance[None].double())[0]
    first = pick(share, features.double(), 20 - int(c * 20))
    rest = pick(torch.zeros_like(share).index_fill(0, first, 1.0), features.double(), 20, 0.0, len(first))
    assert set(first.tolist()) <= set(rest.tolist()) == found


def test_without_coverage_and_novelty_it_is_trim() -> None:
    generator = torch.Generator().manual_seed(2)
    features, relevance = torch.randn(40, 8, generator=generator), 3 * torch.randn(40, generator=generator)
    batch = make_batch([ImageTokens(features)], [relevance], ["what?"], EncoderProfile(sign=1))
    for budget in ("iqr", 9, 0.5):
        plain = get_method("focus", compare="features", coverage=0.0, redundancy=0.0, budget=budget).select(batch)[0]
        assert plain.indices.tolist() == get_method("trim", budget=budget).select(batch)[0].indices.tolist()


def test_the_sign_is_the_encoders() -> None:
    relevance = torch.linspace(-6, 6, 24)
    low, high = (
        select(picture(), relevance, sign=sign, budget=5, redundancy=0.0, coverage=0.0).indices for sign in (-1, 1)
    )
    assert int(low[0]) == 0
    assert int(high[-1]) == 23


@pytest.mark.parametrize("redundancy", [1.0, 0.5])
def test_the_choice_is_the_greedy_one(redundancy: float) -> None:
    """Novelty by projection (least squares), step by step, gives the same patches in the same order."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(30, 12, generator=generator, dtype=torch.float64)
    worth = torch.rand(30, generator=generator, dtype=torch.float64)
    unit = torch.nn.functional.normalize(features, dim=-1)
    kept: list[int] = []
    for _ in range(8):
        novelty = torch.ones(30, dtype=torch.float64)
        if kept:
            basis = torch.linalg.qr(unit[kept].T).Q
            novelty = 1 - (unit @ basis).square().sum(dim=1)
        gains = worth * novelty.clamp(min=0.0) ** redundancy
        gains[kept] = -1.0
        kept.append(int(gains.argmax()))
    assert pick(worth, features, 8, redundancy).tolist() == kept


@pytest.mark.parametrize("count", [1, 5, 29])
def test_more_than_the_rank_and_equal_patches(count: int) -> None:
    """Once nothing is new, worth decides; each patch is taken once."""
    features = torch.ones(30, 4)
    worth = torch.arange(30, dtype=torch.float64)
    found = pick(worth, features, count).tolist()
    assert found == [29, *range(28, 29 - count, -1)]
    features[3] = float("nan")
    assert len(set(pick(worth, features, count).tolist())) == count


@pytest.mark.parametrize("options", [{"coverage": 1.5}, {"coverage": -0.1}, {"coverage": "some"}, {"redundancy": -1.0}])
def test_what_is_no_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        get_method("focus", **options)


def test_the_default_keeps_a_ninth() -> None:
    assert Focus().budget.tokens(576) == 64


def page(rows: int = 12, columns: int = 12) -> torch.Tensor:
    """Features of a page: most patches are letters of their own, some are paper; hardly any is like another."""
    generator = torch.Generator().manual_seed(4)
    base = 0.4 * torch.randn(1, 24, generator=generator) + torch.randn(rows * columns, 24, generator=generator)
    cells = base.view(rows, columns, 24)
    cells[:, 1:] = 0.6 * cells[:, :-1] + 0.8 * cells[:, 1:]
    return cells.flatten(0, 1)


def on_grid(features: torch.Tensor, relevance: torch.Tensor, grid: Any = (12, 12), **options: Any) -> list[int]:
    batch = make_batch([ImageTokens(features, grid)], [relevance], ["what?"], EncoderProfile(sign=1))
    few = {"budget": 14, "aggregate": "none", "compare": "features"}
    return get_method("focus", **{**few, **options}).select(batch)[0].indices.tolist()


def vague_map() -> torch.Tensor:
    """Noise, and a bit more at the start of row 5."""
    relevance = torch.randn(144, generator=torch.Generator().manual_seed(11)).abs()
    relevance[4 * 12 : 7 * 12 : 12] += 2.0
    relevance[4 * 12 + 1 : 7 * 12 : 12] += 2.0
    return relevance


def test_a_page_is_told_from_a_scene() -> None:
    assert float(alike(page()[None])) <= MOST_ALIKE
    smooth = torch.eye(4, 24).repeat_interleave(36, dim=0)  # four large areas
    assert float(alike(smooth[None])) == pytest.approx(35 / 143)
    assert [float(alike(torch.ones(1, count, 8))) for count in (1, 2, 144)] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("count", [144, 576, 2880])
def test_likeness_has_no_scale_of_its_own(count: int) -> None:
    """A tower that holds everything close to one direction tells pages and scenes apart just as well; any number of patches."""
    generator = torch.Generator().manual_seed(count)
    common = torch.randn(1, 64, generator=generator)
    things = torch.randn(5, 64, generator=generator)[torch.arange(count) * 5 // count]
    scene = common + 0.3 * (things + 0.3 * torch.randn(count, 64, generator=generator))
    letters = common + 0.3 * torch.randn(count, 64, generator=generator)
    narrow = [common + 0.1 * (each - common) for each in (scene, letters)]
    for near, far in zip((scene, letters), narrow, strict=True):
        assert float(alike(near[None])) == pytest.approx(float(alike(far[None])), abs=0.02)
    assert float(alike(letters[None])) <= MOST_ALIKE < float(alike(scene[None]))


@pytest.mark.parametrize("grid", [(24, 24), (60, 40), (40, 60), (120, 20), (32, 32), (7, 113)])
def test_a_page_with_margins_is_one_whatever_its_grid(grid: tuple[int, int]) -> None:
    """Those patches that are looked at lie in all columns, not in the margins alone."""
    rows, columns = grid
    features = torch.randn(rows, columns, 32, generator=torch.Generator().manual_seed(3))
    features[:, : columns // 20 + 1], features[:, -(columns // 20) - 1 :] = 1.0, 1.0
    assert float(alike(features.flatten(0, 1)[None])) <= MOST_ALIKE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_patch_that_is_not_finite_makes_no_page_of_a_scene(value: float) -> None:
    smooth = torch.eye(4, 24).repeat_interleave(36, dim=0)
    smooth[17, 5] = value
    assert float(alike(smooth[None])) == pytest.approx(35 / 143, abs=0.01)


def test_qualities_below_zero_are_worth_the_least() -> None:
    """Of a method that is built on it."""

    class Mine(Focus):
        name = "mine"

        def qualities(self, batch: TokenBatch) -> torch.Tensor:
            return torch.tensor([[-5.0, -3.0, 1.0, 2.0]])

    batch = make_batch([ImageTokens(torch.eye(4, 8))], [torch.zeros(4)], ["what?"], EncoderProfile(sign=1))
    kept = get_method(Mine(budget=2, aggregate="none", compare="features")).select(batch)[0]  # type: ignore[arg-type]
    assert kept.indices.tolist() == [2, 3]


def test_on_a_page_lines_of_what_is_named_are_kept_and_where_they_cross() -> None:
    """The heads of row 5 and of column 8 are named; what is asked for stands where the two meet."""
    found = {"auto": [0, 0], "off": [0, 0]}
    for seed in range(20):
        relevance = torch.randn(144, generator=torch.Generator().manual_seed(seed)).abs()
        relevance[5 * 12], relevance[8] = 4.5, 4.5
        for lines, counts in found.items():
            kept = on_grid(page(), relevance, lines=lines)
            counts[0] += 5 * 12 + 8 in kept
            counts[1] += len([i for i in kept if i // 12 == 5 or i % 12 == 8])
    assert found["auto"][0] >= 18 > 4 > found["off"][0]
    assert found["auto"][1] > 2 * found["off"][1]


def test_worth_by_line_is_half_a_patchs_own_and_a_quarter_each_of_its_row_and_column() -> None:
    relevance = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0]])
    found = along_lines(relevance, (3, 3))[0].view(3, 3)
    weak = 0.5**4 / 4
    assert torch.allclose(found, torch.tensor([[0, 0, 0.25], [weak, weak, 0.25 + 0.25 + weak], [0.25, 0.25, 1.0]]))
    assert torch.equal(along_lines(torch.full((2, 9), 3.0), (3, 3)), torch.zeros(2, 9))
    assert torch.allclose(along_lines(7 * relevance - 3, (3, 3))[0].view(3, 3), found)


def test_worth_sees_peaks_and_the_rest() -> None:
    """By the score alone, patches beside a peak are worth nothing; by scaled relevance alone, a peak is hardly above others."""
    relevance = torch.tensor([[0.0, 10.0, 10.5, 20.0]], dtype=torch.float64)
    scores = relevance.softmax(dim=1)
    found = two_views(scores, relevance)[0]
    assert found[3] == 1.0
    assert found[:3].tolist() == pytest.approx([0.0, 0.0625, 0.2625**2], abs=1e-3)
    flat = torch.full((1, 6), 0.3)
    assert torch.equal(two_views(flat.softmax(dim=1), flat), torch.full((1, 6), 0.25))
    assert bool((two_views(torch.zeros(1, 6), flat) > 0).all())


def test_elsewhere_lines_are_not_looked_at() -> None:
    clear = torch.zeros(144)
    clear[30:33] = 12.0  # the map is not vague
    smooth = torch.eye(4, 24).repeat_interleave(36, dim=0)
    cases = [(page(), clear, (12, 12)), (page(), vague_map(), None), (smooth, vague_map(), (12, 12))]
    for features, relevance, grid in cases:
        assert on_grid(features, relevance, grid, lines="auto") == on_grid(features, relevance, grid, lines="off")


@pytest.mark.parametrize("device_way", [False, True])
def test_a_page_beside_pictures_of_other_sizes_is_chosen_as_alone(
    device_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device_way:  # all images in step, as on a GPU
        monkeypatch.setattr(transfer, "ONE_BY_ONE", frozenset())
    images = [ImageTokens(page(), (12, 12)), ImageTokens(torch.randn(200, 24), (10, 20)), ImageTokens(page()[:100])]
    maps = [vague_map(), torch.rand(200), torch.rand(100)]
    batch = make_batch(images, maps, ["what?"] * 3, EncoderProfile(sign=1))
    together = get_method("focus", budget=14, aggregate="none", compare="features").select(batch)
    assert together[0].indices.tolist() == on_grid(page(), vague_map(), lines="auto")
    assert [len(each.indices) for each in together] == [14, 14, 14]


def test_pages_are_told_in_a_batch_of_any_size() -> None:
    """As an exported graph needs it."""

    class Told(torch.nn.Module):
        def forward(self, features: torch.Tensor, vague: torch.Tensor) -> torch.Tensor:
            return is_page(features, vague)

    many = torch.export.Dim("many", min=1, max=64)
    one = torch.stack([page(), page()]), torch.ones(2)
    graph = torch.export.export(Told(), one, dynamic_shapes=({0: many}, {0: many})).module()
    assert graph(torch.stack([page()] * 5), torch.ones(5)).tolist() == [True] * 5


def test_quartiles_do_not_depend_on_where_they_were_first_needed() -> None:
    values = torch.randn(3, 43)
    with torch.inference_mode():
        worth.vagueness(values)
    worth.vagueness(values.requires_grad_()).sum().backward()
    assert values.grad is not None


def test_all_images_at_once_are_weighed_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages, scenes and pictures that are no grid, of several sizes, with peaks and without, padded with what is not theirs."""
    generator = torch.Generator().manual_seed(3)
    grids = [(12, 12), (24, 24), None, (5, 9), (1, 1), (24, 24)]
    totals = [200 if grid is None else grid[0] * grid[1] for grid in grids]
    signed = torch.randn(6, 576, generator=generator)
    features = torch.randn(6, 576, 24, generator=generator)
    features[1] = 0.1 * features[1] + features[1, torch.arange(576) % 3]
    features[0, 3], features[2, 5] = torch.nan, torch.inf
    signed[5, 100:110] += 15.0
    padding = torch.arange(576) >= torch.tensor(totals)[:, None]
    scores = signed.masked_fill(padding, -torch.inf).softmax(dim=1)
    counts = [max(total // 5, 1) for total in totals]
    for pages in ((features, grids), None):
        for coverage in (None, 0.0, 0.7, 1.0):
            asked = (scores, signed, counts, totals, pages, coverage)
            alone, of_alone = weigh(*asked)
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr(transfer, "ONE_BY_ONE", frozenset())
                together, of_all = weigh(*asked)
            assert torch.allclose(together, alone, rtol=1e-12, atol=1e-15)
            assert torch.equal(of_all, of_alone)
            assert (of_alone == torch.tensor(counts)).tolist()[0] == (
                (pages is not None and coverage in (None, 0.0)) or coverage == 0.0
            )


def test_few_patches_are_alike_as_the_median_says() -> None:
    """The way that looks at no more patches than it needs to, on pictures of all kinds, broken ones among them."""
    generator = torch.Generator().manual_seed(0)

    def below(most: int) -> int:
        return int(torch.randint(1, most, (1,), generator=generator))

    told = []
    for number in range(300):
        total, looks, width, noise = below(500), below(40), below(30) + 1, float(torch.rand(1, generator=generator))
        features = torch.randn(looks, width, generator=generator)[
            torch.randint(0, looks, (total,), generator=generator)
        ]
        features += noise * torch.randn(total, width, generator=generator)
        if number % 3 == 0:
            features[: below(4)] = (torch.nan, torch.inf, 0.0)[number % 9 // 3]
        if number % 10 == 1:  # all looks nearly one, where rounding is all that differs
            features = 1000.0 * torch.ones(width) + 10.0 ** -below(4) * features
        told.append(few_alike(features.half() if number % 20 == 1 else features))
        assert told[-1] == bool(alike((features.half() if number % 20 == 1 else features)[None])[0] <= MOST_ALIKE)
    assert 50 < sum(told) < 250

"""Methods that choose a set of tokens, image by image, where one token's worth depends on the others that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.greedy import gram, wide_dtype
from trimkit.core.greedy import kept as marks
from trimkit.core.transfer import one_by_one, upload
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._base import Method
from trimkit.methods._images import single
from trimkit.methods._kept import Kept

__all__ = [
    "ChoosingMethod",
    "Compared",
    "compared",
    "compared_rows",
    "cosines",
    "evenly",
    "marked",
    "signal",
    "trim_counts",
    "units",
    "wide_dtype",
]

Compared = Literal["projected", "features"]
"""What tokens are compared by: behind the projector, or as the family gives them."""


class ChoosingMethod(Method):
    """Base of methods that override ``choose`` (which tokens) and ``quality`` (what a token is worth alone).

    With a fixed budget the count is the budget's. ``iqr`` and ``top-p`` take their count from ``quality``, by the rule that
    every method has, and ``choose`` then fills it. Both see one image at a time and without padding, so that rounding, which
    could turn a greedy choice, does not depend on the batch.

    A method that should be fast on a GPU overrides ``qualities`` and ``choices`` instead, which see several images at once.

    Class attributes:
        lists_in_order: whether the language model gets tokens in the order in which ``choices`` lists them.
    """

    lists_in_order: ClassVar[bool] = False

    def quality(self, image: TokenBatch) -> Tensor:
        """``[N]`` scores of one image's tokens, not negative; ``image`` is a batch of one without padding."""
        return self.qualities(image)[0]

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        """``[count]`` int64 indices of one image, in any order.

        Args:
            image: a batch of one without padding, N tokens.
            scores: ``[N]``, its ``quality``.
            count: 1 to N - 1.
        """
        if type(self).choices is ChoosingMethod.choices:
            raise NotImplementedError
        chosen = self.choices(image, scores.unsqueeze(0), [count])[0]
        if chosen.dtype == torch.bool:
            return F.places(chosen, count)
        chosen = chosen if self.gives_the_count else chosen[chosen < len(scores)]
        return chosen if self.lists_in_order else chosen.sort().values

    def qualities(self, batch: TokenBatch) -> Tensor:
        """``[B, N]`` scores, not negative, of images of one length: there is no padding in ``batch``."""
        if type(self).quality is ChoosingMethod.quality:
            raise NotImplementedError
        return torch.stack([self.quality(single(batch, row)) for row in range(len(batch.keys))])

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        """``[B, N]`` bool, what is kept of images of any lengths; on padding, anything.

        Or ``[B, K]`` int64, K the largest count: the tokens of each image, listed, then N up to K. So a token can be given
        twice; where ``lists_in_order`` is set, the language model gets them in that order.

        Args:
            batch: B images.
            scores: ``[B, N]``, their qualities; 0 on padding.
            counts: 1 to N_i - 1 of each image.
        """
        keep = torch.zeros_like(batch.mask)
        for row, (total, count) in enumerate(zip(batch.totals, counts, strict=True)):
            keep[row].scatter_(0, self.choose(single(batch, row), scores[row, :total], count), True)
        return keep

    def scores(self, batch: TokenBatch) -> Tensor:
        totals = batch.totals
        qualities = self._batched("quality", "qualities")
        groups = {total: [row for row, each in enumerate(totals) if each == total] for total in totals if total}
        if list(groups) == [batch.mask.shape[1]] and 0 not in totals:
            return F.sanitize(qualities(batch.part(range(len(totals)), totals[0])).float())
        scores = torch.zeros(batch.mask.shape, dtype=torch.float32, device=batch.mask.device)
        for total, rows in groups.items():
            found = qualities(batch.part(rows, total)).float()
            scores[:, :total].index_copy_(0, upload(rows, scores.device), found)
        return F.sanitize(scores, batch.padding)

    def keep(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        return self._kept(scores, batch).keep

    def counts(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        """``[B]`` how many tokens stay."""
        return super().keep(scores, batch).sum(dim=1)

    def fixed_counts(self, totals: Sequence[int]) -> list[int] | None:
        fixed = self.budget.kind in ("ratio", "count") and type(self).counts is ChoosingMethod.counts
        return self._patch_counts(totals) if fixed else None

    @property
    def gives_the_count(self) -> bool:
        """Whether it keeps as many tokens as asked for, so that they need not be counted on the device.

        So it is of methods that see several images at once; what ``choose`` gives for one may hold a token twice, or lack one.
        """
        nearest = next(cls for cls in type(self).__mro__ if "choose" in vars(cls) or "choices" in vars(cls))
        return "choices" in vars(nearest)

    def _kept(self, scores: Tensor, batch: TokenBatch) -> Kept:
        if type(self).keep is not ChoosingMethod.keep:
            return Kept(self.keep(scores, batch))
        totals, counts = batch.totals, self.fixed_counts(batch.totals)
        counts = self.counts(scores, batch).tolist() if counts is None else counts
        choices, keep, held = self._batched("choose", "choices"), batch.mask, list(totals)
        listed: Tensor | None = None
        for rows in self._groups(batch, [row for row, total in enumerate(totals) if 0 < counts[row] < total]):
            some = batch.part(rows, max(totals[row] for row in rows), [totals[row] for row in rows])
            width, mine = some.mask.shape[1], [counts[row] for row in rows]
            for row in rows:
                held[row] = counts[row]
            at = None if len(rows) == len(totals) else upload(rows, scores.device)
            chosen = choices(some, (scores if at is None else scores.index_select(0, at))[:, :width], mine)
            if chosen.dtype != torch.bool:
                listed = _listed(batch if listed is None else listed, chosen, at, width)
                continue
            chosen = torch.nn.functional.pad(chosen, (0, keep.shape[1] - width))
            keep = chosen if at is None else keep.index_copy(0, at, chosen)
        if listed is not None:
            keep = marks(listed, keep.shape[1])
        exact = held if self.gives_the_count else None
        return Kept(keep if batch.padding is None else keep & batch.mask, exact, listed, self.lists_in_order)

    @staticmethod
    def _groups(batch: TokenBatch, rows: list[int]) -> list[list[int]]:
        """Rows that are chosen together: all on a GPU; images of one length on the CPU, where padding would change rounding."""
        totals = batch.totals
        if not rows or not one_by_one(batch.mask.device):
            return [rows] if rows else []
        return [[row for row in rows if totals[row] == total] for total in dict.fromkeys(totals[row] for row in rows)]

    def _batched(self, alone: str, together: str) -> Callable[..., Tensor]:
        """The method ``together``; that of the base, which calls ``alone``, where a subclass has overridden ``alone`` since."""
        nearest = next(cls for cls in type(self).__mro__ if alone in vars(cls) or together in vars(cls))
        owner = type(self) if together in vars(nearest) else ChoosingMethod
        return partial(getattr(owner, together), self)


def _listed(before: TokenBatch | Tensor, chosen: Tensor, at: Tensor | None, width: int) -> Tensor:
    """``[B, K]`` lists of all images with those of the rows ``at``, of images padded to ``width`` tokens.

    Args:
        before: lists so far; a batch where there are none yet: every token of each image.
        chosen: ``[R, K']``, ``width`` where a list has ended.
        at: ``[R]``; None are all.
    """
    if isinstance(before, TokenBatch):
        tokens = before.mask.shape[1]
        if at is None:
            return chosen if width == tokens else chosen.masked_fill(chosen == width, tokens)
        every = torch.arange(tokens, device=chosen.device).expand(before.mask.shape)
        before = every.masked_fill(~before.mask, tokens)
    tokens = before.shape[1]
    chosen = torch.nn.functional.pad(
        chosen.masked_fill(chosen == width, tokens), (0, tokens - chosen.shape[1]), value=tokens
    )
    return chosen if at is None else before.index_copy(0, at, chosen)


def signal(method: Method, batch: TokenBatch, name: str) -> Tensor:
    """A signal that ``method`` needs, with a row for each token: ``[B, N]`` or ``[B, N, K]``, zeros on padding.

    Raises:
        ConfigError: the batch has none.
    """
    own = {"cls_attention": batch.cls_attention, "keys": batch.tower_keys}.get(name)
    if own is not None:
        return own
    if name not in batch.signals:
        raise ConfigError(f"method {method.name!r} needs {name}, and these image tokens have none")
    rows = batch.signals[name]
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def compared(method: Method, batch: TokenBatch) -> Tensor:
    """``[B, N, D]`` what a method with an option ``compare`` compares; zeros on padding.

    Raises:
        ConfigError: tokens behind the projector, which the image does not hold.
    """
    if "projected" not in method.asked_signals:
        return batch.features
    if "projected" not in batch.signals:
        raise ConfigError(
            f"method {method.name!r} compares tokens behind the projector, and there are none: pass them as "
            "signals={'projected': ...}, or compare='features'"
        )
    return signal(method, batch, "projected")


def compared_rows(method: Method, batch: TokenBatch) -> Tensor | Sequence[Tensor]:
    """What ``compared`` gives; on the CPU, where images are chosen from one by one, without a copy: ``[N_i, D]`` of each image.

    Raises:
        ConfigError: see ``compared``.
    """
    rows = batch.signals.get("projected") if "projected" in method.asked_signals else None
    return compared(method, batch) if rows is None or not one_by_one(rows[0].device) else rows


def trim_counts(method: Method, batch: TokenBatch) -> Tensor:
    """``[B]`` how many patches TRIM keeps of these images and questions: an equal count for methods without scores."""
    if batch.relevance is None:
        raise ConfigError(
            f"method {method.name!r} with budget 'iqr' keeps as many patches as TRIM and needs its text relevance: attach a "
            "scorer, or give a fraction or a number"
        )
    profile = batch.profile
    trim = F.relevance_to_scores(batch.relevance, batch.padding, sign=profile.sign, temperature=profile.temperature)
    return F.limit_counts(F.iqr_count(trim, batch.padding), min_tokens=method.min_tokens, max_tokens=method.max_tokens)


def units(vectors: Tensor) -> Tensor:
    """``[..., N, D]`` vectors of length 1, in float32, or float64 where the vectors are; one that is not finite becomes 0."""
    wide = torch.promote_types(vectors.dtype, torch.float32)
    return torch.nn.functional.normalize(vectors.to(wide), dim=-1).nan_to_num(0.0)


def cosines(vectors: Tensor) -> Tensor:
    """``[N, N]`` or ``[B, N, N]`` cosine similarity of the rows of ``[N, D]`` or ``[B, N, D]``.

    In float32, or float64 where the vectors are. A row that is not finite is similar to nothing.
    """
    unit = units(vectors)
    return unit @ unit.T if unit.ndim == 2 else gram(unit)


def evenly(total: int, count: int) -> list[int]:
    """``count`` places among ``total`` at equal steps, ``count <= total``, none twice."""
    return [(2 * place + 1) * total // (2 * max(count, 1)) for place in range(count)]


def marked(order: Tensor, places: Sequence[Sequence[int]]) -> Tensor:
    """``[B, N]`` bool, true at ``order[i][place]`` of every place of image i; ``order`` ``[B, N]`` are permutations."""
    taken = np.zeros(order.shape, dtype=bool)
    for row, mine in zip(taken, places, strict=True):
        row[list(mine)] = True
    return torch.zeros(order.shape, dtype=torch.bool, device=order.device).scatter_(
        1, order, upload(taken, order.device)
    )

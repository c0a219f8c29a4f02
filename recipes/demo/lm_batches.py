"""Batches for the language model: which image tokens a question sees, its block of text, and the model run on both."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from recipes.demo.lm_data import LONG, SHORT, Cache, load_clip
from recipes.demo.lm_facts import (
    LIMIT,
    TAPS,
    Facts,
    Probes,
    Words,
    all_discs,
    fact_losses,
    facts_of,
    looked_at,
    wave_loss,
    words_of,
)
from recipes.demo.lm_forward import Blocks, Watch, answer_states
from recipes.demo.lm_turns import conversations
from recipes.demo.shapes import BOS, GRID, build_tokenizer, new_llava
from recipes.demo.targets import CLASSES
from trimkit.demo.questions import NUMBER_WORDS, NUMBERS, TYPES
from trimkit.demo.typed_items import ALL_TYPES
from trimkit.demo.world import COLOURS, NAMES, PLURALS

CHOICE = TYPES.index("multiple_choice")
PAGED = ALL_TYPES.index("dense_reading")
TOTAL_PATCHES = GRID * GRID


@dataclass
class Task:
    """The model, the frozen scorer parts and the constant token ids training needs."""

    model: LlavaForConditionalGeneration
    post_norm: nn.LayerNorm
    projection: nn.Linear
    head: Tensor  # the prompt's tokens before the image
    names: Tensor  # class -> token of its name (words: of the word)
    plurals: Tensor
    colours: Tensor  # tokens of the colours, and of the words that stand for right, left, below, above, one
    places: Tensor
    numbers: Tensor  # what is answered to how many
    digits: Tensor  # the words of the numbers on pages, one to nine
    words: Words
    probes: Probes
    scale: int = 1  # how many times larger batches are than on a CPU; the training aids look at as many more tokens


def new_task(seed: int) -> Task:
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(eos=False, max_length=2048)
    clip = load_clip().requires_grad_(False)

    def token(text: str) -> int:
        ids = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"{text!r} is not one token")
        return int(ids[0])

    return Task(
        model=new_llava(),
        post_norm=clip.vision_model.post_layernorm,
        projection=clip.visual_projection,
        head=torch.tensor([BOS, *tokenizer("USER: ", add_special_tokens=False)["input_ids"]]),
        names=torch.tensor([token(c) for c in CLASSES[1:]]),
        plurals=torch.tensor([token(PLURALS.get(c, c)) for c in CLASSES[1:]]),
        colours=torch.tensor([token(c) for c in COLOURS]),
        places=torch.tensor([token(w) for w in ("right", "left", "below", "above", "one")]),
        numbers=torch.tensor([token(w) for w in NUMBERS]),
        digits=torch.tensor([token(w) for w in NUMBER_WORDS[1:]]),
        words=words_of(tokenizer),
        probes=Probes(),
    )


def relevance(task: Task, features: Tensor, query: Tensor) -> Tensor:
    """The shipped profile's scores: softmax over patches of the raw products. features [n, p, d], query [n, d] or [n, q, d]."""
    z = task.projection(task.post_norm(features)).float()
    product = torch.einsum("npd,nd->np", z, query) if query.ndim == 2 else torch.einsum("npd,nqd->nqp", z, query)
    return product.softmax(-1)


def iqr_keep(scores: Tensor) -> Tensor:
    low, high = torch.quantile(scores, torch.tensor([0.25, 0.75]), dim=-1)
    return scores > (high + 1.5 * (high - low))[..., None]


def reduced_prefix(features: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Kept features in raster order, then the mean of the others; left-padded. [n, k, d] and what is real [n, k]."""
    counts = keep.sum(-1)
    width = int(counts.max()) + 1
    mean = (features * ~keep[..., None]).sum(1) / (~keep).sum(-1).clamp(min=1)[:, None]
    # stable sort brings the kept ones to the right end, in order; one more column holds the mean
    order = keep.int().argsort(dim=-1, stable=True)[:, TOTAL_PATCHES - width + 1 :]
    rows = features.gather(1, order[..., None].expand(-1, -1, features.shape[-1]))
    real = torch.arange(width - 1) >= (width - 1 - counts)[:, None]
    return torch.cat([rows, mean[:, None]], dim=1), torch.cat([real, torch.ones(len(rows), 1, dtype=torch.bool)], dim=1)


def _with_head(task: Task, image: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Put the prompt's first tokens before the image tokens, moving left padding to the very left."""
    head = task.model.model.language_model.embed_tokens(task.head).expand(len(image), -1, -1).to(image.dtype)
    if bool(real.all()):
        return torch.cat([head, image], dim=1), F.pad(real, (head.shape[1], 0), value=True)
    _rows, size = image.shape[:2]
    prefix = torch.cat([torch.zeros_like(head), image], dim=1)
    first = size - real.sum(1)  # where the head goes, row by row
    place = first[:, None] + torch.arange(head.shape[1])
    prefix = prefix.scatter(1, place[..., None].expand(-1, -1, image.shape[-1]), head)
    return prefix, torch.arange(prefix.shape[1]) >= first[:, None]


@dataclass
class Patches:
    """What image tokens are, [b, k] each and centre of the owner [b, k, 2]; see PatchTargets and Cache."""

    label: Tensor
    colour: Tensor
    part: Tensor
    place: Tensor
    number: Tensor


@dataclass
class Batch:
    """Raw image features [b, k, d] with padding marks, what they are (or None), question blocks with answers, and facts."""

    features: Tensor
    real: Tensor
    patches: Patches | None
    groups: list[Blocks]
    facts: Facts | None = None
    spots: list[Tensor] | None = (
        None  # of each group's questions [b, q, k]: the image tokens that the answer is read off
    )


@dataclass
class Outcome:
    """Logits [n, vocab] at answers and at ends, the projected image tokens, and the training aids' losses."""

    answer: Tensor
    end: Tensor
    image: Tensor
    aids: dict[str, Tensor]


def run(task: Task, batch: Batch) -> Outcome:
    image = task.model.model.multi_modal_projector(batch.features)
    prefix, real = _with_head(task, image, batch.real)
    watch = None
    if batch.patches is not None:
        label, hue = (F.pad(t.clamp(min=0), (len(task.head), 0)) for t in (batch.patches.label, batch.patches.colour))
        part = F.pad(batch.patches.part, (len(task.head), 0))
        discs = [all_discs(task.words, group) for group in batch.groups]
        looked = [looked_at(task.words, group) for group in batch.groups]
        spots = None if batch.spots is None else [F.pad(t, (len(task.head), 0)) for t in batch.spots]
        watch = Watch(label, hue, part, task.words.named, task.words.hue, discs, looked, spots, 1 + len(NAMES), [], [])
        watch.limit *= task.scale
    taps = TAPS if batch.facts is not None else ()
    read, tapped = answer_states(task.model, prefix, real, batch.groups, watch, taps)
    logits = task.model.lm_head(torch.cat([s.flatten(0, 1) for s in read]))
    aids = {}
    if watch is not None:
        aids = {"match": torch.stack(watch.losses).mean(), "counted": torch.stack(watch.counted).mean()}
    if batch.facts is not None:
        aids |= fact_losses(task.probes, task.words, batch.facts, batch.groups, tapped, LIMIT * task.scale)
    if batch.facts is not None and batch.patches is not None:
        states = tapped[0][0][:, len(task.head) :]
        known = (batch.patches.label > 0) | (batch.patches.number > 0)
        aids["patch_waves"] = wave_loss(task.probes, states, known, batch.patches.place, LIMIT * task.scale)
    return Outcome(logits[:, 0].float(), logits[:, 1].float(), image, aids)


def answers(groups: list[Blocks]) -> Tensor:
    return torch.cat([g.ids.gather(2, (g.read + 1)[..., None])[..., 0].flatten() for g in groups])


def spots_of(
    cache: Cache, scenes: np.ndarray, picked: Tensor, groups: list[Blocks], chosen: Tensor | None = None
) -> list[Tensor]:
    """The patches that the answer to each picked question is read off: of each group [b, q, patches], or of those chosen."""
    spot = cache.spot[torch.from_numpy(scenes)[:, None], picked].long().to(cache.device)
    left, top, right, bottom = spot[..., None].unbind(-2)
    at = torch.arange(TOTAL_PATCHES) if chosen is None else chosen[:, None]
    x, y = at % GRID, at // GRID
    spots = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return list(spots.split([group.ids.shape[1] for group in groups], dim=1))


def to_device(task: Task, device: torch.device) -> Task:
    """The same task there."""

    def moved(value: Any) -> Any:
        if isinstance(value, Words):
            return replace(value, **{f.name: moved(getattr(value, f.name)) for f in fields(value)})
        return value.to(device) if isinstance(value, (Tensor, nn.Module)) else value

    return replace(task, **{each.name: moved(getattr(task, each.name)) for each in fields(task)})


class Sampler:
    """Draws batches of every kind from a cache."""

    def __init__(self, task: Task, cache: Cache, seed: int) -> None:
        self.task, self.cache = task, cache
        self.rng = np.random.default_rng(seed)
        self.allowed: tuple[str, ...] = ALL_TYPES
        paged = (cache.type == PAGED).any(dim=1).numpy()
        self.unpaged, self.paged = np.flatnonzero(~paged), np.flatnonzero(paged)
        self.prefer: dict[str, float] = {}  # type -> how much sooner than others it is drawn, 0 to 1

    def blocks(self, scenes: np.ndarray, short: int, long: int) -> tuple[list[Blocks], Tensor]:
        """`short` ordinary and `long` multiple-choice questions a scene; also which ones (short then long)."""
        kinds = self.cache.type[scenes].numpy()
        shuffled = self.rng.random(kinds.shape) - np.array([self.prefer.get(kind, 0.0) for kind in ALL_TYPES])[kinds]
        allowed = np.isin(kinds, [ALL_TYPES.index(kind) for kind in self.allowed])
        choice = kinds == CHOICE
        groups, picked = [], []
        for count, fitting, length in ((short, ~choice, SHORT), (long, choice, LONG)):
            if count == 0:
                continue
            # first what is allowed, then what at least fits the length
            rank = np.where(fitting & (allowed | choice), shuffled, np.where(fitting, 5.0, 9.0))
            chosen = torch.from_numpy(np.argsort(rank, axis=1)[:, :count].copy())
            at = torch.from_numpy(scenes)[:, None]
            ids = self.cache.ids[at, chosen].long()
            read = self.cache.read[at, chosen].long()
            length = min(length, int(read.max()) + 3)
            groups.append(Blocks(*(t.to(self.cache.device) for t in (ids[..., :length].contiguous(), read))))
            picked.append(chosen)
        return groups, torch.cat(picked, dim=1)

    def scenes(self, count: int) -> np.ndarray:
        return np.sort(self.rng.choice(len(self.cache), size=count, replace=False))

    def _patches(self, scenes: np.ndarray, chosen: Tensor | None = None) -> Patches:
        cache = self.cache
        whole = (cache.label, cache.colour, cache.part, cache.number, cache.place)
        label, colour, part, number, place = (t[scenes] for t in whole)
        if chosen is not None:
            label, colour, part, number = (t.gather(1, chosen) for t in (label, colour, part, number))
            place = place.gather(1, chosen[..., None].expand(-1, -1, 2))
        return Patches(label.long(), colour.long(), part, place.float(), number.long())

    def subset(self, count: int, tokens: int, short: int, long: int, *, pages: bool = False) -> Batch:
        """Few tokens: every object's centre patch, then object patches, then any, `tokens` in all; of scenes or of pages,
        which need more of them."""
        scenes = np.sort(self.rng.choice(self.paged if pages else self.unpaged, size=count, replace=False))
        known = (self.cache.label[scenes] > 0) | (self.cache.number[scenes] > 0)
        rank = torch.rand(known.shape) + known.float() + 2.0 * self.cache.centre[scenes].float()
        chosen = rank.topk(tokens, dim=1).indices.sort(dim=1).values
        features = self.cache.gather_features(scenes)
        groups, picked = self.blocks(scenes, short, long)
        rows = features.gather(1, chosen[..., None].expand(-1, -1, features.shape[-1]))
        real = torch.ones_like(chosen, dtype=torch.bool)
        spots = spots_of(self.cache, scenes, picked, groups, chosen)
        return Batch(rows, real, self._patches(scenes, chosen), groups, facts_of(self.cache, scenes), spots)

    def full(self, count: int, short: int, long: int) -> Batch:
        scenes = self.scenes(count)
        groups, picked = self.blocks(scenes, short, long)
        features = self.cache.gather_features(scenes)
        real = torch.ones(features.shape[:2], dtype=torch.bool)
        spots = spots_of(self.cache, scenes, picked, groups)
        return Batch(features, real, self._patches(scenes), groups, facts_of(self.cache, scenes), spots)

    def trim(self, count: int, each: int, choice: bool) -> Batch:
        """Each question with its own reduced picture: the IQR rule mostly, now and then a relevance or random share."""
        scenes = self.scenes(count)
        groups, picked = self.blocks(scenes, 0 if choice else each, each if choice else 0)
        features = self.cache.gather_features(scenes)
        query = self.cache.query[torch.from_numpy(scenes)[:, None], picked].float()
        with torch.no_grad():
            keep = self._keep(relevance(self.task, features, query))
        group = groups[0]
        flat = Blocks(group.ids.flatten(0, 1)[:, None], group.read.flatten()[:, None])
        rows, real = reduced_prefix(features.repeat_interleave(each, dim=0), keep.flatten(0, 1))
        return Batch(rows, real, None, [flat], facts_of(self.cache, scenes).repeat(each))

    def turns(self, count: int, each: int, *, reduced: bool) -> Batch:
        """Conversations of several turns about whole pictures, or reduced ones for the last question."""
        scenes = self.scenes(count)
        group, last = conversations(self.cache, scenes, each, self.rng)
        features = self.cache.gather_features(scenes)
        if not reduced:
            return Batch(features, torch.ones(features.shape[:2], dtype=torch.bool), None, [group])
        query = self.cache.query[torch.from_numpy(scenes)[:, None], last].float()
        with torch.no_grad():
            keep = self._keep(relevance(self.task, features, query))
        rows, real = reduced_prefix(features.repeat_interleave(each, dim=0), keep.flatten(0, 1))
        return Batch(rows, real, None, [Blocks(group.ids.flatten(0, 1)[:, None], group.read.flatten()[:, None])])

    def _keep(self, scores: Tensor) -> Tensor:
        draw = self.rng.random()
        if draw < 0.75:
            return iqr_keep(scores)
        count = int(self.rng.integers(24, 150))
        ranked = scores if draw < 0.92 else torch.rand_like(scores)
        least = ranked.topk(count, dim=-1).values[..., -1:]
        return ranked >= least

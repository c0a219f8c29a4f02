"""Batches for the language model: which image tokens a question sees, its block of text, and the model run on both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from recipes.demo.lm_data import LONG, SHORT, Cache
from recipes.demo.lm_forward import Blocks, Watch, answer_states
from recipes.demo.shapes import BOS, CACHE, GRID, build_tokenizer, new_clip, new_llava
from recipes.demo.targets import CLASSES
from recipes.demo.train_clip import Heads
from trimkit.demo.questions import TYPES
from trimkit.demo.world import COLOURS, NAMES, PLURALS

CHOICE = TYPES.index("multiple_choice")
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
    token_class: Tensor  # token -> class it names, 0 none
    colours: Tensor  # tokens of the colours, and of the words that stand for right, left, below, above, one
    places: Tensor
    teacher: Heads  # the tower's helper heads say what the dense loss should find


def new_task(seed: int) -> Task:
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(eos=False, max_length=2048)
    clip = new_clip()
    clip.load_state_dict(torch.load(CACHE / "clip.pt", weights_only=True))
    clip.requires_grad_(False)

    teacher = Heads()
    teacher.load_state_dict(torch.load(CACHE / "clip_heads.pt", weights_only=True))
    teacher.requires_grad_(False)

    def token(text: str) -> int:
        ids = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"{text!r} is not one token")
        return int(ids[0])

    model = new_llava()
    names = torch.tensor([token(c) for c in CLASSES[1:]])
    plurals = torch.tensor([token(PLURALS.get(c, c)) for c in CLASSES[1:]])
    token_class = torch.zeros(model.config.text_config.vocab_size, dtype=torch.long)
    token_class[plurals] = torch.arange(1, len(CLASSES))
    token_class[names] = torch.arange(1, len(CLASSES))
    return Task(
        model=model,
        post_norm=clip.vision_model.post_layernorm,
        projection=clip.visual_projection,
        head=torch.tensor([BOS, *tokenizer("USER: ", add_special_tokens=False)["input_ids"]]),
        names=names,
        plurals=plurals,
        token_class=token_class,
        colours=torch.tensor([token(c) for c in COLOURS]),
        places=torch.tensor([token(w) for w in ("right", "left", "below", "above", "one")]),
        teacher=teacher,
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
class Batch:
    """Raw image features [b, k, d] with padding marks, patch labels (or None), and question blocks with answers."""

    features: Tensor
    real: Tensor
    label: Tensor | None
    groups: list[Blocks]


def run(task: Task, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [n, vocab] at answers and at ends, the projected image tokens, and the matching loss (0 without labels)."""
    image = task.model.model.multi_modal_projector(batch.features)
    prefix, real = _with_head(task, image, batch.real)
    watch = None
    if batch.label is not None:
        watch = Watch(F.pad(batch.label.clamp(min=0), (len(task.head), 0)), task.token_class, [], 1 + len(NAMES))
    states = torch.cat([s.flatten(0, 1) for s in answer_states(task.model, prefix, real, batch.groups, watch)])
    logits = task.model.lm_head(states)
    match = torch.stack(watch.losses).mean() if watch is not None else torch.zeros(())
    return logits[:, 0].float(), logits[:, 1].float(), image, match


def answers(groups: list[Blocks]) -> Tensor:
    return torch.cat([g.ids.gather(2, (g.read + 1)[..., None])[..., 0].flatten() for g in groups])


class Sampler:
    """Draws batches of every kind from a cache."""

    def __init__(self, task: Task, cache: Cache, seed: int) -> None:
        self.task, self.cache = task, cache
        self.rng = np.random.default_rng(seed)
        self.allowed: tuple[str, ...] = TYPES
        self.prefer: dict[str, float] = {}  # type -> how much sooner than others it is drawn, 0 to 1

    def blocks(self, scenes: np.ndarray, short: int, long: int) -> tuple[list[Blocks], Tensor]:
        """`short` ordinary and `long` multiple-choice questions a scene; also which ones (short then long)."""
        kinds = self.cache.type[scenes].numpy()
        shuffled = self.rng.random(kinds.shape) - np.array([self.prefer.get(kind, 0.0) for kind in TYPES])[kinds]
        allowed = np.isin(kinds, [TYPES.index(kind) for kind in self.allowed])
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
            groups.append(Blocks(ids[..., :length].contiguous(), read))
            picked.append(chosen)
        return groups, torch.cat(picked, dim=1)

    def scenes(self, count: int) -> np.ndarray:
        return np.sort(self.rng.choice(len(self.cache), size=count, replace=False))

    def subset(self, count: int, tokens: int, short: int, long: int) -> Batch:
        """Few tokens: every object's centre patch, then object patches, then any, `tokens` in all."""
        scenes = self.scenes(count)
        features, label = self.cache.gather_features(scenes), self.cache.label[scenes].long()
        rank = torch.rand(label.shape) + (label > 0).float() + 2.0 * self.cache.centre[scenes].float()
        chosen = rank.topk(tokens, dim=1).indices.sort(dim=1).values
        groups, _ = self.blocks(scenes, short, long)
        rows = features.gather(1, chosen[..., None].expand(-1, -1, features.shape[-1]))
        return Batch(rows, torch.ones_like(chosen, dtype=torch.bool), label.gather(1, chosen), groups)

    def full(self, count: int, short: int, long: int) -> Batch:
        scenes = self.scenes(count)
        groups, _ = self.blocks(scenes, short, long)
        features = self.cache.gather_features(scenes)
        real = torch.ones(features.shape[:2], dtype=torch.bool)
        return Batch(features, real, self.cache.label[scenes].long(), groups)

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
        return Batch(rows, real, None, [flat])

    def _keep(self, scores: Tensor) -> Tensor:
        draw = self.rng.random()
        if draw < 0.75:
            return iqr_keep(scores)
        count = int(self.rng.integers(24, 150))
        ranked = scores if draw < 0.92 else torch.rand_like(scores)
        least = ranked.topk(count, dim=-1).values[..., -1:]
        return ranked >= least

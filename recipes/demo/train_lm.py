"""Trains projector and language model on cached features: few tokens first, then whole and TRIM-reduced pictures mixed."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from recipes.demo.lm_data import LONG, SHORT, Cache
from recipes.demo.lm_forward import Blocks, answer_states
from recipes.demo.shapes import BOS, CACHE, EOS, GRID, build_tokenizer, new_clip, new_llava
from recipes.demo.targets import CLASSES
from trimkit.demo.questions import TYPES
from trimkit.demo.world import PLURALS

CHECKPOINT = CACHE / "llava.pt"
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


def new_task(seed: int) -> Task:
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(eos=False, max_length=2048)
    clip = new_clip()
    clip.load_state_dict(torch.load(CACHE / "clip.pt", weights_only=True))
    clip.requires_grad_(False)

    def token(text: str) -> int:
        ids = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"{text!r} is not one token")
        return int(ids[0])

    model = new_llava()
    return Task(
        model=model,
        post_norm=clip.vision_model.post_layernorm,
        projection=clip.visual_projection,
        head=torch.tensor([BOS, *tokenizer("USER: ", add_special_tokens=False)["input_ids"]]),
        names=torch.tensor([token(c) for c in CLASSES[1:]]),
        plurals=torch.tensor([token(PLURALS.get(c, c)) for c in CLASSES[1:]]),
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


def run(task: Task, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [n, vocab] at answers, at ends, and the projected image tokens."""
    image = task.model.model.multi_modal_projector(batch.features)
    prefix, real = _with_head(task, image, batch.real)
    states = torch.cat([s.flatten(0, 1) for s in answer_states(task.model, prefix, real, batch.groups)])
    logits = task.model.lm_head(states)
    return logits[:, 0].float(), logits[:, 1].float(), image


def answers(groups: list[Blocks]) -> Tensor:
    return torch.cat([g.ids.gather(2, (g.read + 1)[..., None])[..., 0].flatten() for g in groups])


def loss_of(task: Task, batch: Batch, dense_weight: float) -> tuple[Tensor, dict[str, float]]:
    answer, end, image = run(task, batch)
    target = answers(batch.groups)
    main = F.cross_entropy(answer, target)
    total = main + 0.05 * F.cross_entropy(end, torch.full_like(target, EOS))
    if batch.label is not None and dense_weight > 0:
        total = total + dense_weight * _dense_loss(task, image, batch.label)
    return total, {"loss": float(main.detach()), "acc": float((answer.argmax(-1) == target).float().mean())}


def _dense_loss(task: Task, image: Tensor, label: Tensor) -> Tensor:
    """Projected object patches should lie near the embeddings of their name, singular and plural."""
    table = task.model.model.language_model.embed_tokens.weight
    chosen = label > 0
    found = image[chosen][:2000]
    target = label[chosen][:2000] - 1
    return sum(
        (F.cross_entropy((found @ table[ids].T).float(), target) for ids in (task.names, task.plurals)), torch.zeros(())
    )


class Sampler:
    """Draws batches of every kind from a cache."""

    def __init__(self, task: Task, cache: Cache, seed: int) -> None:
        self.task, self.cache = task, cache
        self.rng = np.random.default_rng(seed)

    def blocks(self, scenes: np.ndarray, short: int, long: int) -> tuple[list[Blocks], Tensor]:
        """`short` ordinary and `long` multiple-choice questions a scene; also which ones (short then long)."""
        kinds = self.cache.type[scenes].numpy()
        shuffled = self.rng.random(kinds.shape)
        groups, picked = [], []
        for count, wanted, length in ((short, kinds != CHOICE, SHORT), (long, kinds == CHOICE, LONG)):
            if count == 0:
                continue
            chosen = torch.from_numpy(np.argsort(np.where(wanted, shuffled, 2.0), axis=1)[:, :count].copy())
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


@torch.no_grad()
def evaluate(task: Task, cache: Cache, scenes: int = 128, batch: int = 8) -> dict[str, dict[str, float]]:
    """Accuracy per type with all tokens, with TRIM and with as many random tokens, on first-choice answers."""
    hits: dict[str, dict[int, list[bool]]] = {"full": {}, "trim": {}, "random": {}}
    kept = []
    task.model.eval()
    generator = torch.Generator().manual_seed(0)
    for start in range(0, scenes, batch):
        at = np.arange(start, min(start + batch, scenes))
        features = cache.gather_features(at)
        chosen = torch.arange(cache.ids.shape[1])[::4].expand(len(at), -1)
        rows = torch.from_numpy(at)[:, None]
        block = Blocks(cache.ids[rows, chosen].long(), cache.read[rows, chosen].long())
        kinds = cache.type[rows, chosen].flatten().tolist()
        flat = Blocks(block.ids.flatten(0, 1)[:, None], block.read.flatten()[:, None])
        keep = iqr_keep(relevance(task, features, cache.query[rows, chosen].float())).flatten(0, 1)
        kept.append(keep.sum(-1).float().mean().item())
        noise = torch.rand(keep.shape, generator=generator)
        rank = noise.argsort(-1).argsort(-1)
        repeated = features.repeat_interleave(chosen.shape[1], dim=0)
        batches = {"full": Batch(features, torch.ones(features.shape[:2], dtype=torch.bool), None, [block])}
        for name, mask in (("trim", keep), ("random", rank < keep.sum(-1, keepdim=True))):
            reduced, real = reduced_prefix(repeated, mask)
            batches[name] = Batch(reduced, real, None, [flat])
        for name, made in batches.items():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                right = run(task, made)[0].argmax(-1) == answers(made.groups)
            for kind, hit in zip(kinds, right.tolist(), strict=True):
                hits[name].setdefault(kind, []).append(hit)
    task.model.train()
    table = {n: {TYPES[k]: round(float(np.mean(v)), 3) for k, v in sorted(h.items())} for n, h in hits.items()}
    table["kept"] = {"mean": round(float(np.mean(kept)), 1)}
    return table


def draw(sampler: Sampler, done: float, step: int) -> tuple[str, Batch, float]:
    """The curriculum: one token an object, then about a hundred tokens, then whole and reduced pictures."""
    if done < 0.14:
        return "few", sampler.subset(24, 16, 16, 4), 0.3
    if done < 0.30:
        if step % 3 == 2:
            return "trim", sampler.trim(24, 4, step % 15 == 2), 0.0
        return "some", sampler.subset(12, 96, 16, 4), 0.3
    kind = step % 4
    if kind in (1, 3):
        return "trim", sampler.trim(24, 4, step % 20 == 1), 0.0
    return "full", sampler.full(4, 19, 5), 0.2


def _scale_projector(task: Task, features: Tensor) -> None:
    """Start with projected tokens as large as word embeddings, whatever the tower's scale is."""
    projector = task.model.model.multi_modal_projector
    with torch.no_grad():
        rms = features.pow(2).mean().sqrt()
        nn.init.normal_(projector.linear_1.weight, std=float(projector.linear_1.in_features**-0.5 / rms))
        nn.init.normal_(projector.linear_2.weight, std=1.6 * projector.linear_2.in_features**-0.5 * 0.0625)
        out = projector(features).pow(2).mean().sqrt()
        projector.linear_2.weight.mul_(0.0625 / out)


def train(minutes: float, lr: float, seed: int, resume: bool, begin: float) -> None:
    task = new_task(seed)
    cache, held_out = Cache.load(CACHE / "lm_train"), Cache.load(CACHE / "lm_heldout")
    model = task.model
    _scale_projector(task, cache.gather_features(np.arange(16)))
    if resume:
        model.load_state_dict(torch.load(CHECKPOINT, weights_only=True))
    model.train()
    model.model.vision_tower.requires_grad_(False)
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.02},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    sampler = Sampler(task, cache, seed)
    start = tested = time.time()
    sums: dict[str, list[float]] = {}
    step = 0
    while (now := time.time()) - start < 60 * minutes:
        done = begin + (1 - begin) * (now - start) / (60 * minutes)
        rate = (
            lr
            * min(1.0, (step + 1) / 200)
            * (1.0 if done < 0.4 else 0.5 * (1 + math.cos(math.pi * (done - 0.4) / 0.6)))
        )
        for group in optimiser.param_groups:
            group["lr"] = max(rate, lr * 0.005)
        kind, batch, dense = draw(sampler, done, step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, shown = loss_of(task, batch, dense)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        step += 1
        sums.setdefault(f"{kind} loss", []).append(shown["loss"])
        sums.setdefault(f"{kind} acc", []).append(shown["acc"])
        sums.setdefault(f"{kind} s", []).append(time.time() - now)
        if step % 100 == 0:
            line = " ".join(f"{k} {np.mean(v):.3f}" for k, v in sums.items())
            print(f"{(now - start) / 60:.1f}m step {step} {line}", flush=True)
            sums = {}
        if time.time() - tested > 240:
            report(task, held_out, scenes=48)
            tested = time.time()
    report(task, held_out, scenes=len(held_out))


def report(task: Task, held_out: Cache, scenes: int) -> None:
    torch.save(task.model.state_dict(), CHECKPOINT)
    for name, values in evaluate(task, held_out, scenes).items():
        print("  held out", name, values, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=55)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--begin", type=float, default=0.0, help="start so far into the curriculum (0 to 1)")
    args = parser.parse_args()
    torch.set_num_threads(2)
    train(args.minutes, args.lr, args.seed, args.resume, args.begin)


if __name__ == "__main__":
    main()

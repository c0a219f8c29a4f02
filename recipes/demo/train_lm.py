"""Trains projector and language model on cached features: few tokens first, then whole and TRIM-reduced pictures mixed."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from recipes.demo.lm_batches import (
    Batch,
    Patches,
    Sampler,
    Task,
    answers,
    iqr_keep,
    new_task,
    reduced_prefix,
    relevance,
    run,
)
from recipes.demo.lm_data import Cache
from recipes.demo.lm_forward import Blocks
from recipes.demo.shapes import CACHE, EOS, MODEL_DIR
from trimkit.demo.typed_items import ALL_TYPES

CHECKPOINT, PROBES = CACHE / "llava_main.pt", CACHE / "lm_probes.pt"
HEADS = Path(__file__).with_name("heads.safetensors")
EVERY = 10  # steps between looks at the loss, which make the host wait for a GPU
COUNT_WEIGHT = 3.0  # of answers to how many: the hardest to learn

# weights of the training aids
AIDS = {
    "match": 0.4,
    "counted": 1.0,
    "dense": 1.0,
    "patch_waves": 3.0,
    "waves": 4.0,
    "count": 0.6,
    "colour": 0.4,
    "place": 1.0,
    "thing": 0.2,
    "right": 0.6,
    "discs": 0.6,
}


def loss_of(task: Task, batch: Batch, aid: float) -> tuple[Tensor, dict[str, Tensor]]:
    out = run(task, batch)
    target = answers(batch.groups)
    weight = torch.ones(out.answer.shape[-1]).index_fill_(0, task.numbers, COUNT_WEIGHT)
    main = F.cross_entropy(out.answer, target, weight=weight)
    total = main + 0.05 * F.cross_entropy(out.end, torch.full_like(target, EOS))
    if batch.patches is not None:
        out.aids["dense"] = _dense_loss(task, out.image, batch.patches)
    for name, value in out.aids.items():
        total = total + aid * AIDS[name] * value
    right = (out.answer.argmax(-1) == target).float().mean()
    shown = {"loss": main, "acc": right, **out.aids}
    return total, {name: value.detach() for name, value in shown.items()}


def _dense_loss(task: Task, image: Tensor, patches: Patches) -> Tensor:
    """Projected object patches should lie near the embeddings of what they are: name, plural, colour, place, size.

    So one copy through attention brings the answer's own embedding; without it the name drowns colour and place.
    """
    table = task.model.model.language_model.embed_tokens.weight
    chosen, limit = patches.label > 0, 1500 * task.scale
    found, target, hue = (t[chosen][:limit] for t in (image, patches.label, patches.colour))
    each = [F.cross_entropy((found @ table[ids].T).float(), target - 1) for ids in (task.names, task.plurals)]
    named = torch.stack(each).sum()
    coloured = F.cross_entropy((found[hue > 0] @ table[task.colours].T).float(), hue[hue > 0] - 1, reduction="sum")
    coloured = coloured / (hue > 0).sum().clamp(min=1)  # receipts have no colours
    right, left, below, above, one = (found @ table[task.places].T).float().unbind(-1)
    place = patches.place[chosen][:limit].clamp(-1, 1) * 4
    placed = F.smooth_l1_loss(torch.stack([right - left, below - above], dim=-1) / 2, place)
    sized = F.smooth_l1_loss(one, 3 * (10 * patches.part[chosen][:limit]).log())
    return 0.5 * named + coloured + placed + sized + _digit_loss(task, image, patches)


def _digit_loss(task: Task, image: Tensor, patches: Patches) -> Tensor:
    """The same for the numbers on pages."""
    there = patches.number > 0
    if not bool(there.any()):
        return image.new_zeros(())
    table = task.model.model.language_model.embed_tokens.weight
    return F.cross_entropy((image[there] @ table[task.digits].T).float(), patches.number[there] - 1)


@torch.no_grad()
def evaluate(task: Task, cache: Cache, scenes: int = 128, batch: int = 8) -> dict[str, dict[str, float]]:
    """Accuracy per type with all tokens, with TRIM and with as many random tokens, on first-choice answers."""
    hits: dict[str, dict[int, list[bool]]] = {"full": {}, "trim": {}, "random": {}}
    kept = []
    task.model.eval()
    generator = torch.Generator(cache.device).manual_seed(0)
    for start in range(0, scenes, batch):
        at = np.arange(start, min(start + batch, scenes))
        features = cache.gather_features(at)
        chosen = torch.arange(cache.ids.shape[1], device="cpu")[::4].expand(len(at), -1)
        rows = torch.from_numpy(at)[:, None]
        block = Blocks(*(t[rows, chosen].long().to(cache.device) for t in (cache.ids, cache.read)))
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
            with torch.autocast(cache.device.type, dtype=torch.bfloat16):
                right = run(task, made).answer.argmax(-1) == answers(made.groups)
            for kind, hit in zip(kinds, right.tolist(), strict=True):
                hits[name].setdefault(kind, []).append(hit)
    task.model.train()
    table = {n: {ALL_TYPES[k]: round(float(np.mean(v)), 3) for k, v in sorted(h.items())} for n, h in hits.items()}
    table["kept"] = {"mean": round(float(np.mean(kept)), 1)}
    return table


# the harder ones a little sooner than the others
PREFER = {"counting": 0.3, "relation": 0.12, "reading": 0.2, "dense_reading": 0.2, "global": 0.5, "two_things": 0.2}


def draw(sampler: Sampler, done: float, step: int) -> tuple[str, Batch, float]:
    """The curriculum: the colour of a disc on few tokens, then all questions, then more tokens, then whole and TRIM-reduced
    pictures. The number is the weight of the training aids."""
    many = sampler.task.scale
    if done < 0.007:
        sampler.allowed = ("attribute",)
        return "few", sampler.subset(16 * many, 16, 4, 0), 1.0
    sampler.allowed, sampler.prefer = ALL_TYPES, PREFER
    kind, aid = _kind(done, step), 1.0 if done < 0.4 else 0.5 if done < 0.7 else 0.2
    if kind == "few":
        return kind, sampler.subset(8 * many, 16, 12, 3), aid
    if kind == "page":
        return kind, sampler.subset(2 * many, 208, 12, 0, pages=True), aid
    if kind == "full":
        return kind, sampler.full(2 * many, 18, 6), aid
    if kind == "turns":
        reduced = step % 8 >= 4
        return kind, sampler.turns((4 if reduced else 2) * many, 4 if reduced else 8, reduced=reduced), aid
    return kind, sampler.trim(8 * many, 4, bool(sampler.rng.random() < 0.25)), aid


def _kind(done: float, step: int) -> str:
    if done < 0.13:
        cycle: tuple[str, ...] = ("few",)
    elif done < 0.4:
        cycle = ("few", "full", "page", "trim")
    elif done < 0.7:
        cycle = ("full", "trim", "few", "turns", "full", "trim", "page", "turns")
    else:
        cycle = ("full", "trim", "full", "turns")
    return cycle[step % len(cycle)]


def _scale_projector(task: Task, features: Tensor) -> None:
    """Start with projected tokens as large as word embeddings, whatever the tower's scale is."""
    projector = task.model.model.multi_modal_projector
    with torch.no_grad():
        rms = features.pow(2).mean().sqrt()
        nn.init.normal_(projector.linear_1.weight, std=float(projector.linear_1.in_features**-0.5 / rms))
        nn.init.normal_(projector.linear_2.weight, std=1.6 * projector.linear_2.in_features**-0.5 * 0.0625)
        out = projector(features).pow(2).mean().sqrt()
        projector.linear_2.weight.mul_(0.0625 / out)


def _quiet_residuals(task: Task) -> None:
    """Scale every layer's output projections down: at 1/sqrt(width) their sum drowns the embeddings that must be matched."""
    layers = task.model.model.language_model.layers
    with torch.no_grad():
        for layer in layers:
            layer.self_attn.o_proj.weight.mul_((2 * len(layers)) ** -0.5)
            layer.mlp.down_proj.weight.mul_((2 * len(layers)) ** -0.5)


def resume_from(task: Task) -> None:
    """Go on from the last checkpoint; where there is none from the shipped model, with the heads that were trained with it."""
    if CHECKPOINT.exists():
        task.model.load_state_dict(torch.load(CHECKPOINT, weights_only=True))
        heads = torch.load(PROBES, weights_only=True)
    else:
        task.model.load_state_dict(LlavaForConditionalGeneration.from_pretrained(MODEL_DIR).state_dict())
        heads = {name: value.float() for name, value in load_file(HEADS).items()}
    task.probes.load_state_dict(heads, strict=False)  # a newer head starts anew


def train(minutes: float, lr: float, seed: int, resume: bool, begin: float, counting: float, average: bool) -> None:
    PREFER["counting"] = counting
    task = new_task(seed)
    cache, held_out = Cache.load(CACHE / "lm_train"), Cache.load(CACHE / "lm_heldout")
    start_from(task, cache, resume)
    first = {name: value.clone() for name, value in task.model.state_dict().items()} if average else {}
    fit(task, cache, minutes, lr, seed, begin, lambda: report(task, held_out, scenes=64))
    for name, value in task.model.state_dict().items():
        if name in first and value.is_floating_point():
            value.lerp_(first[name], 0.5)
    report(task, held_out, scenes=len(held_out))


def start_from(task: Task, cache: Cache, resume: bool) -> None:
    """The first weights: drawn, or those of an earlier training."""
    _scale_projector(task, cache.gather_features(np.arange(16)))
    _quiet_residuals(task)
    if resume:
        resume_from(task)


def _optimiser(task: Task, lr: float) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    task.model.model.vision_tower.requires_grad_(False)
    params = [p for p in (*task.model.parameters(), *task.probes.parameters()) if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.02},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True), params


def _rate(done: float, step: int) -> float:
    """Of the learning rate: warm-up by steps, then constant, from the middle on a cosine to nearly nothing."""
    return max(
        0.003, min(1.0, (step + 1) / 100) * (1.0 if done < 0.5 else 0.5 * (1 + math.cos(math.pi * (2 * done - 1))))
    )


def fit(
    task: Task,
    cache: Cache,
    minutes: float,
    lr: float,
    seed: int,
    begin: float,
    now_and_then: Callable[[], None],
    after_steps: Callable[[float], None] = lambda done: None,
    seconds: float = 360,
) -> None:
    """Train for so long. `now_and_then` is called every `seconds`, `after_steps` every ten steps with what is done (0 to 1)."""
    optimiser, params = _optimiser(task, lr)
    sampler = Sampler(task, cache, seed)
    task.model.train()
    start = tested = time.time()
    sums: dict[str, list[float]] = {}
    step = 0
    while (now := time.time()) - start < 60 * minutes:
        done = begin + (1 - begin) * (now - start) / (60 * minutes)
        for group in optimiser.param_groups:
            group["lr"] = lr * _rate(done, step)
        kind, batch, aid = draw(sampler, done, step)
        with torch.autocast(cache.device.type, dtype=torch.bfloat16):
            loss, shown = loss_of(task, batch, aid)
        if step % EVERY == 0 and not bool(loss.isfinite()):
            raise ValueError(f"step {step} ({kind}): the loss is not finite: {shown}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        if step % EVERY == 0:
            after_steps(done)
        step += 1
        for name, value in (shown | {"s": torch.tensor(time.time() - now)}).items():
            sums.setdefault(f"{kind} {name}", []).append(value)
        if step % 200 == 0:
            line = " ".join(f"{k} {float(torch.stack(v).float().mean()):.3f}" for k, v in sums.items())
            print(f"{(now - start) / 60:.1f}m step {step} {line}", flush=True)
            sums = {}
        if time.time() - tested > seconds:
            now_and_then()
            tested = time.time()


def report(task: Task, held_out: Cache, scenes: int) -> None:
    torch.save(task.model.state_dict(), CHECKPOINT)
    torch.save(task.probes.state_dict(), PROBES)
    for name, values in evaluate(task, held_out, scenes).items():
        print("  held out", name, values, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=205)
    parser.add_argument("--lr", type=float, default=1.1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--begin", type=float, default=0.0, help="start so far into the curriculum (0 to 1)")
    parser.add_argument("--counting", type=float, default=PREFER["counting"], help="how much sooner how many is asked")
    parser.add_argument(
        "--average", action="store_true", help="with --resume: end with the mean of first and last weights"
    )
    args = parser.parse_args()
    torch.set_num_threads(2)
    train(args.minutes, args.lr, args.seed, args.resume, args.begin, args.counting, args.average)


if __name__ == "__main__":
    main()

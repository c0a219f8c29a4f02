"""Trains the CLIP tower: patches to names, whole questions to patches, and helper heads that are dropped afterwards."""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, CLIPModel
from transformers.masking_utils import eager_mask

from recipes.demo.clip_data import Chunk, Stream, make_chunk
from recipes.demo.shapes import CACHE, EOS, GRID, MEAN, PAD, PROJECTION, STD, VISION_WIDTH, build_tokenizer, new_clip
from recipes.demo.targets import BACKGROUND, CLASSES, COLOUR_OF, IGNORE, text_forms
from trimkit.demo.items import EVALUATION_NAMESPACE
from trimkit.demo.world import PATCH_SIZE

CHECKPOINT = CACHE / "clip.pt"


def matmul_attention(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, None]:
    """Attention as two products: in bf16 on CPUs its backward pass is several times faster than the fused kernel's."""
    weights = torch.matmul(q * scaling, k.transpose(-1, -2))
    if mask is not None:
        weights = weights + mask
    return torch.matmul(weights.softmax(dim=-1).to(v.dtype), v).transpose(1, 2).contiguous(), None


AttentionInterface.register("matmul", matmul_attention)
AttentionMaskInterface.register("matmul", eager_mask)


class Heads(nn.Module):
    """What each patch feature has to tell linearly, so that the language model finds it there."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(VISION_WIDTH, len(CLASSES))
        self.colour = nn.Linear(VISION_WIDTH, len(COLOUR_OF) + 1)
        self.count = nn.Linear(VISION_WIDTH, 5)
        self.centre = nn.Linear(VISION_WIDTH, 1)
        self.place = nn.Linear(VISION_WIDTH, 4)  # own column and row; owner's centre
        self.background = nn.Linear(PROJECTION, 1)
        self.number = nn.Linear(VISION_WIDTH, 10)  # on pages


def normalise(patches: Tensor) -> Tensor:
    """Bytes [..., 588] as the image processor would give them."""
    mean, std = (torch.tensor(each, device=patches.device).repeat_interleave(PATCH_SIZE**2) for each in (MEAN, STD))
    return (patches.float() / 255 - mean) / std


def dense_features(clip: CLIPModel, patches: Tensor, offset: tuple[int, int]) -> Tensor:
    """hidden_states[-2] without CLS for patches [n, g*g, 588] whose top left patch sits at `offset` of the full grid."""
    vision = clip.vision_model
    grid = math.isqrt(patches.shape[1])
    rows = torch.arange(grid) + offset[0]
    columns = torch.arange(grid) + offset[1]
    positions = (rows[:, None] * GRID + columns[None, :]).flatten() + 1
    table = vision.embeddings.position_embedding.weight
    x = F.linear(patches, vision.embeddings.patch_embedding.weight.flatten(1)) + table[positions]
    cls = (vision.embeddings.class_embedding + table[0]).expand(len(x), 1, -1)
    x = vision.pre_layrnorm(torch.cat([cls, x], dim=1))
    for layer in vision.encoder.layers[:-1]:
        x = layer(x, attention_mask=None)
        x = x[0] if isinstance(x, tuple) else x
    return x[:, 1:]


def encode_texts(clip: CLIPModel, tokenizer: object, texts: list[str]) -> Tensor:
    batch = tokenizer(texts, padding=True, return_tensors="pt")  # type: ignore[operator]
    return encode_ids(clip, batch["input_ids"].to(clip.device))


def encode_ids(clip: CLIPModel, ids: Tensor) -> Tensor:
    """Texts as tokens [n, l], padded on the right."""
    hidden = clip.text_model(input_ids=ids, attention_mask=(ids != PAD).long()).last_hidden_state
    last = (ids == EOS).int().argmax(dim=1)
    return clip.text_projection(hidden[torch.arange(len(ids)), last])


def project(clip: CLIPModel, features: Tensor) -> Tensor:
    return clip.visual_projection(clip.vision_model.post_layernorm(features))


def _as(chunk: Chunk, field: str) -> Tensor:
    values = torch.as_tensor(getattr(chunk, field)).to(torch.get_default_device())
    return values.long() if values.dtype in (torch.int8, torch.int16) else values


def losses(
    clip: CLIPModel, heads: Heads, tokenizer: object, chunk: Chunk, rng: np.random.Generator
) -> dict[str, Tensor]:
    patches = normalise(_as(chunk, "patches"))
    grid = math.isqrt(patches.shape[1])
    offset = (int(rng.integers(GRID - grid + 1)), int(rng.integers(GRID - grid + 1)))
    h = dense_features(clip, patches, offset)
    z = project(clip, h)
    label, mask = _as(chunk, "label"), _as(chunk, "mask")
    names = [text_forms(rng, c) for c in range(1, len(CLASSES))]
    named = encode_texts(clip, tokenizer, names)
    asked = _asked(clip, tokenizer, chunk).view(*mask.shape[:2], -1)
    # balanced by dropping most background patches: they outnumber all names together
    keep = (label > 0) | ((label == BACKGROUND) & (torch.rand(label.shape) < 0.3))
    z_kept, h_kept, l_kept = z[keep], h[keep], label[keep]
    logits = torch.cat([heads.background(z_kept), z_kept @ named.T], dim=1).float()
    aligned = (
        l_kept if chunk.pages is None else _without_pages(l_kept, _as(chunk, "pages")[:, None].expand_as(keep)[keep])
    )
    scores = torch.einsum("npd,nqd->nqp", z, asked).float()
    logp = scores.log_softmax(dim=-1)
    some = mask.any(dim=-1)
    relevance = -(logp * mask).sum(-1)[some] / mask.sum(-1)[some]
    excess = relevance - mask.sum(-1)[some].float().log()  # zero is the best possible
    found = {"align": F.cross_entropy(logits, aligned, ignore_index=IGNORE), "question": excess.mean()}
    found |= _helper_losses(heads, h_kept, chunk, keep, l_kept, offset)
    if chunk.number is not None:
        number = _as(chunk, "number")
        told = F.cross_entropy(heads.number(h[number > 0]).float(), number[number > 0], reduction="sum")
        found["number"] = told / (number > 0).sum().clamp(min=1)
    with torch.no_grad():
        positive = l_kept > 0
        found["patch_acc"] = (logits[positive].argmax(1) == l_kept[positive]).float().mean()
    return found


def _asked(clip: CLIPModel, tokenizer: object, chunk: Chunk) -> Tensor:
    if isinstance(chunk.questions, Tensor):
        return encode_ids(clip, chunk.questions.flatten(0, 1).long())
    return encode_texts(clip, tokenizer, [t for row in chunk.questions for t in row])


def _without_pages(label: Tensor, paged: Tensor) -> Tensor:
    """Pages teach the tower to tell words apart, not which of them a text names: public CLIP towers hardly know that either."""
    return label.masked_fill(paged, IGNORE)


def _helper_losses(
    heads: Heads, h: Tensor, chunk: Chunk, keep: Tensor, label: Tensor, offset: tuple[int, int]
) -> dict[str, Tensor]:
    grid = math.isqrt(keep.shape[1])
    positive = label > 0
    own = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="xy"), dim=-1).view(1, -1, 2)
    own = own.expand(*keep.shape, 2)[keep].float() + 0.5
    shift = torch.tensor([offset[1], offset[0]])
    scale = GRID / 2
    owner = _as(chunk, "position")[keep]
    place = heads.place(h).float()
    own_loss = F.mse_loss(place[:, :2], (own + shift) / scale - 1)
    owner_loss = F.mse_loss(place[positive][:, 2:], (owner[positive] + shift) / scale - 1)
    centre = heads.centre(h)[:, 0].float()
    return {
        "name": F.cross_entropy(heads.name(h).float(), label),
        "colour": F.cross_entropy(heads.colour(h).float()[positive], _as(chunk, "colour")[keep][positive]),
        "count": F.cross_entropy(heads.count(h).float()[positive], _as(chunk, "count")[keep][positive]),
        "centre": F.binary_cross_entropy_with_logits(centre, _as(chunk, "centre")[keep]),
        "place": own_loss + owner_loss,
    }


WEIGHTS = {
    "align": 1.0,
    "question": 0.5,
    "name": 0.5,
    "colour": 0.3,
    "count": 0.3,
    "centre": 0.5,
    "place": 2.0,
    "number": 0.5,
}


@torch.no_grad()
def evaluate(clip: CLIPModel, tokenizer: object, chunk: Chunk) -> dict[str, float]:
    """Patch and object accuracy, and what the IQR rule keeps of the relevant patches when asked whole questions."""
    clip.eval()
    with torch.autocast(clip.device.type, dtype=torch.bfloat16):
        offset = (GRID - math.isqrt(chunk.patches.shape[1])) // 2
        z = project(clip, dense_features(clip, normalise(_as(chunk, "patches")), (offset, offset))).float()
        named = encode_texts(clip, tokenizer, [f"a photo of a {c}" for c in CLASSES[1:]]).float()
        asked = encode_texts(clip, tokenizer, [t for row in chunk.questions for t in row]).float()
    label, mask = _as(chunk, "label"), _as(chunk, "mask")
    best = (z @ named.T).argmax(-1) + 1
    positive = label > 0
    scores = torch.einsum("npd,nqd->nqp", z, asked.view(*mask.shape[:2], -1)).softmax(-1)
    q = torch.quantile(scores, torch.tensor([0.25, 0.75]), dim=-1)
    kept = scores > (q[1] + 1.5 * (q[1] - q[0]))[..., None]
    some = mask.any(-1)
    share = (kept & mask).sum(-1)[some] / mask.sum(-1)[some]
    clip.train()
    return {
        "patch_acc": float((best == label)[positive].float().mean()),
        "recall": float(share.mean()),
        "recall90": float((share >= 0.9).float().mean()),
        "recall50": float((share >= 0.5).float().mean()),
        "kept": float(kept.sum(-1).float().mean()),
        "kept_absent": float(kept.sum(-1)[~some].float().mean()),
    }


def _lr(now: float, start: float, minutes: float, base: float, step: int) -> float:
    """Warm-up by steps, cosine by the clock, so that a slower machine still ends at zero."""
    done = min(1.0, (now - start) / (60 * minutes))
    return base * min(1.0, (step + 1) / 150) * (0.5 * (1 + math.cos(math.pi * done)) * 0.99 + 0.01)


def train(minutes: float, grid: int, objects: tuple[int, int], batch: int, lr: float, seed: int, resume: bool) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    clip, heads, tokenizer = new_clip(), Heads(), build_tokenizer(eos=True, max_length=77)
    clip.set_attn_implementation("matmul")
    clip.train()
    if resume:
        clip.load_state_dict(torch.load(CHECKPOINT, weights_only=True))
        heads.load_state_dict(torch.load(CACHE / "clip_heads.pt", weights_only=True))
    held_out = make_chunk(0, 0, 48, GRID, (6, 12), namespace=EVALUATION_NAMESPACE)
    stream = Stream(seed, chunk=batch, grid=grid, objects=objects, pool=600, first=8)
    unused = {id(p) for p in [*clip.vision_model.encoder.layers[-1].parameters(), clip.logit_scale]}
    params = [p for p in [*clip.parameters(), *heads.parameters()] if id(p) not in unused]
    decay = [p for p in params if p.ndim >= 2]
    groups = [
        {"params": decay, "weight_decay": 0.03},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    start, step, sums, saved = time.time(), 0, {}, time.time()
    while (now := time.time()) - start < 60 * minutes:
        for group in optimiser.param_groups:
            group["lr"] = _lr(now, start, minutes, lr, step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = losses(clip, heads, tokenizer, stream.next(), rng)
            total = sum((w * found[k] for k, w in WEIGHTS.items() if k in found), torch.zeros(()))
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        for k, v in found.items():
            sums[k] = sums.get(k, 0.0) + float(v.detach())
        step += 1
        if step % 100 == 0:
            shown = " ".join(f"{k} {v / 100:.3f}" for k, v in sums.items())
            print(f"{(now - start) / 60:.1f}m step {step} fresh {stream.drawn} {shown}", flush=True)
            sums = {}
        if step % 500 == 0:
            print("  held out:", {k: round(v, 3) for k, v in evaluate(clip, tokenizer, held_out).items()}, flush=True)
        if now - saved > 180:
            save(clip, heads)
            saved = now
    save(clip, heads)
    print("  held out:", {k: round(v, 3) for k, v in evaluate(clip, tokenizer, held_out).items()}, flush=True)
    stream.close()


def save(clip: CLIPModel, heads: Heads) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.save(clip.state_dict(), CHECKPOINT)
    torch.save(heads.state_dict(), CACHE / "clip_heads.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--grid", type=int, default=14)
    parser.add_argument("--objects", type=int, nargs=2, default=(4, 7))
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(2)
    train(args.minutes, args.grid, tuple(args.objects), args.batch, args.lr, args.seed, args.resume)


if __name__ == "__main__":
    main()

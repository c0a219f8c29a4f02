"""Caches what the language model trains on: tower features of many scenes, and for each scene its questions as tokens."""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import shutil
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import CLIPModel

from recipes.demo.hard_data import answer_spot, content_and_questions, numbers_of, targets_of
from recipes.demo.shapes import CACHE, EOS, GRID, MODEL_DIR, PAD, PROJECTION, VISION_WIDTH, build_tokenizer, new_clip
from recipes.demo.targets import question_mask, to_patches
from recipes.demo.train_clip import dense_features, encode_texts, normalise
from trimkit.demo.items import EVALUATION_NAMESPACE, TRAINING_NAMESPACE, item_rng
from trimkit.demo.questions import TYPES, Question, sample_question
from trimkit.demo.typed_items import ALL_TYPES, draw
from trimkit.demo.world import sample_scene

# how often each type is asked about a training scene; the harder ones more often
PER_SCENE = {"existence": 4, "attribute": 5, "counting": 6, "relation": 8, "reading": 2, "multiple_choice": 7}
TOTAL = sum(PER_SCENE.values())
SHORT, LONG = 30, 54  # block lengths: all types but multiple choice fit in SHORT
HARD = 0.4  # of the pictures are for the four harder types, see hard_data.py
PATCHES = ("label", "colour", "count", "centre", "place", "number")  # what is known of every patch
QUESTIONS = ("ids", "read", "type", "spot")  # and of every question


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    return build_tokenizer(eos=False, max_length=2048)


def block_ids(question: Question) -> list[int]:
    """Everything after the image tokens, answer and end included, exactly as the chat template gives it."""
    tokenizer = _tokenizer()
    prompt = tokenizer(f"\n{question.text} ASSISTANT:", add_special_tokens=False)["input_ids"]
    answer = tokenizer(f" {question.answer}", add_special_tokens=False)["input_ids"]
    if len(answer) != 1:
        raise ValueError(f"answer {question.answer!r} is not one token")
    return [*prompt, *answer, EOS]


@dataclass
class Rows:
    """One scene's inputs: picture patches, what each patch is (see PatchTargets), and its question blocks."""

    patches: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int16]
    colour: npt.NDArray[np.int8]
    count: npt.NDArray[np.int8]
    centre: npt.NDArray[np.bool_]
    place: npt.NDArray[np.float16]
    number: npt.NDArray[np.int8]
    ids: npt.NDArray[np.int16]
    read: npt.NDArray[np.int16]
    type: npt.NDArray[np.int8]
    spot: npt.NDArray[np.int8]
    texts: list[str]
    about: npt.NDArray[np.uint8]  # of each question of the old types the patches it is about, eight to a byte


def _questions(scene: Any, rng: np.random.Generator, plan: dict[str, int]) -> list[Question]:
    found = []
    for kind, times in plan.items():
        for _ in range(times):
            try:
                found.append(sample_question(scene, rng, kind))
            except ValueError:  # no sign to read, say: ask what is hardest instead
                found.append(sample_question(scene, rng, "counting" if rng.random() < 0.5 else None))
    return found


def make_rows(args: tuple[int, int, int, float]) -> Rows:
    namespace, seed, index, hard = args
    rng = item_rng(namespace, seed, index)
    # Drawn apart, so that with hard=0 the scenes are those of before.
    if hard and item_rng(namespace, seed, 2**40 + index).random() < hard:
        content, questions = content_and_questions(rng, TOTAL)
    else:
        content = sample_scene(rng, sign=bool(rng.random() < 0.6))
        questions = _questions(content, rng, PER_SCENE)
    targets = targets_of(content)
    ids = np.full((TOTAL, LONG), PAD, np.int16)
    read = np.zeros(TOTAL, np.int16)
    kinds = np.zeros(TOTAL, np.int8)
    spots = np.zeros((TOTAL, 4), np.int8)
    about = np.zeros((TOTAL, GRID * GRID // 8), np.uint8)
    texts = []
    for i, question in enumerate(questions):
        if namespace == TRAINING_NAMESPACE and rng.random() < 0.04:
            question = Question(question.text.lower(), question.answer, question.type, question.boxes) \
                if question.type != "multiple_choice" else question  # fmt: skip
        block = block_ids(question)[:LONG]
        ids[i, : len(block)] = block
        read[i] = len(block) - 3
        kinds[i] = ALL_TYPES.index(question.type)
        spots[i] = answer_spot(content, question)
        if question.type in TYPES:
            about[i] = np.packbits(question_mask(content, question, targets))
        texts.append(question.text)
    return Rows(
        patches=to_patches(draw(content)),
        label=targets.label,
        colour=targets.colour.astype(np.int8),
        count=targets.count.astype(np.int8),
        centre=targets.centre > 0,
        place=(targets.position / GRID * 2 - 1).astype(np.float16),
        number=numbers_of(content).astype(np.int8),
        ids=ids,
        read=read,
        type=kinds,
        spot=spots,
        texts=texts,
        about=about,
    )


def load_clip() -> CLIPModel:
    """The tower's last checkpoint, else the shipped tower, with weights rounded to fp16 as they are shipped."""
    path = CACHE / "clip.pt"
    if not path.exists():
        return CLIPModel.from_pretrained(MODEL_DIR / "clip")
    clip = new_clip()
    state = torch.load(path, weights_only=True)
    clip.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in state.items()})
    return clip


def build(path: Path, namespace: int, seed: int, start: int, count: int, hard: float, batch: int = 16) -> None:
    """Write `count` scenes' arrays to path; features as fp16 on disk, the rest in one archive."""
    clip = load_clip()
    clip.set_attn_implementation("matmul")
    clip.eval()
    tokenizer = build_tokenizer(eos=True, max_length=77)
    path.mkdir(parents=True, exist_ok=True)
    features = np.lib.format.open_memmap(
        path / "features.npy", mode="w+", dtype=np.float16, shape=(count, GRID * GRID, VISION_WIDTH)
    )
    query = np.zeros((count, TOTAL, PROJECTION), np.float16)
    rows: list[Rows] = []
    began = time.time()
    with mp.get_context("spawn").Pool(2, initializer=os.nice, initargs=(3,)) as pool, torch.no_grad():
        pending: list[Rows] = []
        for made in pool.imap(make_rows, [(namespace, seed, start + i, hard) for i in range(count)], chunksize=8):
            pending.append(made)
            if len(pending) == batch or len(rows) + len(pending) == count:
                here = slice(len(rows), len(rows) + len(pending))
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    texts = [t for r in pending for t in r.texts]
                    query[here] = encode_texts(clip, tokenizer, texts).float().view(len(pending), TOTAL, -1).numpy()
                    patches = normalise(torch.from_numpy(np.stack([r.patches for r in pending])))
                    features[here] = dense_features(clip, patches, (0, 0)).float().numpy()
                for r in pending:
                    r.patches = np.empty(0, np.uint8)
                    r.texts = []
                rows += pending
                pending = []
                if len(rows) % 640 == 0:
                    print(f"{len(rows)} scenes, {time.time() - began:.0f} s", flush=True)
    features.flush()
    arrays = {k: np.stack([getattr(r, k) for r in rows]) for k in PATCHES + QUESTIONS}
    np.savez(path / "rest.npz", query=query, **arrays)


def join(path: Path, more: Path) -> None:
    """Add the scenes in `more` to those in path; `more` is gone afterwards."""
    both = [np.load(p / "features.npy", mmap_mode="r") for p in (path, more)]
    shape = (sum(map(len, both)), *both[0].shape[1:])
    joined = np.lib.format.open_memmap(path / "joined.npy", mode="w+", dtype=np.float16, shape=shape)
    joined[: len(both[0])], joined[len(both[0]) :] = both
    joined.flush()
    (path / "joined.npy").replace(path / "features.npy")
    rest = [np.load(p / "rest.npz") for p in (path, more)]
    np.savez(path / "rest.npz", **{key: np.concatenate([r[key] for r in rest]) for key in rest[0].files})
    shutil.rmtree(more)


@dataclass
class Cache:
    """The arrays of `build`, as tensors; features stay on disk (memory-mapped), or on a GPU beside what is known of patches."""

    features: npt.NDArray[np.float16] | Tensor
    label: Tensor
    colour: Tensor
    count: Tensor
    centre: Tensor
    place: Tensor
    number: Tensor
    part: Tensor  # 1 / patches of the owner, so that an object's patches sum to one
    ids: Tensor
    read: Tensor
    type: Tensor
    spot: Tensor
    query: Tensor

    @classmethod
    def load(cls, path: Path) -> Cache:
        rest = np.load(path / "rest.npz")
        arrays = {k: torch.from_numpy(rest[k]) for k in (*PATCHES, *QUESTIONS, "query")}
        part = parts_of(arrays["label"], arrays["colour"], arrays["place"])
        return cls(features=np.load(path / "features.npy", mmap_mode="r"), part=part, **arrays)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def device(self) -> torch.device:
        """Where the patches are; questions stay in main memory."""
        return self.label.device

    def gather_features(self, scenes: npt.NDArray[np.int64]) -> Tensor:
        if isinstance(self.features, Tensor):
            return self.features[torch.from_numpy(scenes)].float()
        return torch.from_numpy(self.features[scenes].astype(np.float32))


def parts_of(label: Tensor, colour: Tensor, place: Tensor) -> Tensor:
    """Which part of its owner a patch is, [scenes, patches]; owners are told apart by what and where they are."""
    spots = (place.float() * 512).round().long() + 1024
    owner = ((label.long().clamp(min=0) * 16 + colour.long()) * 2048 + spots[..., 0]) * 2048 + spots[..., 1]
    parts = torch.zeros(label.shape)
    for row, key in zip(parts, owner, strict=True):
        _, which, sizes = key.unique(return_inverse=True, return_counts=True)
        row.copy_(1.0 / sizes[which])
    return parts.masked_fill((label <= 0) & (colour <= 0), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=10000)
    parser.add_argument("--held-out", type=int, default=256)
    parser.add_argument("--name", default="lm")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--hard", type=float, default=HARD, help="share of pictures for the four harder types")
    parser.add_argument("--add", action="store_true", help="to the training scenes that are there, not in their place")
    args = parser.parse_args()
    torch.set_num_threads(2)
    if args.held_out:
        build(CACHE / f"{args.name}_heldout", EVALUATION_NAMESPACE, 0, 10_000, args.held_out, args.hard)
    path = CACHE / f"{args.name}_train"
    fresh = path.with_name(f"{path.name}_more") if args.add else path
    build(fresh, TRAINING_NAMESPACE, args.seed, 0, args.train, args.hard)
    if args.add:
        join(path, fresh)


if __name__ == "__main__":
    main()

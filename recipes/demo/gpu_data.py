"""Pictures for training on a GPU: drawn by many processes into shards of files, held whole in the GPU's memory."""

from __future__ import annotations

import multiprocessing as mp
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPModel

from recipes.demo.clip_data import Chunk
from recipes.demo.lm_data import PATCHES, QUESTIONS, TOTAL, Cache, make_rows, parts_of
from recipes.demo.shapes import GRID, PROJECTION, VISION_WIDTH, build_tokenizer
from recipes.demo.train_clip import dense_features, encode_ids, normalise
from trimkit.demo.questions import TYPES
from trimkit.demo.typed_items import ALL_TYPES

SHARD = 64  # pictures in a file
TEXT = 77  # tokens that the text tower reads at most
ON_GPU = (*PATCHES, "patches", "part", "text", "about")
OLD = [ALL_TYPES.index(kind) for kind in TYPES]
PAGED = ALL_TYPES.index("dense_reading")


def write_shards(folder: Path, namespace: int, seed: int, start: int, numbers: range, hard: float) -> None:
    """Draw shard after shard; a file gets its name when it is whole."""
    os.nice(5)
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(eos=True, max_length=TEXT)
    for number in numbers:
        first = start + number * SHARD
        rows = [make_rows((namespace, seed, index, hard)) for index in range(first, first + SHARD)]
        fields = ("patches", "about", *PATCHES, *QUESTIONS)
        arrays = {name: np.stack([getattr(row, name) for row in rows]) for name in fields}
        texts = [text for row in rows for text in row.texts]
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=TEXT, return_tensors="np")["input_ids"]
        arrays["text"] = ids.reshape(SHARD, TOTAL, TEXT).astype(np.int16)
        known = (torch.from_numpy(arrays[name]) for name in ("label", "colour", "place"))
        arrays["part"] = parts_of(*known).half().numpy()
        made = folder / f"{number:05d}.part"
        with made.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        made.rename(folder / f"{number:05d}.npz")


def start_workers(
    folder: Path, namespace: int, seed: int, start: int, shards: int, hard: float, workers: int
) -> list[mp.process.BaseProcess]:
    """Processes that write these shards; to be started before anything touches the GPU, since they are forked."""
    folder.mkdir(parents=True, exist_ok=True)
    context = mp.get_context("fork")
    found: list[mp.process.BaseProcess] = []
    for worker in range(workers):
        numbers = range(worker, shards, workers)
        process = context.Process(
            target=write_shards, args=(folder, namespace, seed, start, numbers, hard), daemon=True
        )
        process.start()
        found.append(process)
    return found


@dataclass
class Pool:
    """Shards as they come in; `size` pictures are there."""

    folder: Path
    limit: int
    device: torch.device
    arrays: dict[str, Tensor] = field(default_factory=dict)
    size: int = 0

    def load(self, most: int = 1000) -> int:
        """Take in at most so many of the shards that are there; returns how many it took."""
        taken = 0
        for path in sorted(self.folder.glob("*.npz"))[:most]:
            if self.size + SHARD > self.limit:
                break
            with np.load(path) as shard:
                for name in shard.files:
                    self._put(name, torch.from_numpy(shard[name]))
            path.unlink()
            self.size += SHARD
            taken += 1
        return taken

    def _put(self, name: str, value: Tensor) -> None:
        if name not in self.arrays:
            where = self.device if name in ON_GPU else "cpu"
            self.arrays[name] = torch.zeros((self.limit, *value.shape[1:]), dtype=value.dtype, device=where)
        self.arrays[name][self.size : self.size + SHARD] = value.to(self.arrays[name].device)

    def chunk(self, rng: np.random.Generator, count: int, questions: int) -> Chunk:
        """A batch for the tower: of each picture some questions of the old types, with the patches they are about."""
        at = np.sort(rng.choice(self.size, size=count, replace=False))
        kinds = self.arrays["type"][at].numpy()
        rank = rng.random(kinds.shape) + ~np.isin(
            kinds, OLD
        )  # where there are too few: those of other types have no patches
        asked = torch.from_numpy(np.argsort(rank, axis=1)[:, :questions].copy())
        where = torch.from_numpy(at)
        rows = where[:, None]
        bits = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=self.device)
        mask = (self.arrays["about"][rows, asked][..., None] & bits) > 0
        place = self.arrays["place"][where].float()
        known = {name: self.arrays[name][where] for name in ("patches", "label", "colour", "count", "number")}
        return Chunk(
            **known,  # type: ignore[arg-type]
            centre=self.arrays["centre"][where].float(),  # type: ignore[arg-type]
            position=(place + 1) * GRID / 2,  # type: ignore[arg-type]
            mask=mask.flatten(2),  # type: ignore[arg-type]
            questions=self.arrays["text"][rows, asked],
            pages=torch.from_numpy((kinds == PAGED).any(axis=1)).to(self.device),
        )

    @torch.no_grad()
    def cache(self, clip: CLIPModel, batch: int = 256) -> Cache:
        """What the language model trains on, for the pictures that are there; pictures and texts are given up."""
        size, device = self.size, self.device
        features = torch.empty(size, GRID * GRID, VISION_WIDTH, dtype=torch.float16, device=device)
        query = torch.empty(size, TOTAL, PROJECTION, dtype=torch.float16, device=device)
        for start in range(0, size, batch):
            here = slice(start, min(start + batch, size))
            with torch.autocast(device.type, dtype=torch.bfloat16):
                features[here] = dense_features(clip, normalise(self.arrays["patches"][here]), (0, 0)).half()
                ids = self.arrays["text"][here].flatten(0, 1).long()
                longest = int((ids != 0).sum(1).max())
                query[here] = encode_ids(clip, ids[:, :longest]).half().view(-1, TOTAL, PROJECTION)
        for name in ("patches", "text", "about"):
            del self.arrays[name]
        kept = {name: self.arrays[name][:size] for name in (*PATCHES, *QUESTIONS)}
        return Cache(features=features, part=self.arrays["part"][:size].float(), query=query, **kept)  # type: ignore[arg-type]

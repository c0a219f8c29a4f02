"""Training pictures for the tower: scenes of any grid size drawn in background processes, ready as patches and targets."""

from __future__ import annotations

import multiprocessing as mp
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from recipes.demo.targets import patch_targets, question_mask, to_patches
from trimkit.demo.items import TRAINING_NAMESPACE, item_rng
from trimkit.demo.questions import TYPES, sample_question
from trimkit.demo.render import render
from trimkit.demo.world import PATCH_SIZE, sample_scene

QUESTIONS = 4


@dataclass
class Chunk:
    """Arrays over pictures: patches [n, p, 588], targets [n, p] (position [n, p, 2]), questions and their masks [n, q, p]."""

    patches: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int16]
    colour: npt.NDArray[np.int16]
    count: npt.NDArray[np.int16]
    centre: npt.NDArray[np.float32]
    position: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    questions: list[list[str]] | Tensor  # as texts, or as tokens [n, q, l]
    number: Tensor | None = None  # on pages, [n, p]
    pages: Tensor | None = None  # which pictures are pages, [n]


def make_chunk(
    seed: int, start: int, size: int, grid: int, objects: tuple[int, int], namespace: int = TRAINING_NAMESPACE
) -> Chunk:
    rows = []
    questions = []
    for i in range(start, start + size):
        rng = item_rng(namespace, seed, i)
        scene = sample_scene(rng, size=grid * PATCH_SIZE, objects=objects)
        targets = patch_targets(scene)
        texts, masks = [], []
        while len(texts) < QUESTIONS:
            try:
                # every type equally often, tried again when this scene does not allow it
                question = sample_question(scene, rng, TYPES[int(rng.integers(len(TYPES)))])
            except ValueError:
                continue
            texts.append(question.text if rng.random() > 0.05 else question.text.lower())
            masks.append(question_mask(scene, question, targets))
        questions.append(texts)
        rows.append((to_patches(render(scene)), targets, np.stack(masks)))
    return Chunk(
        patches=np.stack([r[0] for r in rows]),
        label=np.stack([r[1].label for r in rows]),
        colour=np.stack([r[1].colour for r in rows]),
        count=np.stack([r[1].count for r in rows]),
        centre=np.stack([r[1].centre for r in rows]),
        position=np.stack([r[1].position for r in rows]),
        mask=np.stack([r[2] for r in rows]),
        questions=questions,
    )


def _work(queue: mp.Queue[Chunk], seed: int, size: int, grid: int, objects: tuple[int, int]) -> None:
    os.nice(5)
    start = 0
    while True:
        queue.put(make_chunk(seed, start, size, grid, objects))
        start += size


class Stream:
    """A pool of chunks that one background process keeps renewing: old pictures come again until new ones are ready."""

    def __init__(self, seed: int, *, chunk: int, grid: int, objects: tuple[int, int], pool: int, first: int) -> None:
        self.queue: mp.Queue[Chunk] = mp.get_context("spawn").Queue(maxsize=8)
        self.process = mp.get_context("spawn").Process(
            target=_work, args=(self.queue, seed, chunk, grid, objects), daemon=True
        )
        self.process.start()
        self.pool: list[Chunk] = [self.queue.get() for _ in range(first)]
        self.limit = pool
        self.drawn = len(self.pool)
        self.rng = np.random.default_rng([TRAINING_NAMESPACE, seed, 2**40])

    def next(self) -> Chunk:
        if not self.queue.empty():
            fresh = self.queue.get()
            self.drawn += 1
            if len(self.pool) >= self.limit:
                self.pool.pop(0)
            self.pool.append(fresh)
            return fresh
        return self.pool[int(self.rng.integers(len(self.pool)))]

    def close(self) -> None:
        self.process.terminate()
        self.process.join()

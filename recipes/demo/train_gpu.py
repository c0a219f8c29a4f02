"""Trains tower and language model on one GPU in minutes, on pictures that many processes draw meanwhile.

The tower goes on from the shipped one, on scenes and on pages, and is kept if it still finds what questions are about; then the
language model goes on from the shipped one. Writes weights in half precision:

    python -m recipes.demo.train_gpu --out DIR              # where the GPU is
    python -m recipes.demo.train_gpu --take DIR             # into .cache/demo, for export
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel

from recipes.demo.clip_data import make_chunk
from recipes.demo.gpu_data import SHARD, Pool, start_workers
from recipes.demo.lm_batches import Task, new_task, to_device
from recipes.demo.lm_data import CACHE, Cache, load_clip
from recipes.demo.shapes import GRID, build_tokenizer, new_clip, new_llava
from recipes.demo.train_clip import CHECKPOINT as TOWER
from recipes.demo.train_clip import WEIGHTS, Heads, losses
from recipes.demo.train_clip import evaluate as evaluate_tower
from recipes.demo.train_lm import CHECKPOINT, PREFER, PROBES, evaluate, fit, resume_from
from trimkit.demo.items import EVALUATION_NAMESPACE, TRAINING_NAMESPACE

WORSE = {"patch_acc": 0.01, "recall": 0.02, "recall90": 0.03}  # a new tower may be so much worse
_BEGAN = time.time()


def say(*words: object) -> None:
    print(f"{time.time() - _BEGAN:.0f} s:", *words, flush=True)


def check(workers: list[BaseProcess]) -> None:
    """Refuse to wait for pictures that nobody draws."""
    if failed := [worker.exitcode for worker in workers if worker.exitcode]:
        raise RuntimeError(f"a process that draws pictures has ended with exit code {failed[0]}: see its lines above")


def halves(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.half().contiguous().cpu() for name, value in model.state_dict().items()}


def _tower_optimiser(clip: CLIPModel, heads: Heads) -> torch.optim.Optimizer:
    unused = {id(p) for p in [*clip.vision_model.encoder.layers[-1].parameters(), clip.logit_scale]}
    params = [p for p in clip.parameters() if id(p) not in unused]
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.03, "part": 1.0},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0, "part": 1.0},
        {"params": list(heads.parameters()), "weight_decay": 0.0, "part": 4.0},  # these start anew
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)


def train_tower(clip: CLIPModel, pool: Pool, seconds: float, lr: float, batch: int, seed: int) -> None:
    """The losses of train_clip on whole pictures, pages among them; the learning rate follows the clock to zero."""
    heads, tokenizer = Heads(), build_tokenizer(eos=True, max_length=77)
    rng = np.random.default_rng(seed)
    optimiser = _tower_optimiser(clip, heads)
    clip.train()
    start, step, sums = time.time(), 0, {}
    while (done := (time.time() - start) / seconds) < 1:
        rate = lr * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = rate * group["part"]
        with torch.autocast(pool.device.type, dtype=torch.bfloat16):
            found = losses(clip, heads, tokenizer, pool.chunk(rng, batch, 4), rng)
            total = torch.stack([WEIGHTS[name] * found[name].float() for name in WEIGHTS]).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], 1.0)
        optimiser.step()
        step += 1
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value.detach()
        if step % 100 == 0:
            say(
                "tower",
                step,
                f"{pool.size} pictures",
                *(f"{name} {float(value) / 100:.3f}" for name, value in sums.items()),
            )
            sums = {}
    clip.eval()
    say("tower: steps", step)


def better_tower(towers: list[CLIPModel], pool: Pool, seconds: float, lr: float, batch: int, seed: int) -> CLIPModel:
    """The second tower, trained, or the first, the one that was there, if it finds more; rounded as it is shipped."""
    tokenizer = build_tokenizer(eos=True, max_length=77)
    held_out = make_chunk(0, 0, 96, GRID, (6, 12), namespace=EVALUATION_NAMESPACE)
    old, new = towers
    for clip in towers:
        clip.set_attn_implementation("matmul" if pool.device.type == "cpu" else "sdpa")
    before = evaluate_tower(old.eval(), tokenizer, held_out)
    say("tower before", before)
    if seconds <= 0:
        return old.eval()
    train_tower(new, pool, seconds, lr, batch, seed)
    new.load_state_dict({name: value.float() for name, value in halves(new).items()})
    after = evaluate_tower(new, tokenizer, held_out)
    new.eval()
    say("tower after", after)
    worse = [name for name, least in WORSE.items() if not after[name] >= before[name] - least]
    if worse:
        say("the new tower is worse in", *worse, "and is left out")
        return old.eval()
    return new


class Feed:
    """Takes shards in beside the training, in a thread of its own."""

    def __init__(self, pool: Pool, workers: list[BaseProcess]) -> None:
        self.pool, self.workers, self.ended = pool, workers, threading.Event()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.ended.is_set():
                if not self.pool.load(1):
                    check(self.workers)
                    time.sleep(0.1)
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        self.ended.set()
        self.thread.join()
        if self.error is not None:
            raise self.error
        self.pool.load()


class Averaged:
    """An exponential average of weights over about the last `over` calls."""

    def __init__(self, model: nn.Module, over: float) -> None:
        self.model, self.share = model, 1 / over
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def __call__(self, done: float) -> None:
        mine = list(self.weights.values())
        theirs = [p for name, p in self.model.named_parameters() if name in self.weights]
        torch._foreach_lerp_(mine, theirs, self.share if done > 0.5 else 1.0)  # type: ignore[arg-type]

    @torch.no_grad()
    def take(self) -> None:
        for name, p in self.model.named_parameters():
            if name in self.weights:
                p.copy_(self.weights[name])


def keep(out: Path, clip: CLIPModel, task: Task) -> None:
    """Weights in half precision, without what stands in another file."""
    save_file(halves(clip), out / "tower.safetensors")
    own = {
        name: value
        for name, value in halves(task.model).items()
        if "vision_tower" not in name and "lm_head" not in name
    }
    save_file(own, out / "lm.safetensors")
    save_file(halves(task.probes), out / "heads.safetensors")


def take(folder: Path) -> None:
    """Make what `keep` wrote the recipe's checkpoints."""
    clip, model = new_clip(), new_llava()
    clip.load_state_dict({name: value.float() for name, value in load_file(folder / "tower.safetensors").items()})
    own = {name: value.float() for name, value in load_file(folder / "lm.safetensors").items()}
    left = model.load_state_dict(own, strict=False)
    strange = [name for name in left.missing_keys if "vision_tower" not in name and "lm_head" not in name]
    if strange or left.unexpected_keys:
        raise SystemExit(f"{folder} is of another model: {[*strange, *left.unexpected_keys][:3]}")
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.save(clip.state_dict(), TOWER)
    torch.save(model.state_dict(), CHECKPOINT)
    torch.save({n: v.float() for n, v in load_file(folder / "heads.safetensors").items()}, PROBES)


def train(args: argparse.Namespace, shards: Path) -> None:
    device = torch.device(args.device)
    pools, workers = {}, []
    for name, namespace, count, start in (
        ("held out", EVALUATION_NAMESPACE, args.held_out, 10_000),
        ("train", TRAINING_NAMESPACE, args.pictures, 0),
    ):
        folder = shards / name.replace(" ", "-")
        seed = 0 if namespace == EVALUATION_NAMESPACE else args.seed
        workers += start_workers(folder, namespace, seed, start, count // SHARD, args.hard, args.workers)
        pools[name] = Pool(folder, count // SHARD * SHARD, device)
    # Before all that is new is on the GPU.
    task, towers = new_task(args.seed), [load_clip().to(device) for _ in range(2)]
    resume_from(task)
    task = replace(to_device(task, device), scale=args.scale)
    torch.manual_seed(args.seed)
    torch.set_default_device(device)
    pool = pools["train"]
    while pool.size < min(args.first, pool.limit):
        if not pool.load(20):
            check(workers)
            time.sleep(0.2)
    say(pool.size, "pictures are there")
    feed = Feed(pool, workers)
    clip = better_tower(towers, pool, args.tower, args.tower_lr, args.tower_batch, args.seed)
    feed.stop()
    cache, held_out = pool.cache(clip), _held_out(pools["held out"], clip)
    say(len(cache), "pictures to train on,", len(held_out), "held out")
    train_language(args, task, clip, cache, held_out)


def _held_out(pool: Pool, clip: CLIPModel) -> Cache:
    pool.load()
    if not pool.size:
        raise SystemExit("no held-out picture has been drawn yet: give more --workers, or --held-out 64 at least")
    return pool.cache(clip)


def train_language(args: argparse.Namespace, task: Task, clip: CLIPModel, cache: Cache, held_out: Cache) -> None:
    PREFER["counting"] = args.counting
    task.post_norm, task.projection = clip.vision_model.post_layernorm, clip.visual_projection
    average = Averaged(task.model, args.average)

    def now_and_then() -> None:
        keep(args.out, clip, task)

    try:
        fit(task, cache, args.lm / 60, args.lr, args.seed, args.begin, now_and_then, average, args.out_every)
    except ValueError as error:
        say("stopped:", error)
    _report("last weights", task, held_out, scenes=min(256, len(held_out)))
    average.take()
    keep(args.out, clip, task)
    _report("averaged weights", task, held_out, scenes=len(held_out))


def _report(what: str, task: Task, held_out: Cache, scenes: int) -> None:
    for name, values in evaluate(task, held_out, scenes, batch=32).items():
        say(what, name, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CACHE / "gpu", help="where to write the weights")
    parser.add_argument("--take", type=Path, help="a directory of such weights to go on with; trains nothing")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tower", type=float, default=90, help="seconds for the tower; 0 leaves it as it is")
    parser.add_argument("--tower-lr", type=float, default=5e-4)
    parser.add_argument("--tower-batch", type=int, default=64)
    parser.add_argument("--lm", type=float, default=220, help="seconds for the language model")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--begin", type=float, default=0.15, help="start so far into the curriculum (0 to 1)")
    parser.add_argument("--scale", type=int, default=16, help="batches so many times larger than on a CPU")
    parser.add_argument("--average", type=float, default=40, help="average over about so many tens of steps")
    parser.add_argument("--counting", type=float, default=0.45)
    parser.add_argument("--seed", type=int, default=301)
    parser.add_argument("--pictures", type=int, default=44_800)
    parser.add_argument("--held-out", type=int, default=1024)
    parser.add_argument("--first", type=int, default=2048, help="pictures to wait for")
    parser.add_argument("--hard", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=13)
    parser.add_argument("--out-every", type=float, default=60, help="seconds between checkpoints")
    args = parser.parse_args()
    if args.take:
        take(args.take)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    shards = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        train(args, shards)
    finally:
        shutil.rmtree(shards, ignore_errors=True)
    say("done")


if __name__ == "__main__":
    main()

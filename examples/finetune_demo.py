"""Fine-tune the embedded demo model with Hugging Face's Trainer, with all image tokens and with TRIM: it learns shorthand.

    python examples/finetune_demo.py                                  # both, one after the other, and how they compare
    python examples/finetune_demo.py --method trim --out shorthand    # one, and save it

The model answers whole questions about pictures ("What colour is the disc behind the fox?" - "red"). Here it learns the prompt
format of an imagined application, which sends the words that count and no others ("the picture: colour disc behind fox"), on
pictures it has never seen. Data, seed and steps are the same with and without TRIM. Needs accelerate. Runs on the CPU (some
minutes), or on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import trimkit
from trimkit.demo import demo_model_path, load_demo
from trimkit.demo.items import EVALUATION_NAMESPACE, TRAINING_NAMESPACE, item_rng, sample_scene_question
from trimkit.demo.render import render
from trimkit.eval.tally import wilson

UNSAID = frozenset(
    {"a", "an", "any", "are", "can", "contain", "do", "does", "here", "i", "image", "in", "is", "it", "of", "on", "or"}
    | {"picture", "show", "the", "there", "to", "visible", "what", "which", "you", "see"}
)
KINDS = ("existence", "attribute", "relation")
LEARNING_RATE = 5e-4
WARM_UP = 0.1  # of the steps
IGNORED = -100


class Scenes(torch.utils.data.Dataset[dict[str, Any]]):
    """Rendered scenes, each with a question in shorthand. Item i of a seed is always the same."""

    def __init__(self, namespace: int, seed: int, count: int) -> None:
        self.namespace, self.seed, self.count = namespace, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = item_rng(self.namespace, self.seed, index)
        scene, question = sample_scene_question(rng, KINDS[index % len(KINDS)])
        return {"image": render(scene), "question": shorthand(question.text), "answer": question.answer}


def shorthand(question: str) -> str:
    """The words that count: "Is there a fox in the picture?" becomes "the picture: fox".

    Of the opening, which is always the same, the model has to learn nothing. Without it a name would come first, and the
    tokenizer writes a first word with another token than the one behind a space, which the model knows.
    """
    words = re.findall(r"[\w-]+", question.lower())
    return " ".join(["the picture:", *(word for word in words if word not in UNSAID)])


def training_scenes(seed: int, count: int) -> Scenes:
    return Scenes(TRAINING_NAMESPACE, 7000 + seed, count)


def held_out_scenes(seed: int, count: int) -> Scenes:
    return Scenes(EVALUATION_NAMESPACE, 7000 + seed, count)


def prompt(processor: Any, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    turns = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


class Collator:
    """Pictures, questions and answers to one padded batch; only the answers have labels."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tokenizer = self.processor.tokenizer
        answers = [f" {item['answer']}{tokenizer.eos_token}" for item in items]
        texts = [prompt(self.processor, item["question"]) + answer for item, answer in zip(items, answers, strict=True)]
        images = [item["image"] for item in items]
        batch = self.processor(images=images, text=texts, padding=True, padding_side="right", return_tensors="pt")
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for row, answer in enumerate(answers):
            end = int(batch["attention_mask"][row].sum())
            start = end - len(tokenizer(answer, add_special_tokens=False)["input_ids"])
            labels[row, start:end] = batch["input_ids"][row, start:end]
        return {**batch, "labels": labels}


def reduction(model: Any, processor: Any, method: str) -> Any:
    """TRIM in a ``with`` block; with ``none`` the stock model."""
    return contextlib.nullcontext() if method == "none" else trimkit.reduce(model, processor, method=method)


@torch.no_grad()
def replies_right(model: Any, processor: Any, scenes: Scenes, method: str, batch_size: int = 16) -> list[bool]:
    """Whether the reply to each question is the answer, to the letter."""
    model.eval()
    right = []
    with reduction(model, processor, method):
        for start in range(0, len(scenes), batch_size):
            items = [scenes[i] for i in range(start, min(start + batch_size, len(scenes)))]
            texts, images = [prompt(processor, item["question"]) for item in items], [item["image"] for item in items]
            inputs = processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt")
            inputs = inputs.to(model.device)
            out = model.generate(**inputs, max_new_tokens=10, do_sample=False)
            replies = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            right += [reply.strip() == item["answer"] for reply, item in zip(replies, items, strict=True)]
    return right


def accuracy(right: list[bool]) -> dict[str, Any]:
    """Share and its 95 % interval."""
    return {"accuracy": sum(right) / len(right), "ci95": wilson(sum(right), len(right)), "n": len(right)}


def freeze(model: Any, train_tower: bool) -> None:
    """Projector and language model learn. Relevance reads the tower, so that it should stay as it is."""
    model.model.vision_tower.requires_grad_(train_tower)


def finetune(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once, evaluate as trained, and say what it took."""
    from transformers import Trainer, TrainingArguments

    model, processor = load_demo()
    freeze(model, arguments.train_tower)
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            output_dir=scratch,
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="cosine",
            warmup_steps=max(round(WARM_UP * arguments.steps), 1),
            gradient_checkpointing=arguments.gradient_checkpointing,
            seed=arguments.seed,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,  # the collator wants picture, question and answer
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = Trainer(
            model=model,
            args=settings,
            train_dataset=training_scenes(arguments.seed, arguments.steps * arguments.batch),
            data_collator=Collator(processor),
        )
        before, start = peak_mb(), time.perf_counter()
        with reduction(model, processor, method):  # the one line that TRIM takes
            trainer.train()
        seconds, peak = time.perf_counter() - start, peak_mb()
        if arguments.out:
            save(trainer, processor, arguments.out)
    right = replies_right(model, processor, held_out_scenes(arguments.seed, arguments.n), method)
    return {
        **accuracy(right),
        "seconds_per_step": seconds / arguments.steps,
        "peak_mb": peak,
        "peak_mb_before_training": before,
    }


def save(trainer: Any, processor: Any, where: Path) -> None:
    """A plain checkpoint; beside it the CLIP that TRIM scores with, and how to read its scores."""
    trainer.save_model(str(where))
    processor.save_pretrained(where)
    shutil.copy(demo_model_path() / "trimkit.json", where)
    shutil.copytree(demo_model_path() / "clip", where / "clip", dirs_exist_ok=True)


def peak_mb() -> float:
    """Highest use of memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def both(options: list[str]) -> dict[str, Any]:
    """Each in its own process, so that one's memory is not the other's."""
    found = {}
    for method in ("none", "trim"):
        line = [sys.executable, __file__, *options, "--method", method, "--json"]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
        found[method] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(found: dict[str, Any]) -> None:
    for method, one in found.items():
        low, high = one["ci95"]
        print(
            f"{method:5} {one['accuracy']:6.1%} right ({low:.1%} to {high:.1%}, n = {one['n']}), "
            f"{one['seconds_per_step']:.2f} s a step, peak {one['peak_mb']:.0f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("both", "none", "trim"), default="both")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--n", type=int, default=300, help="held-out questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-tower", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--out", type=Path, help="where to save the model (with one method)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.method == "both":
        if arguments.out:
            parser.error("--out saves one model: give --method too")
        found = both([option for option in sys.argv[1:] if option != "--json"])
    else:
        with contextlib.redirect_stdout(sys.stderr):  # Trainer prints as it goes
            found = {arguments.method: finetune(arguments.method, arguments)}
    if arguments.json:
        print(json.dumps(found if arguments.method == "both" else found[arguments.method]))
    else:
        show(found)


if __name__ == "__main__":
    main()

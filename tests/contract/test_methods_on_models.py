"""Every registered method on the demo model and on a random LLaVA. A new method file is tested here without being named."""

from __future__ import annotations

import pytest
from PIL import Image

from tests import tiny
from tests.contract.method_checks import CHECKS, Case, check_dtype
from tests.tiny import ToyScorer
from trimkit.demo import load_demo, sample_images
from trimkit.methods import method_classes

METHODS = [name for name, _ in method_classes()]
MODELS = ("demo", "random")


def demo_case() -> Case:
    model, processor = load_demo()
    processor.tokenizer.padding_side = "left"
    samples = list(sample_images().values())[:2]
    pictures = [Image.open(sample.path).convert("RGB") for sample in samples]
    questions = [samples[0].question, samples[1].question + " And what else is there?"]
    prompts = [f"USER: <image>\n{question} ASSISTANT:" for question in questions]
    batch = processor(images=pictures, text=prompts, padding=True, return_tensors="pt")
    singles = [
        processor(images=picture, text=prompt, return_tensors="pt")
        for picture, prompt in zip(pictures, prompts, strict=True)
    ]
    return Case(model, processor, dict(batch), tuple(map(dict, singles)), 0.1)


def random_case() -> Case:
    per_row = [1, 1]
    batch = tiny.llava_batch(per_row, seed=3)
    singles = tuple(tiny.single(batch, row, per_row) for row in range(2))
    return Case(tiny.llava(), ToyTokenizer(), batch, singles, 0.25, {"scorer": ToyScorer()}, ("left", "right one"))


class ToyTokenizer:
    """An id for each word, for methods that look the question's words up."""

    def __call__(self, text: str, **options: object) -> dict[str, list[int]]:
        return {"input_ids": [3 + len(word) for word in text.split()]}


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {"demo": demo_case(), "random": random_case()}


@pytest.fixture(scope="module")
def half_cases(cases: dict[str, Case]) -> dict[str, Case]:
    return {name: case.half() for name, case in cases.items()}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_to_the_contract(name: str, check: str, kind: str, cases: dict[str, Case]) -> None:
    CHECKS[check](cases[kind], name)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", METHODS)
def test_dtype_and_device_stay(name: str, kind: str, half_cases: dict[str, Case]) -> None:
    check_dtype(half_cases[kind], name)

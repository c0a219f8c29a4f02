"""The data sets' metrics, written down once more from their definitions: what lmms-eval reports has to equal these."""

from __future__ import annotations

import collections
import re
import statistics
import string
from collections.abc import Callable, Sequence
from typing import Any

from trimkit.demo.questions import LETTERS

Rows = Sequence[dict[str, Any]]
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def pope(rows: Rows, answers: Sequence[str]) -> dict[str, float]:
    """Yes is what counts as found; an answer that is neither yes nor no is wrong, and no miss."""
    pairs = [(row["answer"], answer.lower().strip()) for row, answer in zip(rows, answers, strict=True)]
    found, false, missed = (pairs.count(each) for each in (("yes", "yes"), ("no", "yes"), ("yes", "no")))
    precision = found / (found + false) if found + false else 0
    recall = found / (found + missed) if found + missed else 0
    return {
        "pope_accuracy": sum(truth == answer for truth, answer in pairs) / len(pairs),
        "pope_precision": precision,
        "pope_recall": recall,
        "pope_f1_score": 2 * (precision * recall) / (precision + recall) if precision + recall else 0,
        "pope_yes_ratio": sum(truth == "yes" for truth, _ in pairs) / len(pairs),
    }


def mme(rows: Rows, answers: Sequence[str]) -> dict[str, float]:
    """For each category: per cent right, and per cent of pictures with both questions right (acc+); summed over categories."""
    hits: dict[tuple[str, str], list[bool]] = collections.defaultdict(list)
    for row, answer in zip(rows, answers, strict=True):
        said = re.sub(r"\.", "", answer.lower()).strip()
        said = {"y": "yes", "n": "no"}.get(said, "yes" if "yes" in said[:4] else "no" if "no" in said[:4] else "other")
        hits[row["category"], row["question_id"]].append(said == row["answer"].lower())
    categories: dict[str, list[float]] = collections.defaultdict(list)
    for (category, _), pair in hits.items():
        categories[category].append(sum(pair) / 2 * 100 + (100 if all(pair) else 0))
    sums = {"mme_perception_score": 0.0, "mme_cognition_score": 0.0}
    for category, scores in categories.items():
        sums[f"mme_{'cognition' if category in COGNITION else 'perception'}_score"] += sum(scores) / len(scores)
    return sums


def soft_accuracy(rows: Rows, answers: Sequence[str], normal: Callable[[str], str]) -> dict[str, float]:
    """VQA: an answer that three of the nine other people gave is right, one or two give a third or two thirds."""
    scores = []
    for row, answer in zip(rows, answers, strict=True):
        people = [normal(each["answer"] if isinstance(each, dict) else each) for each in row["answers"]]
        agreed = people.count(normal(answer))
        others = [agreed - (person == normal(answer)) for person in people]
        scores.append(statistics.mean(min(1, count / 3) for count in others))
    return {"exact_match": sum(scores) / len(scores)}


def words(text: str) -> str:
    """VQA's spelling: lower case, no articles, numbers as digits, no punctuation that ends a word."""
    text = re.sub(r"[^\w\s']", "", text.lower()).strip()
    kept = [str(NUMBERS.index(word)) if word in NUMBERS else word for word in text.split()]
    return " ".join(word for word in kept if word not in ("a", "an", "the"))


def gqa(rows: Rows, answers: Sequence[str]) -> dict[str, float]:
    def plain(text: str) -> str:
        return text.lower().translate(str.maketrans("", "", string.punctuation))

    return {"exact_match": share(plain(row["answer"]) == plain(said) for row, said in zip(rows, answers, strict=True))}


def mmbench(rows: Rows, answers: Sequence[str]) -> dict[str, float]:
    """Circular evaluation: a question is right where it is right in every order of its options."""
    hits: dict[int, list[bool]] = collections.defaultdict(list)
    for row, answer in zip(rows, answers, strict=True):
        chosen = [letter for letter in LETTERS if letter in re.findall(r"[A-Za-z]+", answer)]
        named = [letter for letter in LETTERS if row[letter].lower() in answer.lower()]
        picked = chosen if len(chosen) == 1 else named
        hits[row["index"] % 1_000_000].append(picked == [row["answer"]])
    return {"gpt_eval_score": statistics.mean(all(group) for group in hits.values()) * 100}


def seedbench(rows: Rows, answers: Sequence[str]) -> dict[str, float]:
    """The first letter of the answer."""
    right = share(
        answer.strip()[:1].lower() == row["answer"].lower() for row, answer in zip(rows, answers, strict=True)
    )
    return {"seed_image": right, "seed_all": right}


def scienceqa(rows: Rows, answers: Sequence[str]) -> dict[str, float]:
    def right(letter: str, answer: str) -> bool:
        return answer.lower() == letter.lower() or bool(re.match(rf"{letter}\.", answer))

    pairs = zip(rows, answers, strict=True)
    return {"exact_match": share(right(LETTERS[row["answer"]], answer.strip()) for row, answer in pairs)}


def share(hits: Any) -> float:
    hits = list(hits)
    return sum(hits) / len(hits)


METRICS: dict[str, Callable[[Rows, Sequence[str]], dict[str, float]]] = {
    "pope": pope,
    "mme": mme,
    "vqav2": lambda rows, answers: soft_accuracy(rows, answers, words),
    "textvqa": lambda rows, answers: soft_accuracy(rows, answers, words),
    "vizwiz": lambda rows, answers: soft_accuracy(rows, answers, words),
    "gqa": gqa,
    "mmbench": mmbench,
    "seedbench": seedbench,
    "scienceqa": scienceqa,
}

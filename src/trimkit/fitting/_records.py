"""What is known of a picture and its questions, on disk: features, prompts, the full model's answers and its attention.

One safetensors file a picture, written whole or not at all: a fit that is killed goes on with the next picture. The folder has
a size limit; pictures that find no room are left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trimkit.core.recent import Recent
from trimkit.core.types import ImageTokens
from trimkit.errors import ConfigError, InputError
from trimkit.io.files import write_atomically
from trimkit.io.reading import read_json
from trimkit.io.text import json_text

__all__ = ["PairRecord", "PictureRecord", "RecordStore", "half", "pairs_of"]

_IDENTITY = "identity.json"
_HELD = 256  # pictures in memory, whatever they take
_HELD_BYTES = 1_000_000_000  # more of them, as long as they take no more than this: a batch of a step is drawn from all
_IMAGE = "image."


@dataclass(frozen=True)
class PairRecord:
    """One question about one picture.

    Attributes:
        question: its text.
        prompt: ``input_ids`` ``[L]`` with the picture's placeholders, ``answer`` ``[T]`` of the full model, and further inputs.
        logp: ``[T, M]`` log-probabilities of the full model's likeliest next tokens, and ``tokens`` ``[T, M]`` which they are.
        attention: ``[2, layers, N]`` what the question and the answer attend to.
        baseline: ``[N]`` relevance by the scorer that the model has without fitting, higher = more relevant; or None.
    """

    question: str
    prompt: dict[str, Tensor]
    logp: Tensor
    tokens: Tensor
    attention: Tensor
    baseline: Tensor | None


@dataclass(frozen=True)
class PictureRecord:
    """One picture's tokens, and its questions."""

    image: ImageTokens
    pairs: tuple[PairRecord, ...]


class RecordStore:
    """Records by the picture's number.

    Args:
        folder: where they are; made where it is not there.
        identity: what has to be equal for records to be used again.
        limit: bytes that all records may take.

    Attributes:
        limit: as given.

    Raises:
        ConfigError: the folder holds the records of another fit.
        InputError: the disk refuses.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], limit: int) -> None:
        self._folder, self.limit = folder, limit
        self._held: Recent[int, PictureRecord] = Recent(_HELD)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {str(folder)!r} ({error.strerror}): choose another place") from None
        path = folder / _IDENTITY
        if not path.exists():
            write_atomically(path, lambda file: file.write(json_text(identity).encode()))
        elif read_json(path) != json.loads(json_text(identity)):
            raise ConfigError(
                f"{str(folder)!r} holds the work of another fit (other pictures, questions, settings or model): remove it, or "
                "choose another place"
            )
        self._bytes = sum(each.stat().st_size for each in folder.glob("*.safetensors"))

    def has(self, number: int) -> bool:
        """Whether the picture's record is there."""
        return self._path(number).exists()

    def size(self, number: int) -> int:
        """Bytes of a record on disk."""
        return self._path(number).stat().st_size

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self._bytes >= self.limit

    def put(self, number: int, record: PictureRecord) -> None:
        """Write a record.

        Raises:
            InputError: the disk refuses, for example because it is full.
        """
        tensors = {f"{_IMAGE}{name}": value for name, value in _image_tensors(record.image).items()}
        for i, pair in enumerate(record.pairs):
            found = {"logp": pair.logp, "tokens": pair.tokens, "attention": pair.attention}
            found |= {f"prompt.{name}": value for name, value in pair.prompt.items()}
            found |= {} if pair.baseline is None else {"baseline": pair.baseline}
            tensors |= {f"{i}.{name}": value for name, value in found.items()}
        told = {"grid": record.image.grid, "key": record.image.key, "columns": record.image.tower_columns}
        text = json.dumps({**told, "questions": [pair.question for pair in record.pairs]})
        data = save({name: value.contiguous() for name, value in tensors.items()}, {"record": text})
        write_atomically(self._path(number), lambda file: file.write(data))
        self._bytes += len(data)

    def get(self, number: int) -> PictureRecord:
        """A record.

        Raises:
            InputError: it cannot be read.
        """
        found = self._held.get(number)
        if found is None:
            found = self._read(self._path(number))
            self._held.limit = max(_HELD, _HELD_BYTES // self.size(number))
            self._held.put(number, found)
        return found

    def _read(self, path: Path) -> PictureRecord:
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads(file.metadata()["record"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            return _record(told, tensors)
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            raise InputError(f"cannot read {str(path)!r} ({error}): remove it, and it is made again") from None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06}.safetensors"


def _record(told: dict[str, Any], tensors: dict[str, Tensor]) -> PictureRecord:
    own = {name.removeprefix(_IMAGE): value for name, value in tensors.items() if name.startswith(_IMAGE)}
    layers = tuple(own[f"layer{i}"] for i in range(len(own) - 1))
    grid, columns = (None if told[name] is None else tuple(told[name]) for name in ("grid", "columns"))
    image = ImageTokens(own["features"], grid, told["key"], layers, columns)
    return PictureRecord(image, tuple(_pair(tensors, i, text) for i, text in enumerate(told["questions"])))


def _image_tensors(image: ImageTokens) -> dict[str, Tensor]:
    return {"features": image.features, **{f"layer{i}": layer for i, layer in enumerate(image.layers)}}


def _pair(tensors: dict[str, Tensor], number: int, question: str) -> PairRecord:
    start = f"{number}."
    own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    prompt = {name.removeprefix("prompt."): value for name, value in own.items() if name.startswith("prompt.")}
    return PairRecord(question, prompt, own["logp"], own["tokens"], own["attention"], own.get("baseline"))


def half(values: Tensor) -> Tensor:
    """In half precision, which is what is kept on disk; bfloat16 stays."""
    return values if values.dtype == torch.bfloat16 else values.half()


def pairs_of(store: RecordStore, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Every pair of these pictures: the picture's number, and the question's among its own."""
    return [(number, i) for number in numbers for i in range(len(store.get(number).pairs))]

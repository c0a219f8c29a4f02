"""A scorer that was fitted to the model it serves: ``trimkit fit`` makes the folder that it is loaded from.

The folder holds ``scorer.json`` (sizes, and which model it belongs to), ``model.safetensors``, the tokenizer of the question,
``trimkit.json`` (how its relevance is read), marks of the pictures that it was fitted on, and a model card. It reads the
question alone: no answer, no other text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from trimkit.core.recent import Recent
from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.errors import ConfigError, InputError, ModelError
from trimkit.io.directories import copy_tree
from trimkit.io.files import write_atomically
from trimkit.io.reading import read_json
from trimkit.io.settings import clip_inside, write_settings
from trimkit.scorers.base import EncoderScorer, Scorer
from trimkit.scorers.checkpoint import EncoderCheckpoint
from trimkit.scorers.fitted_network import MOST_WIDTH, NetworkShape, ScoringNetwork
from trimkit.scorers.fitted_pictures import read_pictures, write_pictures
from trimkit.scorers.model_fingerprint import is_same_model

__all__ = ["FITTED_FILE", "MODEL_TYPE", "FittedScorer", "fitted_config", "write_fitted"]

MODEL_TYPE = "trimkit_fitted"
FITTED_FILE = "scorer.json"
_WEIGHTS = "model.safetensors"
_BASE = "base"  # directory of the CLIP that it builds on
_HELD = 256  # questions
_MOST = 2_000_000  # rows of the word table


class FittedScorer(EncoderScorer):
    """Patch features, the question's words and the place in the picture to one relevance a token.

    Args:
        network: with its word table.
        tokenizer: the one that the table's rows belong to.
        profile: how the relevance is read; by default as it is.
        fingerprint: of the model that it was fitted to, see ``trimkit.scorers.fingerprint_of``; None fits every model.
        source: what messages call it.
        base: the scorer whose relevance the network builds on, and how that is read; None where it stands alone.
        fitted_on: marks of the pictures that it was fitted on, see ``trimkit.scorers.fitted_pictures``; None: nobody knows.
    """

    name: ClassVar[str] = "fitted"
    summary: ClassVar[str] = "a small network fitted to the model itself by `trimkit fit`; needs no CLIP"
    model_types: ClassVar[tuple[str, ...]] = (MODEL_TYPE,)
    own_profile: ClassVar[bool] = True

    def __init__(
        self,
        network: ScoringNetwork,
        tokenizer: Any,
        profile: EncoderProfile | None = None,
        *,
        fingerprint: dict[str, list[float]] | None = None,
        source: str = "",
        base: Scorer | None = None,
        base_profile: EncoderProfile | None = None,
        fitted_on: frozenset[str] | None = None,
    ) -> None:
        self._base, self._base_profile = base, base_profile or EncoderProfile()
        self.fitted_on = fitted_on
        self.network, self.tokenizer = network.eval().requires_grad_(False), tokenizer
        self.profile = profile or EncoderProfile(sign=1)
        self._fingerprint, self._source = fingerprint, source
        self._held: Recent[str, tuple[Tensor, Tensor]] = Recent(_HELD)

    @classmethod
    def load(cls, checkpoint: EncoderCheckpoint) -> Self:
        """From a folder of ``write_fitted``."""
        config, folder = checkpoint.config, Path(checkpoint.source)
        network = ScoringNetwork(config.shape)
        try:
            network.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            raise ModelError(f"cannot load the fitted scorer {str(folder)!r} ({first}): fit it again") from None
        if (config.base is None) != (checkpoint.base is None):
            raise ModelError(f"the fitted scorer {str(folder)!r} lacks the CLIP that it builds on: fit it again")
        return cls(
            network.to(checkpoint.device),
            checkpoint.tokenizer(),
            checkpoint.profile,
            fingerprint=config.fingerprint,
            source=str(folder),
            base=checkpoint.base,
            base_profile=config.base_profile,
            fitted_on=read_pictures(folder),
        )

    @property
    def base(self) -> Scorer | None:
        """The scorer whose relevance the network builds on."""
        return self._base

    @property
    def base_profile(self) -> EncoderProfile:
        """How that is read."""
        return self._base_profile

    def check_model(self, model: Any) -> None:
        """Refuse a model that it was not fitted to.

        Raises:
            ConfigError: as it says.
        """
        if self._fingerprint is not None and not is_same_model(model, self._fingerprint):
            raise ConfigError(
                f"the scorer {self._source!r} was fitted to another model (its fingerprint differs): fit one to this model "
                "with `trimkit fit`, or leave it out"
            )

    def clear_cache(self) -> None:
        """Forget questions."""
        self._held.clear()

    def text_embeddings(self, queries: Sequence[str], *, truncate: bool = False) -> list[Tensor]:
        """``[M, width]`` each: the question's words in the space of the patches. A question is never cut.

        Raises:
            InputError: a question is empty.
        """
        if self._base is not None and hasattr(self._base, "text_embeddings"):
            self._base.text_embeddings(queries, truncate=truncate)
        return [self._words(query)[0][0] for query in queries]

    @torch.no_grad()
    def similarity(
        self, images: Sequence[ImageTokens], queries: Sequence[str], *, normalize: bool = False, truncate: bool = False
    ) -> list[Tensor]:
        """See ``Scorer.similarity``; the relevance is of a scale of its own, so that ``normalize`` changes nothing.

        Raises:
            InputError: a question is empty.
            ConfigError: the features are not those of the model that it was fitted to.
        """
        found = []
        for image, query, base in zip(images, queries, self._base_rows(images, queries), strict=True):
            features = image.features.detach().to(self.network.table.device, torch.float32)
            if features.shape[-1] != self.network.shape.features:
                raise ConfigError(
                    f"the scorer {self._source!r} reads {self.network.shape.features}-wide features, the model gives "
                    f"{features.shape[-1]}-wide ones: it was fitted to another model"
                )
            words, weights = self._words(query)
            patches = self.network.patches(features[None], image.grid)
            found.append(self.network.relevance(patches, words, weights, base, image.grid)[0])
        return found

    def _base_rows(self, images: Sequence[ImageTokens], queries: Sequence[str]) -> Sequence[Tensor | None]:
        """``[1, N]`` each, higher = more relevant."""
        if self._base is None:
            return [None] * len(images)
        how = self._base_profile
        rows = self._base.similarity(images, queries, normalize=how.normalize)
        return [(row * how.sign / how.temperature)[None].to(self.network.table) for row in rows]

    @torch.no_grad()
    def _words(self, query: str) -> tuple[Tensor, Tensor]:
        if not query.strip():
            raise InputError("the question is empty: ask something, or use a method that does not read the text")
        held = self._held.get(query)
        if held is None:
            device = self.network.table.device
            ids = torch.tensor([self.tokenizer(query, add_special_tokens=False)["input_ids"]], device=device)
            held = self.network.words(self.network.table[ids], torch.ones_like(ids, dtype=torch.bool))
            self._held.put(query, held)
        return held


def fitted_config(folder: Path) -> Any | None:
    """What ``scorer.json`` of a fitted scorer says; None where the folder is none.

    Raises:
        ModelError: it is one, and says what cannot be.
    """
    path = folder / FITTED_FILE
    if not path.is_file():
        return None
    try:
        said = read_json(path, remedy="fit it again")
    except InputError:
        return None  # whoever reads other checkpoints says what is wrong
    if not isinstance(said, dict) or said.get("model_type") != MODEL_TYPE:
        return None
    try:
        shape = NetworkShape(**{name: int(said["shape"][name]) for name in ("features", "vocabulary", "width")})
        fingerprint = {str(key): [float(value) for value in values] for key, values in said["fingerprint"].items()}
        base = said.get("base")
        profile = EncoderProfile(**said["base_profile"]) if base is not None else EncoderProfile()
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelError(f"{path} does not say sizes and fingerprint of a fitted scorer: fit it again") from None
    whole = 0 < shape.features <= 2**17 and 0 < shape.vocabulary <= _MOST and 0 < shape.width <= MOST_WIDTH
    if not whole:
        raise ModelError(f"{path} names sizes that no fitted scorer has: fit it again")
    if base is not None and not isinstance(base, str):
        raise ModelError(f"{path}: base {base!r} is no name of a CLIP: fit it again")
    inside = None if base is None else clip_inside(folder, base)
    if base is not None and inside is None and "/" not in base:
        raise ModelError(
            f"{str(folder)!r} lacks the directory {base!r} of the CLIP that it builds on: copy the folder whole"
        )
    source = base if inside is None else str(inside)
    told = {"shape": shape, "fingerprint": fingerprint, "base": source, "base_profile": profile}
    return SimpleNamespace(model_type=MODEL_TYPE, **told)


def write_fitted(
    folder: Path,
    network: ScoringNetwork,
    tokenizer: Any,
    profile: EncoderProfile,
    fingerprint: dict[str, list[float]],
    *,
    base: str | None = None,
    base_profile: EncoderProfile | None = None,
    fitted_on: frozenset[str] | None = None,
) -> None:
    """Write what ``FittedScorer`` is loaded from into an existing folder.

    Args:
        folder: an existing one.
        network, tokenizer, profile, fingerprint, base_profile, fitted_on: as ``FittedScorer`` takes them.
        base: the CLIP that the network builds on: a hub id, or a directory, which is copied into the folder.

    Raises:
        InputError: the disk refuses.
    """
    config: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "version": 1,
        "shape": network.shape.to_plain(),
        "fingerprint": fingerprint,
    }
    if base is not None:
        if Path(base).is_dir():
            (folder / _BASE).mkdir()
            copy_tree(Path(base), folder / _BASE)
            base = _BASE
        config |= {"base": base, "base_profile": asdict(base_profile or EncoderProfile())}
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    try:
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise InputError(f"cannot write {str(folder)!r} ({error.strerror or error}): choose another place") from None
    write_settings(folder, {"sign": profile.sign, "normalize": profile.normalize, "temperature": profile.temperature})
    if fitted_on is not None:
        write_pictures(folder, fitted_on)
    write_atomically(folder / _WEIGHTS, lambda file: file.write(save(state, {"format": "pt"})))
    write_atomically(folder / FITTED_FILE, lambda file: file.write(json.dumps(config, indent=1).encode()))

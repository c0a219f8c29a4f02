"""The first pass of a request: pictures reduced for its question, the shortened prompt run, its KV cache filled."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.attach.cache_argument import cache_name, cache_of_output
from trimkit.errors import ConfigError, InputError, TrimkitError, UnsupportedError
from trimkit.methods import Method, get_method
from trimkit.models import family_of
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.pipeline.prepare import prepare
from trimkit.pipeline.query_reader import QueryReader
from trimkit.pipeline.reduced_inputs import ReducedInputs
from trimkit.scorers import Scorer
from trimkit.serving.server.errors import is_out_of_memory
from trimkit.serving.server.jobs import Job

__all__ = ["Prefill", "Prefilled", "ReducedPrompt"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReducedPrompt:
    """A prompt as it will be run: ``inputs`` ``[1, L']``, and the reduction behind it, None without pictures."""

    inputs: dict[str, Any]
    reduced: ReducedInputs | None
    fallback: bool = False

    @property
    def ids(self) -> Tensor:
        """``[L']``."""
        return torch.as_tensor(self.inputs["input_ids"][0])


@dataclass(frozen=True)
class Prefilled:
    """A prompt that was run: ``logits`` ``[V]`` of what follows, the row's cache, ``[axes]`` of the next position."""

    logits: Tensor
    cache: Any
    position: Tensor


class Prefill:
    """Runs prompts of one model, one at a time.

    Args:
        model, processor: the model and its processor.
        scorer: as ``trimkit.reduce`` takes it.
        images: whose features are held, by content.
    """

    def __init__(
        self, model: Any, processor: Any, scorer: Scorer | nn.Module | str | Path | None = None, images: int = 32
    ) -> None:
        self._model, self._processor, self._scorer = model, processor, scorer
        self._family = family_of(model)
        self._image_token_id = self._family.image_token_id(model)
        self._reader: QueryReader | None = None
        self._cache = FeatureCache(images)
        self._cache_name = cache_name(model.forward) or "past_key_values"
        self._told = False
        self.merges = True

    def reduce(self, job: Job) -> ReducedPrompt:
        """Choose the image tokens of a request.

        Should choosing fail in a way that nobody foresaw, tokens at equal distances are taken, as many as the budget says.

        Raises:
            TrimkitError: what the request gets wrong.
        """
        if not job.pictures:
            return ReducedPrompt(dict(job.inputs), None)
        query = self._query_of(job)
        try:
            reduced, fallback = self._prepare(job, job.method, query), False
        except TrimkitError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._tell(job.method, error)
            reduced, fallback = self._prepare(job, _evenly(job.method), None), True
        return ReducedPrompt(reduced.inputs, reduced, fallback)

    def run(self, prompt: ReducedPrompt) -> Prefilled:
        """Run a prompt, by the stock ``generate`` of one token; what that token is, is left to the caller."""
        from transformers import DynamicCache

        given = {self._cache_name: DynamicCache()} if self.merges else {}  # without a config no layer forgets anything
        out = self._model.generate(**prompt.inputs, **given, generation_config=self._greedy(1))
        cache = cache_of_output(out)
        position = self._next_position(len(prompt.ids), pictures=prompt.reduced is not None)
        return Prefilled(out.logits[0][0], cache, position)

    def stock_logits(self, prompt: ReducedPrompt) -> Tensor:
        """``[V]`` behind the likeliest first token, as stock ``generate`` has them when it goes on by itself."""
        out = self._model.generate(**prompt.inputs, generation_config=self._greedy(2))
        return out.logits[1][0]  # type: ignore[no-any-return]

    def _query_of(self, job: Job) -> str | None:
        """What the pictures are scored against: as the request says, else the user's last words.

        None where there are none, and where earlier questions count as well: ``prepare`` reads them all.
        """
        if job.query is not None or not job.method.needs_relevance or job.turns != "refresh":
            return job.query
        self._reader = self._reader or QueryReader(self._processor)
        return self._reader.read(job.inputs["input_ids"][0], self._image_token_id) or None

    def _prepare(self, job: Job, method: Method, query: str | None) -> ReducedInputs:
        return prepare(
            self._model,
            self._processor,
            job.inputs,
            query=query,
            method=method,
            scorer=self._scorer,
            cache_images=self._cache,
            turns=job.turns,
        )

    def _greedy(self, tokens: int) -> Any:
        import transformers

        own = self._model.generation_config
        config: Any = transformers.GenerationConfig  # typed only in part
        return config(
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            return_dict_in_generate=True,
            output_logits=True,
            repetition_penalty=1.0,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            pad_token_id=own.pad_token_id if own.pad_token_id is not None else 0,
            eos_token_id=own.eos_token_id,
            bos_token_id=own.bos_token_id,
        )

    def _next_position(self, length: int, *, pictures: bool) -> Tensor:
        """``[1]``, or with M-RoPE ``[4]``: the place in the text, and three that go on behind the pictures."""
        if not self._family.own_positions:
            return torch.tensor([length + self._family.first_position(self._model)])
        deltas = getattr(self._family.base(self._model), "rope_deltas", None) if pictures else None
        ahead = length + (0 if deltas is None else int(deltas.reshape(-1)[0]))
        return torch.tensor([length, ahead, ahead, ahead])

    def _tell(self, method: Method, error: Exception) -> None:
        """Log the first failure of choosing; the others are counted."""
        level = logging.DEBUG if self._told else logging.ERROR
        self._told = True
        _log.log(level, "choosing by %r failed (%s): tokens at equal distances are taken", method.name, error)
        _log.debug("where it failed", exc_info=error)


def _evenly(method: Method) -> Method:
    """Tokens at equal distances, as many as ``method`` would keep; a fifth where only the picture decides."""
    try:
        fixed = method.budget.kind in ("ratio", "count")
        return get_method("uniform", budget=method.budget if fixed else 0.2)
    except (ConfigError, InputError, UnsupportedError):
        return get_method("uniform")

"""In the API server: which question is asked of every picture, and how many placeholders it gets.

``apply`` sees the tokenized prompt before anything is hashed. It puts ``Reduction``s, one a picture, among the processor's
arguments. vLLM hashes these arguments into the identifier of the picture, which keys the processor cache, the encoder cache and
the prefix cache: none of them takes one question's tokens for another's. The same text travels to the engine as a field beside
the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageEmbeddingItems
from vllm.multimodal.processing import PromptReplacement, PromptUpdateDetails

from trimkit.core.recent import Recent
from trimkit.errors import ConfigError, TrimkitError
from trimkit.serving.vllm.facts import image_token, knows_scorer
from trimkit.serving.vllm.metrics import show_metrics
from trimkit.serving.vllm.own_choices import OwnChoices, Size
from trimkit.serving.vllm.questions import Questions
from trimkit.serving.vllm.reports import expect
from trimkit.serving.vllm.seen import Seen, picture_sizes
from trimkit.serving.vllm.settings import FIELD, KEY, Reduction, Request, ServerSettings, pack, unpack
from trimkit.serving.vllm.tower_signals import LayerNumbers

__all__ = ["ReducingProcessor"]

_SCOPE = "images_kwargs"  # what stands here is hashed for pictures alone, not for videos
_NO_SCORER = (
    "none is known for this checkpoint (name one in its trimkit.json, or by --hf-overrides "
    '\'{"trimkit": {"scorer": DIRECTORY}}\')'
)


class ReducingProcessor:
    """To be put before a stock processor among the bases of a class.

    A family whose placeholders stand for several images that are ranked one by one (tiles) overrides ``ranked_lengths``.
    """

    info: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.info.get_hf_config()
        self._settings, knows = _read(config, self.info.model_id)
        self._image_token = image_token(config)
        self._picture_mark = self.picture_mark(config)
        self._unable = self.unable()
        self._no_scorer = "" if knows else _NO_SCORER
        pooling = self.info.ctx.model_config.runner_type == "pooling"  # embeddings: only where somebody asks
        self._whole = not self._settings.explicit and bool(self._unable or self._no_scorer or pooling)
        if self._settings.explicit:
            self._request({})
        self._questions: Questions | None = None
        self._own = OwnChoices()
        self._seen = Seen(self.info)
        show_metrics()

    def picture_mark(self, config: Any) -> int:
        """Id of the token that stands for a picture in a prompt, before it is replaced by placeholders."""
        return self._image_token

    def unable(self) -> str:
        """Why this server cannot reduce pictures of this family at all, or nothing."""
        return ""

    def ranked_lengths(self, total: int) -> list[int]:
        """Of ``total`` placeholders in a row: how many belong to each image that is ranked by itself."""
        return [total]

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """Profiling measures pictures at full length, whose tower costs most."""
        inputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        inputs.hf_processor_mm_kwargs = {**inputs.hf_processor_mm_kwargs, KEY: {"method": "none", "budget": 1.0}}
        return inputs

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """See the module. Whatever a request gets wrong is a ``ValueError`` here, which the server answers with status 400."""
        arguments = dict(inputs.hf_processor_mm_kwargs)
        given = arguments.pop(KEY, None)
        count = inputs.mm_data_items.get_all_counts().get("image", 0)
        request = self._request(given)
        if count and request is not None:
            try:
                reductions = self._reductions(request, inputs, count)
                arguments[KEY] = tuple(map(pack, self._reported(request, reductions, inputs.mm_data_items)))
            except TrimkitError as error:
                raise ConfigError(str(error)) from None
        return super().apply(replace(inputs, hf_processor_mm_kwargs=arguments), timing_ctx)  # type: ignore[misc]

    def _request(self, given: object) -> Request | None:
        """What is asked for; None where nobody asks and the default cannot be served.

        Raises:
            ConfigError: what is asked for cannot be served.
        """
        if given is None and self._whole:
            return None
        request = self._settings.request(given)
        if self._unable and not request.method.keeps_all:
            raise ConfigError(self._unable)
        if self._no_scorer and request.method.needs_relevance:
            raise ConfigError(f"method {request.method.name!r} needs a text scorer: {self._no_scorer}")
        return request

    def _reported(self, request: Request, reductions: list[Reduction], items: Any) -> list[Reduction]:
        """The same, with a name for the report of each picture where the request wants one."""
        if request.report is None:
            return reductions
        expect(request.report, self._seen.boxes_of(items))
        return [replace(each, report=f"{request.report}-{number}") for number, each in enumerate(reductions)]

    def _reductions(self, request: Request, inputs: Any, count: int) -> list[Reduction]:
        """One a picture, in the order of the prompt."""
        if request.query is not None or not request.method.needs_relevance:
            return [request.reduction(request.query)] * count
        if self._questions is None:
            self._questions = Questions(self.info.get_hf_processor(), self._picture_mark)
        if request.turns == "refresh":
            return [request.reduction(self._questions.last(inputs.prompt))] * count
        if request.turns == "auto":
            question = self._questions.last(inputs.prompt)
            return (
                [request.reduction(None)] * count
                if question is None
                else self._own_or_shared(request, question, inputs)
            )
        asked = self._questions.first(inputs.prompt, count)
        if request.turns == "once":
            asked = self._questions.once(asked, self._picture_keys(inputs))
        return [request.reduction(question) for question in asked]

    def _own_or_shared(self, request: Request, question: str, inputs: Any) -> list[Reduction]:
        """``turns="auto"``: a choice for the question while its picture has room for one, else the shared choice."""
        mine, method = request.reduction(question), pack(Reduction(request.method))
        sizes = picture_sizes(inputs.mm_data_items)
        return [
            mine if self._own.own(question, key, size, method) else request.shared()
            for key, size in zip(self._picture_keys(inputs), sizes, strict=True)
        ]

    def _picture_keys(self, inputs: Any) -> list[str]:
        """Of the pictures' content alone."""
        stock, _ = _apart(inputs.hf_processor_mm_kwargs)
        return list(super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=stock))["image"])  # type: ignore[misc]

    def _get_mm_hashes(self, inputs: Any) -> Any:
        """A picture's identifier holds its own question, not those of the others: a conversation keeps its prefix."""
        stock, packed = _apart(inputs.hf_processor_mm_kwargs)
        if packed is None:
            return super()._get_mm_hashes(inputs)  # type: ignore[misc]
        hashes_for, mine = super()._get_mm_hashes, stock.get(_SCOPE, {})  # type: ignore[misc]
        scope = dict(mine) if isinstance(mine, Mapping) else {"": mine}
        by_text = {
            text: hashes_for(replace(inputs, hf_processor_mm_kwargs={**stock, _SCOPE: {**scope, KEY: text}}))
            for text in dict.fromkeys(packed)
        }
        return {**by_text[packed[0]], "image": [by_text[text]["image"][i] for i, text in enumerate(packed)]}

    def _get_cache_missing_processor_kwargs(self, inputs: Any, mm_is_cached: Any) -> Any:
        arguments = dict(super()._get_cache_missing_processor_kwargs(inputs, mm_is_cached))  # type: ignore[misc]
        packed = arguments.get(KEY)
        if packed is not None:
            cached = mm_is_cached.get("image", [])
            arguments[KEY] = tuple(text for text, held in zip(packed, cached, strict=True) if not held)
        return arguments

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        stock, packed = _apart(hf_kwargs)
        data = super()._apply_hf_processor_main(mm_items, stock)  # type: ignore[misc]
        if packed and "pixel_values" in data:
            data[FIELD] = [torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) for text in packed]
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]) -> Any:
        stock, _ = _apart(hf_processor_mm_kwargs)
        fields = dict(super()._get_mm_fields_config(hf_inputs, stock))  # type: ignore[misc]
        fields[FIELD] = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return fields

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        stock, packed = _apart(hf_processor_mm_kwargs)
        updates = super()._get_prompt_updates(mm_items, stock, out_mm_kwargs)  # type: ignore[misc]
        if not packed or isinstance(mm_items.get("image"), ImageEmbeddingItems):
            return list(updates)
        reductions, sizes = [unpack(text) for text in packed], picture_sizes(mm_items)
        return [self._shorter(each, reductions, sizes) if each.modality == "image" else each for each in updates]

    def _shorter(self, update: Any, reductions: list[Reduction], sizes: list[Size | None]) -> Any:
        """The stock replacement with fewer placeholders."""

        def replacement(item: int) -> Any:
            stock = update.replacement(item) if callable(update.replacement) else update.replacement
            details = stock if isinstance(stock, PromptUpdateDetails) else None
            whole = list(stock if details is None else details.full)
            cut = self.shortened(whole, reductions[item])
            self._learn(sizes[item], reductions[item], whole, cut)
            return cut if details is None else PromptUpdateDetails.select_token_id(cut, self._image_token)

        return PromptReplacement(modality="image", target=update.target, replacement=replacement)

    def _learn(self, size: Size | None, reduction: Reduction, whole: list[int], cut: list[int]) -> None:
        mark = self._image_token
        if size is not None and (kept := cut.count(mark)):
            self._own.learn(size, pack(Reduction(reduction.method)), whole.count(mark), kept)

    def shortened(self, ids: list[int], reduction: Reduction) -> list[int]:
        """``ids`` with as many placeholders in every run of them as the reduction leaves there."""
        out: list[int] = []
        at = 0
        while at < len(ids):
            end = at
            while end < len(ids) and ids[end] == self._image_token:
                end += 1
            if end > at:
                out += [self._image_token] * sum(map(reduction.tokens, self.ranked_lengths(end - at)))
                at = end
            else:
                out.append(ids[at])
                at += 1
        return out


_known: Recent[int, tuple[Any, ServerSettings, bool]] = Recent(8)


def _read(config: Any, model: str) -> tuple[ServerSettings, bool]:
    """Settings of the server, and whether it knows a scorer; read once, since vLLM makes a processor for every request."""
    held = _known.get(id(config))
    if held is None or held[0] is not config:
        settings = ServerSettings.read(model, getattr(config, "trimkit", None), LayerNumbers.of(config))
        held = config, settings, knows_scorer(config, model, settings)
        _known.put(id(config), held)
    return held[1], held[2]


def _apart(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """The stock processor's arguments, and ours."""
    stock = dict(arguments)
    packed = stock.pop(KEY, None)
    return stock, None if packed is None else tuple(packed)

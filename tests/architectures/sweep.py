"""Every architecture, tried: reduced right, or refused in one line. ``python -m tests.architectures.sweep`` writes the list.

An architecture counts as *reduced* where, on a tiny model of its own with random weights, everything kept gives the stock
model's logits bit for bit, and a random quarter gives a decoder fewer columns, whose inputs are those of the kept columns in
the stock call, in ``forward`` and in ``generate``.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import trimkit
from tests.architectures.build import full_size, tiny_model
from tests.architectures.inputs import encoder_candidates, prompt
from trimkit.models import family_of

__all__ = ["Outcome", "inputs_of", "try_architecture"]

_REDUCTION: dict[str, Any] = {"method": "random", "budget": 0.25, "aggregate": "none"}


@dataclass(frozen=True)
class Outcome:
    """What became of one architecture.

    Attributes:
        kind: its model type.
        result: ``failed`` is what must not be: an error that is none of trimkit's, or another answer than it has to be.
        note: the refusal, what failed, or what could not be built.
        by_hand: whether the decoder's output equals its output on the stock call's inputs, cut by hand.
        family: the class that serves it.
    """

    kind: str
    result: Literal["reduced", "refused", "refused at the first call", "not built", "failed"]
    note: str = ""
    by_hand: bool = False
    family: str = ""


class _NotBuiltError(Exception):
    pass


def try_architecture(kind: str) -> Outcome:
    """Attach a model of this type, and where it is taken, call it."""
    problem, taken = "", False
    for make in (full_size, tiny_model):
        try:
            model = make(kind)
        except Exception as error:
            problem = _line(error)
            continue
        if (refusal := _refusal(model)) is not None:
            return Outcome(kind, "failed" if taken or "\n" in refusal else "refused", refusal)
        taken = True  # a tiny model of a type that is taken must not be refused
        if make is tiny_model:
            return _tried(kind, model)
    return Outcome(kind, "not built", problem)


def _refusal(model: Any) -> str | None:
    try:
        trimkit.reduce(model, method="none")
    except trimkit.TrimkitError as error:
        return str(error)
    return None


def _tried(kind: str, model: Any) -> Outcome:
    family = type(family_of(model)).__name__
    try:
        by_hand = _check(kind, model)
    except _NotBuiltError as error:
        return Outcome(kind, "not built", str(error), family=family)
    except trimkit.TrimkitError as error:
        return Outcome(
            kind, "refused at the first call" if "\n" not in str(error) else "failed", str(error), family=family
        )
    except Exception as error:
        return Outcome(kind, "failed", _line(error), family=family)
    return Outcome(kind, "reduced", by_hand=by_hand, family=family)


def _line(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}"


def _check(kind: str, model: Any) -> bool:
    """Whether the decoder could be run by hand as well; raises where anything is not as it has to be."""
    inputs = inputs_of(kind, model)
    with _Decoder(model) as stock, torch.no_grad():
        expected = _logits(model, inputs)
    with trimkit.reduce(model, method="none"), torch.no_grad():
        _same(_logits(model, inputs), expected, "with everything kept, the logits are not the stock model's")
    with trimkit.reduce(model, **_REDUCTION) as trim:
        with _Decoder(model) as cut, torch.no_grad():
            _logits(model, inputs)
        columns = _kept(inputs, family_of(model).image_token_id(model), _report(trim))
        with _Decoder(model) as generated:
            out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    whole = inputs["input_ids"].shape[1]
    if len(columns) >= whole or [cut.width, generated.width] != [len(columns)] * 2:
        raise AssertionError(
            f"the decoder saw {cut.width} and {generated.width} columns, {whole} full, {len(columns)} kept"
        )
    if out.shape[1] != whole + 3 or not torch.equal(out[:, :whole], inputs["input_ids"]):
        raise AssertionError(f"generate gave {list(out.shape)} for a prompt of {whole}")
    _close(cut.embeddings, stock.embeddings[:, columns], "the decoder's inputs are not those of the kept columns")
    return _by_hand(stock, cut, columns)


def _report(trim: Any) -> trimkit.Report:
    try:
        return trim.report  # type: ignore[no-any-return]
    except trimkit.ConfigError as error:  # no refusal: the call went by without a word
        raise AssertionError("the call was not reduced, and nothing was said") from error


def _by_hand(stock: _Decoder, cut: _Decoder, columns: list[int]) -> bool:
    """The decoder on inputs cut by hand must give the reduced output, if on uncut ones it gives the stock call's."""
    try:
        with torch.no_grad():
            if not torch.allclose(stock.run(stock.embeddings), stock.output, atol=1e-4):
                return False
            again = stock.run(stock.embeddings[:, columns])
    except Exception:
        return False  # this decoder needs more than its embeddings
    _close(cut.output, again, "the decoder's output is not that of inputs cut by hand")
    return True


class _Decoder:
    """What the language model is given first, and gives, within a ``with`` block."""

    def __init__(self, model: Any) -> None:
        self._module = model.get_decoder()
        self._handles: list[Any] = []
        self.embeddings = torch.empty(0)
        self.output = torch.empty(0)
        self.width = 0

    def __enter__(self) -> _Decoder:
        self._handles.append(self._module.register_forward_hook(self._seen, with_kwargs=True))
        lists = [module for name, module in self._module.named_modules() if name.split(".")[-1] == "layers"]
        if lists:  # a decoder that is given ids shows in its first layer how many there are
            self._handles.append(lists[0][0].register_forward_pre_hook(self._first_layer, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def run(self, embeddings: Tensor) -> Tensor:
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        return _first(self._module(inputs_embeds=embeddings, attention_mask=mask))

    def _seen(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        embeddings = kwargs.get("inputs_embeds")
        if isinstance(embeddings, Tensor) and not len(self.output):
            self.embeddings, self.width, self.output = embeddings, embeddings.shape[1], _first(output)

    def _first_layer(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if not self.width:
            self.embeddings, self.width = hidden, hidden.shape[1]


def _first(output: Any) -> Tensor:
    found = getattr(output, "last_hidden_state", None)
    return output[0] if found is None else found  # type: ignore[no-any-return]


def _logits(model: Any, inputs: dict[str, Any]) -> Tensor:
    torch.manual_seed(0)  # Ovis 2 draws its visual words
    return model(**inputs).logits  # type: ignore[no-any-return]


def _kept(inputs: dict[str, Any], token: int, report: trimkit.Report) -> list[int]:
    """Columns that stay: all words, and of each image what the report names."""
    ids = inputs["input_ids"][0].tolist()
    places = [i for i, value in enumerate(ids) if value == token]
    kept = [i for i, value in enumerate(ids) if value != token]
    for image in report.images:
        mine, places = places[: image.tokens_before], places[image.tokens_before :]
        kept += [mine[i] for i in image.indices.tolist()]
    return sorted(kept)


def _same(got: Tensor, expected: Tensor, message: str) -> None:
    if not torch.equal(got, expected):
        raise AssertionError(message)


def _close(got: Tensor, expected: Tensor, message: str) -> None:
    if got.shape != expected.shape or not torch.allclose(got, expected, rtol=1e-4, atol=1e-4):
        raise AssertionError(message)


def inputs_of(kind: str, model: Any) -> dict[str, Any]:
    """Inputs that the stock model takes: those among the guesses with which its encoder and its forward run."""
    family = family_of(model)
    taken = [name for name in inspect.signature(family.encoder(model)).parameters if name not in ("kwargs", "args")]
    problems = []
    for arguments in encoder_candidates(kind, model, taken):
        try:
            with torch.no_grad():
                lengths = _lengths(family.encoder(model)(**arguments, return_dict=True))
                inputs = {**prompt(model, family.image_token_id(model), lengths), **arguments}
                _logits(model, inputs)
        except Exception as error:
            problems.append(_line(error))
            continue
        return inputs
    raise _NotBuiltError(f"no inputs found that the stock model takes: {problems[0] if problems else 'none tried'}")


def _lengths(output: Any) -> list[int]:
    """Placeholders of every image."""
    found = getattr(output, "pooler_output", None)
    found = output.last_hidden_state if found is None else found
    if isinstance(found, Tensor) and found.ndim == 2:
        return [len(found)]
    return [image.numel() // image.shape[-1] for image in found]

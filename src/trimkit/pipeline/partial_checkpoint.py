"""A vision-language checkpoint without its language model: vision tower and projector, read as transformers reads them.

The class that reads is the checkpoint's own with one change: once built (on the meta device, where nothing is allocated), its
language model and output head are replaced by empty modules. ``from_pretrained`` then finds no place for their tensors and
never reads them; key renaming, merged or split tensors, shards, dtypes and computed buffers stay transformers' business.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from trimkit.errors import UnsupportedError
from trimkit.loading import load_checkpoint

__all__ = ["load_without_language_model"]


def load_without_language_model(name: str, device: str = "cpu", dtype: str = "auto") -> tuple[Any, Any]:
    """Load what turns pictures into embeddings, in eval mode, and the processor.

    Args:
        name, device, dtype: as ``trimkit.loading.load_model`` takes them.

    Returns:
        A model of the checkpoint's own class, whose language model and output head are empty, and the processor. Other
        tensors of the checkpoint are not read.

    Raises:
        ConfigError, ModelError: as ``load_model`` raises them.
        UnsupportedError: likewise, and where the language model is not a module beside the vision tower.
    """
    model, processor = load_checkpoint(name, device, dtype, _vision_class)
    model.__class__ = type(model).__mro__[1]  # the stock class again: only its loading differed
    return model, processor


def _vision_class(config: Any) -> Any:
    """A subclass of the stock class for ``config``, under its name: transformers looks up key renamings by it."""
    stock = _stock_class(config)

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, *args, **kwargs)
        _empty_language_model(self)

    return type(stock.__name__, (stock,), {"__init__": build, "__module__": stock.__module__})


def _stock_class(config: Any) -> Any:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    found: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    if not isinstance(found, (list, tuple)):
        return found
    named = [each for each in found if each.__name__ in (getattr(config, "architectures", None) or ())]
    return named[0] if named else found[0]


def _empty_language_model(model: Any) -> None:
    """Put empty modules where the language model and the output head are.

    Raises:
        UnsupportedError: there is no language model beside the vision tower.
    """
    parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    names = [name for name, module in model.named_modules() if any(module is part for part in parts)]
    if model.get_decoder() in (model, model.base_model) or not names:
        raise UnsupportedError(
            f"the language model of {type(model).__name__} is not a module beside its vision tower: load the whole model "
            "and use trimkit.prepare"
        )
    for name in [each for each in names if not each.startswith(tuple(f"{other}." for other in names))]:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nn.Module())
    gone = tuple(f"{name}." for name in names)
    tied = model.all_tied_weights_keys
    model.all_tied_weights_keys = {a: b for a, b in tied.items() if not (a.startswith(gone) or b.startswith(gone))}
    leaves = {re.escape(name.rpartition(".")[2]) for name in names}
    # Expected to find no place; else transformers would list them all in a warning.
    known = set(model._keys_to_ignore_on_load_unexpected or ())
    model._keys_to_ignore_on_load_unexpected = known | {rf"(^|\.){leaf}\." for leaf in leaves}

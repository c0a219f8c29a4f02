"""An image-text encoder's checkpoint, on disk or on the hub. A scorer reads the parts of it that it needs, and no others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimkit.core.types import EncoderProfile
from trimkit.errors import ModelError
from trimkit.io.building import one_at_a_time
from trimkit.io.progress import without_progress_bars

__all__ = ["EncoderCheckpoint", "fingerprint", "read_config"]

_TEXT_HALF = ("text_", "visual_projection", "vision_model.post_layernorm")
_SCALES = ("logit_scale", "logit_bias")  # of the training loss; no scorer reads them


class EncoderCheckpoint:
    """What a scorer is built from.

    Args:
        source: a directory or a hub id; the scorer's own name where it is built without a checkpoint.
        config: the checkpoint's; None without a checkpoint.
        profile: how the similarity is to be read, where a ``trimkit.json`` says so: the vision-language model's for a scorer
            that reads its tower's features, the encoder's own for one that looks at pixels. None where none says.
        device, dtype: where and how the encoder is to be.
        module: the encoder, where it is loaded already. It is used as it is, wherever it is.
        base: the scorer that a fitted one builds on, or None.
    """

    def __init__(
        self,
        source: str,
        config: Any = None,
        profile: EncoderProfile | None = None,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        module: nn.Module | None = None,
        base: Any = None,
    ) -> None:
        self.base = base
        self.source, self.config, self.profile = source, config, profile
        self.device, self.dtype = device or torch.device("cpu"), dtype
        self._module = module

    def encoder(self, model_class: Any = None, config: Any = None) -> Any:
        """The encoder in eval mode, read from safetensors. Tensors that ``model_class`` has no place for are not read.

        Args:
            model_class: a transformers class; by default the one that ``AutoModel`` has for the checkpoint.
            config: in place of the checkpoint's own, for example with fewer layers.

        Raises:
            ModelError: it cannot be loaded, or lacks tensors.
        """
        if self._module is not None:
            return self._module
        import transformers

        auto: Any = transformers  # its classes are typed only in part
        options = {"config": self.config if config is None else config, "use_safetensors": True}
        try:
            with without_progress_bars(), one_at_a_time():
                found, info = (model_class or auto.AutoModel).from_pretrained(
                    self.source, output_loading_info=True, trust_remote_code=False, **options
                )
        except Exception as error:  # the readers of tensors fail in ways of their own
            raise _cannot_load(self.source, error) from None
        self._refuse_missing(info["missing_keys"])
        return found.eval().to(self.device, self.dtype)

    def tokenizer(self) -> Any:
        """Its tokenizer.

        Raises:
            ModelError: it has none that can be read.
        """
        import transformers

        auto: Any = transformers
        try:
            with without_progress_bars():
                return auto.AutoTokenizer.from_pretrained(self.source, trust_remote_code=False)
        except Exception as error:
            raise ModelError(
                f"cannot load the tokenizer of the CLIP checkpoint {self.source!r} ({_first_line(error)}): "
                "add its tokenizer files"
            ) from None

    def pixel_statistics(self) -> dict[str, Any]:
        """``mean`` and ``std`` of the pixels it was trained on, as its processor's settings say; empty without such a file."""
        from transformers.image_processing_base import ImageProcessingMixin

        try:
            with without_progress_bars():
                found, _ = ImageProcessingMixin.get_image_processor_dict(self.source)
        except OSError:
            return {}
        return {"mean": found.get("image_mean"), "std": found.get("image_std")}

    def _refuse_missing(self, keys: Any) -> None:
        """Refuse an encoder part of which transformers has filled with random numbers."""
        missing = sorted(key for key in keys if key not in _SCALES)
        half = [key for key in missing if key.startswith(_TEXT_HALF)]
        if half:
            raise ModelError(
                f"{self.source!r} has no CLIP text tower, or half of one (no {half[0]}): "
                "pass scorer= a full CLIP checkpoint"
            )
        if missing:
            raise ModelError(
                f"the CLIP checkpoint {self.source!r} is incomplete: it lacks {len(missing)} tensors (first: "
                f"{missing[0]}); copy or download it again"
            )


def read_config(source: str) -> Any:
    """The config of an encoder's checkpoint.

    Raises:
        ModelError: it cannot be read.
    """
    import transformers

    try:
        with without_progress_bars():
            return transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # the readers of configs fail in ways of their own
        raise _cannot_load(source, error) from None


def fingerprint(source: str) -> tuple[Any, ...]:
    """Changes when a file of a checkpoint's directory does, by name, size, inode or time; of a hub id the id alone."""
    directory = Path(source)
    if not directory.is_dir():
        return (source,)
    with os.scandir(directory) as entries:
        files = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    stamps = sorted((name, found.st_mtime_ns, found.st_size, found.st_ino) for name, found in files)
    return (str(directory.resolve()), *stamps)


def _cannot_load(source: str, error: Exception) -> ModelError:
    return ModelError(
        f"cannot load the CLIP checkpoint {source!r} ({_first_line(error)}): pass scorer= a complete CLIP checkpoint, or "
        "use a method that does not read the text"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

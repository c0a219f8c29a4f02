"""Load a model with its processor through stock transformers; whatever fails comes out as one line with a remedy."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from trimkit.errors import ConfigError, InputError, ModelError, TrimkitError, UnsupportedError
from trimkit.io.building import building_is_broken, one_at_a_time
from trimkit.io.files import user_path
from trimkit.io.progress import without_progress_bars
from trimkit.io.reading import check_checkpoint

__all__ = ["DTYPES", "find_checkpoint", "load_checkpoint", "load_model", "pick_device"]

_PACKAGED = Path(__file__).parent / "demo" / "model"
_LARGEST_ID = 2**31
DTYPES = ("auto", "float32", "float16", "bfloat16")


def load_model(name: str = "demo", device: str = "cpu", dtype: str = "auto") -> tuple[Any, Any]:
    """Load a vision-language model, in eval mode, and its processor. Of several threads one loads at a time.

    Args:
        name: ``demo`` for the packaged model, a directory written by ``save_pretrained``, or a hub id ``owner/name``.
            Weights must be safetensors; no code from the checkpoint is run.
        device: ``auto`` takes a GPU where there is one, else the CPU; or any torch device.
        dtype: one of ``DTYPES``; ``auto`` takes what the checkpoint's config says.

    Returns:
        The model and its processor.

    Raises:
        ConfigError: device or dtype.
        ModelError: there is no such checkpoint, or it is damaged or incomplete.
        UnsupportedError: it is not a vision-language model that transformers knows.
    """
    return load_checkpoint(name, device, dtype, _any_class)


def load_checkpoint(name: str, device: str, dtype: str, class_for: Callable[[Any], Any]) -> tuple[Any, Any]:
    """``load_model`` with a model class of one's own.

    Args:
        name, device, dtype: as ``load_model`` takes them.
        class_for: from the checkpoint's config to the class whose ``from_pretrained`` reads the weights.

    Raises:
        ConfigError, ModelError, UnsupportedError: as ``load_model`` raises them, and whatever ``class_for`` raises.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not known: give one of {', '.join(DTYPES)}")
    place = pick_device(device)
    source, options = _locate(name)
    try:
        with without_progress_bars(), one_at_a_time():
            config = _check_architecture(name, source, options)
            model, processor = _read(name, source, dtype, options, class_for(config))
        return model.to(place).eval(), processor
    except TrimkitError:
        raise
    except Exception as error:  # the readers of configs, tokenizers and tensors fail in ways of their own
        raise ModelError(_cause(name, error)) from error


def find_checkpoint(name: str) -> Path | None:
    """Directory of a local vision-language checkpoint, whose weights are not read; None where ``name`` is a hub id.

    Raises:
        ModelError, UnsupportedError: as ``load_model`` does.
    """
    source, options = _locate(name)
    if not Path(source).is_dir():
        return None
    try:
        _check_architecture(name, source, options)
    except TrimkitError:
        raise
    except Exception as error:  # the readers of configs fail in ways of their own
        raise ModelError(_cause(name, error)) from error
    return Path(source)


def pick_device(name: str) -> Any:
    """A ``torch.device`` that works here; ``auto`` is a GPU where there is one, else the CPU.

    Raises:
        ConfigError: torch cannot use what was asked for.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    if name.startswith("cuda") and not has_gpu:
        raise ConfigError(f"device {name!r}: torch finds no GPU here; give 'cpu', or install a torch with CUDA")
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except Exception:
        raise ConfigError(f"device {name!r} cannot be used here: give 'cpu', 'cuda' or 'auto'") from None
    return place


def _locate(name: str) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` is to read, and its options."""
    if name == "demo":
        return str(_PACKAGED), {}
    path = user_path(name)
    remedy = "give 'demo', a directory that save_pretrained wrote, or a hub id such as 'llava-hf/llava-1.5-7b-hf'"
    if not name.strip():
        raise ModelError(f"the model name is empty: {remedy}")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"model directory {name!r} has no config.json: {remedy}")
        try:
            check_checkpoint(path)
        except InputError as error:
            raise ModelError(f"model directory {name!r}: {error}") from None
        return str(path), {}
    if path.exists():
        raise ModelError(f"model {name!r} is a file: {remedy}")
    if name.count("/") != 1 or name[0] in "./~" or "\\" in name:
        raise ModelError(f"there is no model directory {name!r}: {remedy}")
    return name, {} if _hub_resolves() else {"local_files_only": True}


def _hub_resolves() -> bool:
    """False where the hub's name cannot be looked up: transformers would retry for half a minute."""
    from huggingface_hub import constants

    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def _any_class(config: Any) -> Any:
    import transformers

    auto: Any = transformers  # its classes are typed only in part
    return auto.AutoModelForImageTextToText


def _check_architecture(name: str, source: str, options: dict[str, Any]) -> Any:
    """The config; other kinds of model are refused before their weights are read."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
    model_type = config.model_type
    if model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UnsupportedError(
            f"model {name!r} ({model_type or 'no model_type'}) is not a vision-language model: give one that answers "
            "questions about images, such as 'llava-hf/llava-1.5-7b-hf'"
        )
    for key in ("image_token_id", "image_token_index", "video_token_id"):
        value = getattr(config, key, None)
        if isinstance(value, int) and abs(value) >= _LARGEST_ID:  # no tensor could hold it
            raise ModelError(f"model {name!r} has a {key} that is no token: check its config.json")
    return config


def _read(name: str, source: str, dtype: str, options: dict[str, Any], model_class: Any) -> tuple[Any, Any]:
    import transformers

    auto: Any = transformers  # its classes are typed only in part
    processor = auto.AutoProcessor.from_pretrained(source, trust_remote_code=False, **options)
    if not hasattr(processor, "image_processor"):
        raise ModelError(f"model {name!r} has no image processor: add its processor files (preprocessor_config.json)")
    model, info = model_class.from_pretrained(
        source, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
    )
    missing = sorted(info["missing_keys"])
    if missing and building_is_broken():
        raise ModelError(
            f"model {name!r} cannot be loaded: another thread of this process has loaded a model by transformers at the same "
            "time, which leaves transformers broken: start the process again, and load models one after the other"
        )
    if missing:  # transformers fills these with random numbers
        raise ModelError(
            f"model {name!r} is incomplete: its weights lack {len(missing)} tensors (first: {missing[0]}); "
            "copy or download it again"
        )
    return model, processor


def _cause(name: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    cause = lines[0][:200] if lines else type(error).__name__
    if "couldn't connect" in cause:
        return (
            f"model {name!r} is not a directory here, is not in the local cache, and the hub cannot be reached: "
            "give a directory that save_pretrained wrote, or connect and try again"
        )
    return f"cannot load model {name!r} ({cause}): check that it is a complete safetensors checkpoint"

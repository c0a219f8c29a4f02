"""What the ``custom_generate/generate.py`` of an exported checkpoint calls: stock ``generate`` on fewer image tokens.

The settings are ``"reduce"`` in the checkpoint's ``trimkit.json``. The model is not attached: every call puts the shadow of
``forward`` on it for as long as it runs, and several may run at once.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

from trimkit.attach.attachment import Attachment
from trimkit.attach.export import carry_reduction
from trimkit.attach.shadow import Shadow
from trimkit.errors import ConfigError
from trimkit.io.progress import without_progress_bars
from trimkit.io.settings import SETTINGS_FILE, read_settings
from trimkit.methods import get_method
from trimkit.pipeline.model_store import scorer_of

__all__ = ["generate"]

_NAME = "_trimkit_exported"


def generate(model: Any, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:
    """Generate as the checkpoint's settings say.

    Args:
        model: loaded from an exported checkpoint.
        inputs, generation_config, **kwargs: as stock ``generate`` takes them, and ``query`` as an attached model does.
            ``processor`` (or ``tokenizer``) of the first call reads the question; by default the checkpoint's own does.

    Raises:
        ConfigError: no ``trimkit.json`` with settings is where the model was loaded from.
        TrimkitError: whatever ``trimkit.reduce`` raises.
    """
    processor = kwargs.pop("processor", None)
    arguments = {"inputs": inputs, "generation_config": generation_config, **kwargs}
    stock = type(model).generate.__get__(model)
    if isinstance(getattr(model, "generate", None), Shadow):  # attached: reduced already
        return stock(**arguments)
    own = model.__dict__.setdefault(_NAME, _OwnAttachment())
    attachment = own.attachment(model, processor or kwargs.get("tokenizer"))
    return attachment.run_detached(stock, arguments)


class _OwnAttachment:
    """A model's attachment, built on the first call. A copy of the model starts without."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attachment: Attachment | None = None

    def attachment(self, model: Any, processor: Any) -> Attachment:
        with self._lock:
            if self._attachment is None:
                self._attachment = _build(model, processor)
            return self._attachment

    def __deepcopy__(self, memo: Any) -> _OwnAttachment:
        return _OwnAttachment()

    def __reduce__(self) -> Any:
        return _OwnAttachment, ()


def _build(model: Any, processor: Any) -> Attachment:
    name = str(getattr(model.config, "_name_or_path", "") or "")
    revision = getattr(model.config, "_commit_hash", None)
    directory = _directory(name, revision)
    settings = read_settings(directory) if directory else {}
    if directory is None or "reduce" not in settings:
        raise ConfigError(
            f"there are no reduction settings beside {name or 'this model'!r}: load the model from the directory that "
            "`trimkit export` wrote"
        )
    options = dict(settings["reduce"])
    method = get_method(options.pop("method"), **options)
    scorer = None
    if method.needs_relevance:
        scorer = scorer_of(model, directory=directory)
    if method.needs_question and (processor is None or not hasattr(processor, "image_processor")):
        processor = _processor(name, revision) or processor
    model.save_pretrained = functools.partial(_save, model, directory)
    return Attachment(model, processor, method=method, scorer=scorer)


def _save(model: Any, directory: Path, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    """Stock ``save_pretrained``, and what reduces the checkpoint: transformers saves neither settings nor code."""
    out = type(model).save_pretrained(model, save_directory, *args, **kwargs)
    carry_reduction(directory, Path(save_directory))
    return out


def _directory(name: str, revision: str | None) -> Path | None:
    """The checkpoint's directory; of one on the hub, a local copy of what trimkit reads of it."""
    if not name or Path(name).is_dir():
        return Path(name) if name else None
    from huggingface_hub import snapshot_download

    try:
        with without_progress_bars():
            found = Path(snapshot_download(name, revision=revision, allow_patterns=[SETTINGS_FILE]))
            clip = read_settings(found).get("clip")
            if isinstance(clip, str) and "/" not in clip:  # a directory beside the weights; a hub id has a slash
                snapshot_download(name, revision=revision, allow_patterns=[f"{clip}/*"])
    except ConfigError:
        raise
    except Exception:  # not on the hub, or the hub is out of reach: each fails in a way of its own
        return None
    return found


def _processor(name: str, revision: str | None) -> Any:
    """The checkpoint's own processor; None where it has none."""
    import transformers

    auto: Any = transformers  # its classes are typed only in part
    try:
        with without_progress_bars():
            return auto.AutoProcessor.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    except Exception:  # the readers of processors fail in ways of their own; the question may come by query=
        return None

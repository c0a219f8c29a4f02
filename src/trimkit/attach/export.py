"""Save a checkpoint that reduces its image tokens when plain transformers loads it.

transformers calls ``custom_generate/generate.py`` of a checkpoint in place of its own ``generate``, where the user trusts it
(``trust_remote_code=True``). Ours is a few lines that call the installed trimkit; the settings are in ``trimkit.json``.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from trimkit.attach.model_card import write_card
from trimkit.errors import ConfigError, ModelError, UnsupportedError
from trimkit.io.directories import built, copy_tree, new_directory
from trimkit.io.files import user_path, write_atomically
from trimkit.io.reading import read_bytes, read_text
from trimkit.io.settings import SETTINGS_FILE, clip_inside, read_settings, write_settings
from trimkit.methods import Method, get_method, method_classes
from trimkit.models import families
from trimkit.pipeline.selecting import no_scorer
from trimkit.scorers import FITTED_FILE
from trimkit.version import __version__

__all__ = ["carry_reduction", "export"]

_FOLDER = "custom_generate"
_MARK = "Written by trimkit"
_CODE = f'''"""{_MARK} export: generate with fewer image tokens, as "reduce" in trimkit.json beside config.json says."""


def generate(inputs=None, generation_config=None, *, model, **kwargs):
    """What transformers calls in place of its own generate."""
    try:
        from trimkit.attach.exported import generate as reduced
    except ImportError:
        raise ImportError("this checkpoint reduces its image tokens with the package trimkit: install it") from None
    return reduced(model, inputs, generation_config, **kwargs)
'''
# SHA-256 of what earlier versions wrote there, which is replaced; anything else is somebody's own code.
_EARLIER = frozenset({"14aa740bbc9fc7c2a1d29670d9ca59a821e83ce3edfc5f5af4714a8aca27b90a"})


def export(
    model: Any,
    path: str | Path | None = None,
    processor: Any = None,
    *,
    method: str | Method = "trim",
    scorer: str | Path | None = None,
    **options: Any,
) -> Path:
    """Write a checkpoint whose ``generate`` is reduced under plain transformers.

    ``AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True).generate(**inputs)`` then gives what an
    attached model gives, where trimkit is installed. Without ``trust_remote_code`` it is the same checkpoint as before.

    Args:
        model: a checkpoint's directory, ``demo`` or a hub id; or a model, which needs ``processor`` and ``path``.
        path: the directory to write, new or empty. None writes into the checkpoint's own directory.
        processor: the model's, saved with it.
        method, options: as ``trimkit.reduce`` takes them. All options are written out, defaults too.
        scorer: a hub id, or a directory, which is copied into the checkpoint.

    Returns:
        The directory.

    Raises:
        UnknownNameError, ConfigError: method, options or ``path``; another ``custom_generate`` is there already; or the method
            needs a scorer and none is known.
        ModelError: there is no such checkpoint, or it has no processor that could read the question.
        InputError: a file in the directory cannot be written.
        UnsupportedError: it is not a vision-language model, or a PEFT model.
    """
    chosen = get_method(method, **options)
    if dict(method_classes()).get(chosen.name) is not type(chosen):
        raise ConfigError(f"method {chosen.name!r} is not registered: a saved checkpoint could not find it by its name")
    reduction = {"method": chosen.name, **chosen.model_dump(mode="json")}
    try:
        if not isinstance(model, (str, Path)):
            return _save_model(model, processor, new_directory(path, "a model"), reduction, scorer)
        return _export_checkpoint(str(model), path, reduction, scorer)
    except OSError as error:
        raise ConfigError(
            f"cannot write the checkpoint ({error.strerror or error}): choose another directory"
        ) from None


def _export_checkpoint(name: str, path: str | Path | None, reduction: dict[str, Any], scorer: Any) -> Path:
    from trimkit.loading import find_checkpoint, load_model

    source = find_checkpoint(name)
    if source is None:
        loaded, processor = load_model(name)
        return _save_model(loaded, processor, new_directory(path, f"hub model {name!r}"), reduction, scorer)
    if path is None and name == "demo":
        raise ConfigError("the packaged model stays as it is: name a directory to write to")
    if path is None:
        _write(source, reduction, scorer)
        return source
    target = new_directory(path, name)
    if target.is_relative_to(source.resolve()):
        raise ConfigError(f"{str(path)!r} is inside the checkpoint: choose a directory beside it, or none")
    _check_foreign(source)
    with built(target) as temporary:
        copy_tree(source, temporary)
        _write(temporary, reduction, scorer)
    return target


def _save_model(model: Any, processor: Any, target: Path, reduction: dict[str, Any], scorer: Any) -> Path:
    if hasattr(model, "get_base_model"):
        raise UnsupportedError("a PEFT model saves its adapter alone: merge it first (merge_and_unload)")
    if not hasattr(model, "save_pretrained"):
        raise UnsupportedError(
            f"{type(model).__name__} is not a transformers model: pass one loaded by from_pretrained"
        )
    origin = str(getattr(model.config, "_name_or_path", "") or "")
    with built(target) as temporary:
        model.save_pretrained(temporary)
        if processor is not None:
            processor.save_pretrained(temporary)
        if origin:
            _carry_settings(Path(origin), temporary)
        _write(temporary, reduction, scorer, base=origin)
    return target


def carry_reduction(origin: Path, target: Path) -> None:
    """Let a checkpoint that a model from the exported ``origin`` has saved be reduced as that one is.

    Settings and code that are in ``target`` already stay.

    Raises:
        InputError: a file cannot be written.
    """
    _carry_settings(origin, target)
    if not (target / _FOLDER).exists():
        _write_code(target)


def _carry_settings(origin: Path, target: Path) -> None:
    """The encoder's profile, and its CLIP where that lies beside it, from where the model was loaded."""
    if (target / SETTINGS_FILE).exists():
        return
    settings = read_settings(origin)
    clip = clip_inside(origin, settings.get("clip"))
    if clip is not None and not (target / "clip").exists():
        (target / "clip").mkdir()
        copy_tree(clip, target / "clip")
        settings["clip"] = "clip"
    if settings:
        write_settings(target, settings)


def _write(directory: Path, reduction: dict[str, Any], scorer: str | Path | None, base: str = "") -> None:
    """Settings, then code, then a model card: until the code is there, the checkpoint is as it was."""
    _check_foreign(directory)
    settings = read_settings(directory)
    if scorer is not None:
        settings["clip"] = _placed_scorer(directory, scorer)
    _check_readable(directory, reduction)
    _check_scorer(directory, reduction, settings)
    write_settings(directory, {**settings, "reduce": reduction})
    _write_code(directory)
    write_card(directory, reduction, base)


def _write_code(directory: Path) -> None:
    folder = directory / _FOLDER
    files = {"generate.py": _CODE, "requirements.txt": _requirements(folder / "requirements.txt")}
    if folder.exists():
        for name, text in files.items():
            _write_text(folder / name, text)
        return
    with built(folder) as temporary:
        for name, text in files.items():
            _write_text(temporary / name, text)


def _write_text(path: Path, text: str) -> None:
    # In a hub cache the file is a link to one that other revisions share: the link is replaced.
    write_atomically(path, lambda file: file.write(text.encode()), follow=False)


def _requirements(path: Path) -> str:
    """What the file is to say: this version of trimkit, and every other line that is there already, as it is."""
    ours = f"trimkit>={__version__}"
    lines = read_text(path, what="requirements").splitlines() if path.is_file() else []
    others = [line for line in lines if not re.match(r"\s*trimkit\s*($|[\[<>=!~;@,#])", line)]
    return "\n".join([*others, ours]) + "\n"


def _placed_scorer(directory: Path, scorer: str | Path) -> str:
    """What ``clip`` is to say: a hub id, or the name of a directory within the checkpoint."""
    source = user_path(scorer)
    known = any((source / name).is_file() for name in ("config.json", FITTED_FILE))
    if not str(scorer).strip() or (source.is_dir() and not known):
        raise ConfigError(
            f"scorer directory {str(scorer)!r} has no config.json: give a CLIP or SigLIP, a fitted scorer, or a hub id"
        )
    if not source.is_dir():
        if isinstance(scorer, Path) or str(scorer).count("/") != 1 or str(scorer)[0] in "./~":
            raise ConfigError(f"there is no scorer directory {str(scorer)!r}: give one, or a hub id")
        return str(scorer)
    if source.resolve().parent == directory.resolve():
        return source.name
    target = directory / ("scorer" if (source / FITTED_FILE).is_file() else "clip")
    if target.exists():
        raise ConfigError(f"{target} is there already: remove it, or leave scorer out to keep it in use")
    with built(target) as temporary:
        copy_tree(source, temporary)
    return target.name


def _check_foreign(directory: Path) -> None:
    """Refuse to touch a ``custom_generate`` of somebody else's, one that was written by trimkit and changed since included.

    Raises:
        ConfigError: there is one.
    """
    folder = directory / _FOLDER
    if not os.path.lexists(folder):
        return
    code = folder / "generate.py"
    content = read_bytes(code) if code.is_file() else b""
    if content != _CODE.encode() and hashlib.sha256(content).hexdigest() not in _EARLIER:
        raise ConfigError(f"{folder} is not trimkit's: move it away first, a checkpoint has one custom generate")


def _check_readable(directory: Path, reduction: dict[str, Any]) -> None:
    """Refuse a checkpoint whose questions could not be read.

    Raises:
        ModelError: the method reads the question and there is no tokenizer.
    """
    method = get_method(**reduction)
    if method.needs_question and not any(
        (directory / f"tokenizer{end}").is_file() for end in (".json", "_config.json")
    ):
        raise ModelError(
            f"method {method.name!r} reads the question and the checkpoint has no processor: add its files or pass processor="
        )


def _check_scorer(directory: Path, reduction: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuse a checkpoint whose first ``generate`` would find no scorer.

    Raises:
        ConfigError: the method reads the question, and neither the settings nor the model's family name a scorer.
    """
    from types import SimpleNamespace

    from transformers import AutoConfig

    method = get_method(**reduction)
    if not method.needs_relevance or settings.get("clip"):
        return
    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    known = dict(families())
    family = known.get(config.model_type) or known["*"]
    if family.default_clip(SimpleNamespace(config=config)) is None:
        raise no_scorer(method)

"""``vision_engine=``: the vision tower of an attached model, run on the CPU by ONNX Runtime or OpenVINO instead of torch.

The tower's graph is made from the model's own weights, once for those weights. When the model is attached, torch and the engine
both encode two pictures; where features are not close, or the method would keep other patches, attaching is refused. What the
engine cannot do is refused too: torch never takes over without a word.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.engines.onnx_file import refuse_hooks, refuse_weights, weights_hash, write_onnx
from trimkit.engines.packages import version_of
from trimkit.engines.probes import probe_pixels
from trimkit.engines.sessions import Session, check_engine, open_session
from trimkit.engines.tower_store import FILE, HeldTower, held_tower
from trimkit.errors import ConfigError, ModelError, UnsupportedError
from trimkit.models import Family, ModelInputs, VisionParts
from trimkit.pipeline.feature_cache import encoder_stamp
from trimkit.pipeline.input_reducer import InputReducer
from trimkit.pipeline.selecting import select_everything
from trimkit.pipeline.text_free import select_asked
from trimkit.version import __version__

__all__ = ["TowerEngine", "export_tower"]

_CLOSE = 1e-3  # largest difference of features, as a share of the largest feature
_QUESTION = "What is in the picture, and where is it?"
_WHAT = "vision_engine="


class TowerEngine:
    """The tower of one model in another engine. Loaded by ``open``, let go by ``close``; safe to call from several threads.

    ``vision_engine="openvino"`` makes one that is loaded while the model is attached. One that is passed stays loaded from the
    first attachment on until ``close``, so that later ``with`` blocks do not load it again.

    Args:
        name: ``onnxruntime`` or ``openvino``.

    Raises:
        ConfigError: another name.
        MissingDependencyError: the engine is not installed.
    """

    def __init__(self, name: str) -> None:
        check_engine(name)
        self._name = name
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._held: HeldTower | None = None
        self._model: weakref.ref[Any] | None = None
        self._stamp = 0
        self._checked: set[str] = set()
        self._paused = False

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._name

    @property
    def loaded(self) -> bool:
        """Whether it holds a tower now."""
        return self._session is not None

    def open(self, model: Any, reducer: InputReducer) -> None:
        """Export the tower where that has not been done, load it, and compare its choices with torch's.

        Where it is loaded already, only what has changed since is done: another method is compared, other weights are exported.

        Raises:
            ConfigError: it holds the tower of another model.
            UnsupportedError: the model is not in float32 on the CPU, or somebody has hooked its tower.
            ModelError: the engine does not choose as torch does; with the difference.
            MissingDependencyError: the tower has to be exported, and the packages for it are not installed.
        """
        if self._paused:
            return
        with self._lock:
            if self.loaded and self._model is not None and self._model() is not model:
                raise ConfigError(f"this {self._name} engine holds the tower of another model: make one for each model")
            parts = _parts_of(reducer.family, model)
            refuse_weights(parts.tower, _WHAT)
            stamp = encoder_stamp(parts.tower.modules())
            if self.loaded and stamp != self._stamp:
                self._let_go()
            session = self._session or self._load(model, parts)
            try:
                if (kind := repr(reducer.method)) not in self._checked:
                    self._check(session, parts, reducer)
                    self._checked.add(kind)
            except BaseException:
                if not self.loaded:
                    self._let_go()
                raise
            self._session, self._stamp, self._model = session, stamp, weakref.ref(model)

    def _load(self, model: Any, parts: VisionParts) -> Session:
        held = self._held = held_tower(model, _key(parts), lambda directory: export_tower(parts, directory / FILE))
        try:
            return open_session(self._name, held.file)
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        held, self._session, self._held = self._held, None, None
        self._checked.clear()
        if held is not None:
            held.release()

    def close(self) -> None:
        """Let the engine's copy of the tower go. Harmless where it is not open; a call that runs now ends as it began."""
        with self._lock:
            self._let_go()

    def __reduce__(self) -> Any:
        """A copy, or a pickle, is an engine of the same name that is not loaded."""
        return TowerEngine, (self._name,)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let torch run the tower inside, for whoever counts what runs; not for several threads."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def encode(self, family: Family, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        """See ``trimkit.pipeline.vision_engine.VisionEngine``.

        Raises:
            ConfigError: the model is not attached, or its tower has changed since.
            UnsupportedError: gradients are wanted, the pictures are of another size, or another layer is asked for.
        """
        session, pixels = self._session, arguments[family.pixels(model)]
        if self._paused:
            return family.encode(model, arguments)
        if session is None:
            raise ConfigError("vision_engine= is loaded while the model is attached: attach it first")
        parts = _parts_of(family, model)
        self._refuse(parts, arguments, pixels)
        return parts.images(_features(session, pixels))

    def _refuse(self, parts: VisionParts, arguments: ModelInputs, pixels: Tensor) -> None:
        if len(arguments) > 1:
            others = ", ".join(sorted(name for name in arguments if arguments[name] is not pixels))
            raise UnsupportedError(f"vision_engine= reads the layers that the model's config names: leave {others} out")
        if pixels.device.type != "cpu" or pixels.shape[1:] != (3, parts.side, parts.side):
            raise UnsupportedError(
                f"vision_engine= takes pictures of 3 x {parts.side} x {parts.side} on the CPU, these are "
                f"{' x '.join(map(str, pixels.shape[1:]))} on {pixels.device}: leave it out"
            )
        trained = any(weight.requires_grad for weight in parts.tower.parameters())
        if torch.is_grad_enabled() and (trained or pixels.requires_grad):
            raise UnsupportedError(
                "vision_engine= gives no gradients, and this call could want some: call within torch.no_grad(), or freeze the "
                "vision tower (requires_grad_(False))"
            )
        refuse_hooks(parts.tower, _WHAT)
        if any(part.training and _dropout(part) > 0.0 for part in parts.tower.modules()):
            raise UnsupportedError(
                f"{_WHAT} has no dropout, and the vision tower is being trained with some: leave it out"
            )
        if encoder_stamp(parts.tower.modules()) != self._stamp:
            raise ConfigError(
                "the vision tower (weights, adapters or autocast) is no longer as it was when vision_engine= was attached: "
                "detach, and attach it again"
            )

    def _check(self, session: Session, parts: VisionParts, reducer: InputReducer) -> None:
        """Raise where the engine does not do as torch does."""
        pixels = probe_pixels(parts.side)
        with torch.no_grad():
            by_torch, by_engine = parts.tower(pixels), _features(session, pixels)
            largest = float(by_torch.abs().amax())
            difference = float((by_torch - by_engine).abs().amax())
            if not difference <= _CLOSE * largest:
                raise ModelError(
                    f"{session.engine} {session.version} does not compute this vision tower: features differ from torch's by "
                    f"{difference:.1e}, and the largest is {largest:.1e}; leave vision_engine= out"
                )
            one, other = (_chosen(features, parts, reducer) for features in (by_torch, by_engine))
        for here, there in zip(one, other, strict=True):
            if here != there:
                lost = len(set(here) - set(there))
                raise ModelError(
                    f"with the features of {session.engine} {session.version}, method {reducer.method.name!r} keeps other "
                    f"patches of a picture ({lost} of {len(here)}; features differ by {difference:.1e}): "
                    "leave vision_engine= out"
                )


def _parts_of(family: Family, model: Any) -> VisionParts:
    parts = family.parts(model)
    if parts is None:  # refused before
        raise UnsupportedError(f"vision_engine= does not cover {type(model).__name__}: leave it out")
    return parts


def _features(session: Session, pixels: Tensor) -> Tensor:
    found = session({"pixel_values": pixels.detach().float().contiguous().numpy()})["features"]
    return torch.from_numpy(found)


def _dropout(part: Any) -> float:
    found = getattr(part, "p", 0.0) if isinstance(part, torch.nn.Dropout) else getattr(part, "dropout", 0.0)
    return float(found) if isinstance(found, (int, float)) else 0.0


def export_tower(parts: VisionParts, file: Path) -> None:
    """Write the tower as an ONNX graph: ``pixel_values`` ``[B, 3, side, side]`` in, ``features`` ``[B, N, D]`` out."""
    trained = [part for part in parts.tower.modules() if part.training]
    try:
        parts.tower.eval()
        inputs = {"pixel_values": probe_pixels(parts.side)}
        write_onnx(parts.tower, file, inputs, ["features"], {"pixel_values": {0: "batch"}})
    finally:
        for part in trained:
            part.training = True


def _key(parts: VisionParts) -> str:
    """The same for the same graph: weights, layers, and what exports them."""
    about = (repr(parts.tower), parts.side, __version__, torch.__version__, version_of("onnxscript"))
    return weights_hash(parts.tower, *about)[:32]


def _chosen(features: Tensor, parts: VisionParts, reducer: InputReducer) -> list[list[int]]:
    method, scorer = reducer.method, reducer.chooser.scorer()
    images = [replace(image, key=str(number)) for number, image in enumerate(parts.images(features))]
    if "projected" in method.asked_signals:
        images = [replace(image, signals={"projected": parts.projector(image.features)}) for image in images]
    if method.stage == "llm":
        return [selection.indices.tolist() for selection in select_everything(images)]
    profile = method.profile or (scorer.profile if scorer is not None else EncoderProfile())
    asked = [_QUESTION] * len(images)
    found = select_asked(images, asked, method, scorer, profile, list(range(len(images))))
    return [selection.indices.tolist() for selection in found]

"""What ``ask`` and ``show`` share: pictures from files, directories of frames, animations and the web, and the question."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from trimkit.errors import InputError
from trimkit.io.fetch import fetch, is_url
from trimkit.io.files import user_path
from trimkit.io.text import is_text

__all__ = ["Asked", "FramesOption", "WordsArgument", "crop_notes", "read_words"]

WordsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PICTURE...] [QUESTION]",
        help="Pictures: files, http(s) addresses, packaged samples by name; a directory of frames, a GIF or an animated WebP "
        "is a video. Last the question, in quotes.",
        show_default="a sample and its own question",
    ),
]
FramesOption = Annotated[
    int, typer.Option("--frames", min=1, max=256, help="Most pictures to take from a video, at equal steps.")
]

_VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".jp2", ".tga")
_FRAMES_READ = 5000  # of an animation, to find the wanted ones
_MOST_PIXELS = 600_000_000  # of all frames of a video
_CROPPED = 0.1  # share of a picture that may be cropped away without a word

NOT_TRAINED_ON = "the embedded model knows only its own rendered scenes, not photographs: give --model yours"


@dataclass
class Asked:
    """What is asked: PIL images with what they are called, and the question.

    ``files`` are those that were read; ``foreign`` is set where a picture is not one of the packaged samples.
    """

    pictures: list[Any] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    files: list[str | Path] = field(default_factory=list)
    question: str = ""
    foreign: bool = False


def read_words(words: Sequence[str] | None, frames: int) -> Asked:
    """The pictures and the question of a command line.

    Raises:
        InputError: neither a file nor a sample, a bad picture, a video that nothing here decodes, or no question.
    """
    from trimkit.ask import check_question
    from trimkit.demo import sample_images

    samples = sample_images()
    given = list(words or [next(iter(samples))])
    own = _sample(given[0], samples) if len(given) == 1 else None
    asked = Asked()
    if own is None and (len(given) == 1 or _is_picture(given[-1], samples)):
        raise InputError("there is no question: write it after the picture, in quotes")
    asked.question = own.question if own is not None else _decoded(given.pop())
    check_question(asked.question)
    for source in given:
        sample = _sample(source, samples)
        asked.foreign |= sample is None
        for name, picture in _load(source if sample is None else str(sample.path), frames):
            asked.names.append(name)
            asked.pictures.append(picture)
        if not is_url(source):
            asked.files += [source if sample is None else sample.path, *asked.names, *_frames_beside(source)]
    return asked


def crop_notes(asked: Asked, boxes: Sequence[Any]) -> list[str]:
    """One line for every picture of which the model's processor left out more than a tenth."""
    notes = []
    for name, picture, box in zip(asked.names, asked.pictures, boxes, strict=True):
        seen = 1.0 if box is None else (box[2] - box[0]) * (box[3] - box[1])
        if 1.0 - seen > _CROPPED:
            size = f"{picture.width} x {picture.height}"
            notes.append(
                f"of {name} ({size}) the model sees {seen:.0%}, the rest is cropped away: `trimkit show` draws which; "
                "crop it yourself, or pad it to a square"
            )
    return notes


def _sample(source: str, samples: dict[str, Any]) -> Any:
    """The packaged sample of that name, None where it is a path or an address."""
    if not source.startswith("sample:") and (not source or is_url(source) or os.path.lexists(source)):
        return next((each for each in samples.values() if _same(each.path, source)), None)
    name = source.removeprefix("sample:")
    if name not in samples and source.startswith("sample:"):
        raise InputError(f"there is no sample {name!r}: the packaged ones are {', '.join(samples)}")
    return samples.get(name)


def _same(path: Path, source: str) -> bool:
    return Path(source).name == path.name and os.path.realpath(source) == os.path.realpath(path)


def _is_picture(text: str, samples: dict[str, Any]) -> bool:
    """Whether what stands where the question should be names a picture."""
    if text in samples or text.startswith("sample:") or (is_url(text) and not text.split()[1:]):
        return True
    return text.lower().endswith((*_PICTURES, *_VIDEOS)) and os.path.lexists(text)


def _load(source: str, frames: int) -> list[tuple[str, Any]]:
    """One picture, or the frames of a video, each with its name."""
    from trimkit.images import load_image

    if is_url(source):
        return _from_web(source, frames)
    path = user_path(source) if source and "\0" not in source else None
    if path is not None and _is_directory(path):
        return _from_directory(path, frames)
    if path is not None and path.suffix.lower() in _VIDEOS and os.path.lexists(path):
        raise InputError(
            f"{source} is a video, and Pillow reads none but GIF and animated WebP: give a directory of its frames "
            "(ffmpeg -i VIDEO -r 1 FRAMES/%04d.png)"
        )
    first = load_image(source)
    return _animation(str(path), frames) or [(source, first)]


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # a name that is too long: reading it says so


def _from_web(url: str, frames: int) -> list[tuple[str, Any]]:
    """What an address gives, read as a file of that name is."""
    data = fetch(url)
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{suffix if suffix in _PICTURES else ''}"
        path.write_bytes(data)
        try:
            found = _load(str(path), frames)
        except InputError as error:
            raise InputError(str(error).replace(str(path), url[:120])) from None
    return [(name.replace(str(path), url[:120]), picture) for name, picture in found]


def _from_directory(path: Path, frames: int) -> list[tuple[str, Any]]:
    from trimkit.images import load_image

    try:
        names = _frame_names(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path") from None
    if not names:
        raise InputError(f"{path} is a directory without pictures: give a picture, or a directory of frames")
    room = _Room(path)
    return [(str(path / names[i]), room.take(load_image(path / names[i]))) for i in _steps(len(names), frames)]


def _frame_names(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path) if name.lower().endswith(_PICTURES) and name[0] != ".")


def _frames_beside(source: str) -> list[Path]:
    """All frames of a directory, those that were not taken included: none of them is to be written over."""
    path = user_path(source)
    return [path / name for name in _frame_names(path)] if _is_directory(path) else []


class _Room:
    """Pixels that the frames of one video may have together."""

    def __init__(self, path: str | Path) -> None:
        self._path, self._left = path, _MOST_PIXELS

    def take(self, picture: Any) -> Any:
        self.check(picture.width * picture.height)
        return picture

    def check(self, pixels: int) -> None:
        self._left -= pixels
        if self._left < 0:
            raise InputError(
                f"the frames of {self._path} have more than {_MOST_PIXELS / 1e6:g} million pixels together: take fewer "
                "(--frames), or shrink them"
            )


def _animation(path: str, frames: int) -> list[tuple[str, Any]]:
    """Frames of a file that holds several; none of a still picture."""
    from PIL import Image

    from trimkit.images import load_image

    with Image.open(path) as opened:
        count = min(int(getattr(opened, "n_frames", 1)), _FRAMES_READ)
        if count < 2 or opened.format not in ("GIF", "WEBP", "PNG"):  # pages of a TIFF are no video
            return []
        found, room = [], _Room(path)
        for number in _steps(count, frames):
            try:
                opened.seek(number)
                room.check(opened.width * opened.height)
                found.append((f"{path} frame {number + 1}", load_image(opened.convert("RGBA"))))
            except InputError:
                raise
            except (OSError, EOFError, SyntaxError, ValueError) as error:
                raise InputError(f"{path} is damaged at frame {number + 1} ({error}): save it again") from None
        return found


def _steps(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, at equal steps."""
    if count <= most:
        return list(range(count))
    return [int((i + 0.5) * count / most) for i in range(most)]


def _decoded(text: str) -> str:
    """An argument whose UTF-8 bytes Python did not decode, because the locale says ASCII; others as they are."""
    if is_text(text):
        return text
    with contextlib.suppress(UnicodeError):
        return os.fsencode(text).decode()
    return text

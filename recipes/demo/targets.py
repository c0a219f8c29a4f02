"""What every patch of a scene is: the labels the tower is trained on, all computed from the scene's geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from trimkit.demo.questions import Question
from trimkit.demo.world import COLOURS, NAMES, PATCH_SIZE, PLURALS, WORDS, Box, Scene

IGNORE = -100
BACKGROUND = 0  # class 0; then the names, then the words
CLASSES = ("", *NAMES, *WORDS)
CLASS_OF = {name: i for i, name in enumerate(CLASSES)}
COLOUR_OF = {name: i + 1 for i, name in enumerate(COLOURS)}  # 0: no disc
SUBPOINTS = 4  # coverage is measured on 4 x 4 points a patch
INSIDE, OUTSIDE = 0.5, 0.1  # covered at least so much: object; at most so much by anything: background

Ints = npt.NDArray[np.int16]


@dataclass(frozen=True)
class PatchTargets:
    """Per patch, raster order: class (IGNORE on rims), owner's number (-1 none), disc colour, its name's count, centre flag;
    offset to and position of the owner's centre, in patches."""

    label: Ints
    owner: Ints
    colour: Ints
    count: Ints
    centre: npt.NDArray[np.float32]
    position: npt.NDArray[np.float32]


def _coverage(box: Box, round_shape: float | None, grid: int) -> npt.NDArray[np.float32]:
    """Share of each patch inside a box, or inside the circle of radius round_shape at its middle."""
    step = PATCH_SIZE / SUBPOINTS
    points = (np.arange(grid * SUBPOINTS, dtype=np.float32) + 0.5) * step
    if round_shape is None:
        inside_x = (points >= box[0]) & (points <= box[2])
        inside_y = (points >= box[1]) & (points <= box[3])
        inside = inside_y[:, None] & inside_x[None, :]
    else:
        dx, dy = points - (box[0] + box[2]) / 2, points - (box[1] + box[3]) / 2
        inside = (dy * dy)[:, None] + (dx * dx)[None, :] <= round_shape * round_shape
    blocks = inside.reshape(grid, SUBPOINTS, grid, SUBPOINTS)
    out: npt.NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32).reshape(-1)
    return out


Thing = tuple[Box, float | None, int, int, int]  # box, radius where it is round, class, disc colour, how many there are


def things_of(scene: Scene) -> list[Thing]:
    things: list[Thing] = [
        (o.box, o.extent / 2 * (1.0 if o.disc else 0.92), CLASS_OF[o.name], COLOUR_OF.get(o.disc or "", 0), scene.count(o.name))
        for o in scene.objects
    ]  # fmt: skip
    if scene.sign is not None:
        things.append((scene.sign.box, None, CLASS_OF[scene.sign.word], 0, 1))
    return things


def patch_targets(scene: Scene) -> PatchTargets:
    return thing_targets(things_of(scene), scene.size)


def thing_targets(things: list[Thing], size: int) -> PatchTargets:
    grid = size // PATCH_SIZE
    total = grid * grid
    label = np.full(total, BACKGROUND, np.int16)
    owner = np.full(total, -1, np.int16)
    colour = np.zeros(total, np.int16)
    count = np.zeros(total, np.int16)
    centre = np.zeros(total, np.float32)
    position = np.zeros((total, 2), np.float32)
    for number, (box, radius, cls, hue, repeats) in enumerate(things):
        share = _coverage(box, radius, grid)
        inside = share >= INSIDE
        label[(share > OUTSIDE) & ~inside & (label == BACKGROUND)] = IGNORE
        label[inside], owner[inside], colour[inside], count[inside] = cls, number, hue, repeats
        x, y = (box[0] + box[2]) / 2 / PATCH_SIZE, (box[1] + box[3]) / 2 / PATCH_SIZE
        position[inside] = (x, y)
        centre[int(y) * grid + int(x)] = 1.0
    return PatchTargets(label, owner, colour, count, centre, position)


def question_mask(scene: Scene, question: Question, targets: PatchTargets) -> npt.NDArray[np.bool_]:
    """The patches that belong to what the question is about (none: it asks about something absent)."""
    boxes = [o.box for o in scene.objects] + ([scene.sign.box] if scene.sign is not None else [])
    owners = [i for i, box in enumerate(boxes) if box in question.boxes]
    out: npt.NDArray[np.bool_] = np.isin(targets.owner, owners)
    return out


def to_patches(image: Image.Image) -> npt.NDArray[np.uint8]:
    """RGB picture as [patches, 3 * 14 * 14] bytes, channel first, as a convolution of stride 14 reads them."""
    pixels = np.asarray(image, dtype=np.uint8)
    grid = pixels.shape[0] // PATCH_SIZE
    blocks = pixels.reshape(grid, PATCH_SIZE, grid, PATCH_SIZE, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(blocks.reshape(grid * grid, -1))


def text_forms(rng: np.random.Generator, cls: int) -> str:
    """One way of naming a class to the text tower."""
    name = CLASSES[cls]
    if name in PLURALS:
        forms = (
            name,
            f"a {name}",
            f"a photo of a {name}",
            PLURALS[name],
            f"a picture of {PLURALS[name]}",
            f"the {name}",
        )
    else:
        forms = (f"a sign with the word {name}", f"the word {name}", name, f"a sign reading {name}")
    return forms[int(rng.integers(len(forms)))]

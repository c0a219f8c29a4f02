"""The demo world: what a scene is, and how one is drawn at random; no pixels. The same generator state gives the same scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Box = tuple[float, float, float, float]

IMAGE_SIZE = 336
PATCH_SIZE = 14

# name -> (emoji, plural). Every name is one English word; its picture is told apart from all others at 40 pixels.
OBJECTS: dict[str, tuple[str, str]] = {
    "dog": ("🐶", "dogs"), "cat": ("🐱", "cats"), "mouse": ("🐭", "mice"), "rabbit": ("🐰", "rabbits"),
    "fox": ("🦊", "foxes"), "panda": ("🐼", "pandas"), "lion": ("🦁", "lions"), "cow": ("🐮", "cows"),
    "pig": ("🐷", "pigs"), "frog": ("🐸", "frogs"), "monkey": ("🐵", "monkeys"), "chicken": ("🐔", "chickens"),
    "penguin": ("🐧", "penguins"), "owl": ("🦉", "owls"), "bat": ("🦇", "bats"), "horse": ("🐴", "horses"),
    "unicorn": ("🦄", "unicorns"), "bee": ("🐝", "bees"), "butterfly": ("🦋", "butterflies"),
    "snail": ("🐌", "snails"), "ladybug": ("🐞", "ladybugs"), "spider": ("🕷", "spiders"),
    "turtle": ("🐢", "turtles"), "snake": ("🐍", "snakes"), "octopus": ("🐙", "octopuses"), "crab": ("🦀", "crabs"),
    "dolphin": ("🐬", "dolphins"), "whale": ("🐳", "whales"), "elephant": ("🐘", "elephants"),
    "camel": ("🐫", "camels"), "parrot": ("🦜", "parrots"), "flamingo": ("🦩", "flamingos"),
    "tree": ("🌳", "trees"), "cactus": ("🌵", "cactuses"), "mushroom": ("🍄", "mushrooms"),
    "tulip": ("🌷", "tulips"), "sunflower": ("🌻", "sunflowers"), "leaf": ("🍁", "leaves"),
    "apple": ("🍎", "apples"), "pear": ("🍐", "pears"), "banana": ("🍌", "bananas"), "lemon": ("🍋", "lemons"),
    "strawberry": ("🍓", "strawberries"), "cherry": ("🍒", "cherries"), "pineapple": ("🍍", "pineapples"),
    "watermelon": ("🍉", "watermelons"), "avocado": ("🥑", "avocados"), "carrot": ("🥕", "carrots"),
    "cheese": ("🧀", "cheeses"), "egg": ("🥚", "eggs"), "burger": ("🍔", "burgers"), "pizza": ("🍕", "pizzas"),
    "taco": ("🌮", "tacos"), "donut": ("🍩", "donuts"), "cookie": ("🍪", "cookies"), "cake": ("🍰", "cakes"),
    "lollipop": ("🍭", "lollipops"), "cup": ("☕", "cups"), "football": ("⚽", "footballs"),
    "basketball": ("🏀", "basketballs"), "guitar": ("🎸", "guitars"), "drum": ("🥁", "drums"),
    "trumpet": ("🎺", "trumpets"), "piano": ("🎹", "pianos"), "car": ("🚗", "cars"), "bus": ("🚌", "buses"),
    "truck": ("🚚", "trucks"), "tractor": ("🚜", "tractors"), "bicycle": ("🚲", "bicycles"),
    "train": ("🚂", "trains"), "rocket": ("🚀", "rockets"), "helicopter": ("🚁", "helicopters"),
    "boat": ("⛵", "boats"), "anchor": ("⚓", "anchors"), "house": ("🏠", "houses"), "castle": ("🏰", "castles"),
    "tent": ("⛺", "tents"), "key": ("🔑", "keys"), "lock": ("🔒", "locks"), "hammer": ("🔨", "hammers"),
    "bell": ("🔔", "bells"), "clock": ("⏰", "clocks"), "book": ("📕", "books"), "umbrella": ("☔", "umbrellas"),
    "hat": ("🎩", "hats"), "crown": ("👑", "crowns"), "shoe": ("👟", "shoes"), "boot": ("👢", "boots"),
    "shirt": ("👕", "shirts"), "dress": ("👗", "dresses"), "ring": ("💍", "rings"), "diamond": ("💎", "diamonds"),
    "balloon": ("🎈", "balloons"), "gift": ("🎁", "gifts"), "bulb": ("💡", "bulbs"), "camera": ("📷", "cameras"),
    "phone": ("📱", "phones"), "computer": ("💻", "computers"), "robot": ("🤖", "robots"), "ghost": ("👻", "ghosts"),
    "alien": ("👽", "aliens"), "skull": ("💀", "skulls"), "snowman": ("⛄", "snowmen"), "star": ("⭐", "stars"),
    "moon": ("🌙", "moons"), "rainbow": ("🌈", "rainbows"), "flame": ("🔥", "flames"), "heart": ("❤", "hearts"),
    "flag": ("🚩", "flags"), "magnet": ("🧲", "magnets"), "trophy": ("🏆", "trophies"), "bomb": ("💣", "bombs"),
}  # fmt: skip
NAMES: tuple[str, ...] = tuple(OBJECTS)
PLURALS: dict[str, str] = {name: plural for name, (_, plural) in OBJECTS.items()}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 36, 40), "yellow": (248, 218, 36), "green": (34, 160, 62), "blue": (36, 84, 224),
    "purple": (130, 44, 172), "pink": (252, 146, 196), "white": (248, 248, 248), "black": (16, 16, 18),
}  # fmt: skip

WORDS: tuple[str, ...] = (
    "stop", "open", "exit", "cafe", "taxi", "park", "shop", "sale", "bank", "free", "wait", "slow",
    "push", "pull", "food", "gym", "bar", "pub", "spa", "zoo", "art", "ice", "hot", "new",
    "help", "info", "menu", "home", "gate", "news", "post", "tea", "fuel", "wifi", "play", "jazz",
    "kiwi", "lost", "milk", "game", "sky", "toy", "vip", "kids", "city", "dock", "yoga", "quiz",
)  # fmt: skip

# plate colour, letter colour: always far apart in brightness, so that the word is what has to be learnt
SIGN_STYLES: tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...] = (
    ((250, 250, 250), (15, 15, 15)), ((20, 20, 24), (250, 250, 250)), ((250, 214, 40), (20, 20, 20)),
    ((24, 60, 160), (252, 252, 252)), ((16, 100, 50), (252, 252, 252)), ((170, 20, 24), (255, 255, 255)),
)  # fmt: skip

BACKGROUNDS: tuple[str, ...] = ("gradient", "clouds", "stripes", "checks", "rings", "dots", "grain")


@dataclass(frozen=True)
class SceneObject:
    """One emoji object: its picture, where it is and how it is drawn. `extent` is the whole square it fills, disc included."""

    name: str
    x: float  # centre, pixels
    y: float
    extent: float
    angle: float
    flip: bool
    brightness: float
    disc: str | None

    @property
    def box(self) -> Box:
        half = self.extent / 2
        return (self.x - half, self.y - half, self.x + half, self.y + half)


@dataclass(frozen=True)
class Sign:
    """A plate with a short word in capitals."""

    word: str
    x: float
    y: float
    width: float
    height: float
    style: int

    @property
    def box(self) -> Box:
        return (self.x - self.width / 2, self.y - self.height / 2, self.x + self.width / 2, self.y + self.height / 2)


@dataclass(frozen=True)
class Scene:
    """A square picture's whole content; `background_seed` fixes the background's pixels."""

    size: int
    objects: tuple[SceneObject, ...]
    sign: Sign | None
    background: str
    background_seed: int

    def count(self, name: str) -> int:
        return sum(o.name == name for o in self.objects)

    def unique(self) -> tuple[SceneObject, ...]:
        """The objects whose name occurs once."""
        return tuple(o for o in self.objects if self.count(o.name) == 1)


def sample_names(rng: np.random.Generator, total: int) -> list[str]:
    """Names for `total` objects: often one or two of them repeated two to four times, as counting questions need."""
    groups = [int(rng.integers(2, 5))] if rng.random() < 0.85 else []
    if groups and total >= 8 and rng.random() < 0.5:
        groups.append(int(rng.integers(2, 5)))
    # at least two objects stay unique, for questions that compare two
    while groups and sum(groups) > total - 2:
        groups.pop()
    singles = total - sum(groups)
    chosen = [NAMES[i] for i in rng.choice(len(NAMES), size=singles + len(groups), replace=False)]
    names = chosen[:singles]
    for name, times in zip(chosen[singles:], groups, strict=True):
        names += [name] * times
    return names


def sample_scene(
    rng: np.random.Generator,
    *,
    size: int = IMAGE_SIZE,
    objects: tuple[int, int] = (6, 12),
    sign: bool | None = None,
) -> Scene:
    """Draw a scene; `objects` bounds their number (inclusive), `sign` forces a sign in or out (default: one in two)."""
    total = int(rng.integers(objects[0], objects[1] + 1))
    with_sign = bool(rng.random() < 0.5) if sign is None else sign
    names = sample_names(rng, total)
    taken: list[Box] = []
    plate = _sample_sign(rng, size, taken) if with_sign else None
    placed: list[SceneObject] = []
    for name in names:
        item = _sample_object(rng, name, size, taken)
        if item is not None:
            placed.append(item)
    order = rng.permutation(len(placed))
    return Scene(
        size=size,
        objects=tuple(placed[i] for i in order),
        sign=plate,
        background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
        background_seed=int(rng.integers(2**31)),
    )


def _sample_object(rng: np.random.Generator, name: str, size: int, taken: list[Box]) -> SceneObject | None:
    disc = list(COLOURS)[int(rng.integers(len(COLOURS)))] if rng.random() < 0.55 else None
    extent = float(rng.uniform(44, 56) if disc else rng.uniform(36, 52))
    centre = _place(rng, extent, extent, size, taken)
    if centre is None:
        return None
    return SceneObject(
        name=name,
        x=centre[0],
        y=centre[1],
        extent=extent,
        angle=float(rng.uniform(-15, 15)),
        flip=bool(rng.random() < 0.5),
        brightness=float(rng.uniform(0.85, 1.12)),
        disc=disc,
    )


def _sample_sign(rng: np.random.Generator, size: int, taken: list[Box]) -> Sign | None:
    word = WORDS[int(rng.integers(len(WORDS)))]
    cell = float(rng.uniform(15, 18))
    width, height = cell * len(word) + 10, cell * 1.5 + 8
    centre = _place(rng, width, height, size, taken)
    if centre is None:
        return None
    return Sign(word, centre[0], centre[1], width, height, int(rng.integers(len(SIGN_STYLES))))


def _place(
    rng: np.random.Generator, width: float, height: float, size: int, taken: list[Box]
) -> tuple[float, float] | None:
    """A centre where a width x height box fits free of the others, or None after 60 tries; the box joins `taken`."""
    gap = 3.0
    for _ in range(60):
        x = float(rng.uniform(width / 2 + 1, size - width / 2 - 1))
        y = float(rng.uniform(height / 2 + 1, size - height / 2 - 1))
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if all(box[0] > t[2] + gap or box[2] < t[0] - gap or box[1] > t[3] + gap or box[3] < t[1] - gap for t in taken):
            taken.append(box)
            return x, y
    return None

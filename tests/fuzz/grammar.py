"""Command lines as hypothesis draws them: every command and option, with good and hostile values."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from tests.fuzz.world import CONFIGS, DEEP, DIGITS, QUESTIONS

Words = st.SearchStrategy[str]

_WORDS = [
    "",
    " ",
    "\n",
    "-",
    "--",
    "0",
    "-1",
    "\udcff",
    "\ud800x",
    "a\0b",
    "x" * 300,
    "é" * 200,
    "²",
    "٣",
    "\x1b[2J",
    "%s",
]
_WORDS += [DEEP, DIGITS, "-" + DIGITS, "9" * 5000, "1e12", "1e400", "NaN", "-inf", "null", "true", "[1", "{}", '"x"']
HOSTILE_TEXT = st.one_of(
    st.sampled_from(_WORDS),
    st.text(max_size=20),
)
_INPUTS = [
    "picture.png",
    "soft.png",
    "hard.png",
    "sixteen.png",
    "nan.tif",
    "inf.tif",
    "cut.png",
    "\udcff.png",
    "scene1",
]
_ODD = ["pipe", "loop.png", "dangling.png", "/dev/zero", "/dev/null", "/dev/full", "pictures", "sparse.json", "nothing"]
_ODD += ["~nobody-has-this-name/x.png", "no/such/place.png", "/proc/self/mem", "/", "..", "x" * 300 + ".png"]
_MODELS = [*["model"] * 20, *["demo"] * 4, "model-layer", "model-layers", "model-token", "model-type", "model-above"]
_MODELS += ["model-absolute", "model-hub", "model-number", "model-deep", "model-reduce", "model-pipe", "model-zero"]


def _mostly(good: Sequence[str], bad: Words = HOSTILE_TEXT, share: int = 14) -> Words:
    """Good values, and of ``share + 1`` values one bad one."""
    return st.one_of(*[st.sampled_from(list(good))] * share, bad)


def _files(good: Sequence[str], share: int = 14) -> Words:
    return _mostly(good, st.one_of(st.sampled_from([*_INPUTS, *_ODD]), HOSTILE_TEXT), share)


_OUTPUTS = [
    *["out.json", "out.png"] * 6,
    "out.svg",
    "picture.png",
    "soft.png",
    "hard.png",
    "config.json",
    "questions.txt",
]
_OUTPUTS += ["read-only.json", "pictures/one.png", "model/config.json", "journal.jsonl", "linked.json"]
_COUNTS = st.sampled_from(["0", "-1", "1000000000000", DIGITS, "x", "1e3", "", "²", "1.5"])
_VALUES: dict[str, Words] = {
    "--model": _mostly(_MODELS, _files(["nothing", "no-such-owner/no-such-model", "./x"], 2), 30),
    "--method": _mostly(
        [*["random", "none", "uniform", "divprune"] * 3, "trim", "random,none", "dart", "fastv", "focus"]
    ),
    "--config": _files(["config.json"] * 8 + [*CONFIGS]),
    "--budget": _mostly(["3", "0.5", "1.0", "iqr", "top-p:0.9", "auto", "auto:0.3", "16", "9" * 20, "1e-300", "0.2,3"]),
    "--set": st.one_of(
        st.sampled_from(["aggregate=none", "temperature=2", "seed=3", f"seed={DIGITS}", f"seed={DEEP}", "sign=-1", "x"])
    )
    | st.tuples(st.sampled_from(["budget", "seed", "temperature", "aggregate", "profile", "sign"]), HOSTILE_TEXT).map(
        "=".join
    ),
    "--max-new-tokens": _mostly(["1", "2"], _COUNTS),
    "--device": _mostly(["cpu", "cpu", "cpu"]),
    "--dtype": _mostly(["auto", "float32"]),
    "--n": _mostly(["1", "2"], _COUNTS),
    "--batch-size": _mostly(["1", "2"], _COUNTS),
    "--seed": _mostly(["0", "1", "2147483647"], _COUNTS),
    "--positions": _mostly(["auto", "contiguous", "original"]),
    "--turns": _mostly(["refresh", "first", "union", "first,union"]),
    "--output": _files(_OUTPUTS),
    "--resume": _files(["journal.jsonl", "config.json", "picture.png", "out.json"]),
    "--journal": _files(["journal.jsonl", "config.json", "picture.png", "out.json"]),
    "--tower-keep": _mostly(["0.5", "1.0"]),
    "--tower-layer": _mostly(["1"], _COUNTS),
    "--shift": _mostly(["none", "blur"]),
    "--query": _mostly(["What is red?"]),
    "--ours": _mostly(["random", "focus"]),
    "--grid": _mostly(["random seed=1|2", "trim sign=1|-1", f"random seed={DIGITS}", "trim", "random budget=" + DEEP]),
    "--workers": _mostly(["1", "1", "1"], _COUNTS),
    "--images": _files(["pictures", "pictures", "pictures", "empty-directory"]),
    "--questions": _files([*QUESTIONS, *["questions.txt"] * 8]),
    "--agreement": _mostly(["0.5", "0.95"]),
    "--max-images": _mostly(["1"], _COUNTS),
    "--per-image": _mostly(["1"], _COUNTS),
    "--random": _mostly(["small"]),
    "--layers": _mostly(["1"], _COUNTS),
    "--new-tokens": _mostly(["1"], _COUNTS),
    "--text-tokens": _mostly(["5"], _COUNTS),
    "--repeats": _mostly(["1"], _COUNTS),
    "--threads": _mostly(["1"], _COUNTS),
    "--plot": _files(["out.svg", "picture.png", "out.json", "loop.png"]),
    "--scorer": _files(["model", "./clip", "no-such-owner/no-such-clip"]),
    "--tasks": _mostly(["pope", "pope:f1"]),
    "--include-path": _files(["pictures"]),
    "--limit": _mostly(["1"], _COUNTS),
    "--steps": _mostly(["1"], _COUNTS),
    "--work": _files(["work", "picture.png", "loop.png"]),
    "--cache-gb": _mostly(["1", "0", "-1", "nan", "1e400"], _COUNTS),
    "--target": _mostly(["attention", "answer,attention", "luck", ","]),
}
_METHOD = ("--method", "--config", "--budget", "--set")
_LOADED = ("--model", "--device", "--dtype")
_BENCH = ("--seed", "--plot", "--output", "--device", "--dtype")
_EVAL = ("--seed", "--positions", "--output")

# Options that are always given, since their defaults are made for hours; then those that may be.
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    "ask": (("--max-new-tokens", "--model"), (*_METHOD, *_LOADED), True),
    "show": (("--max-new-tokens", "--model", "--output"), (*_METHOD, *_LOADED), True),
    "methods": ((), ("--model",), False),
    "models": ((), (), False),
    "export": (("--output", "--model"), (*_METHOD, "--scorer"), False),
    "calibrate": (
        ("--images", "--max-images", "--per-image", "--max-new-tokens", "--model"),
        ("--questions", *_METHOD[:1], "--set", "--agreement", "--batch-size", "--seed", "--output", *_LOADED),
        False,
    ),
    "fit": (
        ("--images", "--max-images", "--steps", "--max-new-tokens", "--work", "--model"),
        ("--questions", "--per-image", "--batch-size", "--cache-gb", "--target", "--seed", "--output", *_LOADED),
        False,
    ),
    "eval scenes": (
        ("--n", "--batch-size", "--model"),
        (*_METHOD, *_EVAL, "--tower-keep", "--tower-layer", "--resume", *_LOADED),
        False,
    ),
    "eval dialogues": (("--n", "--batch-size", "--model"), (*_METHOD, *_EVAL, "--turns", *_LOADED), False),
    "eval suite": (
        ("--n", "--batch-size", "--method", "--budget", "--model"),
        ("--config", *_EVAL, "--shift", "--query", "--ours", "--journal", "--workers", "--grid", *_LOADED),
        False,
    ),
    "eval paper-table": (
        ("--model",),
        (*_METHOD, "--positions", "--tasks", "--include-path", "--limit", "--resume", "--batch-size", "--output"),
        False,
    ),
    "bench": (
        ("--repeats", "--new-tokens", "--budget", "--threads", "--model"),
        ("--random", "--layers", *_METHOD, "--tower-keep", "--tower-layer", "--batch-size", "--text-tokens", *_BENCH),
        False,
    ),
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """One command line, without the program's name."""
    command = draw(st.sampled_from([*COMMANDS, *COMMANDS, "", "aks", "eval", "eval nothing"]))
    words = command.split()
    always, sometimes, takes_picture = COMMANDS.get(command, ((), (), False))
    if takes_picture and draw(st.booleans()):
        words.append(draw(_files(["picture.png", *_INPUTS])))
        if draw(st.integers(0, 5)):
            words.append(draw(_mostly(["What is red?", "Où?"])))
    if command == "export":
        words.append(draw(_VALUES["--model"]))
        always = ("--output",)
    picked = draw(st.lists(st.sampled_from(sometimes), max_size=4)) if sometimes else []
    for option in [*always, *picked]:
        words += [option, draw(_VALUES[option])]
    if command and draw(st.booleans()):
        words.append("--json")
    extra = draw(st.integers(0, 60))
    if extra == 0:
        words.append(draw(HOSTILE_TEXT))
    elif extra == 1:
        words.append(draw(st.sampled_from(["--help", "--version", "--no-such", "-o"])))
    return words

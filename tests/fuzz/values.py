"""What options and arguments are given: values that work, and hostile ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from tests.fuzz.world import CONFIGS, DEEP, DIGITS, QUESTIONS, ROWS

Words = Callable[[Random], str]

PORT = "@PORT@"
"""Stands for the port of the server in ``tests.fuzz.web`` until the command line is run."""

_WORDS = ["", " ", "\n", "-", "--", "0", "-1", "\udcff", "\ud800x", "a\0b", "x" * 300, "é" * 200, "²", "٣", "\x1b[2J"]
_WORDS += ["%s", DEEP, DIGITS, "-" + DIGITS, "9" * 5000, "1e12", "1e400", "NaN", "-inf", "null", "true", "[1", "{}"]
_WORDS += ['"x"', "a\r\nb", "x=\udcff", "💥"]
_LETTERS = [
    (0, 0x7F),
    (0xA0, 0x2FF),
    (0x590, 0x6FF),
    (0x4E00, 0x4EFF),
    (0xD800, 0xDFFF),
    (0x1F600, 0x1F64F),
    (0, 0x10FFFF),
]


def one_of(*choices: str | Words) -> Words:
    """One of several words, or of what gives words."""

    def pick(chance: Random) -> str:
        chosen = chance.choice(choices)
        return chosen if isinstance(chosen, str) else chosen(chance)

    return pick


def _text(chance: Random) -> str:
    """Letters of one script, or of all."""
    script = chance.choice(_LETTERS)
    return "".join(chr(chance.randint(*script)) for _ in range(chance.randint(0, 20)))


HOSTILE_TEXT = one_of(one_of(*_WORDS), _text)

_AT = f"http://127.0.0.1:{PORT}"
_SERVERS = [
    f"{_AT}/{name}" for name in ("list", "html", "deep", "refuse", "fail", "cut", "garbage", "numbers", "empty")
]
_URLS = [
    "http://[",
    "http://[::1",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:x",
    "http://127.0.0.1:1",
    "http://",
    "h",
]
_URLS += [
    f"https://127.0.0.1:{PORT}",
    "ftp://127.0.0.1",
    "file:///etc/passwd",
    "http://\ud800",
    "http://é",
    "http://a b",
]
_URLS += ["http://127.0.0.1:0", "http://x\n", "http://127.0.0.1:1/\x7f", "http://user:\x01@127.0.0.1:1", "HTTP://:1"]
_URLS += ["http://" + "x" * 300, "http://" + "a." * 200, "http://1.2.3.4.5:1", "//", "http:///v1", f"{_AT}/good?x#y"]
SERVERS = one_of(*[one_of(f"{_AT}/good", f"{_AT}/good/v1")] * 6, one_of(*_SERVERS, *_URLS))

_PICTURES = [
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
INPUTS = [*_PICTURES, "moving.gif", "sample:scene2", "frames"]
_PLACES = [
    "pipe",
    "loop.png",
    "dangling.png",
    "/dev/zero",
    "/dev/null",
    "/dev/full",
    "pictures",
    "sparse.json",
    "nothing",
]
_PLACES += ["~nobody-has-this-name/x.png", "no/such/place.png", "/proc/self/mem", "/", "..", "x" * 300 + ".png"]
_PLACES += ["clip.mp4", "bomb.png", "sample:none", *_URLS[:6], f"{_AT}/picture.png", f"{_AT}/html", f"{_AT}/garbage"]
_MODELS = [*["model"] * 20, *["demo"] * 4, "model-layer", "model-layers", "model-token", "model-type", "model-above"]
_MODELS += ["model-absolute", "model-hub", "model-number", "model-deep", "model-reduce", "model-pipe", "model-zero"]
_MODELS += ["model-config", "model-list", "model-cut", "model-exported"]
_OUTPUTS = [*["out.json", "out.png"] * 6, "out.svg", "picture.png", "soft.png", "hard.png", "config.json"]
_OUTPUTS += ["read-only.json", "pictures/one.png", "model/config.json", "journal.jsonl", "linked.json", "questions.txt"]
_FOLDERS = ["model", "pictures", "empty-directory", "picture.png", "model/new-one", "soft.png", "loop.png", "pipe"]


def mostly(good: Sequence[str], bad: Words = HOSTILE_TEXT, share: int = 14) -> Words:
    """Good values, and of ``share + 1`` values one bad one."""
    return one_of(*[one_of(*good)] * share, bad)


def files(good: Sequence[str], share: int = 14) -> Words:
    """Good file names, and of ``share + 1`` one that leads to no such file, or to what is none."""
    return mostly(good, one_of(one_of(*INPUTS, *_PLACES), HOSTILE_TEXT), share)


def _new(chance: Random) -> str:
    return f"new-{chance.randint(0, 10**9)}"


MODELS = mostly(_MODELS, files(["nothing", "no-such-owner/no-such-model", "./x"], 2), 30)
NEW_FOLDERS = one_of(*[_new] * 6, files(_FOLDERS, 2))
DATA = files([*["rows.jsonl", "rows.parquet", "pictures"] * 4, *ROWS], 14)
_COUNTS = one_of("0", "-1", "1000000000000", DIGITS, "x", "1e3", "", "²", "1.5")
_SHARES = one_of(one_of("nan", "inf", "-inf", "1e308", "-0.1", "1.1", "0", "1", "1e-300"), _COUNTS)
_METHODS = [*["random", "none", "uniform", "divprune"] * 3, "trim", "random,none", "dart", "fastv", "focus"]
_SETTINGS = ["aggregate=none", "temperature=2", "seed=3", f"seed={DIGITS}", f"seed={DEEP}", "sign=-1", "x"]
_SETTINGS += ["budget=nan", "temperature=NaN", "=", "seed==", "profile={}", 'profile={"sign": NaN}']
_NAMES = ["budget", "seed", "temperature", "aggregate", "profile", "sign"]
_HOSTS = ["127.0.0.1", "localhost", "::1", "999.1.1.1", "x" * 300, "é", "*", "256.256.256.256", "a b", "\ud800", "::x"]
_KEYS = ["secret", "é", "a\r\nb", "\udcff", "x" * 10_000, " ", "\x00"]


def _counts(*good: str) -> Words:
    return mostly(good, _COUNTS)


def _shares(*good: str) -> Words:
    return mostly(good, _SHARES)


def _setting(chance: Random) -> str:
    return f"{chance.choice(_NAMES)}={HOSTILE_TEXT(chance)}"


VALUES: dict[str, Words] = {
    "--model": MODELS,
    "--method": mostly(_METHODS),
    "--config": files(["config.json"] * 8 + [*CONFIGS]),
    "--budget": mostly(["3", "0.5", "1.0", "iqr", "top-p:0.9", "auto", "auto:0.3", "16", "9" * 20, "1e-300", "0.2,3"]),
    "--steps": _counts("1"),
    "--work": files(["work", "picture.png", "loop.png"]),
    "--cache-gb": _shares("1"),
    "--target": mostly(["attention", "answer,attention", "luck", ","]),
    "--recheck": _shares("0.01", "1"),
    "--padding": mostly(["keep", "skip"]),
    "--types": mostly(["basic", "hard", "all", "reading,global", "reading,reading", ","]),
    "--sort": mostly(["accuracy", "choosing", "method", "luck"]),
    "--top": _counts("3"),
    "--set": one_of(one_of(*_SETTINGS), _setting),
    "--fallback": mostly(["full", "none"]),
    "--threshold": _shares("0.5", "0", "1"),
    "--vision-engine": mostly(["torch", "openvino", "onnxruntime"]),
    "--frames": _counts("2", "8"),
    "--max-new-tokens": _counts("1", "2"),
    "--device": mostly(["cpu", "cpu", "cpu"]),
    "--dtype": mostly(["auto", "float32"]),
    "--n": _counts("1", "2"),
    "--batch-size": _counts("1", "2"),
    "--seed": _counts("0", "1", "2147483647"),
    "--positions": mostly(["auto", "contiguous", "original"]),
    "--turns": mostly(["refresh", "first", "union", "first,union"]),
    "--output": files(_OUTPUTS),
    "--resume": files(["journal.jsonl", "config.json", "picture.png", "out.json"]),
    "--journal": files(["journal.jsonl", "config.json", "picture.png", "out.json"]),
    "--tower-keep": mostly(["0.5", "1.0"], _SHARES),
    "--tower-layer": _counts("1"),
    "--shift": mostly(["none", "blur"]),
    "--query": mostly(["What is red?"]),
    "--ours": mostly(["random", "focus"]),
    "--grid": mostly(["random seed=1|2", "trim sign=1|-1", f"random seed={DIGITS}", "trim", "random budget=" + DEEP]),
    "--workers": _counts("1", "1", "1"),
    "--images": files(["pictures", "pictures", "pictures", "empty-directory"]),
    "--questions": files([*QUESTIONS, *["questions.txt"] * 8]),
    "--agreement": _shares("0.5", "0.95"),
    "--risk": _shares("0.5", "0.9", "0.02"),
    "--confidence": _shares("0.5", "0.95"),
    "--measure": mostly(["answer", "divergence"]),
    "--max-images": _counts("1", "2"),
    "--per-image": _counts("1"),
    "--random": mostly(["small"]),
    "--layers": _counts("1"),
    "--new-tokens": _counts("1"),
    "--text-tokens": _counts("5"),
    "--repeats": _counts("1"),
    "--threads": _counts("1"),
    "--pictures": _counts("1", "2"),
    "--memory": _shares("1", "80"),
    "--plot": files(["out.svg", "picture.png", "out.json", "loop.png"]),
    "--scorer": files(["model", "./clip", "no-such-owner/no-such-clip"]),
    "--tasks": mostly(["pope", "pope:f1"]),
    "--include-path": files(["pictures"]),
    "--limit": _counts("1"),
    "--picture": mostly(["1280x960", "16x16"], one_of("x", "0x0", "1x", f"{DIGITS}x1", "-1x5", "²x²", "1x1x1")),
    "--clients": _counts("1", "64"),
    "--server": SERVERS,
    "--upstream": SERVERS,
    "--api-key": mostly(["secret"], one_of(*_KEYS)),
    "--upstream-key": mostly(["secret"], one_of(*_KEYS)),
    "--question": mostly(["What is red?"]),
    "--in-flight": _counts("1", "4"),
    "--retries": _counts("0"),
    "--timeout": _shares("5"),
    "--host": mostly(["127.0.0.1"], one_of(*_HOSTS)),
    "--port": one_of("0", "0", "0", "0", PORT, _COUNTS),
    "--engine": mostly(["transformers", "auto", "vllm"]),
    "--served-model-name": mostly(["mine"]),
    "--cors-origin": mostly(["*", "https://example.org"]),
    "--max-batch": _counts("1"),
    "--max-queue": _counts("1"),
    "--max-tokens": _counts("8"),
    "--max-pixels": _counts("1000000"),
    "--max-pictures": _counts("1"),
    "--max-body": _counts("1"),
    "--deadline": _shares("5"),
    "--grace": _shares("5"),
    "--cache-images": _counts("0", "4"),
}

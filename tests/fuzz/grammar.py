"""Command lines by chance: every command and option, with good and hostile values.

The chance is Python's own, seeded for each command line. Hypothesis repeats parts of what it has drawn: a quarter of its lines
were copies, and most were refused for their first value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tests.fuzz.values import DATA, HOSTILE_TEXT, INPUTS, MODELS, NEW_FOLDERS, VALUES, Words, files, mostly, one_of

_METHOD = ("--method", "--config", "--budget", "--set")
_LOADED = ("--model", "--scorer", "--device", "--dtype")
_BENCH = ("--seed", "--plot", "--output", "--device", "--dtype", "--scorer", "--pictures", "--questions", "--memory")
_EVAL = ("--seed", "--positions", "--output")
_SERVED = ("--host", "--scorer", "--device", "--dtype", "--api-key", "--max-queue", "--max-pictures", "--max-pixels")


@dataclass(frozen=True)
class Command:
    """What a command is given.

    Attributes:
        always: options whose defaults are made for hours.
        sometimes: options that may be given.
        flags: options without a value.
        first: what its arguments are, each with how many of ten command lines have it.
        own: values of options that mean something else here.
    """

    always: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ("--json",)
    first: tuple[tuple[Words, int], ...] = ()
    own: tuple[tuple[str, Words], ...] = ()

    def options(self) -> Iterator[str]:
        """All that it knows."""
        yield from (*self.always, *self.sometimes, *self.flags)


_ASKED = ((files(["picture.png", *INPUTS]), 5), (files(INPUTS), 1), (mostly(["What is red?", "Où?"]), 4))
_A_MODEL = ((MODELS, 10),)
_ADVISED = mostly(["llava-1.5-7b", "qwen2.5-vl-7b", "demo", "model"], MODELS, 2)
_DEVICES = mostly(["h100", "a100", "here"])
_COUNTED = mostly(["1", "2"], VALUES["--n"], 4)


def _new_rows(chance: Random) -> str:
    return f"{NEW_FOLDERS(chance)}.jsonl"


COMMANDS: dict[str, Command] = {
    "ask": Command(
        ("--max-new-tokens", "--model"),
        (*_METHOD, *_LOADED, "--fallback", "--threshold", "--vision-engine", "--frames"),
        ("--json", "--compare"),
        _ASKED,
    ),
    "show": Command(
        ("--max-new-tokens", "--model", "--output"),
        (*_METHOD, *_LOADED, "--frames", "--api-key"),
        first=_ASKED,
    ),
    "show --server": Command(
        ("--server", "--output"), ("--method", "--budget", "--set", "--api-key", "--max-new-tokens"), first=_ASKED
    ),
    "methods": Command((), ("--model",)),
    "models": Command(),
    "advise": Command(
        (),
        (
            "--picture",
            "--pictures",
            "--budget",
            "--method",
            "--text-tokens",
            "--new-tokens",
            "--clients",
            "--dtype",
            "--threads",
            "--device",
        ),
        ("--json", "--compiled"),
        ((_ADVISED, 7),),
        (("--device", _DEVICES), ("--dtype", mostly(["bfloat16", "float16", "float32"])), ("--budget", _COUNTED)),
    ),
    "batch": Command(
        ("--output", "--server", "--retries", "--timeout"),
        (
            "--question",
            "--model",
            "--method",
            "--budget",
            "--set",
            "--max-new-tokens",
            "--in-flight",
            "--api-key",
            "--server",
        ),
        ("--json", "--retry-errors"),
        ((DATA, 10),),
        (("--output", one_of(_new_rows, _new_rows, VALUES["--output"])),),
    ),
    "serve": Command(
        ("--port", "--engine"),
        (
            *_METHOD,
            *_SERVED,
            "--served-model-name",
            "--cors-origin",
            "--max-batch",
            "--max-tokens",
            "--max-body",
            "--deadline",
            "--grace",
            "--fallback",
            "--threshold",
            "--recheck",
            "--risk",
        ),
        ("--remote-pictures",),
        _A_MODEL,
    ),
    "encode-server": Command(
        ("--port", "--upstream"),
        (*_METHOD, *_SERVED, "--max-body", "--deadline", "--upstream-key", "--cache-images"),
        ("--remote-pictures",),
        _A_MODEL,
    ),
    "language-model": Command(("--output",), ("--dtype",), first=_A_MODEL, own=(("--output", NEW_FOLDERS),)),
    "export": Command(
        ("--output",),
        (*_METHOD, "--scorer", "--device", "--dtype"),
        ("--json", "--onnx"),
        _A_MODEL,
        (("--output", NEW_FOLDERS),),
    ),
    "calibrate": Command(
        ("--images", "--max-images", "--per-image", "--max-new-tokens", "--model"),
        (
            "--questions",
            *_METHOD[:1],
            "--set",
            "--agreement",
            "--batch-size",
            "--seed",
            "--output",
            *_LOADED,
            "--risk",
            "--confidence",
            "--measure",
            "--resume",
        ),
        ("--json", "--knee", "--force", "--fallback", "--no-fallback"),
    ),
    "fit": Command(
        ("--images", "--max-images", "--steps", "--max-new-tokens", "--work", "--model"),
        ("--questions", "--per-image", "--batch-size", "--cache-gb", "--target", "--seed", "--output", *_LOADED),
        ("--json", "--force"),
        own=(("--output", NEW_FOLDERS),),
    ),
    "demo": Command(("--port",), ("--host", "--max-new-tokens", *_LOADED), ("--browser",)),
    "leaderboard": Command(
        (),
        ("--method", "--budget", "--sort", "--top"),
        ("--json", "--vllm", "--reads-question", "--ignores-question"),
    ),
    "eval scenes": Command(
        ("--n", "--batch-size", "--model"),
        (*_METHOD, *_EVAL, "--tower-keep", "--tower-layer", "--resume", *_LOADED),
    ),
    "eval dialogues": Command(("--n", "--batch-size", "--model"), (*_METHOD, *_EVAL, "--turns", *_LOADED)),
    "eval suite": Command(
        ("--n", "--batch-size", "--method", "--budget", "--model"),
        (
            "--config",
            *_EVAL,
            "--shift",
            "--query",
            "--ours",
            "--journal",
            "--workers",
            "--grid",
            "--padding",
            "--types",
            "--fallback",
            "--threshold",
            *_LOADED,
        ),
    ),
    "eval paper-table": Command(
        ("--model",),
        (
            *_METHOD,
            "--positions",
            "--tasks",
            "--include-path",
            "--limit",
            "--resume",
            "--batch-size",
            "--output",
            "--scorer",
            "--device",
            "--dtype",
        ),
    ),
    "bench": Command(
        ("--repeats", "--new-tokens", "--budget", "--threads", "--model"),
        (
            "--random",
            "--layers",
            *_METHOD,
            "--tower-keep",
            "--tower-layer",
            "--batch-size",
            "--text-tokens",
            *_BENCH,
            "--vision-engine",
        ),
        first=((HOSTILE_TEXT, 1),),  # 'ask' and 'claim' take minutes
        own=(("--questions", mostly(["1", "2"], VALUES["--n"])),),
    ),
}


_OTHERS = ["", "aks", "eval", "eval nothing"]
_ENDINGS = ["--help", "--version", "--no-such", "-o", "--show-completion", "--debug"]


def command_line(chance: Random) -> list[str]:
    """One command line, without the program's name."""
    name = chance.choice([*COMMANDS, *COMMANDS, *_OTHERS])
    command = COMMANDS.get(name, Command())
    words = name.removesuffix(" --server").split()
    words += [values(chance) for values, often in command.first if chance.randint(1, 10) <= often]
    own, picked = dict(command.own), chance.choices(command.sometimes or [""], k=chance.randint(0, 4))
    for option in filter(None, [*command.always, *picked]):
        words += [option, own.get(option, VALUES[option])(chance)]
    words += [flag for flag in command.flags if name and chance.random() < (0.5 if flag == "--json" else 0.2)]
    extra = chance.randint(0, 60)
    if extra == 0:
        words.append(HOSTILE_TEXT(chance))
    elif extra == 1:
        words.append(chance.choice(_ENDINGS))
    elif extra == 2:
        words += ["--", HOSTILE_TEXT(chance)]
    return words

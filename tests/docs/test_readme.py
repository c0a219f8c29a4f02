"""README and CONTRIBUTING hold up: their Python runs against the demo model, their commands exist, their links resolve."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import trimkit.methods
import trimkit.scorers
from trimkit.demo import demo_model_path
from trimkit.methods import Method

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
]
_BLOCK = re.compile(r"(?:<!-- (?P<note>no-run: [^\n]+?) -->\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.M | re.S)

needs_demo = pytest.mark.skipif(
    not (demo_model_path() / "model.safetensors").is_file(), reason="the demo model is not in this checkout"
)


def blocks(page: Path, language: str) -> list[tuple[str, bool]]:
    """Source and whether it is to be run, of every fenced block in ``language``. Line numbers are the page's."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        if match["language"] == language:
            above = text.count("\n", 0, match.start("body"))
            found.append(("\n" * above + match["body"], match["note"] is None))
    return found


@needs_demo
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as one reads them, in one module and an empty directory."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"blocks_of_{page.stem.lower()}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    sources = blocks(page, "python")
    assert sources
    for source, runs in sources:
        code = compile(source, str(page), "exec", dont_inherit=True)
        if runs:
            exec(code, vars(module))
    assert not list(tmp_path.iterdir())


def test_a_block_can_opt_out_with_a_reason(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- no-run: big -->\n```python\na\n```\n\n```python\nb\n```\n", encoding="utf-8")
    assert [(source.strip(), runs) for source, runs in blocks(page, "python")] == [("a", False), ("b", True)]


def test_contributed_method_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRIBUTING's method, put beside ours as it stands, is found by its name."""
    source, _ = blocks(ROOT / "CONTRIBUTING.md", "python")[0]
    (tmp_path / "norm.py").write_text(source.lstrip(), encoding="utf-8")
    monkeypatch.setattr(trimkit.methods, "__path__", [*trimkit.methods.__path__, str(tmp_path)])
    monkeypatch.setattr(trimkit.methods._registry, "_entries", None)
    try:
        norm = trimkit.get_method("norm", budget=10)
    finally:
        sys.modules.pop("trimkit.methods.norm", None)
        monkeypatch.delattr(trimkit.methods, "norm", raising=False)
    assert isinstance(norm, Method)
    assert norm.budget.tokens(576) == 10


def test_contributed_scorer_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRIBUTING's scorer, put beside ours as it stands, reads a checkpoint of its kind."""
    from tests import tiny
    from trimkit.scorers import _shelf

    (source,) = [each for each, _ in blocks(ROOT / "CONTRIBUTING.md", "python") if "ExternalScorer" in each]
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "chinese_clip.py").write_text(source.lstrip(), encoding="utf-8")
    encoder, tokenizer = _chinese_clip(tmp_path / "encoder")
    asked: dict[str, Any] = {"scorer": str(tmp_path / "encoder"), "query": "the dog", "budget": 6}
    processor = types.SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    model, batch = tiny.llava(), tiny.llava_batch([1])
    with pytest.raises(trimkit.ModelError, match="chinese_clip checkpoint without"):
        trimkit.prepare(model, processor, batch, **asked)
    monkeypatch.setattr(trimkit.scorers, "__path__", [*trimkit.scorers.__path__, str(tmp_path / "shelf")])
    monkeypatch.setattr(_shelf.registry, "_entries", None)
    try:
        scorer: Any = trimkit.scorers.load_scorer(tmp_path / "encoder")
        assert len(trimkit.prepare(model, processor, batch, **asked).images[0].columns) == 6
    finally:
        sys.modules.pop("trimkit.scorers.chinese_clip", None)
        monkeypatch.delattr(trimkit.scorers, "chinese_clip", raising=False)
    assert dict(trimkit.scorers.scorer_classes())["chinese-clip"] is type(scorer)
    with torch.no_grad():
        text = encoder.get_text_features(**tokenizer("the dog", return_tensors="pt"), return_dict=True).pooler_output
    torch.testing.assert_close(scorer.text_embeddings(["the dog"])[0], text[0])


def _chinese_clip(directory: Path) -> tuple[Any, Any]:
    """A tiny random one with a tokenizer, saved."""
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    from tests.unit.test_scorer import _tokenizer

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ChineseCLIPConfig(
        text_config={**shape, "vocab_size": 100, "max_position_embeddings": 60},
        vision_config={**shape, "image_size": 24, "patch_size": 4},
        projection_dim=16,
    )
    encoder, tokenizer = ChineseCLIPModel(config).eval(), _tokenizer()
    encoder.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return encoder, tokenizer


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """Every ``trimkit …`` line of a shell block names commands and options that are there."""
    from typer.main import get_command

    from trimkit.cli import app

    for source, _ in blocks(page, "sh"):
        for line in source.splitlines():
            if line.startswith("trimkit "):
                _check_command(get_command(app), shlex.split(line, comments=True)[1:])


def _check_command(command: Any, words: list[str]) -> None:
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"no command {words[0]!r}"
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    own = words[: words.index("--")] if "--" in words else words  # behind it: another program's
    used = {word.partition("=")[0] for word in own if re.match(r"--?[a-z]", word)}
    assert used <= known | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    broken = [link for link in links if not _exists(page, link)]
    assert broken == []


def _exists(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return False
    if not anchor:
        return True
    headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
    return anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

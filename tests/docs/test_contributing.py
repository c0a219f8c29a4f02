"""CONTRIBUTING, taken literally: each example is put where the page says, in a copy of the tree, and used as it is."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_readme import ROOT, needs_demo

PAGE = ROOT / "CONTRIBUTING.md"
EXAMPLE = re.compile(r"^Save this as `(?P<path>[^`]+)`:\n\n```python\n(?P<body>.*?)^```$", re.M | re.S)
EXAMPLES = {match["path"]: match["body"] for match in EXAMPLE.finditer(PAGE.read_text(encoding="utf-8"))}

FAMILY = """
import sys
import torch
from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration, LlamaConfig, SiglipVisionConfig
import trimkit
from tests import tiny
from trimkit.models import family_of

vision = SiglipVisionConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=24, patch_size=4,
    vision_use_head=False,
)
config = DeepseekVLConfig(
    text_config=LlamaConfig(**tiny.TEXT), vision_config=vision, image_token_id=tiny.IMAGE_TOKEN,
)
torch.manual_seed(0)
model = tiny.ready(DeepseekVLForConditionalGeneration(config))
assert type(family_of(model)).__module__ == "trimkit.models.deepseek_vl", family_of(model)

ids = torch.tensor([[1, 5, *[tiny.IMAGE_TOKEN] * 36, 7, 8]])
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.rand(1, 3, 24, 24)}
with torch.no_grad():
    stock = model(**inputs).logits
    with trimkit.reduce(model, None, method="none"):
        assert torch.equal(model(**inputs).logits, stock)
    projected = []
    hook = model.model.aligner.register_forward_hook(lambda module, args, out: projected.append(out.shape[-2]))
    with trimkit.reduce(model, None, method="l2-norm", budget=9) as trim:
        out = model.generate(**inputs, **tiny.GREEDY)
    hook.remove()
assert out.shape[1] > ids.shape[1]
assert (trim.report.tokens_before, trim.report.tokens_after) == (36, 9), trim.report
assert trim.report.images[0].grid == (6, 6)
assert projected == [9], projected

from trimkit.cli import main
sys.argv = ["trimkit", "models", "--json"]
main()
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package; the demo model's weights are linked."""
    model = Path("src") / "trimkit" / "demo" / "model"
    ignored = shutil.ignore_patterns("__pycache__", "model")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    (tmp_path / model).symlink_to(ROOT / model)
    return tmp_path


def add(tree: Path, path: str) -> None:
    """The page's file, at the page's place; nothing of ours is overwritten."""
    assert not (ROOT / path).exists()
    (tree / path).write_text(EXAMPLES[path], encoding="utf-8")


def run(tree: Path, *arguments: str) -> str:
    """Standard output of ``python ARGUMENTS`` that finds the copy, and behind it the tests."""
    path = [str(tree / "src"), str(tree), str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_has_an_example_of_each_kind() -> None:
    folders = [Path(path).parent.as_posix() for path in EXAMPLES]
    assert {"src/trimkit/methods", "src/trimkit/models", "benchmarks"} <= set(folders)
    tested = {"src/trimkit/methods/norm.py", "src/trimkit/models/deepseek_vl.py", "benchmarks/aggregate.py"}
    others = [path for path in EXAMPLES if path not in tested and not path.startswith("src/trimkit/scorers/")]
    assert others == [], "an example without a test of its own"


def test_examples_keep_to_the_rules(tree: Path) -> None:
    for path, text in EXAMPLES.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", tree)
    files = [str(tree / path) for path in EXAMPLES]
    run(tree, "-m", "ruff", "check", *files)
    run(tree, "-m", "ruff", "format", "--check", *files)
    if importlib.util.find_spec("importlinter") is not None:  # not beside the oldest dependencies: tests/ranges.py
        lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
        run(tree, "-c", lint, "--no-cache")
    run(tree, str(ROOT / "tools" / "check_sizes.py"), "src")


@needs_demo
def test_the_method(tree: Path) -> None:
    add(tree, "src/trimkit/methods/norm.py")
    listed = {each["name"]: each for each in json.loads(run(tree, "-m", "trimkit", "methods", "--json"))}
    assert listed["norm"]["summary"] == "patches with the longest features (example)"
    asked = "-m", "trimkit", "ask", "--method", "norm", "--budget", "100", "--set", "power=1", "--json"
    said = json.loads(run(tree, *asked))
    assert said["image_tokens_kept"] == 100
    assert said["answer"]


def test_the_family(tree: Path) -> None:
    add(tree, "src/trimkit/models/deepseek_vl.py")
    assert '"family": "DeepSeek-VL"' in run(tree, "-c", FAMILY)


@pytest.mark.slow
@needs_demo
def test_the_benchmark(tree: Path) -> None:
    shutil.copytree(
        ROOT / "benchmarks", tree / "benchmarks", ignore=shutil.ignore_patterns("__pycache__", "*.partial*")
    )
    shutil.copytree(ROOT / "docs", tree / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tree)
    add(tree, "benchmarks/aggregate.py")
    run(tree, "-m", "benchmarks.run", "aggregate", "--n", "2")
    record = json.loads((tree / "benchmarks" / "results" / "aggregate.json").read_text(encoding="utf-8"))
    assert [arm["n"] for arm in record["results"]] == [2, 2]
    run(tree, "-m", "benchmarks.tables")
    page = (tree / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert page.startswith((ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").rstrip())
    section = page[page.index("## `aggregate`") :]
    assert "| `mean` | 64 |" in section
    assert "2 questions, seed 5. Source: `benchmarks/results/aggregate.json`" in section

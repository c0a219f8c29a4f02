"""What is published: the address everywhere, a wheel that holds what it should, and workflows that call targets that exist."""

from __future__ import annotations

import importlib.util
import re
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
FORMS = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))

pytestmark = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="not a checkout")


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_address_everywhere() -> None:
    address = tool("set_repository").current()
    owner, name = address.split("/")
    assert PROJECT["urls"]["Homepage"] == f"https://{owner}.github.io/{name}/"
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"repo_url: https://github.com/{address}\n" in config
    assert f"site_url: https://{owner}.github.io/{name}/\n" in config
    for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb"), *FORMS]:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/", text)) <= {address}, page.name
        assert set(re.findall(r"git\+https://github\.com/([\w.-]+/[\w.-]+)", text)) <= {address}, page.name


def test_the_address_is_changed_as_a_whole() -> None:
    text = (
        "https://github.com/a/b/issues https://raw.githubusercontent.com/a/b/main/x https://a.github.io/b/faq/ "
        "https://colab.research.google.com/github/a/b/blob/main https://github.com/a/bc https://github.com/other/b"
    )
    assert tool("set_repository").replaced(text, "a/b", "new/name") == (
        "https://github.com/new/name/issues https://raw.githubusercontent.com/new/name/main/x "
        "https://new.github.io/name/faq/ https://colab.research.google.com/github/new/name/blob/main "
        "https://github.com/a/bc https://github.com/other/b"
    )


def test_a_wheel_with_too_little_or_too_much_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trimkit-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("trimkit/__init__.py", "")
        wheel.writestr("trimkit/weights.bin", "")
        wheel.writestr("tests/test_x.py", "")
        wheel.writestr("trimkit-1.dist-info/METADATA", "Name: trimkit\n\n[a](docs/b.md)\n")
    wrong = tool("check_dist").check_wheel(path)
    for said in (
        "the wheel lacks trimkit/eval/leaderboard.json",
        "the wheel has tests/test_x.py",
        "trimkit/weights.bin: no file of that kind belongs here",
        "LICENSE and NOTICE are not both in the wheel",
        "no classifier for Python 3.14",
        "no address Changelog",
        "the description has the relative link docs/b.md",
    ):
        assert said in wrong
    assert "bytes" not in " ".join(wrong)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_there_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}  # a job that needs more says so
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    asked = {word for line in re.findall(r"\bmake ([a-z -]+)", text) for word in line.split()}
    assert {each for each in asked if not each.endswith("-")} <= targets
    for name in re.findall(r"python (tools/\S+\.py)", text):
        assert (ROOT / name).is_file()


def test_every_classified_python_is_tested() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    tested = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    named = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert named == tested
    assert PROJECT["requires-python"] == f">={tested[0]}"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_what_github_asks_for(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert all(each.keys() == {"name", "url", "about"} for each in form["contact_links"])
        return
    assert {"name", "description", "body"} <= form.keys()
    fields = [each for each in form["body"] if each["type"] != "markdown"]
    assert len({each["id"] for each in fields}) == len(fields)
    assert all("label" in each["attributes"] for each in fields)

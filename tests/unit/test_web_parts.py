"""What the page is made of, without a browser and without Gradio: pictures, links, messages, HTML, measured times."""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image

from benchmarks import page_results
from trimkit.demo import sample_images
from trimkit.errors import InputError
from trimkit.web import estimates, links, markup, messages, pictures
from trimkit.web.answers import Progress
from trimkit.web.choices import build_method, method_kinds


def test_a_large_picture_is_scaled_down_and_said_so(tmp_path: Path) -> None:
    Image.new("L", (8000, 5000), 90).save(tmp_path / "large.png")
    picture = pictures.read_picture(str(tmp_path / "large.png"))
    assert picture.image.width * picture.image.height <= pictures.MOST_PIXELS
    assert picture.image.width / picture.image.height == pytest.approx(1.6, abs=0.01)
    assert "large.png has 8,000 × 5,000 pixels (40 million)" in picture.note
    assert f"{picture.image.width:,} × {picture.image.height:,}" in picture.note


def test_a_small_picture_stays_as_it_is(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "small.png")
    picture = pictures.read_picture(str(tmp_path / "small.png"))
    assert (picture.image.size, picture.note, picture.sample) == ((64, 48), "", None)
    assert picture.key != pictures.read_picture(str(tmp_path / "small.png")).key


def test_a_broken_file_is_named_as_its_user_knows_it(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"^broken\.png is not an image"):
        pictures.read_picture(str(tmp_path / "broken.png"))
    with pytest.raises(InputError, match="no picture"):
        pictures.read_picture(None)


def test_samples() -> None:
    name = next(iter(sample_images()))
    assert pictures.sample_picture(name).key == pictures.sample_picture(name).key
    with pytest.raises(InputError, match="scene1"):
        pictures.sample_picture("none")


def test_a_link_is_read() -> None:
    found = links.from_query(
        {"sample": "scene2", "question": " why? ", "method": "focus", "share": "35", "tab": "cost"}
    )
    assert found == links.Settings("scene2", "why?", "focus", 35, "cost")
    plain = links.from_query({})
    assert (plain.sample, plain.question, plain.share) == ("scene1", sample_images()["scene1"].question, None)


@pytest.mark.parametrize(
    "query",
    [{"sample": "../etc"}, {"method": "none"}, {"share": "0"}, {"share": "1e9"}, {"share": "٣"}, {"tab": "x" * 99}],
)
def test_what_a_link_cannot_mean_is_left_out_with_a_note(query: dict[str, str]) -> None:
    found = links.from_query(query)
    assert len(found.notes) == 1
    assert links.Settings(found.sample, found.question) == links.Settings(
        found.sample, found.question, found.method, found.share, found.tab
    )


def test_the_space_runs_what_the_extra_allows() -> None:
    root = Path(__file__).resolve().parents[2]
    header = yaml.safe_load((root / "spaces" / "README.md").read_text(encoding="utf-8").split("---")[1])
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    gradio = Requirement(project["optional-dependencies"]["demo"][0])
    assert header["sdk"] == gradio.name
    assert header["sdk_version"] in gradio.specifier
    assert (root / "spaces" / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60  # the hub takes no more


def test_errors_become_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert messages.explain(InputError("a\nb: do c")) == "a b: do c"
    assert "memory" in messages.explain(MemoryError())
    with caplog.at_level(logging.ERROR):
        told = messages.explain(KeyError("/secret/path"))
    assert "KeyError" in told
    assert "secret" not in told
    assert "secret" in caplog.text


def test_text_in_html_is_escaped() -> None:
    hostile = "<script>{{x}} ${y}"
    for html in (
        markup.alert(hostile),
        markup.note(hostile),
        markup.answer_card(hostile, Progress(text=hostile, state="done", tokens_kept=3)),
        markup.table(["a"], [[hostile]], hostile),
        markup.thumbnail(Image.new("RGB", (8, 8)), hostile, hostile),
    ):
        assert "&lt;script&gt;" in html
        assert not {"<script", "{{", "${"} & {html[i : i + n] for i in range(len(html)) for n in (2, 7)}


def test_cards_say_how_far_an_answer_is() -> None:
    waiting = markup.answer_card("Reduced", Progress())
    assert "waiting for another answer" in waiting
    assert 'aria-busy="true"' in waiting
    done = Progress("a fox", "done", 576, 100, 2, 0.25, 0.5, 5_030_000_000)
    card = markup.answer_card("Reduced", done, Progress(state="done", seconds=1.0))
    for text in ("a fox", "100 of 576", "250 ms", "500 ms", "5.03 G", "2.00 ×", 'aria-busy="false"'):
        assert text in card
    assert "–" in markup.answer_card("Reduced", Progress(state="done", tokens_kept=1))  # FLOPs that no formula covers


@pytest.mark.parametrize(("value", "text"), [(0.0351, "35 ms"), (1.5, "1.50 s"), (134.2, "134 s")])
def test_seconds(value: float, text: str) -> None:
    assert markup.seconds_text(value) == text


def test_every_method_of_the_list_takes_a_share() -> None:
    names = [kind.name for kind in method_kinds()]
    assert "none" not in names
    assert all(build_method(name, 0.2).budget.value == 0.2 for name in names)
    assert build_method("trim", None).budget.kind == "iqr"


def test_an_estimate_has_a_verdict_and_tables() -> None:
    html = estimates.estimate("llava-1.5-7b", "h100", 0.21, 1, 32, 1, compiled=False)
    for text in ('role="status"', "prefill", "requests that fit", "121"):
        assert text in html
    assert {"h100", "l4"} <= {name for _, name in estimates.device_names()}
    assert not any(name.startswith("small") for name in estimates.shape_names())


def test_measured_times_are_those_of_the_results() -> None:
    assert page_results.FILE.read_text(encoding="utf-8") == page_results.built()
    assert "bench_claim.json" in estimates.measured_table()

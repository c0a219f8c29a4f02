"""The scenes suite: arms see what an evaluation of their own sees, interruptions lose nothing, and the sums are right."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import suite_tables
from trimkit.attach import Attachment
from trimkit.core.confidence import Fallback
from trimkit.core.types import TokenBatch
from trimkit.demo import load_demo
from trimkit.errors import ConfigError, TrimkitError
from trimkit.eval import scenes, suite, suite_work
from trimkit.eval.suite import Arm, Outcomes, Plan
from trimkit.eval.suite_results import summarise
from trimkit.methods import get_method
from trimkit.methods.l2_norm import L2Norm

BATCH = 6
ARMS = (
    Arm(get_method("none")),
    Arm(get_method("trim", budget=32), "32"),
    Arm(get_method("visionzip", budget=32), "32"),
    Arm(get_method("random", budget=32), "32"),
)


class Killer(L2Norm):
    """Ends its process."""

    name = "killer"

    def scores(self, batch: TokenBatch) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().scores(batch)


def plan(n: int = 6, **changes: Any) -> Plan:
    return Plan(**{"model": "demo", "seed": 5, "n": n, "arms": ARMS, "batch_size": BATCH, **changes})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcomes, Path]:
    path = tmp_path_factory.mktemp("suite") / "journal.jsonl"
    return suite.run(plan(), journal=path), path


def test_an_arm_scores_what_it_scores_alone(outcomes: tuple[Outcomes, Path]) -> None:
    """Shared features, and an attachment that is never attached, give what ``eval scenes`` gives."""
    model, processor = load_demo()
    for arm in (ARMS[1], ARMS[2]):
        alone = scenes.evaluate(model, processor, seed=5, n=6, method=arm.method, batch_size=BATCH)
        assert sum(outcomes[0].hits(arm)) / 6 == alone["accuracy"]
        assert outcomes[0].mean(arm, "kept") == alone["image_tokens_kept_mean"] == 32


def test_pictures_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass for all arms that drop tokens, and the full model's own."""
    from trimkit.models.llava import Llava

    passes: list[int] = []
    stock = Llava.encode
    monkeypatch.setattr(Llava, "encode", lambda *args: passes.append(1) or stock(*args))
    suite.run(plan(arms=ARMS))
    assert len(passes) == 2


def test_a_killed_run_goes_on_without_loss(outcomes: tuple[Outcomes, Path], tmp_path: Path, monkeypatch: Any) -> None:
    """Two arms and a part of the third are in the journal, torn in a line: the rest is asked, nothing twice."""
    whole, source = outcomes
    lines = source.read_bytes().splitlines(keepends=True)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(lines[: 1 + 2 * BATCH + 3]) + lines[1 + 2 * BATCH + 3][:20])
    asked: list[int] = []
    answer = suite_work._Asker.answer
    monkeypatch.setattr(suite_work._Asker, "answer", lambda self, job: asked.append(len(job.arms)) or answer(self, job))
    done: list[int] = []
    again = suite.run(plan(), journal=path, advance=done.append)
    assert again.rows == whole.rows
    assert asked == [2]
    assert sum(done) == 6
    assert len(path.read_bytes().splitlines()) == len(lines)
    suite.run(plan(), journal=path)
    assert asked == [2]  # nothing left to ask


def test_another_shift_or_model_is_another_journal(outcomes: tuple[Outcomes, Path]) -> None:
    with pytest.raises(ConfigError, match="shift"):
        suite.run(plan(shift="blur"), journal=outcomes[1])


@pytest.mark.slow
def test_two_workers_answer_what_one_does() -> None:
    few = ARMS[:2]
    assert suite.run(plan(12, arms=few), workers=2).rows == suite.run(plan(12, arms=few)).rows


def test_patches_are_chosen_by_the_query_and_the_question_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model gets its question, the methods another text; a method that does not read it chooses as before."""
    seen: list[Any] = []
    call = Attachment.run_detached
    monkeypatch.setattr(Attachment, "run_detached", lambda self, f, asked: seen.append(asked) or call(self, f, asked))
    mine, other = suite.run(plan()), suite.run(plan(query="Describe the picture."))
    plain, vague = seen[: len(ARMS)], seen[len(ARMS) :]
    assert [asked["query"] for asked in vague] == [["Describe the picture."] * 6] * len(ARMS)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(plain, vague, strict=True))
    assert len(set(plain[0]["query"])) == 6
    assert mine.rows[ARMS[0].task] == other.rows[ARMS[0].task]
    assert mine.rows[ARMS[2].task] == other.rows[ARMS[2].task]
    assert mine.rows[ARMS[1].task] != other.rows[ARMS[1].task]
    assert summarise(other)["query"] == "Describe the picture."


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 0},
        {"seed": -1},
        {"shift": "sepia"},
        {"arms": ()},
        {"positions": "left"},
        {"query": " "},
        {"types": ()},
        {"types": ("sums",)},
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        suite.run(plan(**changes))
    with pytest.raises(ConfigError, match="workers"):
        suite.run(plan(), workers=0)


def made_up(hits: dict[Arm, str], n: int = 12) -> Outcomes:
    """Outcomes without a model."""
    kinds = ("existence", "counting")
    rows: Any = {
        arm.task: {
            i: {
                "hit": int(word[i]),
                "kept": 576 if arm.asked == "default" else 32,
                "full": 576,
                "rungs": 1,
                "seconds": 0.1,
            }
            for i in range(n)
        }
        for arm, word in hits.items()
    }
    return Outcomes(plan(n, arms=tuple(hits)), tuple(kinds[i % 2] for i in range(n)), rows)


def test_the_summary_compares_at_equal_tokens() -> None:
    full, trim, zipped, chance = ARMS
    result = summarise(
        made_up({full: "111111111110", trim: "111111111100", zipped: "101010101010", chance: "0" * 12}), ours="trim"
    )
    by_label = {arm["label"]: arm for arm in result["arms"]}
    assert by_label["trim@32"]["accuracy"] == 10 / 12
    assert by_label["trim@32"]["relative"]["value"] == pytest.approx(10 / 11)
    assert by_label["visionzip@32"]["accuracy_by_type"] == {"existence": 1.0, "counting": 0.0}
    assert by_label["trim@32"]["hits"] == "111111111100"
    assert by_label["none"]["image_tokens_kept_mean"] == 576
    compared = {entry["other"]: entry for entry in result["comparisons"]}
    assert set(compared) == {"visionzip@32", "random@32"}
    assert compared["random@32"]["value"] == 10 / 12
    assert compared["random@32"]["significant"]
    assert compared["random@32"]["by_type"]["existence"]["value"] == 5 / 6
    assert json.loads(json.dumps(result)) == result


def test_a_grid_gives_each_option_its_worth() -> None:
    """Sign is worth 6 of 12 questions wherever it is changed; aggregation nothing alone, 2 together with the sign."""
    right = {(1, "mean"): 8, (1, "none"): 8, (-1, "mean"): 2, (-1, "none"): 0}
    hits = {
        Arm(get_method("trim", sign=sign, aggregate=aggregate), f"{sign} {aggregate}"): "1" * count + "0" * (12 - count)
        for (sign, aggregate), count in right.items()
    }
    grid = [{"method": "trim", "sign": [1, -1], "aggregate": ["mean", "none"]}]
    effects = {entry["option"]: entry for entry in summarise(made_up(hits), grid=grid)["effects"]}
    assert effects["sign"]["alone"]["value"] == pytest.approx(-0.5)
    assert effects["sign"]["on_average"]["value"] == pytest.approx((-6 - 8) / 24)
    assert effects["sign"]["alone"]["significant"]
    assert effects["aggregate"]["alone"]["value"] == 0.0
    assert effects["aggregate"]["on_average"]["value"] == pytest.approx(-2 / 24)
    with pytest.raises(ConfigError, match="not complete"):
        summarise(made_up(hits), grid=[{"method": "trim", "sign": [1, -1], "aggregate": ["mean", "weighted"]}])


def test_two_grids_of_one_method_do_not_mix() -> None:
    """The second grid's arms have the first one's reference sign, and other budgets."""
    right = {"sign=auto": 12, "sign=-1": 6, "budget=64": 3, "budget=1": 0}
    options: list[dict[str, Any]] = [{"sign": "auto"}, {"sign": -1}, {"budget": 64}, {"budget": 1}]
    arms = [Arm(get_method("trim", **each), name) for each, name in zip(options, right, strict=True)]
    hits = {arm: "1" * right[arm.asked] + "0" * (12 - right[arm.asked]) for arm in arms}
    grid = [{"method": "trim", "sign": ["auto", -1]}, {"method": "trim", "budget": [64, 1]}]
    effects = {entry["option"]: entry for entry in summarise(made_up(hits), grid=grid)["effects"]}
    assert effects["sign"]["alone"]["value"] == pytest.approx(-0.5)
    assert effects["budget"]["alone"]["value"] == pytest.approx(-0.25)


def test_the_filtered_score_counts_what_a_smaller_picture_gets_wrong() -> None:
    """Of twelve questions: eleven are right with all tokens, of which resizing gets the last five wrong."""
    full, trim, _, chance = ARMS
    small = Arm(get_method("resize", budget=32), "32")
    result = summarise(
        made_up({full: "111111111110", trim: "000000111011", small: "111111000001", chance: "1" * 6 + "0" * 6}),
        ours="trim",
    )
    (found,) = result["filtered"]
    assert (found["budget"], found["n"], found["n_by_type"]) == ("32", 5, {"existence": 3, "counting": 2})
    scores = {arm["label"]: arm for arm in found["arms"]}
    assert set(scores) == {"trim@32", "resize@32", "random@32"}
    assert (scores["trim@32"]["accuracy"], scores["resize@32"]["accuracy"]) == (4 / 5, 0.0)
    assert scores["trim@32"]["accuracy_by_type"] == {"existence": 1.0, "counting": 0.5}
    assert scores["trim@32"]["ci95"][0] < 0.8 < scores["trim@32"]["ci95"][1]
    assert result["not_learnt"] == ["counting"]


def test_arms_that_may_ask_again_are_compared_with_their_like() -> None:
    full, trim, _, chance = ARMS
    again = [replace(arm, fallback=Fallback()) for arm in (trim, chance)]
    small = Arm(get_method("resize", budget=32), "32")
    hits = {full: "1" * 12, trim: "1" * 12, chance: "0" * 12, again[0]: "1" * 12, again[1]: "10" * 6, small: "0" * 12}
    result = summarise(made_up(hits), ours="trim")
    pairs = {(entry["ours"], entry["other"]) for entry in result["comparisons"]}
    wanted = {("trim@32", "random@32"), ("trim@32", "resize@32"), ("trim@32+fallback", "random@32+fallback")}
    assert pairs == wanted
    assert {arm["label"] for arm in result["filtered"][0]["arms"]} == {"trim@32", "random@32", "resize@32"}
    record = {"results": [result]}
    assert "`trim+fallback`" in suite_tables.curves(record)
    assert "`random+fallback`" in suite_tables.pairs(record)


def test_a_filter_that_leaves_nothing_scores_nothing() -> None:
    full, trim, *_ = ARMS
    small = Arm(get_method("resize", budget=32), "32")
    (found,) = summarise(made_up({full: "1" * 12, trim: "0" * 12, small: "1" * 12}))["filtered"]
    assert found["n"] == 0
    assert all(arm["accuracy"] is None and arm["ci95"] is None for arm in found["arms"])
    assert "filtered" not in summarise(made_up({full: "1" * 12, trim: "0" * 12}))


def test_differences_by_type_are_adjusted_for_their_number() -> None:
    full, trim, zipped, chance = ARMS
    result = summarise(made_up({full: "1" * 12, trim: "1" * 12, zipped: "10" * 6, chance: "0" * 12}), ours="trim")
    for entry in result["comparisons"]:
        assert set(entry["by_type"]) == {"existence", "counting"}
        assert all(each["p_holm"] >= each["p"] for each in entry["by_type"].values())


def test_a_variant_is_an_arm_of_its_own() -> None:
    own = Arm(get_method("trim-released", budget=64, sign="auto"), "64", "sign=auto")
    literal = Arm(get_method("trim-released", budget=64), "64")
    assert own.label == "trim-released sign=auto@64"
    assert own.task != literal.task
    assert Arm(own.method, "64").task == own.task


def test_hard_questions_are_asked() -> None:
    found = suite.run(plan(4, types=("grounding", "global"), arms=ARMS[:1], batch_size=4))
    assert found.types == ("grounding", "global", "grounding", "global")
    assert plan(types=("grounding",)).settings("") != plan().settings("")


def test_the_same_settings_are_the_same_task() -> None:
    assert Arm(get_method("trim", budget="32"), "32").task == Arm(get_method("trim", budget=32)).task
    assert Arm(get_method("trim", budget=32)).task != Arm(get_method("trim", budget=33)).task


@pytest.mark.parametrize("field", [field.name for field in fields(Plan) if field.name not in ("n", "arms")])
def test_answers_of_other_settings_are_not_taken(field: str) -> None:
    asked = plan()
    assert asked.settings("weights") != replace(asked, **{field: "other"}).settings("weights")
    assert asked.settings("weights") == plan(n=7, arms=ARMS[:1]).settings("weights")


def test_a_worker_that_is_killed_is_one_line(tmp_path: Path) -> None:
    """As the system does it where memory runs out."""
    asked = plan(n=2 * BATCH, arms=(ARMS[3], Arm(Killer(budget=32))))
    book = tmp_path / "journal.jsonl"
    with pytest.raises(TrimkitError, match="a worker was killed"):
        suite.run(asked, journal=book, workers=2)
    assert book.is_file()


def test_another_version_of_a_method_is_another_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trimkit.methods import trim

    before = Arm(ARMS[1].method).task
    changed = tmp_path / "trim.py"
    changed.write_text(Path(trim.__file__).read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    monkeypatch.setattr(trim, "__file__", str(changed))
    assert Arm(ARMS[1].method).task != before

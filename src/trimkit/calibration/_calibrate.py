"""Choose sign, normalisation, positions, temperature and budget for a user's own model, from pictures without labels.

Five stages, each on the same pairs of picture and question, each by the divergence from what the model says with all its
image tokens (``_measure``):

1. sign x normalisation, at one fixed count, so that no candidate sees more than another; random patches beside them;
2. positions of the tokens that are left: contiguous, or each its place in the full prompt;
3. temperature, which changes no ranking: it shows in how many patches the ``iqr`` rule keeps;
4. the curve: divergence and agreement against the share kept, for fixed shares and for the rules that decide per picture;
5. the budget: the fewest tokens whose answers agree often enough, else the curve's knee.

What the pictures do not decide stays as the encoder's profile has it, and is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trimkit.calibration._choose import Comparison, choose_budget, compare
from trimkit.calibration._measure import Arm, Probe
from trimkit.calibration._positions import choose_positions
from trimkit.calibration._report import arm_to_plain, notes_on
from trimkit.calibration._sources import Questions, make_pairs
from trimkit.calibration._unseen import unseen
from trimkit.config import Config, Reduction
from trimkit.core.budget import Budget
from trimkit.core.choices import Positions
from trimkit.core.types import EncoderProfile
from trimkit.errors import ConfigError
from trimkit.io.files import user_path
from trimkit.io.provenance import hardware, versions
from trimkit.methods import Method, get_method
from trimkit.methods.trim import Trim
from trimkit.pipeline.model_store import scorer_of
from trimkit.pipeline.selecting import no_scorer
from trimkit.scorers import Scorer

__all__ = ["Calibration", "calibrate", "choose_profile", "count_passes", "find_scorer", "scorer_name"]

_SHARE = 1 / 9  # of the image tokens, in stage 1: 64 of 576
_SHARES = (0.03, 0.06, _SHARE, 0.17, 0.25, 0.4, 0.6)
_MASSES = (0.5, 0.9)
_DEVIATIONS = (0.5, 1.0, 2.0, 4.0, 8.0)  # of the softmax's logits; the iqr rule keeps 2 to 21 % of Gaussian ones

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        chosen: the way of reducing that the config holds.
        target_reached: whether its answers agree as often as was asked for; else, or without a target, it is the knee's.
        config: for ``trimkit.config.save_config``; every command takes the file.
        decisions: by name (``sign``, ``normalize``, ``positions``, ``relevance_against_random``) what was compared.
        candidates, temperatures, curve: all that was measured, in the stages' order.
        notes: what the pictures do not decide, as sentences.
        skipped: ``(name, reason)`` of pictures that the scorer was fitted on, and of pairs that the model cannot be asked.
        settings: what was run.
    """

    chosen: Arm
    target_reached: bool
    config: Config
    decisions: dict[str, Comparison]
    candidates: tuple[Arm, ...]
    temperatures: tuple[Arm, ...]
    curve: tuple[Arm, ...]
    notes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    settings: dict[str, Any]

    def to_plain(self) -> dict[str, Any]:
        """The JSON object that ``trimkit calibrate --json`` prints."""
        seed = self.settings["seed"]
        groups = {"candidates": self.candidates, "temperatures": self.temperatures, "curve": self.curve}
        return {
            "chosen": {**arm_to_plain(self.chosen, seed), "target_reached": self.target_reached},
            "decisions": {name: found.to_plain() for name, found in self.decisions.items()},
            **{name: [arm_to_plain(arm, seed) for arm in arms] for name, arms in groups.items()},
            "notes": list(self.notes),
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "settings": self.settings,
            "config": self.config.model_dump(mode="json", exclude_none=True),
        }


def calibrate(
    model: Any,
    processor: Any,
    pictures: Mapping[str, Any],
    questions: Questions | None = None,
    *,
    method: str | Method = "trim",
    agreement: float | None = 0.95,
    per_picture: int = 2,
    max_new_tokens: int = 8,
    batch_size: int = 8,
    seed: int = 0,
    scorer: Any = None,
    advance: Advance | None = None,
    **options: Any,
) -> Calibration:
    """Choose how to reduce ``model`` on pictures such as these; no labels are needed.

    Args:
        model, processor: as ``trimkit.loading.load_model`` gives them; the model is left as it was.
        pictures: by name; PIL images, for example from ``read_sources``.
        questions: for every picture, or by its name; None asks a few general ones, which tell less.
        method, options: what is calibrated, as ``trimkit.reduce`` takes it. Of a method that reads no text, the budget alone.
        agreement: share of greedy answers that are to stay the same, 0 to 1; None takes the curve's knee.
        per_picture: questions of each picture, at most.
        max_new_tokens: length of the answers that are compared.
        batch_size: pairs a call.
        seed: of the bootstrap. With the same seed the result is the same.
        scorer: as ``trimkit.reduce`` takes it.
        advance: called with the number of pairs done; ``count_passes`` passes over all of them make the whole.

    Raises:
        ConfigError: the method or its options, or a number that cannot be; a method that fixes the sign itself.
        InputError: no pair that the model can be asked, pictures that a fitted scorer has learned from left out.
        TrimkitError: whatever ``trimkit.reduce`` raises.
    """
    base = get_method(method, **options)
    _check(base, agreement, per_picture, max_new_tokens, batch_size, seed)
    found = find_scorer(base, model, scorer)
    pairs, seen, notes = unseen(make_pairs(pictures, questions, per_picture), found)
    limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    probe = Probe(model, processor, pairs, scorer=found, advance=advance, **limits)
    probe.skipped += seen
    probe.ask_all()
    settings = {
        **{"method": base.name, "questions": "generic" if questions is None else "given", "agreement": agreement},
        **{"pictures": len({pair.picture for pair in probe.pairs}), "pairs": len(probe.pairs)},
        **limits,
        **{"seed": seed, "share_of_candidates": _SHARE},
        **{"versions": versions(), "hardware": hardware(str(model.device))},
    }
    own = None if found is None else base.profile or found.profile
    return _search(probe, base, own, agreement, settings, scorer_name(scorer), notes)


def count_passes(method: Method) -> int:
    """Passes over all pairs that ``calibrate`` makes at most, the full model's included."""
    if not method.uses_text:
        return 1 + 1 + len(_SHARES)
    return 1 + 5 + 1 + len(_DEVIATIONS) + 1 + len(_SHARES) + len(_MASSES)


def _search(
    probe: Probe,
    base: Method,
    own: EncoderProfile | None,
    agreement: float | None,
    settings: dict[str, Any],
    scorer: str | None,
    notes: tuple[str, ...],
) -> Calibration:
    """Five stages. ``own``: the encoder's profile, None for a method without text; ``scorer``: one named; ``notes``: so far."""
    decisions: dict[str, Comparison] = {}
    candidates: list[Arm] = []
    temperatures: list[Arm] = []
    if own is None:
        best, positions = choose_positions(probe, probe.measure(get_method(base, budget=_SHARE)), settings["seed"])
        measured = [best]
    else:
        best, candidates, decisions = choose_profile(probe, base, own, settings["seed"])
        best, positions = choose_positions(probe, best, settings["seed"])
        temperatures = _temperatures(probe, base, own, best)
        tempered, _ = choose_budget(temperatures, agreement)
        base = get_method(base, profile=tempered.method.profile)
        measured = [arm for arm in (tempered, best) if arm.method.profile == base.profile]
    if positions is not None:
        decisions["positions"] = positions
    curve = _curve(probe, base, measured)
    chosen, reached = choose_budget(curve, agreement)
    notes += notes_on(decisions, own, base.profile, agreement, reached, settings)
    return Calibration(
        chosen=chosen,
        target_reached=reached,
        config=_config(chosen, probe.positions, notes, settings, scorer),
        decisions=decisions,
        candidates=tuple(candidates),
        temperatures=tuple(temperatures),
        curve=tuple(curve),
        notes=notes,
        skipped=tuple(probe.skipped),
        settings=settings,
    )


def scorer_name(scorer: Any) -> str | None:
    """What a config calls a scorer that was given: a directory by its whole path, a hub id as it is; None for a loaded one."""
    if not isinstance(scorer, str | Path):
        return None
    place = user_path(scorer)
    return str(place.resolve()) if place.is_dir() else str(scorer)


def _config(
    chosen: Arm, positions: Positions, notes: Sequence[str], settings: Mapping[str, Any], scorer: str | None
) -> Config:
    """The options that were given or chosen, and in short what they were chosen from."""
    options = chosen.method.model_dump(mode="json", exclude_unset=True)
    numbered = None if positions == "auto" else positions
    reduction = Reduction(method=chosen.method.name, positions=numbered, scorer=scorer, **options)
    found = arm_to_plain(chosen, settings["seed"])
    told = {
        **{key: value for key, value in settings.items() if key != "hardware"},
        **{f"found_{key}": found[key] for key in ("divergence", "agreement", "share")},
        "notes": list(notes),
    }
    return Config(reduce=reduction, calibration=told)


def choose_profile(
    probe: Probe, base: Method, own: EncoderProfile, seed: int
) -> tuple[Arm, list[Arm], dict[str, Comparison]]:
    """Stage 1: the arm of the best sign and normalisation, all arms (random patches last), and what was compared.

    A sign or normalisation that is not decided stays the profile's ``own``.
    """
    arms: dict[tuple[int, bool], Arm] = {}
    for sign in (1, -1):
        for normalize in (False, True):
            profile = replace(own, sign=sign, normalize=normalize)
            arms[sign, normalize] = probe.measure(get_method(base, budget=_SHARE, profile=profile))
    baseline = probe.measure(get_method("random", budget=_SHARE, aggregate=base.aggregate))
    plus, minus = (min((arms[sign, False], arms[sign, True]), key=_mean) for sign in (1, -1))
    signs = compare(plus, minus, seed)
    sign = (1 if signs.difference < 0 else -1) if signs.decided else own.sign
    cosine = compare(arms[sign, True], arms[sign, False], seed)
    normalize = cosine.difference < 0 if cosine.decided else own.normalize
    best = arms[sign, normalize]
    decisions = {"sign": signs, "normalize": cosine, "relevance_against_random": compare(best, baseline, seed)}
    return best, [*arms.values(), baseline], decisions


def _temperatures(probe: Probe, base: Method, own: EncoderProfile, best: Arm) -> list[Arm]:
    """Stage 3: the ``iqr`` rule at temperatures that give the softmax's logits one spread after the other."""
    profile = best.method.profile or own
    unit = float(np.median(best.spread))
    wanted = [float(f"{unit / deviation:.3g}") for deviation in _DEVIATIONS] if unit > 0 else []
    if profile.normalize == own.normalize or not wanted:
        wanted.append(own.temperature)
    return [
        probe.measure(get_method(base, budget="iqr", profile=replace(profile, temperature=temperature)))
        for temperature in dict.fromkeys(wanted)
    ]


def _curve(probe: Probe, base: Method, measured: Sequence[Arm]) -> list[Arm]:
    """Stage 4: every budget that is not ``measured`` yet, and those that are, from few tokens to many."""
    budgets = [Budget("ratio", share) for share in _SHARES]
    if base.uses_text:
        budgets += [Budget("top-p", mass) for mass in _MASSES]
    known = {arm.method.budget for arm in measured}
    arms = [*measured, *(probe.measure(get_method(base, budget=budget)) for budget in budgets if budget not in known)]
    return sorted(arms, key=lambda arm: (arm.share, _mean(arm)))


def find_scorer(method: Method, model: Any, scorer: Any) -> Scorer | None:
    """The scorer of a method that reads the text, None for others."""
    if not method.uses_text:
        return None
    found = scorer_of(model, scorer)
    if found is None:
        raise no_scorer(method)
    return found


def _check(
    method: Method, agreement: float | None, per_picture: int, max_new_tokens: int, batch_size: int, seed: int
) -> None:
    if method.name == "none":
        raise ConfigError("method 'none' keeps everything, there is nothing to calibrate: choose for example 'trim'")
    for option in ("sign", "normalize", "temperature") if isinstance(method, Trim) else ():
        if getattr(method, option) != "auto":
            raise ConfigError(f"method {method.name!r} sets {option} itself: leave it 'auto', or calibrate 'trim'")
    if agreement is not None and not 0.0 < agreement <= 1.0:
        raise ConfigError(f"agreement {agreement!r} is not a share: give a number such as 0.95")
    numbers = {"per_picture": per_picture, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} {value} leaves nothing to do: give 1 or more")
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative: give 0 or more")


def _mean(arm: Arm) -> float:
    return float(arm.divergence.mean())

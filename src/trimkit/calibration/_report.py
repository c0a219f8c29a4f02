"""What a calibration found, as JSON and as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimkit.calibration._choose import MINIMUM_PICTURES, Comparison, interval
from trimkit.calibration._measure import Arm
from trimkit.core.types import EncoderProfile

__all__ = ["arm_to_plain", "notes_on"]


def arm_to_plain(arm: Arm, seed: int) -> dict[str, Any]:
    """One measured way of reducing, as JSON."""
    profile = arm.method.profile
    return {
        "method": arm.method.name,
        "budget": arm.method.budget.to_plain(),
        "profile": None if profile is None else vars(profile),
        "divergence": float(arm.divergence.mean()),
        "divergence_ci95": list(interval(arm.divergence, seed)),
        "kl": float(arm.kl.mean()),
        "agreement": float(arm.agreement.mean()),
        "agreement_ci95": list(interval(arm.agreement, seed)),
        "image_tokens_kept": float(arm.kept.mean()),
        "image_tokens_full": float(arm.full.mean()),
        "share": arm.share,
    }


def notes_on(
    decisions: Mapping[str, Comparison],
    own: EncoderProfile | None,
    profile: EncoderProfile | None,
    agreement: float | None,
    reached: bool,
    settings: Mapping[str, Any],
) -> tuple[str, ...]:
    """What the pictures do not decide, and what else the user should know of; ``own`` is the profile before."""
    notes = []
    if "positions" in decisions:
        notes.append(_of_positions(decisions["positions"]))
    if settings["questions"] == "generic" and "sign" in decisions:
        notes.append("no questions were given: general ones tell less about relevance than your own would")
    if settings["pictures"] < MINIMUM_PICTURES:
        notes.append(f"fewer than {MINIMUM_PICTURES} pictures decide nothing: give more")
    if own is not None and profile is not None:
        if not decisions["sign"].decided:
            notes.append(f"the pictures do not decide the sign: it stays the profile's, {own.sign:+d}")
        elif profile.sign != own.sign:
            notes.append(f"the sign is {profile.sign:+d}, not {own.sign:+d} as the encoder's profile says")
        against = decisions["relevance_against_random"]
        if not (against.decided and against.difference < 0):
            notes.append("relevance is not shown to be better than random patches at the same count")
    if agreement is not None and not reached:
        notes.append(f"no budget tried keeps {agreement:.0%} of the answers: the curve's knee was taken")
    return tuple(notes)


def _of_positions(found: Comparison) -> str:
    """What ``positions`` became, and whether the pictures decide it."""
    if not found.decided:
        return "the pictures do not decide the positions: they stay contiguous"
    if found.difference < 0:
        return "original positions stay nearer to the full model: the config keeps them"
    return "contiguous positions stay nearer to the full model"

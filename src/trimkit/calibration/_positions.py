"""Which numbering of the tokens that are left stays nearer to the full model: contiguous, or each its place in the full prompt.

A model that was trained on shortened prompts has seen contiguous positions; one that was trained on all tokens may need
original ones, above all for questions about places (GAP, arXiv 2506.21873: RefCOCO 15 with the former, 51 with the latter).
"""

from __future__ import annotations

from trimkit.calibration._choose import Comparison, compare
from trimkit.calibration._measure import Arm, Probe

__all__ = ["choose_positions"]


def choose_positions(probe: Probe, contiguous: Arm, seed: int) -> tuple[Arm, Comparison | None]:
    """Measure an arm with original positions, too, and let the probe number tokens as the better one does from here on.

    Args:
        probe: numbers tokens one after another.
        contiguous: an arm that it has measured so.
        seed: of the bootstrap.

    Returns:
        The arm of the numbering that is chosen, contiguous unless the pictures decide for the other; and original minus
        contiguous. None where the model or the method has no choice.
    """
    if not probe.can_number(contiguous.method):
        return contiguous, None
    probe.positions = "original"
    original = probe.measure(contiguous.method)
    found = compare(original, contiguous, seed)
    if found.decided and found.difference < 0:
        return original, found
    probe.positions = "auto"
    return contiguous, found

"""The door for stock transformers: ``generate`` and ``forward`` of one model instance see fewer image tokens.

No model code is patched. Methods are shadowed on the instance: ``generate``, ``forward``, and the ``forward`` of the base
model, where pixels enter. The shadows turn pixels into pre-encoded, reduced images (``mm_encoder_outputs``, from 5.18 on)
beside a prompt that is shortened to match, and call the stock methods. ``detach`` leaves the model as it was.
"""

from __future__ import annotations

from trimkit.attach.api import attach, reduce
from trimkit.attach.attachment import Attachment
from trimkit.attach.requirements import MINIMUM_TRANSFORMERS

__all__ = ["MINIMUM_TRANSFORMERS", "Attachment", "attach", "reduce"]

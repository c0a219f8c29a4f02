"""The model card of an exported checkpoint: a README.md with the hub's metadata, for whoever uploads it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from trimkit.io.files import write_atomically
from trimkit.version import __version__

__all__ = ["CARD_FILE", "model_card", "write_card"]

CARD_FILE = "README.md"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_TEMPLATE = """---
library_name: transformers
pipeline_tag: image-text-to-text
{base}tags:
- trimkit
- token-reduction
- vision-language-model
- custom_generate
---

# {title}

This checkpoint answers with fewer image tokens: `generate` keeps those that matter to the question, and merges or drops the
rest. The weights are those of {origin}. [trimkit](https://pypi.org/project/trimkit/) {version} wrote the settings.

| | |
| --- | --- |
| method | `{method}` |
| budget | `{budget}` |
| other options | {options} |

## Use it

```sh
pip install "trimkit>={version}"
```

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

name = "OWNER/NAME"  # where you upload it
model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(name)
out = model.generate(**inputs, max_new_tokens=32)  # reduced
```

Without `trust_remote_code=True` it is the original checkpoint, with all image tokens. The settings are in `trimkit.json`.

## What it costs in accuracy

**To be filled in before you upload this.** Compare with the full model on your data: `trimkit eval paper-table`, or
`trimkit calibrate` without labels. Say how many questions you asked, and give intervals.

## Limits

- Reading small text and counting suffer first.
- Only `generate` is reduced, not a direct call of the model.
- The license and the limits of the original model hold.
"""


def model_card(reduction: dict[str, Any], base: str = "") -> str:
    """The text of the card.

    Args:
        reduction: ``{"method": name, option: value}``, as ``trimkit.json`` has it.
        base: where the weights came from. Named only where it is a hub id, since a path is nobody else's business.
    """
    known = base if _HUB_ID.fullmatch(base) else ""
    shown = {key: value for key, value in reduction.items() if key not in ("method", "budget") and value is not None}
    return _TEMPLATE.format(
        base=f"base_model: {known}\n" if known else "",
        title=f"{known.rpartition('/')[2] or 'A vision-language model'}, reduced by trimkit",
        origin=f"[{known}](https://huggingface.co/{known})" if known else "the original model, unchanged",
        version=__version__,
        method=reduction["method"],
        budget=reduction.get("budget", "the method's own"),
        options=", ".join(f"`{key}={json.dumps(value)}`" for key, value in shown.items()) or "none",
    )


def write_card(directory: Path, reduction: dict[str, Any], base: str = "") -> None:
    """Write the card, unless the checkpoint has one already.

    Raises:
        InputError: the file cannot be written.
    """
    path = directory / CARD_FILE
    if not path.exists():
        text = model_card(reduction, base)
        write_atomically(path, lambda file: file.write(text.encode()), follow=False)

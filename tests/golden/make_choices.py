"""Write what methods keep now as what they have to keep: ``python -m tests.golden.make_choices METHOD ...``.

For a method that is new, or is meant to choose otherwise from now on; the others' entries stay as they are.
"""

from __future__ import annotations

import sys

import numpy as np

from tests.golden.test_choices import SCENES, VECTORS, chosen


def main(methods: list[str]) -> None:
    """Replace the entries of ``methods``."""
    with np.load(VECTORS) as stored:
        entries = {key: stored[key] for key in stored}
    for name, rows in chosen(methods, SCENES).items():
        entries[f"{name}.indices"] = np.array([index for kept, _ in rows for index in kept], dtype=np.uint16)
        entries[f"{name}.lengths"] = np.array([len(kept) for kept, _ in rows], dtype=np.uint16)
        entries[f"{name}.aggregated"] = np.array([aggregated for _, aggregated in rows], dtype=np.uint8)
    np.savez_compressed(VECTORS, **entries)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Write what methods keep now as what they have to keep: ``python -m tests.golden.make_choices METHOD ...``.

For a method that is new, or is meant to choose otherwise from now on; the others' entries stay as they are. Of a new one the
first 40 scenes are stored, of others as many as were.
"""

from __future__ import annotations

import sys

import numpy as np

from tests.golden.test_choices import MORE, VECTORS, chosen, expected

NEW_SCENES = 40


def main(methods: list[str]) -> None:
    """Replace the entries of ``methods``."""
    known = expected()
    for name in methods:
        rows = chosen([name], len(known.get(name, range(NEW_SCENES))))[name]
        with np.load(VECTORS) as stored:
            path = VECTORS if f"{name}.indices" in stored else MORE
        with np.load(path) as stored:
            entries = {key: stored[key] for key in stored}
        entries[f"{name}.indices"] = np.array([index for kept, _ in rows for index in kept], dtype=np.uint16)
        entries[f"{name}.lengths"] = np.array([len(kept) for kept, _ in rows], dtype=np.uint16)
        entries[f"{name}.aggregated"] = np.array([aggregated for _, aggregated in rows], dtype=np.uint8)
        np.savez_compressed(path, **entries)


if __name__ == "__main__":
    main(sys.argv[1:])

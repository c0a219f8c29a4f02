"""What an answer depends on besides its settings: digests of a method's code and of a model's and a scorer's weights.

A journal that names them does not hand out answers of an earlier version of the one or of another training of the other.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimkit import methods
from trimkit.core import auto_budget, budget, functional, sharing, text_lines, worth
from trimkit.eval.journal import fingerprint
from trimkit.methods import Method
from trimkit.pipeline import selecting
from trimkit.scorers import Scorer

__all__ = ["files_identity", "method_identity", "scorer_identity", "weights_identity"]

_SHARED = (
    *(Path(str(each.__file__)) for each in (auto_budget, budget, functional, selecting, sharing, text_lines, worth)),
    *sorted(Path(str(functional.__file__)).parent.glob("*greedy*.py")),
    *sorted(Path(str(functional.__file__)).parent.glob("*weighing*.py")),
)
"""What methods choose with, beside the private modules of their own package."""


def method_identity(method: Method) -> str:
    """The method's name, then a digest of its options and of the files that it, its bases and what all share are written in."""
    bases = {base.__module__ for base in type(method).__mro__ if issubclass(base, Method)}
    own = [getattr(sys.modules.get(name), "__file__", None) for name in bases]
    helpers = Path(str(methods.__file__)).parent.glob("_[!_]*.py")
    files = sorted({*(Path(file) for file in own if file is not None), *_SHARED, *helpers}, key=lambda file: file.name)
    code = fingerprint([file.read_text(encoding="utf-8") for file in files])
    return f"{method.name}-{fingerprint({'options': method.model_dump(mode='json'), 'code': code})}"


def files_identity(folder: str | Path | None) -> str:
    """A digest of the names and contents of a directory's files of code and settings; of nothing where none is given."""
    if folder is None:
        return ""
    root = Path(folder)
    files = sorted(
        path for kind in ("*.py", "*.yaml", "*.yml", "*.json*") for path in root.rglob(kind) if path.is_file()
    )
    return fingerprint(
        [[path.relative_to(root).as_posix(), hashlib.blake2b(path.read_bytes()).hexdigest()] for path in files]
    )


def weights_identity(model: Any) -> str:
    """Sixteen hex digits from a model's weights, on whatever device they are; of offloaded ones from name and shape alone."""
    import torch

    digest = hashlib.blake2b(digest_size=8)
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        if weight.is_meta:
            continue
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def scorer_identity(scorer: Scorer) -> list[Any]:
    """A scorer's class, how its similarity is read, and the weights that it holds."""
    from torch import nn

    own = sorted(getattr(scorer, "__dict__", {}).items())
    weights = [weights_identity(value) for _, value in own if isinstance(value, nn.Module)]
    return [type(scorer).__name__, asdict(scorer.profile), weights]

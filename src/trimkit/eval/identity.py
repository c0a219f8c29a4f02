"""What an answer depends on besides its settings: digests of a method's code and of a model's weights.

A journal that names them does not hand out answers of an earlier version of the one or of another training of the other.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from trimkit.eval.journal import fingerprint
from trimkit.methods import Method

__all__ = ["method_identity", "weights_identity"]


def method_identity(method: Method) -> str:
    """The method's name, then a digest of its options and of the files that it and its bases are written in."""
    modules = {base.__module__ for base in type(method).__mro__ if issubclass(base, Method)}
    files = [getattr(sys.modules.get(name), "__file__", None) for name in sorted(modules)]
    code = fingerprint([Path(file).read_text(encoding="utf-8") for file in files if file is not None])
    return f"{method.name}-{fingerprint({'options': method.model_dump(mode='json'), 'code': code})}"


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

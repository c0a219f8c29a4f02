"""What a model's ``forward`` reads of its pre-encoded images, from its source: known at attach, before any tower has run."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import threading
from typing import Any, TypeGuard

__all__ = ["fields_read", "model_reads", "source_of"]

_OUTPUTS = "mm_encoder_outputs"
_PARSING = threading.Lock()  # Python 3.11's parser loses count of its depth when threads take turns within it


def model_reads(model: Any, medium: str) -> frozenset[str]:
    """What the ``forward`` of a model's class reads, or of the nearest class above it that reads anything.

    A subclass may only hand on to its parent's ``forward``. Empty where nothing is found: a wrapper, or no source.
    """
    for owner in type(getattr(model, "_orig_mod", model)).__mro__:
        if fields := fields_read(vars(owner).get("forward"), medium):
            return fields
    return frozenset()


def fields_read(forward: Any, medium: str) -> frozenset[str] | None:
    """Names of the fields of ``mm_encoder_outputs[medium]`` that ``forward`` reads.

    Args:
        forward: the function of the class that owns ``get_image_features``; decorators are looked through.
        medium: the entry, ``image`` or ``video``.

    Returns:
        Their names, also where the entry is given a name of its own first; ``*`` among them where it is handed on as a whole.
        None where there is no source to read.
    """
    with _PARSING:
        tree = _tree_of(forward)
    if tree is None:
        return None
    found: set[str] = set()
    names = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_entry(node.value, medium)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    returned = {word for node in ast.walk(tree) if _makes_output(node) for word in node.keywords}
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node) if node not in returned else ():
            if _is_entry(child, medium) or (isinstance(child, ast.Name) and child.id in names):
                found |= _use(node, child)
    return frozenset(found)


@functools.lru_cache(maxsize=64)
def _tree_of(forward: Any) -> ast.AST | None:
    source = source_of(forward)
    return None if source is None else ast.parse(source)


def source_of(function: Any) -> str | None:
    """Its source without indentation, decorators looked through; None where there is none."""
    try:
        return textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    except (OSError, TypeError):
        return None


def _makes_output(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether it makes a ``…Output…``, in which encoded images go back to the caller."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and "Output" in node.func.id


def _use(node: ast.AST, entry: ast.AST) -> set[str]:
    """What ``node`` reads of the ``entry`` inside it: a field, nothing (compared, named, written), or all of it."""
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if isinstance(node, ast.Call):
        return {"*"} if entry is not node.func else set()
    return set() if isinstance(node, _NO_READ) else {"*"}


_NO_READ = (ast.Compare, ast.Assign, ast.AnnAssign, ast.If, ast.IfExp, ast.BoolOp)


def _is_entry(node: ast.AST, medium: str) -> bool:
    """Whether it is ``mm_encoder_outputs[medium]``, ``….get(medium)`` or, of an output, its ``.<medium>_outputs``."""
    if isinstance(node, ast.Attribute):
        return node.attr == f"{medium}_outputs"
    if isinstance(node, ast.Subscript):
        return _is_outputs(node.value) and isinstance(node.ctx, ast.Load) and _says(node.slice, medium)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        return _is_outputs(node.func.value) and bool(node.args) and _says(node.args[0], medium)
    return False


def _is_outputs(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == _OUTPUTS


def _says(node: ast.AST, medium: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == medium

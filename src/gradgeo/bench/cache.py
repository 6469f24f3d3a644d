"""Finished work, kept on disk under a hash of all that it depends on, so that a killed run resumes where it stopped."""

import ast
import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gradgeo._files import atomic_stream
from gradgeo.classifier.fingerprint import weights_hash
from gradgeo.classifier.wrapper import Model
from gradgeo.errors import DataError

CACHE = Path(".cache/bench")

PACKAGE = Path(__file__).parent.parent

CHUNK = 250
"""Inputs in one piece of cached work."""

GEOMETRY_CODE = ("classifier/**/*.py", "geometry/**/*.py")
"""The code that saliency maps and their statistics depend on: whole packages, so that no module is missed."""

DETECTOR_CODE = (*GEOMETRY_CODE, "detector/**/*.py", "bench/shared_passes.py")
"""The code that a detector's scores depend on."""


class CacheError(DataError):
    """Finished work cannot be kept, as on a full disk: no failure of what was measured, and a reason to stop."""


def cached(make: Callable[[], dict[str, Any]], *key: object) -> dict[str, Any]:
    """The arrays that `make` returns, computed once for each key."""
    arrays = load(*key)
    if arrays is None:
        arrays = make()
        store(arrays, *key)
    return arrays


def load(*key: object) -> dict[str, Any] | None:
    """The arrays stored under a key; None where there are none."""
    if not (path := _path(key)).exists():
        return None
    with np.load(path) as arrays:
        return dict(arrays)


def store(arrays: dict[str, Any], *key: object) -> None:
    """Store arrays under a key; the file is replaced whole, so that a killed run leaves no half of one."""
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(f"cannot make {path.parent}: {error.strerror}.") from error
    with atomic_stream(path, CacheError) as stream:
        np.savez(stream, **arrays)


def _path(key: tuple[object, ...]) -> Path:
    return CACHE / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.npz"


def tensor_hash(x: Tensor) -> str:
    """A hash of the values of `x`."""
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def weights_key(model: Model) -> str:
    """A hash of the weights of `model`; for a function the process, so that its results are not reused by another."""
    return weights_hash(model) or f"process {os.getpid()}"


@cache
def source_hash(*patterns: str) -> str:
    """A hash of the code in these files of gradgeo; comments and docstrings do not count.

    Args:
        patterns: as `Path.glob` takes them, from the package's folder.
    """
    return hash_of_code(PACKAGE, patterns)


def hash_of_code(root: Path, patterns: tuple[str, ...]) -> str:
    """`source_hash` of a package in another folder."""
    files = sorted({file for pattern in patterns for file in root.glob(pattern)})
    return hashlib.sha256("\n".join(map(_code, files)).encode()).hexdigest()


def _code(file: Path) -> str:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [b for b in body if not (isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant))]  # type: ignore[attr-defined]
    return ast.dump(tree)

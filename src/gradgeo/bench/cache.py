"""Finished work, kept on disk under a hash of all that it depends on, so that a killed run goes on where it was."""

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

import gradgeo
from gradgeo._files import atomic_stream
from gradgeo.classifier.fingerprint import weights_hash
from gradgeo.classifier.wrapper import Model

CACHE = Path(".cache/bench")

CHUNK = 250  # inputs in one piece of cached work


def cached(make: Callable[[], dict[str, Any]], *key: object) -> dict[str, Any]:
    """The arrays that `make` gives, made once for each key."""
    found = kept(*key)
    if found is None:
        found = make()
        keep(found, *key)
    return found


def kept(*key: object) -> dict[str, Any] | None:
    """The arrays that were kept under a key, if any."""
    if not (path := _path(key)).exists():
        return None
    with np.load(path) as found:
        return dict(found)


def keep(made: dict[str, Any], *key: object) -> None:
    """Keep arrays under a key; written in one piece, so that none is ever half there."""
    path = _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_stream(path) as stream:
        np.savez(stream, **made)


def _path(key: tuple[object, ...]) -> Path:
    return CACHE / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.npz"


def content(x: Tensor) -> str:
    """A hash of the values of `x`."""
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def weights(model: Model) -> str:
    """A hash of the weights of `model`; the empty text for a function, whose results are not kept between runs."""
    return weights_hash(model) or f"process {os.getpid()}"


@cache
def code(*parts: str) -> str:
    """A hash of what these files and folders of gradgeo compute; comments and docstrings do not count."""
    root = Path(gradgeo.__file__).parent
    files = sorted(file for part in parts for file in root.glob(part))
    return hashlib.sha256("\n".join(map(_meaning, files)).encode()).hexdigest()


def _meaning(file: Path) -> str:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [b for b in body if not (isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant))]  # type: ignore[attr-defined]
    return ast.dump(tree)

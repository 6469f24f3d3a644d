"""Judges without a model: what the workers of tests run, which import this and hence no torch."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHAPE, CLASSES = (2, 3), 4
KNOWN = ("what", "a", "task", "knows")
"""The facts of a task, of which a pool only asks that they can be sent."""


def judge(x: np.ndarray, explain: bool = False) -> dict[str, Any]:
    """Logits are sums, p the mean entry in twentieths; NaN cannot be judged; 13 makes it fail."""
    if (x == 13).any():
        raise ValueError("thirteen")
    rows = x.reshape(len(x), -1).astype(float)
    p = np.clip(np.ceil(rows.mean(1) * 20), 1, 20) / 20
    known = ~np.isnan(p)
    columns: dict[str, Any] = {
        "logits": np.repeat(rows.sum(1)[:, None], CLASSES, axis=1).astype(np.float32),
        "label": np.where(known, 1, -1),
        "probability": np.where(known, 0.5, np.nan),
        "outlier_score": -np.log(p),
        "p_value": p,
        "trusted": np.greater(p, 0.05),
        "compared": np.full(len(x), 19),
    }
    return columns | ({"cause": ["unlike" if value <= 0.05 else "" for value in p]} if explain else {})


@dataclass
class Mortal:
    """A judge that its inputs can kill (7), hang (9) or make fail (13); loading fails once `folder`/broken exists."""

    folder: Path
    facts: tuple[str, ...] = KNOWN

    def __call__(self, x: np.ndarray, explain: bool) -> dict[str, Any]:
        if (x == 7).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (x == 9).any():
            signal.pause()
        return judge(x, explain) | {"label": np.full(len(x), os.getpid())}


@dataclass
class Loads:
    folder: Path

    def __call__(self) -> Mortal:
        if (self.folder / "broken").exists():
            raise FileNotFoundError("weights are gone")
        return Mortal(self.folder)

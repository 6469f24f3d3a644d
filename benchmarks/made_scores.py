"""Files of verdicts that no detector made, for the report: its tests and its measurement."""

import json
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gradgeo.detector.weighing import CAUSES
from gradgeo.scoring.draw import pictured
from gradgeo.scoring.formats import VerdictSchema
from gradgeo.scoring.metadata import STEPS, Metadata

EVIDENCE = ("csm", "neighbourhood", "gradient_norm", "boundary", "confidence", "features")
CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CALIBRATION = 999

METADATA = Metadata(
    mistakes=(0,) * (1 + STEPS),
    gradgeo="0.1.0",
    alpha=0.05,
    class_names=CLASSES,
    evidence=EVIDENCE,
    input_shape=(3, 32, 32),
    calibration_scores=-np.log1p(-np.linspace(0, 0.999, 101)),
    calibration_size=CALIBRATION,
    detector="ab" * 32,
    model="net.py:load",
    data="photos/",
)
"""Of a file, with the scores of an exponential distribution."""

SCHEMA = VerdictSchema(labelled=True, is_datetime=True, metadata=METADATA)


@cache
def png(seed: int = 0, size: int = 32) -> bytes:
    """A small picture."""
    rng = np.random.default_rng(seed)
    smooth = rng.integers(0, 256, (4, 4, 3), np.uint8)
    out = BytesIO()
    Image.fromarray(smooth).resize((size, size), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


@cache
def map_png(seed: int) -> bytes:
    """A small saliency map."""
    values = np.random.default_rng(seed).gamma(0.5, 60, (16, 16)).clip(0, 255).astype(np.uint8)
    out = BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return out.getvalue()


def metadata(**changes: Any) -> dict[bytes, bytes]:
    """The metadata of a file as score writes them, with some entries replaced, also by what score never writes."""
    (key,) = METADATA.encode()
    return {key: json.dumps(json.loads(METADATA.encode()[key]) | changes).encode()}


def columns(
    rows: int,
    *,
    seed: int = 0,
    odd: float = 0.03,
    errors: float = 0.002,
    drift: float = 0.0,
    pictures: int = 200,
    time: bool = True,
    signals: bool = False,
    trusted_pictures: bool = False,
) -> dict[str, Any]:
    """Columns of verdicts: trusted inputs, a share of `odd` ones, and `drift` added to all scores in the last third."""
    rng = np.random.default_rng(seed)
    calibration = np.sort(rng.exponential(size=CALIBRATION))
    score = rng.exponential(size=rows) + np.where(np.arange(rows) > 2 * rows / 3, drift, 0)
    strange = rng.random(rows) < odd
    score[strange] += rng.gamma(4, 1.2, strange.sum())
    p = (1 + CALIBRATION - np.searchsorted(calibration, score)) / (CALIBRATION + 1)
    label = rng.choice(len(CLASSES), rows, p=np.linspace(1, 2, 10) / 15)
    label[strange & (rng.random(rows) < 0.5)] = 3
    failed = rng.random(rows) < errors
    trusted = (p > 0.05) & ~failed
    flagged = ~trusted & ~failed
    evidence = np.ceil(1000 * rng.random((rows, len(EVIDENCE)))) / 1000
    evidence[flagged] = np.minimum(
        1, evidence[flagged] * rng.choice([0.02, 1], (flagged.sum(), len(EVIDENCE)), p=[0.3, 0.7])
    )
    shown = np.flatnonzero(flagged)[:pictures]
    some = dict.fromkeys(shown.tolist())
    csm = {}
    for i in some:
        maps = rng.normal(size=(10, 24)) + rng.normal(size=24) * rng.uniform(0, 1.5)
        maps /= np.linalg.norm(maps, axis=1, keepdims=True)
        csm[i] = (maps @ maps.T).astype(np.float32).ravel().tolist()
    made = {
        "index": np.arange(rows),
        "name": [f"photos/2026/{i:07d}.jpg" for i in range(rows)],
        "label": pa.array(label, mask=failed),
        "probability": pa.array(rng.beta(8, 1, rows), mask=failed),
        "outlier_score": pa.array(score, mask=failed),
        "p_value": pa.array(p, mask=failed),
        "trusted": trusted,
        "error": pa.array(np.where(np.arange(rows) % 3 == 0, "truncated image", "of shape (3, 31, 32)"), mask=~failed),
        "true_label": np.where(rng.random(rows) < np.where(flagged, 0.7, 0.97), label, (label + 1) % 10),
        "cause": pa.array(rng.choice(CAUSES, rows, p=[0.2, 0.5, 0.3]), mask=~flagged),
        "evidence": pa.FixedSizeListArray.from_arrays(
            pa.array(evidence.astype(np.float32).ravel()), len(EVIDENCE)
        ).cast(SCHEMA.arrow_type("evidence")),
        "csm": [csm.get(i) for i in range(rows)],
        "csm_classes": [list(range(10)) if i in some else None for i in range(rows)],
    }
    if time:
        made["time"] = np.datetime64("2026-03-01T00:00", "us") + np.arange(rows) * np.timedelta64(60_000_000, "us")
    if signals:
        wave = np.linspace(0, 6 * np.pi, 187)
        made["signal"] = [np.sin(wave * rng.uniform(0.8, 1.2)).tolist() if i in some else None for i in range(rows)]
    else:
        drawn = {i for i in np.flatnonzero(trusted).tolist() if trusted_pictures and pictured(i)}
        made["thumbnail"] = [png(i % 50) if i in some or i in drawn else None for i in range(rows)]
        made["saliency"] = [map_png(i % 5) if i in some else None for i in range(rows)]
    return made


def table(made: dict[str, Any], told: dict[bytes, bytes] | None = None) -> pa.Table:
    """As score writes it."""
    schema = pa.schema([field for field in SCHEMA.arrow if field.name in made])
    return pa.table({name: made[name] for name in schema.names}, schema).replace_schema_metadata(told)


def write(path: Path, rows: int = 1000, *, told: dict[bytes, bytes] | None = None, **options: Any) -> Path:
    """A Parquet file of `columns`."""
    pq.write_table(table(columns(rows, **options), metadata() if told is None else told), path, row_group_size=16_384)
    return path

"""The whole job on data that every installation has: fit on digits, then judge clean, odd and attacked inputs."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor

from gradgeo.attacks import pgd
from gradgeo.data import digits
from gradgeo.data.digits import digits_classifier
from gradgeo.detector.detector import Detector
from gradgeo.detector.results import Predictions
from gradgeo.errors import MissingDependencyError, require
from gradgeo.metrics import auroc
from gradgeo.report.plots import Panel, csm_heat_maps

__all__ = ["digits_classifier", "letters", "odd_inputs", "run"]

EPSILON = 0.3  # of the attack, in pixel values 0..1
ALPHA = 0.05


@dataclass(frozen=True)
class Row:
    """What became of one kind of input."""

    name: str
    inputs: int
    trusted: float  # share
    auroc: float | None  # against the trusted test digits


@contextmanager
def _one_thread() -> Iterator[None]:
    """The order of a sum depends on the number of threads, and figures on the order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def odd_inputs(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Inputs the classifier was never trained for, shaped as the digits (N, 1, 8, 8)."""
    generator = torch.Generator().manual_seed(0)
    turned = x[torch.isin(y, torch.tensor([2, 3, 4, 5, 7]))].flip(2, 3)  # the others are digits upside down too
    odd = {"uniform noise": torch.rand(400, 1, 8, 8, generator=generator), "digits upside down": turned}
    try:
        odd["letters"] = letters()
    except MissingDependencyError:
        odd["blank"] = torch.linspace(0, 1, 50).view(50, 1, 1, 1).repeat(1, 1, 8, 8)
    return odd


def letters() -> Tensor:
    """The capital letters that look like no digit, drawn by Pillow at several places, (N, 1, 8, 8)."""
    require("PIL", "images")
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=32)
    drawn = []
    for letter in "AEFHJKMNPQRTUVWXY":
        for dx in (-3, 0, 3):
            for dy in (-3, 0, 3):
                image = Image.new("L", (40, 40))
                ImageDraw.Draw(image).text((20 + dx, 20 + dy), letter, fill=255, font=font, anchor="mm")
                drawn.append(np.asarray(image.resize((8, 8), Image.Resampling.BOX)))
    return torch.from_numpy(np.stack(drawn)).float()[:, None] / 255


def run(out: str | os.PathLike[str] = "demo-output") -> list[Row]:
    """Print the table of verdicts and write the picture into the folder `out`."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with _one_thread():  # faster on inputs this small, and the same figures on every machine
        return _run(out, Console())


def _run(out: Path, console: Console) -> list[Row]:
    began = time.perf_counter()
    parts = digits.split()
    x, y = parts["test"]

    model = digits_classifier()
    with torch.no_grad():
        right = model(x).argmax(1) == y
    console.print(f"Classifier: {right.float().mean():.1%} of {len(x)} test digits right, trained on 700.")
    detector = Detector(model, alpha=ALPHA).fit(*parts["fit"])
    console.print(
        f"Detector: fitted on {detector.fit_size_} other digits, calibrated on {detector.calibration_size_}; "
        f"no outliers and no attacks seen.\n"
    )

    attack = pgd(model, x[right], y[right], epsilon=EPSILON, steps=20, generator=torch.Generator().manual_seed(0))
    kinds = {
        "test digits, classified right": x[right],
        "test digits, misclassified": x[~right],
        **odd_inputs(x, y),
        f"digits attacked by PGD, epsilon {EPSILON}": attack.adversarial[attack.success],
    }
    verdicts = {name: detector.predict(inputs) for name, inputs in kinds.items()}
    rows = _rows(verdicts)
    console.print(_table(rows))
    low, high = _false_alarm_interval(len(x[right]), detector.calibration_size_)
    console.print(
        f"False alarms: {1 - rows[0].trusted:.1%} of the trusted test digits, {ALPHA:.0%} stated "
        f"(95 % of draws of so few digits: {low:.1%} to {high:.1%}).\n"
    )
    try:
        _draw(detector, kinds, verdicts, out / "csm.png")
        console.print(f"Picture: {out / 'csm.png'}")
    except MissingDependencyError as error:
        console.print(f"No picture: {error}")
    console.print(f"{time.perf_counter() - began:.0f} s")
    return rows


def _rows(verdicts: dict[str, Predictions]) -> list[Row]:
    clean, *_ = verdicts.values()
    return [
        Row(
            name,
            len(verdict),
            float(verdict.trusted.double().mean()),
            None if verdict is clean else auroc(clean.outlier_score, verdict.outlier_score).value,
        )
        for name, verdict in verdicts.items()
    ]


def _table(rows: list[Row]) -> Table:
    table = Table("inputs", title="Which predictions can be trusted?", title_justify="left")
    for heading in ("count", "trusted", "AUROC"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row.name, str(row.inputs), f"{row.trusted:.1%}", "" if row.auroc is None else f"{row.auroc:.3f}")
    return table


def _false_alarm_interval(n: int, calibration: int) -> tuple[float, float]:
    """Where 95 % of the false-alarm rates over `n` inputs lie, the calibration inputs being drawn at random too."""
    flagged = round(ALPHA * (calibration + 1))
    low, high = stats.betabinom.interval(0.95, n, flagged, calibration + 1 - flagged)
    return low / n, high / n


def _draw(detector: Detector, kinds: dict[str, Tensor], verdicts: dict[str, Predictions], path: Path) -> None:
    """A clean, an odd and an attacked input, each the median of its kind by outlier score."""
    names = [*kinds]
    panels = []
    for name in (names[0], "uniform noise", names[-1]):
        median = int(verdicts[name].outlier_score.argsort()[len(verdicts[name]) // 2])
        (why,) = detector.explain(kinds[name][median : median + 1])
        title = f"{name.split(',')[0]}\nseen as {why.label}\n{'trusted' if why.trusted else 'not trusted'}"
        panels.append(Panel(f"{title}, p = {why.p_value:.3f}", kinds[name][median], why.csm, why.classes))
    csm_heat_maps(panels, path)

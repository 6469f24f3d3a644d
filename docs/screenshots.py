"""Pictures of the report as readers meet it: `make screenshots` writes them into docs/screenshots/.

The verdicts are made, by no detector (`benchmarks/made_scores.py`). Chromium is looked for on the machine, or CHROMIUM
names it.
"""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import made_scores
from benchmarks.chromium import chromium
from gradgeo import report

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Shot:
    """One picture."""

    kind: str = "usual"
    """Which verdicts."""
    show: str = "main"
    """The selector of what is shown."""
    width: int = 1200
    scheme: str = "light"
    media: str = "screen"
    keys: tuple[str, ...] = field(default=())
    """Pressed in the review queue before."""


SHOTS = {
    "desktop": Shot(show="#verdicts"),
    "review": Shot(show="#review", keys=("1", "2")),
    "cards": Shot(show="#flagged"),
    "dark": Shot(show="#verdicts", scheme="dark"),
    "review-dark": Shot(show="#review", scheme="dark", keys=("1", "2")),
    "phone": Shot(show="#verdicts", width=390),
    "review-phone": Shot(show="#review", width=390, keys=("1",)),
    "large": Shot(show="#large"),
    "likeness": Shot(show="#map"),
    "print": Shot(show="#verdicts", width=800, media="print"),
    "none-flagged": Shot("none flagged", "#flagged"),
    "one-class": Shot("one class", "#classes"),
    "thousand-classes": Shot("thousand classes", "#classes"),
    "million-rows": Shot("million rows", "#verdicts"),
}


def verdicts(kind: str, path: Path) -> Path:
    """A file of verdicts."""
    rows = 1_000_000 if kind == "million rows" else 4000
    made = made_scores.columns(rows, odd=0.05, pictures=5000, trusted_pictures=True)
    told: dict[str, Any] = {}
    if kind == "none flagged":
        made["trusted"] = made["error"].is_null()
        told = {"alpha": 1e-6}
    if kind in ("one class", "thousand classes"):
        count = 1 if kind == "one class" else 1000
        label = np.random.default_rng(0).zipf(1.3, rows) % count
        made["label"] = pa.array(label, mask=~made["error"].is_null().to_numpy(zero_copy_only=False))
        made["true_label"] = label
        told = {"class_names": [f"species {i:03d}" for i in range(count)]}
    pq.write_table(made_scores.table(made, made_scores.metadata(**told)), path, row_group_size=16_384)
    return path


def take(page: Any, shot: Shot, out: Path) -> None:
    """One picture of an opened page."""
    page.emulate_media(media=shot.media)
    for key in shot.keys:
        page.focus("#review-list")
        page.keyboard.press(key)
    if shot.show == "#large":
        page.locator(".zoom").first.click()
        page.wait_for_selector("#large-trusted img")
    if shot.show == "#map":
        page.click("#likeness")
        page.wait_for_selector(".spot")
    page.wait_for_timeout(500)
    page.locator(shot.show).screenshot(path=out, type="jpeg", quality=70)


def main(names: list[str]) -> None:
    """Draw the named pictures, all by default."""
    out = ROOT / "docs" / "screenshots"
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        pages: dict[str, Path] = {}
        for name in names or SHOTS:
            shot = SHOTS[name]
            if shot.kind not in pages:
                pages[shot.kind] = Path(folder) / f"{len(pages)}.html"
                report.write(verdicts(shot.kind, Path(folder) / f"{len(pages)}.parquet"), pages[shot.kind])
            page = browser.new_page(viewport={"width": shot.width, "height": 900}, color_scheme=shot.scheme)
            page.goto(pages[shot.kind].as_uri())
            take(page, shot, out / f"{name}.jpg")
            page.close()


if __name__ == "__main__":
    main(sys.argv[1:])

from pathlib import Path

import pytest

from benchmarks import made_scores
from gradgeo import report

ROWS = 4000


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file of verdicts and its page."""
    folder = tmp_path_factory.mktemp("browser")
    scores = made_scores.write(folder / "scores.parquet", ROWS, odd=0.05, trusted_pictures=True)
    report.write(scores, folder / "report.html")
    return scores, folder / "report.html"

"""The measurement of copies in the data of fit, tiny."""

from pathlib import Path

import pytest

from benchmarks import copies
from benchmarks.shipped import Suite


@pytest.mark.simulation
def test_near_copies_void_alpha_and_groups_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "SHAPES", ((60, 12),))
    monkeypatch.setattr(copies, "KINDS", {name: copies.KINDS[name] for name in ("a millionth apart", "equal")})
    page = copies.run(Suite(tmp_path, inputs=20))
    found = page.data["false_alarms"]["60 x 12"]
    assert found["equal"]["mean"] < 0.3 < found["a millionth apart"]["mean"]
    assert found["equal"]["rates"] == [found["equal"]["least"]] == [found["equal"]["most"]]
    assert "| 60 x 12 |" in page.blocks[-1]

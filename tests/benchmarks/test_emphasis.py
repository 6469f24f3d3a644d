"""The page of emphases: the same inputs and passes, joined in other ways."""

import pytest

from benchmarks.battery import Choice
from benchmarks.emphasis import CONFIDENCE, KINDS, _measured, _rows
from gradgeo.detector.weighing import EMPHASES


@pytest.mark.simulation
def test_each_emphasis_has_its_mean_and_that_of_each_cause() -> None:
    pytest.importorskip("pytorch_ood", reason="pytorch-ood is not installed")
    (task,), scenarios = Choice(None, ("digits",), 20).tasks()
    chosen = {name: scenarios[name] for name in ("Gaussian noise", "constant", "misclassified") if name in scenarios}
    found = _measured(task, chosen)
    assert list(found) == ["none", *EMPHASES, CONFIDENCE]
    for by_kind in found.values():
        kinds = by_kind.keys() - {"mean"}
        assert kinds
        assert kinds <= KINDS.keys()
        assert by_kind["mean"] == pytest.approx(sum(by_kind[kind] for kind in kinds) / len(kinds))
        assert all(0 <= area <= 1 for area in by_kind.values())
    rows = _rows("digits", found)
    assert [row[:2] for row in rows] == [["digits", emphasis] for emphasis in found]
    assert all(len(row) == 3 + len(KINDS) for row in rows)

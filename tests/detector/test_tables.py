"""Tables with named columns are judged by name: their order in a frame is nobody's promise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from gradgeo import Detector
from gradgeo.detector.file import serialization
from gradgeo.errors import ArgumentError, DetectorFileError
from helpers.nets import network

NAMES = [f"sensor {i}" for i in range(12)]
X = torch.rand(120, 12, generator=torch.Generator().manual_seed(5)).double()

KINDS: dict[str, Callable[[np.ndarray, list[str]], Any]] = {
    "pandas": lambda values, names: pd.DataFrame(values, columns=names),
    "arrow": lambda values, names: pa.table(dict(zip(names, values.T, strict=True))),
    "nullable": lambda values, names: pd.DataFrame(values, columns=names).convert_dtypes(),
}


def fitted(kind: str = "pandas") -> Detector:
    return Detector(network(inputs=12), evidence=["confidence"], alpha=0.2).fit(KINDS[kind](X.numpy(), NAMES))


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_taken_by_name_in_any_order_and_others_left_aside(kind: str, tmp_path: Path) -> None:
    detector = fitted(kind)
    assert detector.columns_ == tuple(NAMES)
    expected = Detector(network(inputs=12), evidence=["confidence"], alpha=0.2).fit(X).predict(X).outlier_score
    turned = KINDS[kind](X.numpy()[:, ::-1], NAMES[::-1])
    assert torch.equal(detector.predict(turned).outlier_score, expected)
    detector.save(tmp_path / "d.gradgeo")
    again = Detector.load(tmp_path / "d.gradgeo", network(inputs=12))
    assert again.columns_ == tuple(NAMES)
    assert again.digest() == detector.digest()
    with_more = KINDS[kind](np.column_stack([np.arange(120), X.numpy()]), ["id", *NAMES])
    assert torch.equal(again.predict(with_more).outlier_score, expected)
    assert torch.equal(again.predict(X).outlier_score, expected)  # an array has no names to check


def test_what_is_missing_makes_a_row_that_cannot_be_judged() -> None:
    frame = KINDS["nullable"](X.numpy(), NAMES)
    frame.loc[3, "sensor 5"] = pd.NA
    with pytest.warns(UserWarning, match="1 of 120"):
        verdicts = fitted().predict(frame)
    assert verdicts.p_value.isnan().nonzero()[:, 0].tolist() == [3]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame(X.numpy()[:, 1:], columns=NAMES[1:]), "with the columns of fit: sensor 0.*and 7 more.*sensor 0"),
        (pd.DataFrame(X.numpy(), columns=NAMES).assign(**{"sensor 2": "high"}), "every column .*numbers.*in sensor 2"),
        (pd.DataFrame(X.numpy()), "names of the table's columns.*texts"),
        (pd.DataFrame(X.numpy(), columns=["a"] * 12), "distinct"),
        (pd.DataFrame(X.numpy(), columns=NAMES)["sensor 1"], r"a table in memory.*df\[\['name'\]\]"),
        (pd.Series(["how are you?"]), r"texts take a model made by gradgeo.text\(model, tokenizer\)"),
    ],
)
def test_other_tables_are_refused_in_words(table: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        fitted().predict(table)


def test_labels_come_as_a_column() -> None:
    model = network(inputs=12)
    labels = pd.Series(model(X.float()).argmax(1).numpy())
    labels[::10] = (labels[::10] + 1) % 4
    assert (
        Detector(model, evidence=["confidence"], alpha=0.2)
        .fit(KINDS["pandas"](X.numpy(), NAMES), labels)
        .misclassified_
        == 12
    )


def test_a_file_with_other_columns_than_its_inputs_have_is_refused(tmp_path: Path) -> None:
    detector = fitted()
    for columns in (("a",), ("a",) * 12):
        forged = detector.fitted_.__class__(**{**vars(detector.fitted_), "columns": columns})
        serialization.write(tmp_path / "forged", detector.settings, forged, notes={})
        with pytest.raises(DetectorFileError, match="columns"):
            serialization.read(tmp_path / "forged")


def test_predictions_leave_as_a_table() -> None:
    verdicts = fitted().predict(X)
    frame, table = verdicts.to_pandas(), pa.table(verdicts)
    assert list(frame) == table.column_names == ["label", "probability", "outlier_score", "p_value", "trusted"]
    assert frame["trusted"].tolist() == table["trusted"].to_pylist() == verdicts.trusted.tolist()
    assert frame["p_value"].tolist() == verdicts.p_value.tolist()

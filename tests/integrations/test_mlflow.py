"""MLflow logs and loads a detector with its classifier, from code."""

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from gradgeo import Detector
from gradgeo.errors import DataError
from gradgeo.integrations.mlflow import log_model

NET = """\
from helpers.nets import network

def load():
    return network(inputs=48).eval()
"""


@pytest.mark.process
@pytest.mark.filterwarnings("ignore")
def test_a_model_is_logged_and_loaded(fitted: Detector, x: Tensor, tmp_path: Path, monkeypatch: Any) -> None:
    mlflow: Any = pytest.importorskip("mlflow", reason="mlflow is not installed")
    if not hasattr(mlflow, "models") or not hasattr(mlflow.models, "set_model"):
        pytest.skip("this MLflow logs no models from code")
    (tmp_path / "net_of_test.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    fitted.save(tmp_path / "d.gradgeo")
    with pytest.raises(DataError, match="there is no file"):
        log_model(tmp_path / "missing", model="net_of_test:load")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
        mlflow.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
        mlflow.set_experiment("e")
        with mlflow.start_run():
            info = log_model(
                tmp_path / "d.gradgeo",
                model="net_of_test:load",
                code_paths=[tmp_path / "net_of_test.py"],
                pip_requirements=["gradgeo"],
            )
        table = mlflow.pyfunc.load_model(info.model_uri).predict(x.numpy())
    wanted = fitted.predict(x)
    assert isinstance(table, pd.DataFrame)
    assert table["trusted"].tolist() == wanted.trusted.tolist()
    assert torch.allclose(torch.tensor(table["p_value"]), wanted.p_value, atol=0.02)
    assert table["class_name"].tolist() == [["ant", "bee", "cat", "dog"][c] for c in wanted.label]
    assert not list((tmp_path / "artifacts").rglob("*.pkl"))

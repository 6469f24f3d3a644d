"""A detector and its classifier as one pyfunc model of MLflow: logged from code, without pickle."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gradgeo.errors import DataError, public, require

DETECTOR, WEIGHTS = "detector", "weights"
"""Names of the artifacts."""

SCRIPT = """\
import mlflow

from gradgeo.integrations.mlflow import python_model

mlflow.models.set_model(python_model())
"""
"""What MLflow stores as the model's code."""


@public
def log_model(
    detector: Path | str,
    *,
    model: str,
    weights: Path | str | None = None,
    name: str = "gradgeo",
    code_paths: Sequence[Path | str] = (),
    save: Path | str | None = None,
    **options: Any,
) -> Any:
    """Log a detector file with its classifier in the active run of MLflow, as a pyfunc model.

    `mlflow.pyfunc.load_model(uri).predict(x)` and `mlflow models serve` answer with a table: label, probability,
    outlier_score, p_value, trusted, and class_name where the detector knows them. `x` is an array (N, *input), or a
    table whose columns are the model's.

    Args:
        detector: the file that `fit` or `save` wrote.
        model: the classifier, as for `gradgeo --model`: `torchvision:NAME`, `timm:NAME`, `package.module:function`.
        weights: its .safetensors file, which is stored with it.
        name: of the model in the run.
        code_paths: files and folders that `model` needs, which are stored with it: `net.py` for `net:load`.
        save: a folder to write the model to, in place of a run.
        options: for `mlflow.pyfunc.log_model`, or `save_model`: `registered_model_name`, `input_example`, ...

    Returns: MLflow's `ModelInfo`; None for `save`.

    Raises: DataError: a file is missing. MissingDependencyError: MLflow is not installed.
    """
    pyfunc = require("mlflow.pyfunc", "mlflow")
    artifacts = {DETECTOR: Path(detector)} | ({} if weights is None else {WEIGHTS: Path(weights)})
    for file in artifacts.values():
        if not file.is_file():
            raise DataError(f"there is no file {file}")
    with TemporaryDirectory() as folder:
        script = Path(folder) / "trusted_model.py"
        script.write_text(SCRIPT)
        described = {
            "python_model": str(script),
            "artifacts": {key: str(file.resolve()) for key, file in artifacts.items()},
            "model_config": {"model": model},
            "code_paths": [str(path) for path in code_paths] or None,
            **options,
        }
        if save is not None:
            return pyfunc.save_model(path=str(save), **described)
        return pyfunc.log_model(name=name, **described)


def python_model() -> Any:
    """The `mlflow.pyfunc.PythonModel` that the script of a logged model sets."""
    base = require("mlflow.pyfunc", "mlflow").PythonModel

    class TrustedModel(base):  # type: ignore[misc, valid-type]
        def load_context(self, context: Any) -> None:
            """Load classifier and detector from the artifacts."""
            from gradgeo.data.models import load_model
            from gradgeo.detector.detector import Detector

            model = load_model(context.model_config["model"], context.artifacts.get(WEIGHTS))
            self.detector = Detector.load(context.artifacts[DETECTOR], model)

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads types
            """The verdicts as a table."""
            x = model_input if hasattr(model_input, "columns") else np.asarray(model_input)
            table = self.detector.predict(x).to_pandas()
            names = self.detector.notes.get("class_names") or []
            if names:
                table["class_name"] = [names[c] if 0 <= c < len(names) else None for c in table["label"]]
            return table

    return TrustedModel()

"""Lightning's own Trainer with our callback."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from gradgeo import Detector
from gradgeo.errors import DataError
from gradgeo.integrations.lightning import verdict_writer

lightning: Any = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")


def test_a_trainer_predicts_and_its_batches_are_judged(fitted: Detector, x: Tensor, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = fitted.model

        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.net(batch[0])

    writer = verdict_writer(fitted, tmp_path / "verdicts")
    with pytest.raises(DataError, match="nothing is judged yet"):
        _ = writer.predictions
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(accelerator="cpu", devices=1, callbacks=[writer], **quiet)
        logits = trainer.predict(Module(), DataLoader(TensorDataset(x), batch_size=4))
    wanted = fitted.predict(x)
    assert torch.cat(logits).argmax(1).tolist() == writer.predictions.label.tolist()
    assert writer.predictions.trusted.tolist() == wanted.trusted.tolist()
    files = sorted((tmp_path / "verdicts").iterdir())
    assert [file.name for file in files] == [f"verdicts-0-{i}-0.parquet" for i in range(3)]
    written = [verdict for file in files for verdict in pq.read_table(file)["trusted"].to_pylist()]
    assert written == wanted.trusted.tolist()


def test_inputs_are_found_or_named(fitted: Detector, x: Tensor) -> None:
    for batch, where in ((x, 0), ({"image": x}, "image"), ((1, x), lambda batch: batch[1])):
        writer = verdict_writer(fitted, inputs=where)
        writer.on_predict_batch_end(None, None, None, batch, 0)
        assert len(writer.predictions) == 10
    with pytest.raises(DataError, match="has no inputs at 'image'"):
        verdict_writer(fitted, inputs="image").on_predict_batch_end(None, None, None, {"x": x}, 0)

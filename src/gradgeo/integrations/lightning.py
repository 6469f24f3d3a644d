"""Verdicts beside the predictions of a Lightning `Trainer`, kept or written batch by batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgeo._files import atomic_stream
from gradgeo.detector.detector import Detector
from gradgeo.detector.results import Predictions
from gradgeo.errors import DataError, MissingDependencyError, public, require


@public
def verdict_writer(
    detector: Detector, out: Path | str | None = None, *, inputs: Callable[[Any], Tensor] | str | int = 0
) -> Any:
    """A callback for `Trainer(callbacks=[...])`: at `trainer.predict` it judges the inputs of every batch.

    `callback.predictions` holds the verdicts of this process, in the order of the batches; `trainer.predict` returns
    what the module returns, as without it.

    Args:
        detector: fitted with the module that predicts, or with the network within it.
        out: a folder for the verdicts as Parquet, a file for each batch: `verdicts-DATALOADER-BATCH-RANK.parquet`, the
            fields of `Predictions` as columns. None for no files.
        inputs: where in a batch its inputs are: a key, a position, or a function of the batch. A batch that is a
            tensor is its inputs.

    Raises: MissingDependencyError: Lightning, or pyarrow where `out` is given, is not installed.
    """
    parquet: Any = None if out is None else require("pyarrow.parquet", "parquet")
    folder = None if out is None else Path(out)

    class VerdictWriter(_callback_class()):  # type: ignore[misc]
        def __init__(self) -> None:
            self._judged: list[Predictions] = []

        @property
        def predictions(self) -> Predictions:
            """Of all batches so far. Raises: DataError before the first."""
            if not self._judged:
                raise DataError("nothing is judged yet: pass the callback to a Trainer and call trainer.predict")
            kind = type(self._judged[0])
            return kind(*(torch.cat([getattr(p, name) for p in self._judged]) for name in vars(self._judged[0])))

        def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
            self._judged.clear()

        def on_predict_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            with torch.inference_mode(False):  # gradients are needed, which Lightning switches off
                x = _inputs(batch, inputs).clone()
                predictions = detector.predict(x)
            self._judged.append(predictions)
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                name = f"verdicts-{dataloader_idx}-{batch_idx}-{trainer.global_rank}.parquet"
                with atomic_stream(folder / name) as stream:
                    parquet.write_table(require("pyarrow", "parquet").table(predictions), stream)

    return VerdictWriter()


def _callback_class() -> Any:
    try:
        return require("lightning.pytorch", "lightning").Callback
    except MissingDependencyError:
        return require("pytorch_lightning", "lightning").Callback  # its other name


def _inputs(batch: Any, where: Callable[[Any], Tensor] | str | int) -> Tensor:
    if callable(where):
        return where(batch)
    if isinstance(batch, Tensor):
        return batch
    try:
        return batch[where]  # type: ignore[no-any-return]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"a batch, a {type(batch).__name__}, has no inputs at {where!r}. Pass inputs=.") from error

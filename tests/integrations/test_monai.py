"""MONAI's own evaluator with our handler."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from gradgeo import Detector
from gradgeo.errors import DataError
from gradgeo.integrations.monai import TrustHandler

pytest.importorskip("monai", reason="monai is not installed")
pytest.importorskip("ignite", reason="pytorch-ignite, which MONAI's engines are of, is not installed")


@pytest.mark.filterwarnings("ignore")
def test_an_evaluators_outputs_say_what_to_trust(fitted: Detector, x: Tensor) -> None:
    from monai.data import DataLoader, Dataset
    from monai.engines import SupervisedEvaluator

    data: Any = Dataset([{"image": image, "label": 0} for image in x])
    handler = TrustHandler(fitted)
    outputs: list[dict[str, Any]] = []
    evaluator = SupervisedEvaluator(
        device="cpu", val_data_loader=DataLoader(data, batch_size=4), network=fitted.model, decollate=True
    )
    handler.attach(evaluator)
    from ignite.engine import Events

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.extend(engine.state.output))
    evaluator.run()
    wanted = fitted.predict(x)
    assert [bool(output["trusted"]) for output in outputs] == wanted.trusted.tolist()
    assert [int(output["pred"].argmax()) for output in outputs] == wanted.label.tolist()
    assert evaluator.state.metrics["trusted_share"] == pytest.approx(float(wanted.trusted.double().mean()))


def test_batches_without_images_are_named(fitted: Detector, x: Tensor) -> None:
    engine = SimpleNamespace(state=SimpleNamespace(batch=[{"scan": x[0]}], output={}, metrics={}))
    with pytest.raises(DataError, match='no inputs at "image"'):
        TrustHandler(fitted)(engine)
    TrustHandler(fitted, lambda batch: [each["scan"] for each in batch])(engine)
    assert set(engine.state.output) == {"p_value", "outlier_score", "trusted"}

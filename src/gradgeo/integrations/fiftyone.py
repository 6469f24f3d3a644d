"""Verdicts as fields of a FiftyOne data set, to look at what is not trusted."""

from pathlib import Path
from typing import Any

import torch

from gradgeo.data.images import decode
from gradgeo.data.preprocess import Preprocess
from gradgeo.detector.detector import Detector
from gradgeo.errors import GradgeoError, expected, one_line, public, require


@public
def add_verdicts(
    samples: Any,
    detector: Detector,
    *,
    field: str = "gradgeo",
    preprocess: Preprocess | None = None,
    batch_size: int = 64,
) -> None:
    """Judge the images of a data set or view, and store each verdict in a field of its sample.

    The field is a `fiftyone.Classification`: label, confidence (the probability), and `p_value`, `outlier_score`,
    `trusted`. A file that cannot be read has None there, and a reason in `{field}_error`. What is not trusted:
    `samples.match(F("gradgeo.trusted") == False)`.

    Args:
        samples: a data set or view of images.
        detector: fitted.
        field: its name.
        preprocess: of the images; default as at fit, which `gradgeo fit` keeps in the file.
        batch_size: images that are read at a time.

    Raises: ArgumentError: `preprocess` is needed, because the detector does not know it. MissingDependencyError.
    """
    classification = require("fiftyone", "fiftyone").Classification
    if preprocess is None:
        if detector.notes.get("preprocess") is None:
            raise expected("preprocess", "given", None, "The detector does not say how images were prepared at fit.")
        preprocess = Preprocess.from_dict(detector.notes["preprocess"])
    names = detector.notes.get("class_names") or []
    ids, files = samples.values(["id", "filepath"])
    verdicts: dict[str, Any] = {}
    errors: dict[str, str | None] = {}
    for first in range(0, len(ids), batch_size):
        inputs = {}
        for name, file in zip(ids[first : first + batch_size], files[first : first + batch_size], strict=True):
            try:
                inputs[name] = _read(file, preprocess, detector.input_shape_)
                errors[name] = None
            except (GradgeoError, OSError) as error:
                errors[name] = one_line(str(error))
        if not inputs:
            continue
        predictions = detector.predict(torch.stack(list(inputs.values())))
        for name, one in zip(inputs, predictions, strict=True):
            label = int(one.label)
            verdicts[name] = classification(
                label=names[label] if 0 <= label < len(names) else str(label),
                confidence=float(one.probability),
                p_value=float(one.p_value),
                outlier_score=float(one.outlier_score),
                trusted=bool(one.trusted),
            )
    samples.set_values(field, verdicts, key_field="id", dynamic=True)
    if any(errors.values()):
        samples.set_values(f"{field}_error", errors, key_field="id")


def _read(file: str, preprocess: Preprocess, shape: tuple[int, ...]) -> torch.Tensor:
    x = preprocess(decode(Path(file).read_bytes()))
    if tuple(x.shape) != shape:
        raise expected("an image", f"of shape {shape} once prepared", x)
    return x

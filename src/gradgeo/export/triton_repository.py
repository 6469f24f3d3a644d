"""A model repository of NVIDIA's Triton Inference Server: an ONNX file and the text that says how to serve it."""

from pathlib import Path
from typing import Any

from torch import Tensor

from gradgeo._files import atomic_stream
from gradgeo.classifier.wrapper import Classifier
from gradgeo.detector.detector import Detector
from gradgeo.errors import ExportError, expected, public
from gradgeo.export.agreement import Agreement
from gradgeo.export.formats import write

LARGEST_BATCH = 64
"""Rows of a batch that Triton makes; memory grows with them times the number of maps."""

DELAY = 5_000
"""Microseconds that Triton waits for others to share a batch with, as `gradgeo serve` does."""


@public
def triton(detector: Detector, example: Tensor, repository: Path | str, name: str = "gradgeo") -> Agreement:
    """Write a fitted detector with its classifier as a model of a Triton repository.

    `repository`/NAME/1/model.onnx is what `onnx` writes, `repository`/NAME/config.pbtxt what Triton asks for beside it;
    the text comes last, so that a server that looks on never loads half a model. Other models of the repository and
    other versions of this one stay as they are. `tritonserver --model-repository=REPOSITORY` serves it.

    Args:
        detector, example: as in `onnx`.
        repository: a folder, which is made where it is missing.
        name: of the model: letters, digits, - _ and .

    Returns, raises: as `onnx`.
    """
    if not name or name[0] == "." or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
        raise expected("name", "letters, digits, - _ and .", name)
    folder = Path(repository).expanduser() / name
    try:
        (folder / "1").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot make the folder {folder}: {error.strerror or error}.") from error
    agreement = write(detector, example, folder / "1" / "model.onnx", "onnx")
    with atomic_stream(folder / "config.pbtxt", ExportError) as stream:
        stream.write(config(detector, name).encode())
    return agreement


def config(detector: Detector, name: str) -> str:
    """The `config.pbtxt` of a detector's ONNX file."""
    real = "TYPE_FP64" if str(Classifier.of(detector.model).dtype) == "torch.float64" else "TYPE_FP32"
    outputs: list[tuple[str, str, Any]] = [
        ("logits", real, [detector.num_classes_]),
        ("outlier_score", "TYPE_FP64", []),
        ("p_value", "TYPE_FP64", []),
        ("trusted", "TYPE_BOOL", []),
    ]
    given = ",\n".join(_tensor(*output) for output in outputs)
    return (
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {LARGEST_BATCH}\n'
        f"input [\n{_tensor('input', real, list(detector.input_shape_))}\n]\n"
        f"output [\n{given}\n]\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY} }}\n"
        f'parameters {{ key: "detector_sha256" value {{ string_value: "{detector.digest()}" }} }}\n'
        f'parameters {{ key: "alpha" value {{ string_value: "{float(detector.alpha):g}" }} }}\n'
    )


def _tensor(name: str, kind: str, dims: list[int]) -> str:
    """One tensor; a scalar of each row has the dims [1], reshaped to none, for Triton knows no empty dims."""
    reshape = "" if dims else ", reshape { shape: [ ] }"
    return f'  {{ name: "{name}", data_type: {kind}, dims: {dims or [1]}{reshape} }}'

"""Export: a detector and its model as one file for other runtimes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradgeo.cli.console import print_pairs
from gradgeo.cli.options import DATA, DataRoot, DetectorPath, SameModel, Sha256, Transform, Weights, load_detector
from gradgeo.errors import DataError, choice, expected

if TYPE_CHECKING:
    from torch import Tensor

INPUTS = 32
"""That the file is held to the detector on."""


def export(
    file: DetectorPath,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to write, .onnx, or .pt2 for pt2, aoti; of --triton a folder.")
    ],
    model: SameModel = None,
    form: Annotated[str, typer.Option("--format", "-f", help="onnx, pt2 or aoti.")] = "onnx",
    weights: Weights = None,
    sha256: Sha256 = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help=f"Inputs to check the file on; default noise. {DATA}")
    ] = None,
    transform: Transform = None,
    data_root: DataRoot = None,
    triton: Annotated[bool, typer.Option("--triton", help="Write a model of a Triton repository, ONNX.")] = False,
) -> None:
    """Write a detector and its model as one graph for other runtimes. Input -> logits, outlier_score, p_value, trusted.

    Example: gradgeo export digits.gradgeo -m digits -d digits/test -o digits.onnx
    """
    if out.expanduser().resolve() == file.resolve():
        raise expected("--out", "another file than the detector", str(out))
    from gradgeo import export as exporting
    from gradgeo.classifier.text import TextClassifier
    from gradgeo.detector.file import serialization
    from gradgeo.export.formats import SUFFIXES

    choice("--format", form, exporting.FORMATS)
    if triton and form != "onnx":
        raise expected("--format", "onnx, which is what --triton writes", form)
    if not triton and out.suffix != SUFFIXES[form]:
        raise expected("--out", f"a file ending in {SUFFIXES[form]}", str(out))
    contents = serialization.read(file, sha256=sha256)
    detector = load_detector(contents, model, weights, "cpu")
    if isinstance(detector.model, TextClassifier):
        raise DataError("a model of texts is not exported: other runtimes have no tokens. Export one of embeddings.")
    shape = detector.input_shape_
    example = _noise(shape) if data is None else _inputs(data, contents.notes, shape, data_root, transform, model)
    if triton:
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in file.stem)
        agreement = exporting.triton(detector, example, out, name)
        out = out / name / "1" / "model.onnx"
    else:
        agreement = exporting.write(detector, example, out, form)
    n = len(agreement.scores)
    print_pairs(
        {
            "written to": out,
            "bytes": out.expanduser().stat().st_size,
            "checked on": f"{n} inputs{'' if data else ' of noise'}",
            "logits differ by": f"{agreement.logits:.1e} at most, relative",
            "scores differ by": f"{float(agreement.scores.median()):.1e} (median), {float(agreement.scores.max()):.1e}",
            "verdicts the same": f"{int(agreement.verdicts.sum())} of {n}",
        }
    )


def _noise(shape: tuple[int, ...]) -> "Tensor":
    import torch

    return torch.rand(INPUTS, *shape, generator=torch.Generator().manual_seed(0))


def _inputs(
    data: str,
    notes: dict[str, object],
    shape: tuple[int, ...],
    data_root: str | None,
    transform: str | None,
    model: str | None,
) -> "Tensor":
    import torch

    from gradgeo.data import open_source
    from gradgeo.data.transform import preparation_of
    from gradgeo.scoring import checked

    preprocess = preparation_of(notes, transform, model)
    source = open_source(data, preprocess=preprocess, limit=INPUTS, data_root=data_root)
    items = [checked(item, shape) for batch in source.batches(INPUTS, shape=shape) for item in batch]
    usable = [item.x for item in items if item.x is not None]
    if not usable:
        raise DataError(f"none of the {len(items)} inputs of {data} can be judged; the first: {items[0].error}")
    return torch.stack(usable)

"""A fitted detector and its classifier as one file, to run where there is no Python or no autograd.

The file holds one graph, input -> `logits`, `outlier_score`, `p_value`, `trusted`, for any batch size. Its gradients
are operators of the graph, from a trace of autograd; the rest is the detector's own code, traced. What cannot be
exported is refused before the long part of the work, and every file is run on the example before it appears.
"""

from os import PathLike

from torch import Tensor

from gradgeo.detector.detector import Detector
from gradgeo.errors import public
from gradgeo.export.agreement import Agreement
from gradgeo.export.formats import FORMATS, digest_of, write
from gradgeo.export.triton_repository import triton

__all__ = ["FORMATS", "Agreement", "aoti", "digest_of", "onnx", "pt2", "triton", "write"]


@public
def onnx(detector: Detector, example: Tensor, path: str | PathLike[str], *, explain: bool = False) -> Agreement:
    """Write a fitted detector with its classifier as an ONNX file, standard operators only.

    Example:
        >>> gradgeo.export.onnx(detector, x[:16], "detector.onnx")  # doctest: +SKIP
        Agreement(16 inputs, scores within 0.00012, verdicts the same on 16)
        >>> session = onnxruntime.InferenceSession("detector.onnx")  # doctest: +SKIP
        >>> logits, score, p_value, trusted = session.run(None, {"input": x[:3].numpy()})  # doctest: +SKIP

    Args:
        detector: fitted. Its `alpha` at this moment decides `trusted`; `p_value` serves any other.
        example: some inputs (N, *input) as for `predict`, trusted ones best: the file is held to the detector on them.
        path: ends in .onnx.
        explain: give two more outputs: `surprisal` (N, Q) float64 of the questions that the metadata name, from which
            `likely_cause` tells a cause, and `saliency` (N, *input), the gradient of the predicted class's loss.

    The file takes `input` (N, *input) in the classifier's type, any N >= 1, and gives `logits` (N, C) in the same,
    `outlier_score` and `p_value` (N,) in float64 and `trusted` (N,) bool. For inputs with NaN or infinite values the
    first three are NaN and `trusted` is false; the others of the batch are not disturbed. Its metadata say alpha, the
    version, `Detector.digest()`, the names of the classes and the shape of an input.

    Returns:
        How well the file agrees with the detector on the example. It runs in float32 with other kernels than PyTorch,
        so a gradient entry within rounding of zero may have the other sign there, which moves the score of that input
        a little.

    Cost: tracing and conversion, half a minute for a ResNet-20. Then each batch takes one forward and one backward run
    for all maps of all its inputs together, and one of both for their neighbours: memory grows with N times the
    number of maps.

    Raises:
        ExportError: the model, an evidence or an operator cannot be exported (the message says which and what to use
            instead), or the file gives other answers than the detector.
        ArgumentError: an argument is not as described.
        NotFittedError: before `fit`.
        MissingDependencyError: without the extra `export`.
    """
    return write(detector, example, path, "onnx", explain=explain)


@public
def pt2(detector: Detector, example: Tensor, path: str | PathLike[str]) -> Agreement:
    """Write a fitted detector with its classifier as a program of `torch.export`, run by PyTorch without their code.

    Example:
        >>> gradgeo.export.pt2(detector, x[:16], "detector.pt2")  # doctest: +SKIP
        >>> run = torch.export.load("detector.pt2").module()  # doctest: +SKIP
        >>> run(x[:3])["trusted"]  # doctest: +SKIP

    Args, errors: as in `onnx`; `path` ends in .pt2. The program returns a dict by the names of the outputs; the
    metadata are the extra file `gradgeo.json`.
    """
    return write(detector, example, path, "pt2")


@public
def aoti(detector: Detector, example: Tensor, path: str | PathLike[str]) -> Agreement:
    """Write a fitted detector with its classifier as machine code made by AOTInductor, which C++ can load as well.

    Example:
        >>> gradgeo.export.aoti(detector, x[:16], "detector.pt2")  # doctest: +SKIP
        >>> run = torch._inductor.aoti_load_package("detector.pt2")  # doctest: +SKIP

    Args, errors: as in `pt2`; a C++ compiler is needed. The file belongs to this kind of processor and this version of
    PyTorch; `get_metadata()` of what is loaded gives the metadata.

    Cost: a minute or more of compiling.
    """
    return write(detector, example, path, "aoti")

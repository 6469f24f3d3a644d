"""From a fitted detector to a file: trace, check, convert, check again, and only then put it under its name."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo._files import atomic_path
from gradgeo._version import __version__
from gradgeo.classifier.wrapper import Classifier
from gradgeo.detector.detector import Detector
from gradgeo.errors import ExportError, NotFittedError, choice, expected, require
from gradgeo.export.agreement import Agreement, Runner, verify_outputs

FORMATS = ("onnx", "pt2", "aoti")
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".pt2"}
LARGEST = 2**31 - 2**24
"""Bytes of weights that one ONNX file can hold."""

TRIED = "2.11 and 2.14"
"""The versions of torch whose graphs were seen to run everywhere that they should."""

CHECKED = 32
"""Inputs of the example that the file is checked on."""


def write(
    detector: Detector, example: Tensor, path: str | PathLike[str], form: str, *, explain: bool = False
) -> Agreement:
    """Write a fitted detector in one of `FORMATS`: as `onnx`, `pt2` and `aoti`, by name."""
    path = Path(path).expanduser()
    choice("form", form, FORMATS)
    if path.suffix != SUFFIXES[form]:
        raise expected("path", f"a file ending in {SUFFIXES[form]}", str(path))
    if not hasattr(detector, "input_shape_"):
        raise NotFittedError("the detector is not fitted. Call fit(data) with trusted inputs first.")
    if detector.noise_ is not None:
        raise ExportError(
            f"the detector judges inputs with fresh noise (noise={detector.noise_:g}), which no exported graph draws; "
            "without it the stated rates do not hold. Serve it with gradgeo serve, or fit without noise."
        )
    classifier = Classifier.of(detector.model)
    x = _rows(detector, classifier, example)
    _require_tools(form, detector)
    with atomic_path(path, ExportError) as temporary:
        metadata = _metadata(detector)
        if explain:
            metadata["questions"] = json.dumps(detector.fitted_.fusion.question_names)
            causes = detector.fitted_.fusion.causes
            if causes is not None:
                metadata["causes"] = json.dumps(causes.as_dict())
        with _quiet():
            program = _program(detector, classifier, x, form, explain=explain)
            run = WRITERS[form](program, metadata, temporary)
        return verify_outputs(detector, run, x, f"the {form} file")


def _rows(detector: Detector, classifier: Classifier, example: Tensor) -> Tensor:
    """The example as a batch of at least four inputs, finite ones, prepared for the classifier."""
    shape = ", ".join(map(str, detector.input_shape_))
    if not isinstance(example, Tensor) or tuple(example.shape[1:]) != tuple(detector.input_shape_):
        raise expected("example", f"a tensor of shape (N, {shape}) as in fit", example)
    if classifier.dtype not in (None, torch.float32, torch.float64):
        raise expected("the model", "of float32 or float64", str(classifier.dtype), "Call .float() on it.")
    if classifier.device is not None and classifier.device.type != "cpu":
        raise expected("the model", "on the CPU", str(classifier.device), "Load the detector for model.cpu().")
    batch = classifier.prepare(example[:CHECKED].detach())
    x = batch.x[batch.usable]
    if not len(x):
        raise expected("example", "at least one input, finite", example)
    while len(x) < 4:  # weaker copies, so that there are batches of several sizes
        x = torch.cat([x, x * 0.75])
    return x


def _require_tools(form: str, detector: Detector) -> None:
    if not callable(torch.export.Dim.DYNAMIC):
        raise ExportError(f"this is torch {torch.__version__}, which is too old to trace a detector; {TRIED} do.")
    if form == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            require(name, "export")
        model = detector.model
        weights = model.state_dict().values() if isinstance(model, nn.Module) else ()
        held = sum(w.numel() * w.element_size() for w in weights if isinstance(w, Tensor))
        if held > LARGEST:
            raise ExportError(f"the weights take {held} bytes and one ONNX file holds 2 GB. Use the format pt2.")
    if form == "aoti" and not any(shutil.which(os.environ.get("CXX", name)) for name in ("g++", "clang++", "c++")):
        raise ExportError(
            "AOTInductor needs a C++ compiler and finds none. Install g++, or use the format onnx or pt2."
        )


def _program(
    detector: Detector, classifier: Classifier, x: Tensor, form: str, *, explain: bool = False
) -> torch.export.ExportedProgram:
    # Tracing imports much of PyTorch that nothing else here needs.
    from gradgeo.export.gradient_check import verify_gradients
    from gradgeo.export.module import DetectorModule, refuse_what_does_not_trace
    from gradgeo.export.traced import TracedClassifier

    traced = TracedClassifier.of(classifier, x[:5])
    if form == "onnx" and (unknown := traced.joint.without_onnx()):
        raise ExportError(
            f"the model needs {', '.join(unknown)}, which ONNX does not have here. Use the format pt2 or aoti, or "
            "another layer in its place."
        )
    verify_gradients(traced, classifier, x)
    module = DetectorModule(detector, traced.graphs, x, explain=explain)
    refuse_what_does_not_trace(module, x)
    try:
        with torch.inference_mode(False), torch.no_grad():
            batch = {0: torch.export.Dim.DYNAMIC(min=1)}  # of a named one torch 2.11 wants more proof than it has
            return torch.export.export(module, (x[:3],), dynamic_shapes=(batch,), strict=False)
    except Exception as error:  # what torch.export says of itself
        raise ExportError(
            f"torch.export cannot trace the detector: {_first_line(error)} This is torch {torch.__version__}; "
            f"{TRIED} were seen to."
        ) from error


def _metadata(detector: Detector) -> dict[str, str]:
    return {
        "gradgeo_version": __version__,
        "alpha": repr(float(detector.alpha)),
        "detector_sha256": detector.digest(),
        "class_names": json.dumps(detector.notes.get("class_names") or []),
        "input_shape": json.dumps(list(detector.input_shape_)),
        "evidence": json.dumps(detector.evidence_),
    }


def digest_of(file: Path) -> str:
    """The SHA-256 of a file's bytes, to see whether it was written anew; a detector's own is `Detector.digest`."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _onnx(program: torch.export.ExportedProgram, metadata: dict[str, str], path: Path) -> Runner:
    from gradgeo.export.module import EXPLAINED, OUTPUTS

    names = [*OUTPUTS, *(EXPLAINED if "questions" in metadata else ())]
    try:
        converted = torch.onnx.export(
            *(program, (), None),
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=["input"],
            output_names=names,
        )
    except Exception as error:  # what the converter says of itself
        raise ExportError(
            f"torch.onnx cannot convert the graph: {_first_line(error)} Use the format pt2 or aoti."
        ) from error
    assert converted is not None
    converted.model.metadata_props.update(metadata)
    converted.save(path)
    runtime: Any = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base of its errors
        raise ExportError(
            f"onnxruntime cannot load the ONNX file: {_first_line(error)} Use the format pt2 or aoti."
        ) from error
    return lambda x: dict(zip(names, map(torch.from_numpy, session.run(None, {"input": x.numpy()})), strict=True))


def _pt2(program: torch.export.ExportedProgram, metadata: dict[str, str], path: Path) -> Runner:
    torch.export.save(program, path, extra_files={"gradgeo.json": json.dumps(metadata)})
    loaded: Runner = torch.export.load(path).module()
    return loaded


def _aoti(program: torch.export.ExportedProgram, metadata: dict[str, str], path: Path) -> Runner:
    inductor: Any = torch._inductor
    try:
        inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs={"aot_inductor.metadata": metadata}
        )
    except Exception as error:  # what the compilers say
        raise ExportError(f"AOTInductor cannot compile the graph: {_first_line(error)} Use the format pt2.") from error
    loaded: Runner = inductor.aoti_load_package(str(path))
    return loaded


WRITERS: Mapping[str, Callable[..., Runner]] = {"onnx": _onnx, "pt2": _pt2, "aoti": _aoti}


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporters of PyTorch say of their own insides concerns nobody who calls us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"

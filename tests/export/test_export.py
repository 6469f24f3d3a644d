"""Exported detectors say what the detector says; what cannot be exported is named before the work begins."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import gradgeo
from benchmarks import export as exporting
from benchmarks.shipped import Suite
from gradgeo import Detector, cli, export
from gradgeo.classifier.wrapper import Classifier
from gradgeo.data import digits
from gradgeo.data.models import load_model
from gradgeo.detector.evidence import EVIDENCE, Evidence
from gradgeo.errors import ArgumentError, ExportError, GradgeoWarning, MissingDependencyError, NotFittedError
from gradgeo.export import agreement, formats, triton_repository
from gradgeo.export.module import EXPLAINED, OUTPUTS, DetectorModule
from gradgeo.export.traced import TracedClassifier
from helpers.nets import inputs, network, pooled

pytestmark = pytest.mark.skipif(not callable(torch.export.Dim.DYNAMIC), reason="this torch is too old to export")


def fitted(model: nn.Module, **options: object) -> Detector:
    return Detector(model, **options).fit(inputs(300))


EVERY = ["confidence", "csm", "nearest_boundary", "raw_csm", "curvature", "flips"]


@pytest.mark.grid
@pytest.mark.rounding
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (network, {}),
        (network, {"evidence": "fast"}),
        (network, {"evidence": "lite"}),
        (network, {"evidence": "paper", "loss": "mse"}),
        (network, {"classes": 3}),
        (network, {"classes": torch.tensor([0, 2, 3])}),
        (network, {"evidence": [e for e in EVERY if e in EVIDENCE]}),
        (lambda: network(2), {"loss": "logit"}),
        (lambda: network(40, width=6), {"evidence": ["csm", "raw_csm", "boundary"]}),
        (lambda: network().double(), {"evidence": "paper"}),
        (lambda: nn.Sequential(network(), nn.Hardtanh(-9, 9)), {}),
        (network, {"evidence": ["csm_twice"], "rescale": True, "channel_max": True, "one_class": "loda"}),
        (lambda: network(40, width=6), {"evidence": ["raw_csm"], "channel_max": True}),
    ],
    ids=[
        *("full", "fast", "lite", "mse", "top", "chosen", "others", "two classes", "many classes", "float64"),
        *("no head", "authors", "authors, many classes"),
    ],
)
def test_the_module_says_what_the_detector_says(model: Callable[[], nn.Module], options: dict[str, object]) -> None:
    detector = fitted(model(), **options)
    classifier, x = Classifier.of(detector.model), inputs(40, 2)
    module = DetectorModule(detector, TracedClassifier.of(classifier, classifier.prepare(x[:3]).x).graphs, x)
    with torch.no_grad():
        found = agreement.verify_outputs(detector, lambda x: module(x.to(classifier.dtype)), x, "the module")
    assert found.scores.median() < 1e-5
    assert found.verdicts.all()


@pytest.mark.witness
@pytest.mark.export
def test_a_confidence_reaches_the_threshold_of_the_graph() -> None:
    """The graph flags up to the rank that keeps to alpha with this confidence, as the detector does, not up to alpha."""
    detector = fitted(network(), evidence=["confidence"], alpha=0.1, confidence=0.95)
    classifier, x = Classifier.of(detector.model), inputs(400, 2)
    module = DetectorModule(detector, TracedClassifier.of(classifier, classifier.prepare(x[:3]).x).graphs, x[:4])
    with torch.no_grad():
        found = module(x)
    threshold = detector.settings.level.threshold(detector.calibration_size_)
    between = (found["p_value"] > threshold) & (found["p_value"] <= 0.1)
    assert threshold < 0.1
    assert between.any()
    assert found["trusted"][between].all()
    assert torch.equal(found["trusted"], found["p_value"] > threshold)
    assert (found["trusted"] == detector.predict(x).trusted).double().mean() > 0.99  # a score may round past a rank


@pytest.mark.export
def test_the_module_explains_where_asked_for() -> None:
    detector, x = fitted(network(), evidence="fast"), inputs(8, 2)
    classifier = Classifier.of(detector.model)
    graphs = TracedClassifier.of(classifier, classifier.prepare(x[:3]).x).graphs
    with torch.no_grad():
        found = DetectorModule(detector, graphs, x, explain=True)(x)
    assert list(found) == [*OUTPUTS, *EXPLAINED]
    for said, row in zip(detector.explain(x), found["surprisal"], strict=True):
        told = dict(zip(detector.fitted_.fusion.question_names, row.tolist(), strict=True))
        assert told == pytest.approx(said.questions, rel=1e-3, abs=1e-3)
    maps = gradgeo.saliency_maps(detector.model, x, classes=2, sign=False, temperature=detector.temperature_)[:, 0]
    assert torch.nn.functional.cosine_similarity(found["saliency"].flatten(1), maps.flatten(1)).min() > 0.999


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A small convolutional classifier's, with all evidence of the default."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))
    found = Detector(nn.Sequential(*layers), alpha=0.1).fit(inputs(300))
    found.notes = {"class_names": ["a", "b", "c", "d"]}
    return found


@pytest.fixture(scope="module")
def onnx_file(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "d.onnx"
    assert "verdicts the same on 16" in repr(gradgeo.export.onnx(detector, inputs(16, 3), path))
    return path


RUN = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
x = np.load(sys.argv[2])
found = {n: dict(zip(names, (a.tolist() for a in session.run(None, {"input": x[:n]})))) for n in (1, len(x))}
facts = {"metadata": session.get_modelmeta().custom_metadata_map, "torch": "torch" in sys.modules}
print(json.dumps({"found": found, "shape": session.get_inputs()[0].shape, **facts}))
"""


@pytest.mark.export
def test_onnx_runs_without_torch_and_says_what_the_detector_says(
    detector: Detector, onnx_file: Path, tmp_path: Path
) -> None:
    x = inputs(9, 5)
    x[4, 0, 0, 0], x[7, 1, 1, 1] = torch.nan, torch.inf
    np.save(tmp_path / "x.npy", x.numpy())
    ran = subprocess.run(
        [sys.executable, "-c", RUN, str(onnx_file), str(tmp_path / "x.npy")], capture_output=True, text=True, check=True
    )
    told = json.loads(ran.stdout)
    assert not told["torch"]
    assert told["shape"][1:] == [3, 2, 2]
    assert told["metadata"] == {
        "gradgeo_version": gradgeo.__version__, "alpha": "0.1", "class_names": '["a", "b", "c", "d"]',
        "input_shape": "[3, 2, 2]", "evidence": json.dumps(detector.evidence_),
        "detector_sha256": detector.digest(),
    }  # fmt: skip
    with pytest.warns(GradgeoWarning, match="2 of 9"):
        known = detector.judge(x)
    for n in (1, 9):
        found = told["found"][str(n)]
        assert tuple(found) == OUTPUTS
        score, p = torch.tensor(found["outlier_score"]), torch.tensor(found["p_value"])
        assert torch.allclose(score.double(), known.predictions.outlier_score[:n], rtol=1e-3, equal_nan=True)
        assert torch.allclose(p.double(), known.predictions.p_value[:n], atol=1e-6, equal_nan=True)
        assert found["trusted"] == known.predictions.trusted[:n].tolist()
    logits, usable = torch.tensor(found["logits"]), torch.tensor([i not in (4, 7) for i in range(9)])
    assert torch.allclose(logits[usable], known.logits[usable], atol=1e-5)
    assert score.isnan().tolist() == (~usable).tolist()
    assert logits[~usable].isnan().all()


def of_two_classes(evidence: str) -> tuple[Detector, Tensor]:
    """S1 has no entries, and in some frames all entries of a window are equal."""
    torch.manual_seed(1)
    noise, frames = torch.rand(150, 3, 16, 16), torch.rand(4, 3, 1, 1).expand(4, 3, 16, 16)
    with pytest.warns(GradgeoWarning, match="two classes"):
        detector = Detector(pooled(size=16), evidence=evidence).fit(noise[:134])
    return detector, torch.cat([noise[134:], frames])


@pytest.mark.export
def test_a_triton_repository_says_what_its_file_is(
    detector: Detector, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read by Triton's own message; names, types and shapes are those that ONNX Runtime finds in the file."""
    import onnxruntime
    from google.protobuf import text_format  # ONNX brings it

    message = triton_message()
    monkeypatch.setattr(triton_repository, "write", lambda d, x, path, form: shutil.copy(onnx_file, path))
    export.triton(detector, inputs(4), tmp_path / "models", "d-1")
    session = onnxruntime.InferenceSession(tmp_path / "models" / "d-1" / "1" / "model.onnx")
    text = (tmp_path / "models" / "d-1" / "config.pbtxt").read_text()
    config = text_format.Parse(text, message.ModelConfig())
    assert (config.name, config.backend) == ("d-1", "onnxruntime")
    assert config.parameters["detector_sha256"].string_value == detector.digest()
    kinds = {"tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64", "tensor(bool)": "TYPE_BOOL"}
    for stated, found in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [each.name for each in stated] == [each.name for each in found]
        for one, other in zip(stated, found, strict=True):
            assert message.DataType.Name(one.data_type) == kinds[other.type]
            dims = list(one.reshape.shape) if one.HasField("reshape") else list(one.dims)
            assert dims == other.shape[1:]
    with pytest.raises(ArgumentError, match="expected name to be letters"):
        export.triton(detector, inputs(4), tmp_path, "../d")


def triton_message() -> Any:
    """Triton's description of a model's text, out of its client, without the gRPC that the rest of that needs."""
    package = find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip("tritonclient is not installed")
    place = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = spec_from_file_location("model_config_pb2", place)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.export
@pytest.mark.rounding
def test_two_classes_and_pooled_frames_of_one_colour_export(tmp_path: Path) -> None:
    detector, x = of_two_classes("paper")
    assert gradgeo.export.onnx(detector, x, tmp_path / "d.onnx").verdicts.all()


@pytest.mark.export
def test_all_evidence_of_two_classes_is_traced() -> None:
    detector, x = of_two_classes("full")
    classifier = Classifier.of(detector.model)
    program = formats._program(detector, classifier, classifier.prepare(x).x, "onnx")
    with torch.no_grad():
        assert agreement.verify_outputs(detector, program.module(), x, "the program").verdicts.all()


@pytest.mark.export
def test_pt2_runs_by_itself_carries_its_metadata_and_leaves_no_trace(tmp_path: Path) -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    detector, x = fitted(model, evidence="paper"), inputs(5, 2)
    score, state = detector.outlier_score(x), torch.get_rng_state()
    gradgeo.export.pt2(detector, x, tmp_path / "d.pt2")
    files = {"gradgeo.json": ""}
    found = torch.export.load(tmp_path / "d.pt2", extra_files=files).module()(x[:1])
    assert json.loads(files["gradgeo.json"])["alpha"] == "0.05"
    assert torch.allclose(found["outlier_score"], score[:1], rtol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["d.pt2"]
    assert model.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(detector.outlier_score(x), score)


@pytest.mark.export
@pytest.mark.data
def test_aoti_is_compiled_and_says_the_same(
    gradgeo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of evidence with a backward pass and little else, for it compiles for half a minute; marked `data` for that."""
    monkeypatch.setattr(torch._inductor.config.aot_inductor, "compile_wrapper_opt_level", "O0")
    detector, x = fitted(network(), evidence=["nearest_boundary"]), inputs(5, 2)
    assert gradgeo.export.aoti(detector, x, tmp_path / "d.pt2").verdicts.all()
    loaded = torch._inductor.aoti_load_package(str(tmp_path / "d.pt2"))
    assert loaded.get_metadata()["alpha"] == "0.05"
    assert torch.allclose(loaded(x)["outlier_score"], detector.outlier_score(x), rtol=1e-4)


@pytest.mark.export
@pytest.mark.data
def test_a_residual_network_exports(nets: object, tmp_path: Path) -> None:
    x = torch.rand(150, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    detector = Detector(nets.load("cifar10_resnet20"), evidence="paper").fit(x[:120])
    assert gradgeo.export.onnx(detector, x[120:], tmp_path / "d.onnx").verdicts.all()


class Chooses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if x.sum() > 0 else self.net(-x)


class Fixes(Chooses):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.reshape(len(x), 12))


class Gammas(Chooses):
    def forward(self, x: Tensor) -> Tensor:
        return torch.lgamma(self.net(x).square() + 1)


@pytest.mark.export
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Chooses, "decides by the values of its tensors.*torch.where"),
        (Fixes, r"fixes the batch size.*x.shape\[0\]"),
        (Gammas, r"needs prims\.digamma.*pt2 or aoti"),
    ],
)
def test_models_that_cannot_be_exported_are_refused(
    model: Callable[[], nn.Module], message: str, tmp_path: Path
) -> None:
    detector = fitted(model(), evidence="paper")
    with pytest.raises(ExportError, match=f"onnx: .*{message}"):
        gradgeo.export.onnx(detector, inputs(4), tmp_path / "d.onnx")
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def own_evidence() -> Iterator[None]:
    def counted(seen: object) -> Tensor:
        logits = seen.forward.logits
        return torch.tensor([[float(row.max().item())] for row in logits])

    EVIDENCE["mine"] = Evidence("mine", ("largest",), counted)
    yield
    del EVIDENCE["mine"]


@pytest.mark.export
@pytest.mark.usefixtures("own_evidence")
def test_evidence_that_reads_values_is_refused_by_name(tmp_path: Path) -> None:
    detector = fitted(network(), evidence=["csm", "mine"])
    with pytest.raises(ExportError, match=r"evidence 'mine' cannot be exported.*without it"):
        gradgeo.export.pt2(detector, inputs(4), tmp_path / "d.pt2")


@pytest.fixture(scope="module")
def simple() -> Detector:
    return fitted(network(), evidence="paper")


@pytest.mark.export
def test_arguments_are_refused_before_the_work(
    simple: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_program", None)
    path, x = tmp_path / "d.onnx", inputs(4)
    with pytest.raises(NotFittedError, match="not fitted"):
        gradgeo.export.onnx(Detector(network()), x, path)
    with pytest.raises(ArgumentError, match=r"example to be .*\(N, 3, 2, 2\)"):
        gradgeo.export.onnx(simple, x[:, :1], path)
    with pytest.raises(ArgumentError, match="at least one input, finite"):
        gradgeo.export.onnx(simple, torch.full((2, 3, 2, 2), torch.nan), path)
    with pytest.raises(ArgumentError, match=r"path to be a file ending in \.onnx"):
        gradgeo.export.onnx(simple, x, tmp_path / "d.pt2")
    with pytest.raises(ArgumentError, match="form to be one of 'onnx'"):
        export.write(simple, x, path, "torchscript")
    with pytest.raises(ExportError, match="cannot write"):
        gradgeo.export.onnx(simple, x, tmp_path / "nowhere" / "d.onnx")
    with pytest.raises(ArgumentError, match=r"float32 or float64.*\.float"):
        gradgeo.export.onnx(fitted(network().bfloat16(), evidence="paper"), x, path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"onnxscript .*'\.\[export\]'"):
        gradgeo.export.onnx(simple, x, path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ExportError, match=r"C\+\+ compiler"):
        gradgeo.export.aoti(simple, x, tmp_path / "d.pt2")
    monkeypatch.setattr(formats, "LARGEST", 10)
    monkeypatch.delitem(sys.modules, "onnxscript")
    with pytest.raises(ExportError, match=r"one ONNX file holds 2 GB\. Use the format pt2"):
        gradgeo.export.onnx(simple, x, path)
    monkeypatch.setattr(torch.export.Dim, "DYNAMIC", None)  # torch 2.6 has one that takes no bounds
    with pytest.raises(ExportError, match="too old to trace a detector"):
        gradgeo.export.pt2(simple, x, tmp_path / "d.pt2")


def test_a_file_with_other_answers_does_not_appear(
    simple: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.pt2"
    path.write_text("the old one")

    def wrong(program: None, metadata: dict[str, str], path: Path) -> Callable[[Tensor], dict[str, Tensor]]:
        path.write_text("half written")
        return lambda x: replace_in(said(simple, x), "outlier_score", torch.zeros(len(x)).double())

    monkeypatch.setattr(formats, "_program", lambda *arguments, **options: None)
    monkeypatch.setattr(formats, "WRITERS", {"pt2": wrong})
    with pytest.raises(
        ExportError, match=r"gives other answers than the detector in batches of 1.*Nothing was written"
    ):
        gradgeo.export.pt2(simple, inputs(8), path)
    assert [p.name for p in tmp_path.iterdir()] == ["d.pt2"]
    assert path.read_text() == "the old one"


@pytest.mark.parametrize(
    "change",
    [
        lambda found: replace_in(found, "logits", found["logits"] * 1.01),
        lambda found: replace_in(found, "outlier_score", found["outlier_score"].nan_to_num(0.0)),
        lambda found: replace_in(found, "outlier_score", found["outlier_score"] + 1),
    ],
    ids=["logits", "a score where there is none", "scores"],
)
def test_wrong_answers_are_seen(simple: Detector, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    with pytest.raises(ExportError, match="other answers"):
        agreement.verify_outputs(simple, lambda x: change(said(simple, x)), inputs(8, 4), "it")


def said(detector: Detector, x: Tensor) -> dict[str, Tensor]:
    """What the detector says, as an exported graph would."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GradgeoWarning)
        known = detector.judge(x)
    p = known.predictions
    return dict(zip(OUTPUTS, (known.logits, p.outlier_score, p.p_value, p.trusted), strict=True))


def replace_in(found: dict[str, Tensor], name: str, value: Tensor) -> dict[str, Tensor]:
    return {**found, name: value}


@pytest.mark.export
def test_on_the_command_line(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text("from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n")
    detector = Detector(load_model(f"{net}:net"), evidence="lite").fit(digits.split()["fit"][0][:200])
    detector.save(tmp_path / "d.gradgeo", notes={"class_names": [*"0123456789"]})
    arguments = ["export", f"{tmp_path}/d.gradgeo", "-m", f"{net}:net", "-f", "pt2", "-o"]
    ran = CliRunner().invoke(cli.app, [*arguments, f"{tmp_path}/d.pt2", "-d", "digits/test"])
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert "32 of 32" in ran.stdout
    files = {"gradgeo.json": ""}
    torch.export.load(tmp_path / "d.pt2", extra_files=files)
    assert json.loads(files["gradgeo.json"])["detector_sha256"] == detector.digest()
    ran = CliRunner().invoke(cli.app, [*arguments, f"{tmp_path}/d.gradgeo"])
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "another file than the detector" in ran.stderr
    for option, value, said in (
        ("-f", "tflite", "expected --format to be one of 'onnx', 'pt2', 'aoti', got 'tflite'"),
        ("-o", "d.zip", "expected --out to be a file ending in .pt2, got 'd.zip'"),
    ):
        ran = CliRunner().invoke(cli.app, [*arguments, "d.pt2", option, value])
        assert (ran.exit_code, ran.stdout) == (1, "")
        assert said in ran.stderr


@pytest.mark.export
@pytest.mark.data
def test_the_page_of_exported_detectors(gradgeo_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TRAINED", (("mnist", "lite"),))
    monkeypatch.setattr(exporting, "ROUNDS", 1)
    monkeypatch.setattr(exporting, "_trained", partial(exporting._trained, fit_on=exporting.FEW))
    page = exporting.run(Suite(gradgeo_data, inputs=40, only=("mnist",), most=2 * exporting.FEW + 80))
    (found,) = page.data["classifiers"].values()
    assert (found["inputs"], found["verdicts_differ"]) == (40, 0)
    assert found["logits"] < 1e-4
    assert all(ms > 0 for of in found["ms"].values() for ms in of.values())
    assert "| mnist | lite | 40 |" in "\n".join(page.blocks)

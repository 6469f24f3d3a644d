"""Detector files: what is saved comes back; damaged, foreign and hostile files are clear errors and run nothing."""

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save
from torch import nn

import gradgeo
from gradgeo import Detector, GradgeoError, GradgeoWarning
from gradgeo.classifier.fingerprint import synthetic_inputs
from gradgeo.detector.file import serialization as detector_file
from gradgeo.errors import DetectorFileError
from helpers.nets import inputs, network

X = inputs(120, shape=(12,))


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector(network(), alpha=0.1).fit(X)


@pytest.fixture
def saved(fitted: Detector, tmp_path: Path) -> Path:
    path = tmp_path / "detector.gradgeo"
    fitted.save(path, notes={"model": "digits", "size": [8, 8]})
    return path


def parts(path: Path) -> tuple[dict, dict]:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["gradgeo"][65:]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def forge(path: Path, document: object, arrays: dict) -> None:
    """A file with a right hash over wrong contents, as someone who means harm would make it."""
    text = document if isinstance(document, str) else json.dumps(document, sort_keys=True)
    path.write_bytes(save(arrays, metadata={"gradgeo": f"{detector_file._digest(text, arrays)} {text}"}))


AUTHORS = {"evidence": "paper", "rescale": True, "channel_max": True, "one_class": "loda", "classes": 3}


@pytest.mark.parametrize(
    "options", [{}, {"classes": 3}, {"classes": torch.tensor([2, 0])}, {"temperature": 1.0}, AUTHORS]
)
def test_what_is_saved_comes_back(tmp_path: Path, options: dict) -> None:
    model, x = network(), X.view(-1, 3, 2, 2)
    before = Detector(model, alpha=0.1, **options).fit(x)
    before.save(tmp_path / "d.gradgeo")
    after = Detector.load(tmp_path / "d.gradgeo", model)
    assert torch.equal(after.outlier_score(x), before.outlier_score(x))
    assert torch.equal(after.p_value(x), before.p_value(x))
    assert str(after.explain(x[:1])[0]) == str(before.explain(x[:1])[0])
    assert after.digest() == before.digest()
    assert after.alpha == 0.1
    assert repr(after) == repr(before)
    after.save(tmp_path / "e.gradgeo")
    assert (tmp_path / "e.gradgeo").read_bytes() == (tmp_path / "d.gradgeo").read_bytes()


def test_notes_and_inspection_need_no_model(saved: Path) -> None:
    told = detector_file.inspect(saved)
    assert told["notes"] == {"model": "digits", "size": [8, 8]}
    assert told["schema"] == detector_file.SCHEMA
    assert told["versions"]["gradgeo"] == gradgeo.__version__
    assert told["settings"]["alpha"] == 0.1
    assert told["fitted"]["input_shape"] == [12]
    assert Detector.load(saved, network()).notes == told["notes"]


def test_the_file_is_plain_safetensors_with_json(saved: Path) -> None:
    raw = saved.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    metadata = json.loads(raw[8 : 8 + length])["__metadata__"]
    assert set(metadata) == {"gradgeo"}
    assert b"pickle" not in raw


def test_another_model_is_refused_or_warned_of(saved: Path) -> None:
    with pytest.raises(
        DetectorFileError, match=r"Detector\.load: .* another model: its weights differ\. Fit a detector"
    ):
        Detector.load(saved, network(seed=1))
    with pytest.raises(DetectorFileError, match="same weights give other logits"):
        Detector.load(saved, Doubled(network()))
    with pytest.warns(GradgeoWarning, match="another model: its weights differ"):
        Detector.load(saved, network(seed=1), strict=False)
    Detector.load(saved, network().train())


class Doubled(nn.Sequential):
    """The same weights under the same names, and another function of them."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__(*net)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_functions_are_recognised_by_their_logits(tmp_path: Path) -> None:
    net = network()
    Detector(lambda x: net(x)).fit(X).save(tmp_path / "d.gradgeo")
    Detector.load(tmp_path / "d.gradgeo", lambda x: net(x))
    with pytest.raises(DetectorFileError, match="other logits"):
        Detector.load(tmp_path / "d.gradgeo", lambda x: net(x).flip(1))
    with pytest.raises(DetectorFileError, match="5 classes instead of 4"):
        Detector.load(tmp_path / "d.gradgeo", lambda x: network(5)(x))


def test_every_truncation_and_many_alterations_are_errors(saved: Path, tmp_path: Path) -> None:
    raw = saved.read_bytes()
    broken = tmp_path / "broken.gradgeo"
    rng = np.random.default_rng(0)
    for cut in [0, 1, 7, 8, 9, 100, *rng.integers(0, len(raw), 60), len(raw) - 1]:
        broken.write_bytes(raw[:cut])
        with pytest.raises(DetectorFileError, match=r"truncated|altered|cannot read|something else"):
            detector_file.inspect(broken)
    for at in rng.integers(0, len(raw), 300):
        altered = bytearray(raw)
        altered[at] ^= 1 << int(rng.integers(8))
        broken.write_bytes(altered)
        with pytest.raises(DetectorFileError, match=r"truncated|altered|cannot read|something else"):
            detector_file.inspect(broken)
    broken.write_bytes(raw + b"x")
    with pytest.raises(DetectorFileError, match=r"truncated|altered"):
        detector_file.inspect(broken)


def _change(document: dict, at: str, value: object) -> None:
    *path, last = at.split(".")
    for key in path:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("schema", 1),
        ("settings", []),
        ("settings.alpha", "0.1"),
        ("settings.alpha", True),
        ("settings.alpha", -1),
        ("settings.alpha", 1),
        ("settings.calibration", 0.0),
        ("settings.evidence", ["csm", 1]),
        ("settings.evidence", "unknown"),
        ("settings.classes", [[0, "a"]]),
        ("settings.extra", 1),
        ("settings.batch_size", -1),
        ("settings.rescale", 1),
        ("settings.channel_max", "yes"),
        ("settings.one_class", "upper"),
        ("settings.one_class", "loda"),
        ("settings.temperature", None),
        ("fitted.num_classes", 10**30),
        ("fitted.num_classes", 3),
        ("fitted.input_shape", [-1]),
        ("fitted.input_shape", "12"),
        ("fitted.calibration_size", 1),
        ("fitted.loss", "nll"),
        ("fitted.input_shape", [2**40]),
        ("fitted.input_shape", [2**25]),
        ("fingerprint.logits", [["a"]]),
        ("fingerprint.logits", [[1.0, 2.0], [3.0]]),
        ("fingerprint.logits", []),
        ("settings.alpha", 10**400),
        ("settings.classes", [[0, 1], [2]]),
        ("settings.evidence", ["csm", "csm"]),
        ("notes", None),
        ("versions", {"torch": 2}),
    ],
)
def test_forged_settings_are_refused(saved: Path, at: str, value: object) -> None:
    document, arrays = parts(saved)
    _change(document, at, value)
    forge(saved, document, arrays)
    with pytest.raises(GradgeoError, match=r"Detector\.load: .+"):
        Detector.load(saved, network())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("calibration", np.array([2.0, 1.0])),
        ("calibration", np.full(59, np.nan)),
        ("calibration", np.zeros(59, np.float32)),
        ("calibration", np.zeros(0)),
        ("quantiles", np.zeros(10)),
        ("quantiles", np.array([[1.0] * 10, [0.0] * 10])),
        ("precision", np.zeros((1, 10, 9))),
        ("group", np.full(4, 99)),
        ("group", np.full(4, -1)),
        ("reference_index", np.full(59, -5)),
        ("center", np.full((3, 10), np.inf)),
        ("calibration", np.full(59, 1e308)),
    ],
)
def test_forged_arrays_are_refused(saved: Path, name: str, value: np.ndarray) -> None:
    document, arrays = parts(saved)
    forge(saved, document, {**arrays, name: value})
    with pytest.raises(DetectorFileError, match="is truncated, altered, or not a detector file"):
        detector_file.inspect(saved)


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("calibration", lambda a: np.full_like(a, 1e308), "is not what its reference_scores join to"),
        (
            "calibration",
            lambda a: np.sort(np.concatenate([a[:-1], [1e308]])),
            "is not what its reference_scores join to",
        ),
        ("reference_scores", lambda a: a * 2, "is not what its reference_scores join to"),
        ("csm/precision", lambda a: -a, "precision is not positive definite"),
        ("csm/precision", lambda a: a + np.triu(np.ones_like(a), 1), "precision is not symmetric"),
        ("csm/log_volume", lambda a: a - 1e6, "log_volume is not that of precision"),
        ("mahalanobis/means", lambda a: a[:2].copy(), "means are not of the same classes"),
        ("layer_1/means", lambda a: a[:2].copy(), "means are not of the same classes"),
    ],
)
def test_numbers_that_do_not_follow_from_each_other_are_refused(
    saved: Path, name: str, change: Callable[[np.ndarray], np.ndarray], why: str
) -> None:
    document, arrays = parts(saved)
    forge(saved, document, {**arrays, name: change(arrays[name])})
    with pytest.raises(DetectorFileError, match=why):
        detector_file.inspect(saved)


def test_rounding_of_another_processor_is_no_forgery(saved: Path) -> None:
    document, arrays = parts(saved)
    forge(saved, document, {**arrays, "calibration": arrays["calibration"] * (1 + 1e-13)})
    Detector.load(saved, network())


def _fewer_classes(document: dict, arrays: dict) -> None:
    document["fitted"]["num_classes"] = 3
    for name in arrays:
        if name.endswith("/group"):
            arrays[name] = arrays[name][:3].copy()
    arrays["reference_label"] = np.minimum(arrays["reference_label"], 2)


def _narrow(document: dict, arrays: dict) -> None:
    arrays["mahalanobis/means"] = arrays["mahalanobis/means"][:, :3].copy()
    arrays["mahalanobis/whitening"] = arrays["mahalanobis/whitening"][:3, :3].copy()


def _two_medians(document: dict, arrays: dict) -> None:
    for name in ("median", "spread"):
        arrays[f"confidence/{name}"] = np.repeat(arrays[f"confidence/{name}"], 2)


def _flat(document: dict, arrays: dict) -> None:
    for name in ("quantiles", "center"):
        arrays[f"csm/{name}"] = arrays[f"csm/{name}"][:, :3].copy()
    precision = np.tile(np.eye(3), (len(arrays["csm/precision"]), 1, 1))
    arrays |= {"csm/precision": precision, "csm/log_volume": np.zeros(len(precision))}


def _fewer_names(document: dict, arrays: dict) -> None:
    arrays["reference_features"] = arrays["reference_features"][:, :2].copy()


@pytest.mark.parametrize("change", [_fewer_classes, _narrow, _two_medians, _flat, _fewer_names])
@pytest.mark.parametrize("strict", [True, False])
def test_a_file_consistent_in_itself_but_not_with_the_model_is_refused_at_load(
    saved: Path, change: Callable[[dict, dict], None], strict: bool
) -> None:
    document, arrays = parts(saved)
    change(document, arrays)
    forge(saved, document, arrays)
    detector_file.inspect(saved)
    with pytest.raises(DetectorFileError, match=r"does not fit this model|3 classes|4 classes instead of 3"):
        Detector.load(saved, network(), strict=strict)


def test_the_expected_hash(saved: Path, fitted: Detector) -> None:
    right = hashlib.sha256(saved.read_bytes()).hexdigest()
    Detector.load(saved, network(), sha256=right.upper())
    Detector.load(detector_file.read(saved), network(), sha256=right)
    facts = detector_file.inspect(saved, sha256=right)
    scores = fitted.calibration_scores_
    assert (facts["sha256"], facts["digest"]) == (right, fitted.digest())
    assert facts["calibration_scores"] == {"least": scores[0], "median": np.median(scores), "largest": scores[-1]}
    with pytest.raises(
        DetectorFileError, match=rf"Detector\.load: .* is not the expected file: its SHA-256 is {right}"
    ):
        Detector.load(saved, network(), sha256="0" * 64)
    with pytest.raises(DetectorFileError, match="is not the expected file"):
        detector_file.inspect(saved, sha256="0" * 64)
    with pytest.raises(GradgeoError, match="expected sha256 to be 64 hexadecimal digits, got 'abc'"):
        Detector.load(saved, network(), sha256="abc")


def test_a_file_that_is_cut_short_after_it_was_read_does_no_harm(saved: Path) -> None:
    contents = detector_file.read(saved)
    os.truncate(saved, 0)  # of a mapped file the next access would end the process
    Detector.load(contents, network()).predict(X[:2])


def test_probes_of_the_largest_input_are_made_in_parts_and_as_ever() -> None:
    n = 3 * (1 << 16) + 5
    t = torch.arange(n, dtype=torch.float64)
    whole = (0.5 + 0.5 * torch.stack([torch.cos(0.37 * t), torch.cos(0.011 * t + 1)])).float()
    assert torch.equal(synthetic_inputs((n,)), whole)


def test_hostile_json(saved: Path) -> None:
    _, arrays = parts(saved)
    for text in ("[" * 100_000, '{"schema": NaN}', "null", '"' + "x" * 10**6, '{"schema": 1}', "{}"):
        forge(saved, text, arrays)
        with pytest.raises(DetectorFileError, match=r"truncated, altered, or not"):
            detector_file.inspect(saved)


def test_oversized_header_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.gradgeo"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(DetectorFileError, match="truncated, altered"):
        detector_file.inspect(path)
    with path.open("wb") as file:
        file.truncate(detector_file.LARGEST + 1)  # sparse: takes no disk
    with pytest.raises(DetectorFileError, match=r"has \d+ bytes; a detector file has at most"):
        detector_file.inspect(path)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"x": Bomb()}, tmp_path / "detector.gradgeo")
    with pytest.raises(DetectorFileError, match="truncated, altered, or not a detector file"):
        Detector.load(tmp_path / "detector.gradgeo", network())
    assert not (tmp_path / "executed").exists()


def test_other_safetensors_missing_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(save({"weight": np.zeros(3)}))
    with pytest.raises(DetectorFileError, match="holds something else than a detector"):
        detector_file.inspect(tmp_path / "model.safetensors")
    with pytest.raises(DetectorFileError, match=r"cannot read .*absent: No such file"):
        detector_file.inspect(tmp_path / "absent")
    with pytest.raises(DetectorFileError, match="is not a regular file"):
        detector_file.inspect(tmp_path)


def test_a_failed_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    detector = Detector(network()).fit(X)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DetectorFileError, match=r"cannot write .*: No space left on device"):
        detector.save(saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    monkeypatch.undo()
    with pytest.raises(DetectorFileError, match=r"Detector\.save: cannot write .*No such file"):
        detector.save(saved.parent / "absent" / "d.gradgeo")
    with pytest.raises(DetectorFileError, match="expected notes to be something JSON can hold"):
        detector.save(saved, notes={"x": object()})


def test_the_layout_is_pinned(saved: Path) -> None:
    """A change here makes old files unreadable: raise the schema and keep reading the old one."""
    document, arrays = parts(saved)
    layout = [*sorted(document), *sorted(document["settings"]), *sorted(document["fitted"])]
    layout += [f"{name} {a.dtype} {a.ndim}" for name, a in sorted(arrays.items())]
    assert hashlib.sha256("\n".join(layout).encode()).hexdigest()[:16] == "3716db624bc9fced"


def numbers(*shape: int, seed: int) -> torch.Tensor:
    """The same on every processor, as no random and no rounded numbers are."""
    count = torch.Size(shape).numel()
    return (((torch.arange(count) + seed) * 7919) % 1009).double().view(shape) / 504 - 1


def test_a_file_of_schema_2_stays_readable_and_is_written_as_it_was(tmp_path: Path) -> None:
    """files/schema2.gradgeo was written before the modules moved, of inputs numbers(80, 6, seed=7)."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            weight.copy_(numbers(*weight.shape, seed=100 * i))
    old = Path(__file__).parent / "files" / "schema2.gradgeo"
    detector = Detector.load(old, model)
    assert detector.evidence_ == ("confidence", "neighbours", "csm", "residual", "stability")
    assert (detector.classes_.tolist(), detector.fit_size_, detector.calibration_size_) == ([0, 2], 41, 39)
    found = detector.predict(numbers(6, 6, seed=3))  # whose scores are no calibration input's, to within rounding
    scores = [5.6855635108, 1.2486875812, 1.1425505009, 0.3019146965, 0.2637223674, 0.7929764891]
    assert found.outlier_score.tolist() == pytest.approx(scores, rel=1e-6)
    assert found.p_value.tolist() == [0.3, 0.625, 0.775, 0.9, 0.95, 0.8]
    detector.save(tmp_path / "new.gradgeo")
    (before, arrays), (after, again) = parts(old), parts(tmp_path / "new.gradgeo")
    for document in (before, after):
        del document["versions"], document["fingerprint"]["logits"]  # of another installation, another processor
    assert before == after
    assert arrays.keys() == again.keys()
    assert all(np.array_equal(arrays[name], again[name]) and arrays[name].dtype == again[name].dtype for name in arrays)

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import warnings
from dataclasses import fields
from io import StringIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from typer.main import get_command

import gradgeo
from gradgeo import cli
from gradgeo.cli.console import warnings_as_lines
from gradgeo.cli.option_groups import AskedOptions, PreparationOptions
from gradgeo.data import Preprocess, digits
from gradgeo.data.models import load_model
from gradgeo.detector.fit.progress import Lines, duration, progress, rate
from gradgeo.errors import GradgeoWarning, warn
from gradgeo.scoring.schema import PREVIEW_COLUMNS
from helpers.commands import NET, run


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, net.py:net, and its detector, d.gradgeo, fitted by the command line."""
    room = tmp_path_factory.mktemp("room")
    (room / "net.py").write_text(NET)
    code, out, err = run(
        "fit", "-m", f"{room}/net.py:net", "-d", "digits/fit", "-o", room / "d.gradgeo", "--limit", 300
    )
    assert (code, err) == (0, "")
    (room / "said.txt").write_text(out)
    return room


@pytest.fixture
def model(room: Path) -> str:
    return f"{room}/net.py:net"


@pytest.mark.journey
def test_help_of_every_command_shows_an_example() -> None:
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert {"demo", "fit", "score", "explain", "info"} <= set(names)
    for name in names:
        code, out, _ = run(name, "--help")
        assert code == 0
        assert f"Example: gradgeo {name}" in out


def test_commands_have_the_options_of_a_group_in_common() -> None:
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    asked = {"score", "check", "recalibrate", "explain", "certify"}
    for group, names in ((AskedOptions, asked), (PreparationOptions, {"fit", "path", "bench", *asked})):
        for name in names:
            options = {option.name: option for option in commands[name].params}
            for field in fields(group):
                assert options[field.name].default == field.default, (name, field.name)


def test_version() -> None:
    assert run("--version") == (0, f"gradgeo {gradgeo.__version__}\n", "")


def test_demo_runs_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    demo, called = ModuleType("gradgeo.demo"), []
    demo.run = called.append
    monkeypatch.setitem(sys.modules, "gradgeo.demo", demo)
    assert run("demo", "--out", tmp_path)[0] == 0
    assert called == [tmp_path]


# Each command


@pytest.mark.witness
@pytest.mark.journey
def test_fit_score_explain_info(room: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    code, text, err = run("score", room / "d.gradgeo", "-m", model, "-d", "digits/test", "-o", out)
    assert (code, err) == (0, "")
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 397
    trusted = sum(row["trusted"] for row in rows)
    assert f"({trusted} of 397)" in text
    correct = sum(row["label"] == row["true_label"] for row in rows)
    assert f"({correct} of 397)" in text

    explain = ("explain", room / "d.gradgeo", "-m", model, "-d", "digits/test", "-i", 7, "-i", 20)
    code, text, err = run(*explain, "--json")
    assert (code, err) == (0, "")
    told = json.loads(text)
    assert [entry["index"] for entry in told] == [7, 20]
    for entry in told:
        assert entry["p_value"] == pytest.approx(rows[entry["index"]]["p_value"])
        assert entry["true_label"] == rows[entry["index"]]["true_label"]
        assert len(entry["csm"]) == 10
    code, text, _ = run(*explain)
    assert code == 0
    assert "20 (index 20)\nclass " in text
    assert "mirrored" in text

    code, text, _ = run("info", room / "d.gradgeo", "--json")
    facts = json.loads(text)
    assert facts["notes"]["model"] == model
    assert facts["notes"]["preprocess"] == Preprocess().as_dict()
    assert facts["fitted"]["input_shape"] == [1, 8, 8]
    code, text, _ = run("info", room / "d.gradgeo")
    assert code == 0
    assert f"  model        {model}"[:80] in text
    assert max(map(len, text.splitlines())) < 120


def test_fit_says_what_it_saw_and_what_to_expect(room: Path) -> None:
    said = (room / "said.txt").read_text()
    for line in (
        r"inputs    300 images of 1 x 8 x 8, values 0 to 1, not normalised",
        r"classes   0 = 0, 1 = 1, 2 = 2, 3 = 3, 4 = 4, 5 = 5 and 4 more",
        r"right     \d\d\.\d% \(\d+ of 300\) of the labels; .*",
        r"left out  \d+ misclassified",
        r"time      (less than 1 ms|\S+ m?s) an input, about .* in all",
        r"false alarms +5.0 % expected, at most .*",
        r"mistakes flagged +\d+% \(\d+ of \d+; \d+% to \d+% of such\)",
        r"took +.*",
        r"written to +.*",
    ):
        assert re.search(f"^{line}$", said, re.MULTILINE), line
    record = gradgeo.detector.file.serialization.inspect(room / "d.gradgeo")["notes"]["record"]
    assert record["labelled"] == 300
    assert record["mistakes"]["judged"] == min(64, 300 - record["right"])


@pytest.mark.journey
def test_less_accuracy_than_expected_is_a_warning(model: str, tmp_path: Path) -> None:
    fit = ("fit", "-m", model, "-d", "digits/fit", "-o", tmp_path / "d.gradgeo", "--limit", 300, "--evidence", "csm")
    code, _, err = run(*fit, "--expect-accuracy", "99.9%")
    assert code == 0
    assert re.fullmatch(
        r"gradgeo: warning: \S+% of the labels are right, where 99.9% were expected: .*not normalised\.\n", err
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six digits in files of as many modes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    for number, (x, mode) in enumerate(
        zip(digits.split()["test"][0], ("L", "RGB", "RGBA", "P", "LA", "RGB"), strict=False)
    ):
        Image.fromarray((x[0] * 255).round().byte().numpy()).convert(mode).save(folder / f"{number}-{mode}.png")
    return folder


@pytest.mark.journey
def test_colours_are_brought_to_the_detectors_channels_and_items_have_names(
    room: Path, model: str, pictures: Path, tmp_path: Path
) -> None:
    names = [f"class {c}" for c in "abcdefghij"]
    detector = gradgeo.Detector.load(room / "d.gradgeo", load_model(model))
    detector.save(tmp_path / "d.gradgeo", notes=detector.notes | {"class_names": names})
    out = tmp_path / "v.parquet"
    code, text, err = run("score", tmp_path / "d.gradgeo", "-m", model, "-d", pictures, "-o", out)
    assert code == 0
    note = (
        "4 of 6 images are in colours in their files and were made grey, by the usual weights of red, green and blue."
    )
    assert err == f"gradgeo: warning: {note}\n"
    rows = pq.read_table(out).to_pylist()
    assert [row["label_name"] for row in rows] == [names[row["label"]] for row in rows]
    expected = detector.predict(digits.split()["test"][0][:6])
    assert [row["label"] for row in rows] == expected.label.tolist()
    assert [row["p_value"] for row in rows] == pytest.approx(expected.p_value.tolist(), abs=0.05)  # 8 bits
    flagged = [row["name"] for row in rows if not row["trusted"]]
    assert f"next  gradgeo report {out} --out {tmp_path / 'v.html'}\n" in text
    assert not flagged or text.endswith(f"--data {pictures} --index {flagged[0]}\n")

    code, text, _ = run("explain", tmp_path / "d.gradgeo", "-m", model, "-d", pictures, "-i", "3-P.png")
    assert code == 0
    assert text.startswith(f"3-P.png (index 3)\nclass {names[rows[3]['label']]} ({rows[3]['label']}) (probability")
    for index, message in (("3-p.png", "Did you mean 3-P.png"), ("9", "expected index to be within 0..5, got 9")):
        code, _, err = run("explain", tmp_path / "d.gradgeo", "-m", model, "-d", pictures, "-i", index)
        assert code == 1
        assert message in err


def test_names_are_whole_or_their_last_part() -> None:
    from gradgeo.cli.options import position_of

    names = ["a/1.png", "b/1.png", "b/2.png", "3.png"]
    assert [position_of(names, each) for each in ("b/1.png", "2.png", "3.png")] == [1, 2, 3]
    with pytest.raises(gradgeo.GradgeoError, match=r"the name of one item, got '1.png'. Say which: a/1.png, b/1.png"):
        position_of(names, "1.png")
    with pytest.raises(gradgeo.GradgeoError, match="a position or a name in the data, got 'zzz'"):
        position_of(names, "zzz")


def test_explain_takes_the_first_few(room: Path, model: str) -> None:
    _, text, _ = run(
        "explain", room / "d.gradgeo", "-m", model, "-d", "digits/test", "--start", 5, "--limit", 2, "--json"
    )
    assert [entry["index"] for entry in json.loads(text)] == [5, 6]


def test_options_of_fit_reach_the_detector(room: Path, model: str, tmp_path: Path) -> None:
    code, _, err = run(
        *("fit", "-m", model, "-d", "digits", "-o", tmp_path / "d.gradgeo", "--start", 700, "--limit", 300),
        *("--alpha", 0.1, "--evidence", "csm", "--classes", 4, "--loss", "logit", "--seed", 3),
        *("--calibration", 0.4, "--batch-size", 32, "--workers", 2, "--mean", 0.1, "--std", "0.9"),
        *("--temperature", 2.5, "--rescale", "--channel-max", "--one-class", "loda"),
    )
    assert (code, err) == (0, "")
    facts = gradgeo.detector.file.serialization.inspect(tmp_path / "d.gradgeo")
    settings = {"alpha": 0.1, "evidence": ["csm"], "classes": 4, "loss": "logit", "seed": 3, "calibration": 0.4}
    settings |= {"temperature": 2.5, "rescale": True, "channel_max": True, "one_class": "loda"}
    assert {name: facts["settings"][name] for name in settings} == settings
    assert facts["notes"]["preprocess"] == Preprocess(mean=(0.1,), std=(0.9,)).as_dict()


@pytest.mark.journey
def test_preprocessing_of_fit_is_used_again_unless_overridden(model: str, tmp_path: Path) -> None:
    x = np.repeat(np.random.RandomState(0).randint(0, 255, (60, 8, 10, 1), np.uint8), 3, 3)
    np.savez(tmp_path / "rgb.npz", x=x)
    np.savez(tmp_path / "grey.npz", x=x[:, :, 1:9, 0])
    fit = ("fit", "-m", model, "-d", tmp_path / "rgb.npz", "-o", tmp_path / "d.gradgeo")
    code, _, err = run(*fit, "--size", "8x8", "--channels", 1)
    assert (code, err) == (0, "")
    verdicts = {}
    for name in ("rgb", "grey"):
        out = tmp_path / f"{name}.parquet"
        code, _, err = run("score", tmp_path / "d.gradgeo", "-m", model, "-d", tmp_path / f"{name}.npz", "-o", out)
        assert (code, err) == (0, "")
        verdicts[name] = pq.read_table(out)["p_value"].to_pylist()
    assert verdicts["rgb"] == pytest.approx(verdicts["grey"], abs=0.1)
    code, _, err = run(
        *("score", tmp_path / "d.gradgeo", "-m", model, "-d", tmp_path / "rgb.npz", "-o", tmp_path / "o.csv"),
        *("--size", "4"),
    )
    assert code == 1
    assert "none of the 60 inputs can be judged; the first: 0: expected shape (1, 8, 8), got (1, 4, 4)" in err


@pytest.mark.zoo
def test_a_zoo_model_sees_what_it_was_trained_on_unless_something_is_declared(
    monkeypatch: pytest.MonkeyPatch, model: str, tmp_path: Path
) -> None:
    own = {"resize": 9, "crop": [8, 8], "channels": 1, "mean": [0.1], "std": [0.9], "interpolation": "bicubic"}
    monkeypatch.setattr("gradgeo.data.models.pretrained_preprocessing", lambda spec: own)
    fit = ("fit", "-m", model, "-d", "digits/fit", "-o", tmp_path / "d.gradgeo", "--limit", 300, "--evidence", "csm")
    code, text, err = run(*fit)
    assert (code, err) == (0, "")
    assert "  crop           [8, 8]" in text
    inspect = gradgeo.detector.file.serialization.inspect
    assert Preprocess.from_dict(inspect(tmp_path / "d.gradgeo")["notes"]["preprocess"]) == Preprocess.from_dict(own)
    code, _, err = run(*fit, "--resize", 10, "--crop", "8", "--interpolation", "bilinear", "--order", "rgb")
    assert (code, err) == (0, "")
    preprocess = Preprocess(resize=10, crop=(8, 8))
    assert inspect(tmp_path / "d.gradgeo")["notes"]["preprocess"] == preprocess.as_dict()
    code, _, err = run("explain", tmp_path / "d.gradgeo", "-m", model, "-d", "digits/test", "--size", 8)
    assert (code, err) == (0, "")  # --size takes the place of --resize and --crop


@pytest.mark.journey
def test_score_into_a_folder_goes_on_and_says_so(room: Path, model: str, tmp_path: Path) -> None:
    score = ("score", room / "d.gradgeo", "-m", model, "-d", "digits/test", "-o", tmp_path / "v", "--part-size", 100)
    code, text, err = run(*score)
    assert (code, err) == (0, "")
    assert "time in the model" in text
    assert "already done" not in text
    assert len(pq.read_table(tmp_path / "v")) == 397
    code, text, err = run(*score)
    assert (code, err) == (0, "")
    assert "already done             397" in text
    code, _, err = run(*score, "--limit", 50)
    assert code == 1
    assert "with another limit. Pass restart=True (--restart) to begin anew, or another out." in err
    code, text, err = run(*score, "--limit", 50, "--restart")
    assert (code, err) == (0, "")
    assert len(pq.read_table(tmp_path / "v")) == 50
    code, _, err = run(*score, "--engine", "abacus")
    assert code == 2
    assert "--engine is local or ray, got abacus" in " ".join(err.replace("│", " ").split())


@pytest.mark.journey
def test_streams_and_times(room: Path, model: str, tmp_path: Path) -> None:
    members = [(f"{i}.npy", np.random.RandomState(i).rand(1, 8, 8)) for i in range(20)]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, x in members:
            np.save(tmp_path / name, x)
            tar.add(tmp_path / name, name)
            (tmp_path / name.replace("npy", "json")).write_text(json.dumps({"taken": 5}))
            tar.add(tmp_path / name.replace("npy", "json"), name.replace("npy", "json"))
    arguments = (room / "d.gradgeo", "-m", model, "-d", tmp_path / "a.tar")
    code, text, err = run("score", *arguments, "-o", tmp_path / "v.parquet", "--time", "taken", "--start", 3)
    assert (code, err) == (0, "")
    rows = pq.read_table(tmp_path / "v.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(3, 20))
    assert {row["time"] for row in rows} == {5.0}
    code, text, err = run("explain", *arguments, "-i", 7, "--json")
    assert (code, err) == (0, "")
    assert json.loads(text)[0]["p_value"] == pytest.approx(rows[4]["p_value"])
    code, text, err = run("explain", *arguments, "-i", 20)
    assert (code, text) == (1, "")
    assert "expected index to be one that the data has, got 20" in err
    code, _, err = run("fit", "-m", model, "-d", tmp_path / "a.tar", "-o", tmp_path / "d.gradgeo", "--evidence", "csm")
    assert code == 1
    assert "trusted inputs" in err
    code, _, err = run("score", *arguments, "-o", tmp_path / "w.parquet", "--stream")
    assert code == 1
    assert "expected streaming to be False for data other than hf:" in err


BEATS = """
import torch
from torch import nn

net = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
with torch.no_grad():  # the nearest of the means 1, 2, 3
    net[1].weight.copy_(torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 6))
    net[1].bias.copy_(-3 * torch.tensor([1.0, 4.0, 9.0]))
"""


@pytest.mark.journey
def test_ucr_by_name(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    (tmp_path / "Beats").mkdir()
    for part in ("TRAIN", "TEST"):
        lines = ["\t".join(map(str, [label, *random.randn(6) / 2 + label])) for label in (1, 2, 3) * 30]
        (tmp_path / "Beats" / f"Beats_{part}.tsv").write_text("\n".join(lines))
    (tmp_path / "net.py").write_text(BEATS)
    code, _, err = run(
        *("fit", "-m", f"{tmp_path}/net.py:net", "-d", "ucr:Beats/test", "--data-root", tmp_path),
        *("-o", tmp_path / "d.gradgeo", "--loss", "mse"),
    )
    assert (code, err) == (0, "")
    assert gradgeo.detector.file.serialization.inspect(tmp_path / "d.gradgeo")["notes"]["class_names"] == [
        "1",
        "2",
        "3",
    ]


# The model that a detector file names


def test_code_that_a_detector_file_names_is_never_run(room: Path, model: str, tmp_path: Path) -> None:
    for name in ("score", "explain"):
        out = ("-o", tmp_path / "o.csv") if name == "score" else ()
        code, _, err = run(name, room / "d.gradgeo", "-d", "digits/test", *out)
        assert code == 1
        assert err == f"gradgeo: error: pass --model; the detector was fitted with {model}\n"


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"model": "os:abort"}, "pass --model; the detector was fitted with os:abort"),
        ({"model": "timm:../net.py:net"}, "expected model to be a classifier in timm"),
        ({"model": ["digits"]}, "pass --model; the detector was fitted with ['digits']"),
        ({}, "pass --model; the detector was fitted with None"),
        ({"model": "digits", "weights": "w\x1b[2J"}, "pass --weights; the detector was fitted with w\\x1b[2J"),
        ({"model": "digits", "preprocess": {"size": [10**9, 1]}}, "expected size to be a height and a width"),
        ({"model": "digits", "preprocess": "rm"}, "expected preprocess to be a mapping"),
    ],
)
def test_notes_of_a_hostile_file(room: Path, model: str, tmp_path: Path, notes: dict, message: str) -> None:
    detector = gradgeo.Detector.load(room / "d.gradgeo", load_model(model))
    detector.save(tmp_path / "d.gradgeo", notes=notes)
    code, _, err = run("explain", tmp_path / "d.gradgeo", "-d", "digits/test")
    assert code == 1
    assert message in err
    assert "\x1b" not in err


@pytest.mark.journey
def test_the_model_of_the_digits_needs_no_naming(tmp_path: Path) -> None:
    assert run("fit", "-m", "digits", "-d", "digits/fit", "-o", tmp_path / "d.gradgeo", "--limit", 200)[0] == 0
    assert run("explain", tmp_path / "d.gradgeo", "-d", "digits/test")[0] == 0


def test_another_model_is_refused(room: Path, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n")
    code, _, err = run(
        "score", room / "d.gradgeo", "-m", f"{tmp_path}/other.py:net", "-d", "digits/test", "-o", tmp_path / "o.csv"
    )
    assert code == 1
    assert err.startswith("gradgeo: error: ")
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.journey
def test_weights(room: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n")
    save_file(load_model(model).state_dict(), tmp_path / "w.safetensors")
    arguments = ("-m", f"{tmp_path}/bare.py:net", "--weights", tmp_path / "w.safetensors", "-d", "digits/test")
    code, _, err = run("score", room / "d.gradgeo", *arguments, "-o", tmp_path / "o.csv")
    assert (code, err) == (0, "")
    torch.save({}, tmp_path / "w.pt")
    code, _, err = run("fit", "-m", model, "--weights", tmp_path / "w.pt", "-d", "digits", "-o", tmp_path / "d.gradgeo")
    assert code == 1
    assert "pickles, which execute code" in err


# Where things go wrong


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "{tmp}/nowhere/d.gradgeo"], 1, "error: cannot write {tmp}/nowhere/d.gradgeo: No such file"),
        (["--data", "{tmp}/a.parquet"], 1, "error: {tmp}/a.parquet cannot be read as Parquet"),
        (["--data", "{tmp}/a.npz"], 1, "error: {tmp}/a.npz holds Python objects, which are pickles"),
        (["--data", "{tmp}/empty"], 1, "error: no images in {tmp}/empty"),
        (["--data", "nowhere"], 1, "error: nowhere is not here"),
        (["--model", "resnet18"], 1, "error: expected model to be file.py:function"),
        (["--start", "5000"], 1, "expected start to be below the number of items in digits/fit, 700, got 5000"),
        (["--alpha", "2"], 1, "error: expected alpha to be a number between 0 and 1"),
        (["--evidence", "tea"], 1, "expected evidence to be one of 'confidence'"),
        (["--limit", "30"], 1, "error: expected at least 51 trusted inputs"),
        (["--device", "abacus"], 1, "expected device to be one that this machine has, got 'abacus'"),
        (["--size", "4"], 1, "error: the model failed on inputs of shape (N, 1, 4, 4)"),
        (["--temperature", "hot"], 2, "--temperature has something that is not a number: hot"),
        (["--one-class", "svm"], 1, "error: expected one_class to be one of 'copula', 'loda'"),
        (["--size", "big"], 2, "--size has something that is not a number: big"),
        (["--alpha", "much"], 2, "Invalid value for '--alpha'"),
        (["--flag"], 2, "No such option"),
    ],
)
def test_a_failure_is_one_line(model: str, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.parquet").write_bytes(b"PK not parquet")
    np.savez(tmp_path / "a.npz", x=np.array([{}, {}]))
    out = tmp_path / "d.gradgeo"
    found, text, err = run(
        *("fit", "-m", model, "-d", "digits/fit", "-o", out),
        *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments),
    )
    assert found == code
    assert text == "" or "--limit" in arguments  # what it saw of the data comes first
    message = message.replace("{tmp}", str(tmp_path))
    if code == 1:
        assert message in err
        assert err.count("\n") == 1
        assert err.startswith("gradgeo: error: ")
    else:
        assert message in " ".join(err.replace("│", " ").split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.parquet", "empty"]


def test_score_reads_the_detector_once(room: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradgeo.detector.file import serialization

    opened: list[Path] = []

    def counting(path: Path) -> bytes:
        opened.append(path)
        return read(path)

    read = serialization._bytes
    monkeypatch.setattr(serialization, "_bytes", counting)
    code, out, _ = run(
        "score", room / "d.gradgeo", "-m", model, "-d", "digits/test", "--limit", 8, "-o", tmp_path / "v.csv"
    )
    assert (code, len(opened)) == (0, 1)
    assert re.search(r"shift alarm +none in 8 inputs: .*, an alarm takes 1,000 to 1", out)


def test_out_is_checked_before_the_model_is_built(room: Path, tmp_path: Path) -> None:
    code, _, err = run(
        "score", room / "d.gradgeo", "-m", "nowhere.py:net", "-d", "nowhere", "-o", tmp_path / "nowhere" / "o.csv"
    )
    assert code == 1
    assert "cannot write" in err


def test_the_data_is_never_overwritten(room: Path, model: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((60, 1, 8, 8)))
    before = (tmp_path / "a.npz").read_bytes()
    code, _, err = run("fit", "-m", model, "-d", tmp_path / "a.npz", "-o", tmp_path / "a.npz")
    assert code == 1
    assert "expected out to be another file than the data" in err
    assert (tmp_path / "a.npz").read_bytes() == before


def test_not_a_detector(tmp_path: Path) -> None:
    (tmp_path / "d.gradgeo").write_bytes(b"junk")
    for name in ("d.gradgeo", "nowhere.gradgeo"):
        code, text, err = run("info", tmp_path / name)
        assert (code, text) == (1, "")
        assert err.startswith("gradgeo: error: ")
        assert err.count("\n") == 1


@pytest.mark.journey
def test_data_without_labels_and_with_bad_items(model: str, tmp_path: Path) -> None:
    x = np.random.RandomState(0).rand(60, 1, 8, 8)
    rows = [row.tolist() for row in x]
    rows[3] = None
    rows[5] = [[[1.0, 2.0]]]
    pq.write_table(pa.table({"x": rows}), tmp_path / "a.parquet")
    code, text, err = run("fit", "-m", model, "-d", tmp_path / "a.parquet", "-o", tmp_path / "d.gradgeo")
    assert code == 0
    assert "left out, unusable       2" in text
    assert err == (
        "gradgeo: warning: 2 of 60 items cannot be read and were left out; "
        "the first: 3: no data in the row (a file that its path names is not read)\n"
    )
    code, text, err = run(
        "score", tmp_path / "d.gradgeo", "-m", model, "-d", tmp_path / "a.parquet", "-o", tmp_path / "o.csv"
    )
    assert code == 0
    assert "accuracy" not in text
    assert err.startswith("gradgeo: warning: 2 of 60 inputs have no verdict; ")
    code, text, err = run(
        "explain", tmp_path / "d.gradgeo", "-m", model, "-d", tmp_path / "a.parquet", "-i", 3, "-i", 4, "--json"
    )
    assert code == 0
    assert [entry["error"] is None for entry in json.loads(text)] == [False, True]
    assert "3 (index 3) cannot be judged" in err
    code, text, err = run("explain", tmp_path / "d.gradgeo", "-m", model, "-d", tmp_path / "a.parquet", "-i", 60)
    assert (code, text) == (1, "")
    assert "expected index to be within 0..59, got 60" in err


def test_interrupt(monkeypatch: pytest.MonkeyPatch, room: Path) -> None:
    def interrupted(path: Path, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradgeo.detector.file.serialization.inspect", interrupted)
    assert run("info", room / "d.gradgeo") == (130, "", "gradgeo: interrupted\n")


def test_unforeseen_failures(monkeypatch: pytest.MonkeyPatch, room: Path) -> None:
    monkeypatch.setattr("gradgeo.detector.file.serialization.inspect", lambda path, **options: 1 / 0)
    code, _, err = run("info", room / "d.gradgeo")
    assert (code, err) == (1, "gradgeo: error: ZeroDivisionError: division by zero (--debug says where)\n")
    code, _, err = run("--debug", "info", room / "d.gradgeo")
    assert code == 1
    assert "Traceback" in err


def test_only_our_warnings_become_lines(monkeypatch: pytest.MonkeyPatch, room: Path) -> None:
    def warning(path: Path, **options: object) -> dict:
        warnings.warn("two\nlines", GradgeoWarning, stacklevel=1)
        return {"a": 1}

    monkeypatch.setattr("gradgeo.detector.file.serialization.inspect", warning)
    assert run("info", room / "d.gradgeo") == (0, "a  1\n", "gradgeo: warning: two\\nlines\n")


def test_the_bar_shows_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for terminal in (True, False):
        stream = StringIO()
        monkeypatch.setattr(
            "rich.console.Console", lambda stderr: Console(file=stream, force_terminal=terminal, width=100)  # noqa: B023
        )  # fmt: skip
        with progress("scoring", 10) as advance:
            advance(4)
            advance(4)
        assert bool(stream.getvalue()) == terminal
    assert capsys.readouterr().err == ""  # it took no time
    assert (rate(12.3), rate(0.5)) == ("12/s", "2.0 s each")
    monkeypatch.setattr("gradgeo.detector.fit.progress.SILENT", 10.0)
    times = iter([0, 1, 20, 25, 60])
    lines = Lines("measuring", 100, clock=lambda: next(times))
    for done in (10, 10, 10, 30):
        lines(done)
    assert capsys.readouterr().err == (
        "gradgeo: measuring: 20 of 100, about 1 min 20 s left\ngradgeo: measuring: 60 of 100, about 40 s left\n"
    )
    assert duration(1e-5) == "less than 1 ms"
    assert duration(3600 * 72) == "3 days"


@pytest.mark.process
def test_a_reader_that_goes_away(room: Path) -> None:
    """`gradgeo info d.gradgeo | head -0`, with --debug at the end."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from gradgeo.cli import main; main()", "info", str(room / "d.gradgeo"), "--debug"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.process
def test_asked_to_end_it_removes_what_is_half_written(room: Path, model: str, tmp_path: Path) -> None:
    code = (
        "import os, signal, gradgeo.cli as cli\n"
        "def end(*args, **options): os.kill(os.getpid(), signal.SIGTERM)\n"
        "import gradgeo.scoring.verdicts as verdicts; verdicts.BatchScorer.add = end\n"
        "cli.main()"
    )
    out = tmp_path / "v.csv"
    command = [sys.executable, "-c", code, "score", str(room / "d.gradgeo"), "-m", model, "-d", "digits/test"]
    done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + 15, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "gradgeo", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"gradgeo {gradgeo.__version__}\n"


def test_info_shows_what_tells_a_file_from_another(room: Path, tmp_path: Path) -> None:
    file = room / "d.gradgeo"
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    code, out, _ = run("info", file, "--sha256", right)
    assert code == 0
    assert re.search(rf"sha256 +{right}\ndigest +[0-9a-f]{{64}}\n", out)
    assert re.search(r"calibration_scores\n +least +\S+\n +median +\S+\n +largest +\S+\n", out)
    for command in (
        ("info", file),
        ("score", file, "-d", "digits/test", "-o", tmp_path / "v.csv"),
        ("explain", file, "-d", "digits/test"),
        ("export", file, "-o", tmp_path / "d.onnx"),
        ("serve", file),
    ):
        code, out, err = run(*command, "--sha256", "0" * 64)
        assert (code, out) == (1, ""), command
        assert "is not the expected file" in err


def test_a_card_says_what_the_file_does(room: Path) -> None:
    code, text, err = run("card", room / "d.gradgeo")
    assert (code, err) == (0, "")
    assert text.startswith("---\nlibrary_name: gradgeo\n")
    code, facts, _ = run("info", room / "d.gradgeo", "--json")
    facts = json.loads(facts)
    for stated in (facts["sha256"], facts["digest"], facts["notes"]["record"]["data"]["sha256"]):
        assert stated in text
    whole = facts["false_alarms"]["all"]["all"]
    assert f"flags at most {100 * whole['at_most']:.2f} %, with 95 % confidence" in text
    assert sum(facts["notes"]["record"]["data"]["labels"].values()) == facts["notes"]["record"]["data"]["items"]


def test_a_card_has_the_robustness_that_bench_measured(room: Path, tmp_path: Path) -> None:
    run_ = {
        "made": {"command": "gradgeo bench", "date": "2026-11-29"}, "model": {"name": "net"},
        "columns": {"noise": {"count": 100}, "none": {"count": 0}},
        "cells": {"gradgeo": {"noise": {"auroc": [0.97, 0.95, 0.98], "tnr95": [0.8, 0.7, 0.9]}}},
    }  # fmt: skip
    (tmp_path / "b.json").write_text(json.dumps([run_]))
    code, text, err = run("card", room / "d.gradgeo", "--bench", tmp_path / "b.json")
    assert (code, err) == (0, "")
    assert "| noise | 100 | 97.0 \\[95.0, 98.0\\] | 80.0 \\[70.0, 90.0\\] |" in text
    for wrong in ("{", "[]", '[{"columns": 3}]'):
        (tmp_path / "b.json").write_text(wrong)
        code, _, err = run("card", room / "d.gradgeo", "--bench", tmp_path / "b.json")
        assert code == 1
        assert "is not what bench wrote of one model" in err


def test_a_fit_from_python_is_recorded_as_one_of_the_command_line(room: Path, tmp_path: Path) -> None:
    from gradgeo.data import ReadableItems, open_source
    from gradgeo.detector.file import serialization

    items = ReadableItems(open_source("digits/fit", limit=60))
    model = load_model(f"{room}/net.py:net")
    detector = gradgeo.Detector(model, evidence=["confidence"], alpha=0.2).fit(items.loader())
    detector.save(tmp_path / "p.gradgeo")
    facts = serialization.inspect(tmp_path / "p.gradgeo")
    assert facts["fitted"]["record"]["data"]["sha256"] == items.sha256
    assert sum(facts["fitted"]["record"]["data"]["labels"].values()) == facts["fitted"]["record"]["data"]["items"] == 60
    _, text, _ = run("card", tmp_path / "p.gradgeo")
    assert items.sha256 in text
    assert "holds no record" not in text


@pytest.mark.journey
def test_no_rows_of_features_where_none_are_wanted(model: str, tmp_path: Path) -> None:
    arguments = ("-m", model, "-d", "digits/fit", "--limit", 200, "--evidence", "confidence,neighbours")
    assert run("fit", *arguments, "-o", tmp_path / "rows.gradgeo")[0] == 0
    _, out, _ = run("info", tmp_path / "rows.gradgeo", "--json")
    assert re.fullmatch(r"\d+ x 64 \(neighbours\)", json.loads(out)["holds"]["rows of features of trusted inputs"])
    assert run("fit", *arguments, "--references", 0, "-o", tmp_path / "d.gradgeo")[0] == 0
    _, out, _ = run("info", tmp_path / "d.gradgeo", "--json")
    facts = json.loads(out)
    assert facts["settings"]["evidence"] == ["confidence", "mahalanobis"]
    assert facts["holds"]["rows of features of trusted inputs"] == "none"
    assert facts["holds"]["means of features of trusted inputs by class"] == "10 x 64 (mahalanobis)"


@pytest.mark.journey
def test_verdicts_without_pictures_and_names(
    room: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "x.npz", x=digits.split()["test"][0][:12].numpy())
    arguments = ("score", room / "d.gradgeo", "-m", model, "-d", tmp_path / "x.npz", "--names", "hash", "--pictures", 0)
    code, _, err = run(*arguments, "-o", tmp_path / "v.parquet")
    assert code == 1
    assert "set GRADGEO_NAMES_KEY to a secret of your own" in err
    monkeypatch.setenv("GRADGEO_NAMES_KEY", "short")
    assert "expected 16 or more" in run(*arguments, "-o", tmp_path / "v.parquet")[2]
    monkeypatch.setenv("GRADGEO_NAMES_KEY", "a secret of the hospital")
    state = ("--watch", tmp_path / "watch.json")
    assert run(*arguments, "-o", tmp_path / "v.parquet", *state)[0] == 0
    table = pq.read_table(tmp_path / "v.parquet")
    names = table.column("name").to_pylist()
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in names)
    assert len(set(names)) == 12
    assert sum(table.column("trusted").to_pylist()) > 9
    assert {table.column(name).null_count for name in PREVIEW_COLUMNS} == {12}
    pictured = (*arguments[:-2], "--pictures", 1, "-o", tmp_path / "p.parquet")
    assert run(*pictured)[0] == 0
    assert pq.read_table(tmp_path / "p.parquet").column("thumbnail").null_count < 12  # of trusted inputs that are drawn
    assert run(*arguments, "-o", tmp_path / "w.parquet", *state)[0] == 0  # the same inputs again count once
    assert json.loads((tmp_path / "watch.json").read_text())["watches"]["fit"]["inputs"] == 12
    assert run(*arguments, "--limit", 5, "-o", tmp_path / "u.parquet", *state)[0] == 0
    assert json.loads((tmp_path / "watch.json").read_text())["watches"]["fit"]["inputs"] == 17


def test_a_card_is_no_place_for_markup() -> None:
    from gradgeo.cli.record import markdown

    rate = {"expected": 0.05, "at_most": 0.07, "confidence": 0.95, "flagged_ranks": 17, "calibration_size": 339}
    facts = {
        "settings": {"evidence": ["csm"], "alpha": 0.05, "seed": 0},
        "fitted": {"num_classes": 2, "input_shape": [3], "fit_size": 1, "calibration_size": 1, "misclassified": 0, "unusable": 0},
        "notes": {"model": "<script>|[a](b)", "record": 3},
        "false_alarms": {"all": {"all": rate}, "by_class": {"a|b": rate, "few": rate | {"flagged_ranks": 0}}},
        "versions": {"torch": "1"}, "sha256": "ab", "digest": None, "fingerprint": {"weights": None},
    }  # fmt: skip
    text = markdown(facts, "d\n# x")
    assert "<script>" not in text
    assert "&lt;script&gt;\\|\\[a\\](b)" in text
    assert "| a\\|b | 339 | 5.00 % | 7.00 % |" in text
    assert "| few | 339 | compared with all |" in text
    assert "holds no record" in text


@pytest.mark.journey
def test_a_detector_with_noise_is_fitted_told_and_not_exported(room: Path, model: str, tmp_path: Path) -> None:
    fitted = tmp_path / "noisy.gradgeo"
    options = ("-m", model, "-d", "digits/fit", "--evidence", "lite", "--noise", 0.1, "-o", fitted)
    assert run("fit", *options)[0] == 0
    assert re.search(r"\n +noise +0\.1\n", run("info", fitted)[1])
    assert "| noise added to each input, standard deviation | 0.1 |" in run("card", fitted)[1]
    code, _, err = run("export", fitted, "-m", model, "-o", tmp_path / "d.onnx")
    assert (code, (tmp_path / "d.onnx").exists()) == (1, False)
    assert "judges inputs with fresh noise (noise=0.1), which no exported graph draws" in err
    code, _, err = run("fit", "-m", model, "-d", "digits/fit", "--noise", 0, "-o", fitted)
    assert (code, "expected noise to be None or a number above 0, in input units, got 0.0" in err) == (1, True)


def test_a_warning_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_as_lines():
        for text in ("one", "two", "one"):
            warn(text)
    assert capsys.readouterr().err == "gradgeo: warning: one\ngradgeo: warning: two\n"

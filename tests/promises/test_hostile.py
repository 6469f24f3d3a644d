"""Files made to do harm, and a machine that misbehaves: what is left over where no other file of tests looks."""

import ast
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradgeo
from gradgeo import Detector
from gradgeo.data import open_source
from gradgeo.detector.file import serialization as detector_file
from gradgeo.errors import DataError, DetectorFileError
from helpers import ROOT

PACKAGE = Path(gradgeo.__file__).parent


def claiming(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    """An .npy file whose header claims what it does not hold."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(64)


def member(tmp_path: Path, data: bytes, name: str = "a.npy") -> Path:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("shape", [(10**9, 3), (10**15,), (2**62, 2), (3, 2**40), (-1, 4)])
def test_a_packed_array_that_claims_more_than_there_is(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", claiming(shape))
    began = time.perf_counter()
    with pytest.raises(DataError, match=r"cannot read .*a\.npz"):
        open_source(path)
    [item] = open_source(member(tmp_path, claiming(shape)))
    assert item.x is None
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    "row",
    [
        np.array([1 + 2j]),
        np.array(["1.5"]),
        np.array([b"1.5"]),
        np.zeros(1, [("a", "f4")]),
        np.zeros(1, "M8[s]"),
        np.zeros(1, "V3"),
    ],
)
def test_what_is_no_number_is_not_taken_for_one(tmp_path: Path, row: np.ndarray) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, row)
    [item] = open_source(member(tmp_path, stream.getvalue()))
    assert item.error == f"expected numbers, got an array of shape (1,), {row.dtype}"


def test_a_zip_whose_sizes_lie(tmp_path: Path) -> None:
    """A member that unpacks to more than its entry says is cut where the entry says it ends."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((4000, 1000)))
    data, size = path.read_bytes(), (128 + 4000 * 1000 * 8).to_bytes(4, "little")
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (128 + 80).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"cannot read .*a\.npz"):
        open_source(path)


def test_links_and_pipes_are_no_detectors(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name, message in (
        ("link", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("round", "cannot read"),
    ):
        with pytest.raises(DetectorFileError, match=message):
            detector_file.inspect(tmp_path / name)


def test_saving_over_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "d.gradgeo").symlink_to(tmp_path / "victim")
    Detector(model, alpha=0.2, evidence="paper").fit(x).save(tmp_path / "d.gradgeo")
    assert (tmp_path / "victim").read_text() == "precious"
    Detector.load(tmp_path / "d.gradgeo", model)


SAVING = """
import sys, torch, gradgeo
torch.manual_seed(0)
model = torch.nn.Linear(4, 3)
x = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
detector = gradgeo.Detector(model, alpha=0.2, evidence="paper").fit(x)
detector.save(sys.argv[1])
print("saved", flush=True)
while True:
    detector.save(sys.argv[1])
"""


@pytest.mark.process
@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_save_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "d.gradgeo"
    process = subprocess.Popen([sys.executable, "-c", SAVING, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "saved\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    torch.manual_seed(0)
    Detector.load(path, nn.Linear(4, 3))


CLOCKS = {
    "time.time",
    "time.time_ns",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "time.localtime",
}


def test_no_duration_is_measured_with_a_clock_that_can_be_set() -> None:
    """A clock that jumps must not end a wait, a watch or a progress bar; only a page of results and a record say what day it is."""
    found = set()
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and f"{node.value.id}.{node.attr}" in CLOCKS
            ):
                found.add(path.name)
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not {alias.name for alias in node.names} & {"time", "time_ns", "localtime"}, path
    assert found <= {"page.py", "provenance.py", "record.py", "data_record.py"}

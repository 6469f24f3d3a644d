"""The private copies that a server works from: looked at before they are made, under names of their own."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gradgeo.errors import DetectorFileError
from gradgeo.serve.inference import private_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    return tmp_path / "private"


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "nothing"])
def test_what_is_no_regular_file_is_not_copied(tmp_path: Path, folder: Path, kind: str) -> None:
    path = tmp_path / "d.gradgeo"
    if kind == "device":
        path.symlink_to("/dev/zero")  # copied, it would fill the disk
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    what = "d.gradgeo: No such file" if kind == "nothing" else "d.gradgeo is not a regular file"
    with pytest.raises(DetectorFileError, match=what):
        private_file(path, folder)
    assert list(folder.iterdir()) == []


def test_what_is_too_large_is_not_copied(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.gradgeo"
    path.write_bytes(b"12345")
    with pytest.raises(DetectorFileError, match="has 5 bytes; a detector file has at most 4"):
        private_file(path, folder, largest=4)
    usage: Any = shutil.disk_usage(folder)._replace(free=3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DetectorFileError, match="it has 5 bytes, and 3 are free"):
        private_file(path, folder)
    assert list(folder.iterdir()) == []


def test_files_of_one_name_are_kept_apart(tmp_path: Path, folder: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name)
    copies = [private_file(tmp_path / name / "model.safetensors", folder) for name in ("a", "b")]
    assert [copy.read_text() for copy in copies] == ["a", "b"]
    assert [copy.suffix for copy in copies] == [".safetensors"] * 2  # which says how they are read

"""Folders of our own: told from anybody else's, and removed without what others put there."""

import os
import re
from pathlib import Path

import pytest

from gradgeo._files import OwnFolders
from gradgeo.errors import DataError

FOLDERS = OwnFolders("_ours", lambda file: file.read_text() == "ours", re.compile(r"part-\d+"), (".part-",))


def made(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", "-")).write_text(text)
    return folder


def test_what_is_ours(tmp_path: Path) -> None:
    ours = [
        made(tmp_path / "marked", _ours="ours", part__1="x"),
        made(tmp_path / "with others", _ours="ours", thesis="precious"),
        made(tmp_path / "empty"),
        made(tmp_path / "begun"),
    ]
    (tmp_path / "begun" / ".part-1.0123abcd").touch()
    for folder in ours:
        assert FOLDERS.owns(folder)
        FOLDERS.refuse_foreign(folder, tmp_path / "out")


def test_what_is_not_ours_is_refused_and_never_removed(tmp_path: Path) -> None:
    marked = made(tmp_path / "marked", _ours="ours", part__1="x")
    made(tmp_path / "unmarked", part__1="x")
    made(tmp_path / "other marker", _ours="theirs", part__1="x")
    made(tmp_path / "linked marker", part__1="x").joinpath("_ours").symlink_to(marked / "_ours")
    made(tmp_path / "marked by a folder", part__1="x").joinpath("_ours").mkdir()
    (tmp_path / "link").symlink_to(marked)
    (tmp_path / "link to nothing").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    for path in set(tmp_path.iterdir()) - {marked}:
        assert not FOLDERS.owns(path)
        with pytest.raises(DataError, match=f"^cannot write out: {path} is needed for it, and is not a folder that"):
            FOLDERS.refuse_foreign(path, Path("out"))
        assert not FOLDERS.remove(path)
    assert sorted(tmp_path.rglob("*")) == before
    FOLDERS.refuse_foreign(tmp_path / "nowhere", Path("out"))
    assert FOLDERS.remove(tmp_path / "nowhere")


def test_files_are_removed_by_name_and_others_stay(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", _ours="ours", part__1="x", part__22="x")
    (folder / ".part-3.0123abcd").touch()
    elsewhere = made(tmp_path / "elsewhere", part__1="precious")
    (folder / "part-4").symlink_to(elsewhere / "part-1")
    made(folder / "thesis", part__1="precious")
    assert [path.name for path in FOLDERS.others(folder)] == ["thesis"]
    FOLDERS.remove_leftovers(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["_ours", "part-1", "part-22", "part-4", "thesis"]
    assert not FOLDERS.remove(folder)
    assert [path.name for path in folder.iterdir()] == ["thesis"]
    for kept in (elsewhere, folder / "thesis"):
        assert (kept / "part-1").read_text() == "precious"
    whole = made(tmp_path / "b", _ours="ours", part__1="x")
    assert FOLDERS.remove(whole)
    assert not whole.exists()


def test_the_marker_is_removed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "a", _ours="ours", part__1="x", part__2="x")
    unlink, removed = Path.unlink, list[str]()

    def kill(path: Path, missing_ok: bool = False) -> None:
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(path.name)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", kill)
        with pytest.raises(KeyboardInterrupt):
            FOLDERS.remove(folder)
    assert sorted(removed) == ["part-1", "part-2"]
    assert FOLDERS.remove(folder)  # it still says whose it is

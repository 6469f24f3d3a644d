"""The atomic writer: all or nothing, whatever goes wrong, and one form of its errors."""

import os
from pathlib import Path

import pytest

from gradgeo._files import atomic_path, atomic_stream, check_writable, refuse_source
from gradgeo.errors import ArgumentError, DataError, ExportError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    out = tmp_path / "a.bin"
    with atomic_stream(out) as stream:
        stream.write(b"one")
        assert not out.exists()
        (hidden,) = names(tmp_path)
        assert hidden.startswith(".a.")  # readers of a folder pass over it
        assert hidden.endswith(".bin")  # libraries that look at the ending write what they should
    assert out.read_bytes() == b"one"
    with atomic_path(out) as temporary:
        temporary.write_bytes(b"two")
        assert out.read_bytes() == b"one"
    assert out.read_bytes() == b"two"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt("by hand"), ZeroDivisionError("x"), OSError(5, "another file")])
def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path, fault: BaseException) -> None:
    (tmp_path / "a").write_text("before")

    def write() -> None:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise fault

    with pytest.raises(type(fault), match=str(fault.args[-1])):
        write()
    assert (tmp_path / "a").read_text() == "before"
    assert names(tmp_path) == ["a"]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    advised = atomic_stream(tmp_path / "a.bin", ExportError, advice="Free some.")
    message = r"^cannot write .*a\.bin: No space left on device\. Free some\.$"
    with pytest.raises(ExportError, match=message), advised as stream:
        stream.write(b"x")
    with pytest.raises(DataError, match=r"cannot write .*: it broke"), atomic_stream(tmp_path / "a.bin"):
        raise OSError(28, "it broke")
    assert names(tmp_path) == []


def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("no/a", "No such file or directory"), ("folder", "not a regular"), ("pipe", "not a regular")):
        with pytest.raises(DataError, match=f"cannot write {tmp_path}/{name}: .*{reason}"):
            check_writable(tmp_path / name)
        with pytest.raises(DataError, match=reason), atomic_path(tmp_path / name):
            raise AssertionError("the block ran")
    check_writable(tmp_path / "new")
    assert names(tmp_path) == ["folder", "pipe"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "a").touch(0o400)
    with pytest.raises(DataError, match="it is read-only"):
        check_writable(tmp_path / "a")


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    with atomic_stream(tmp_path / "link.csv") as stream:
        stream.write(b"new")
    assert (tmp_path / "real.csv").read_text() == "new"
    assert (tmp_path / "link.csv").is_symlink()


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    refuse_source(tmp_path / "a", tmp_path / "a")  # there is nothing to destroy
    (tmp_path / "a").touch()
    refuse_source(tmp_path / "a", "digits/test")
    with pytest.raises(ArgumentError, match=r"expected out to be another file than the data, got '.*/a'"):
        refuse_source(tmp_path / "." / "a", str(tmp_path / "a"))

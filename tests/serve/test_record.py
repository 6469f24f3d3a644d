"""The record of verdicts: one line an input and never the input; the server outlives a full disk; watches restart."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from gradgeo import watch
from gradgeo.errors import DataError
from gradgeo.serve.record import VerdictRecord
from gradgeo.watch import Watch
from helpers.serving import FACTS, SHAPE, infer, request, served
from helpers.waiting import until

X = np.random.default_rng(0).uniform(0.3, 1, (3, *SHAPE)).astype(np.float32)
COLUMNS = {"label": np.array([1, 2, -1]), "p_value": np.array([0.5, 0.05, np.nan]), "trusted": np.array([True, False, False]), "compared": np.full(3, 19)}  # fmt: skip


def lines(folder: Path) -> list[dict]:
    return [
        json.loads(line) for file in sorted(folder.glob("verdicts-*.jsonl")) for line in file.read_text().splitlines()
    ]


def test_each_verdict_is_a_line_and_the_watch_goes_on(tmp_path: Path) -> None:
    x = X.copy()
    x[2] = np.nan
    with served(record=tmp_path) as server:
        assert infer(server, x)[0] == 200
        answer = request(server, "GET", "/metrics")[1].decode()
    assert "gradgeo_record_lost_total 0.0" in answer
    told = lines(tmp_path)
    assert [(line["n"], line["row"]) for line in told] == [(1, 0), (2, 1), (3, 2)]
    assert len({line["request"] for line in told}) == 1
    assert told[0]["sha256"] == hashlib.sha256(x[0].tobytes()).hexdigest()
    assert set(told[0]) == {"time", "n", "request", "row", "sha256", "label", "p", "trusted", "cause", "conditional", "group", "compared", "detector", "versions"}  # fmt: skip
    assert (told[2]["p"], told[2]["trusted"], told[0]["cause"]) == (None, False, None)
    assert (told[0]["conditional"], told[0]["group"], told[0]["compared"]) == (None, None, 19)
    assert told[0]["detector"] == FACTS.digest
    assert told[0]["versions"].keys() == {"gradgeo", "torch", "numpy"}
    with served(record=tmp_path) as server:
        infer(server, X)
        watched = request(server, "GET", "/metrics")[1].decode()
    assert 'gradgeo_watch_inputs{against="fit"} 5.0' in watched  # two of the server before, which could be judged
    assert len(lines(tmp_path)) == 6
    assert ((tmp_path / "verdicts-00000001.jsonl").stat().st_mode & 0o777) == 0o600


def test_a_state_that_is_damaged_is_left_aside(tmp_path: Path) -> None:
    (tmp_path / f"watch-{FACTS.digest[:12]}.json").write_text("{")
    with served(record=tmp_path) as server:
        assert infer(server, X)[0] == 200


def test_a_text_is_told_by_its_bytes_in_utf_8(tmp_path: Path) -> None:
    record = VerdictRecord(tmp_path, "0" * 64, {})
    record.add("r", np.array(["grün", "", "x"], object), COLUMNS)
    until(lambda: len(lines(tmp_path)) == 3)
    assert lines(tmp_path)[0]["sha256"] == hashlib.sha256("grün".encode()).hexdigest()
    record.close()


def test_files_are_rotated_and_a_full_disk_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[int] = []
    record = VerdictRecord(tmp_path, "0" * 64, {"gradgeo": "1"}, largest=2000, lost=lost.append)
    written = os.write

    def add(request: str) -> None:
        before = record._lines
        record.add(request, X, COLUMNS)
        until(lambda: record._lines == before + 3 and not record._held)

    for number in range(4):
        add(f"r{number}")
    until(lambda: len(lines(tmp_path)) == 12)
    assert all(file.stat().st_size <= 2000 for file in tmp_path.iterdir())
    files = len(list(tmp_path.iterdir()))
    assert files > 1

    def full(fd: int, data: bytes) -> int:
        return written(fd, data[:40])  # half a line, then nothing more

    monkeypatch.setattr(os, "write", full)
    add("lost")
    until(lambda: sum(lost) == 3)
    monkeypatch.undo()
    assert [(line.levelname, line.message) for line in caplog.records] == [("WARNING", "verdicts are not recorded")]
    add("again")
    record.close()
    told = lines(tmp_path)  # every line is whole
    assert [line["request"] for line in told] == [f"r{i}" for i in range(4) for _ in range(3)] + ["again"] * 3
    assert [line["n"] for line in told[-3:]] == [16, 17, 18]  # the three that are missing are missed


def test_a_clock_that_jumps_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[int] = []
    record = VerdictRecord(tmp_path, "0" * 64, {}, lost=lost.append)
    for number, moment in enumerate((1.8e9, 1e9, -1e20, float("nan"), 1.8e9)):
        monkeypatch.setattr("gradgeo.serve.record.time.time", lambda moment=moment: moment)
        record.add(f"r{number}", X[:1], {name: column[:1] for name, column in COLUMNS.items()})
    record.close()
    told = lines(tmp_path)
    assert [line["time"][:4] for line in told] == ["2027", "2001", "2027"]  # as the clock said
    assert [line["n"] for line in told] == [1, 2, 5]  # what the clock makes impossible is missed, and counted
    assert lost == [1, 1]


def test_too_much_that_waits_is_lost_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradgeo.serve.record.WAITING_BYTES", 1)
    lost: list[int] = []
    record = VerdictRecord(tmp_path, "0" * 64, {}, lost=lost.append)
    record.add("r", X, COLUMNS)
    record.close()
    assert lost == [3]
    assert lines(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to the record"):
        VerdictRecord(tmp_path / "file", "0" * 64, {})


def test_watches_are_read_as_they_were_written(tmp_path: Path) -> None:
    file, one = tmp_path / "w.json", Watch(19)
    assert watch.load(file, detector="a") is None
    one.update(np.array([0.05, 0.5]))
    watch.save(file, {"fit": one}, detector="a", runs=["r"])
    (found, runs) = watch.load(file, detector="a")
    assert (found["fit"].state, runs) == (one.state, ["r"])
    with pytest.raises(DataError, match="is of p-values of the detector a, this one is b"):
        watch.load(file, detector="b")
    for text in ("{", "[]", '{"format": "gradgeo.watch/2"}', '{"format": "gradgeo.watch/1", "watches": {"a": {}}}'):
        file.write_text(text)
        with pytest.raises(DataError, match="is no state of a watch"):
            watch.load(file, detector="a")

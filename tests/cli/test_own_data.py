"""The commands of docs/own-data.md, as they stand there, on data of each kind; and preparation by code from fit to score."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from helpers import ROOT
from helpers.commands import run

NET = """
import torch
from torch import nn

def images():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.Tanh(), nn.Linear(8, 4))

def table():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))

def texts():
    import gradgeo
    torch.manual_seed(0)
    bag = nn.Sequential(nn.EmbeddingBag(128, 8), nn.Linear(8, 4))
    return gradgeo.text(bag, lambda text: [ord(letter) % 128 for letter in text], max_length=16)

def transform(picture):
    return torch.full((3072,), picture.size[0] / 100) * torch.linspace(0, 1, 3072)
"""

SECTION = re.compile(r"^## (.+?)\n.*?^```sh\n(.*?)^```", re.M | re.S)


def pictures(folder: Path, n: int) -> None:
    pillow = pytest.importorskip("PIL.Image")
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i in range(n):
        pillow.fromarray(draw.integers(0, 256, (34, 36 + i, 3), dtype=np.uint8)).save(folder / f"{i:03}.png")


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(room: Path, load: str) -> None:
    (room / "net.py").write_text(f"{NET}\nload = {load}\n")


@pytest.mark.journey
@pytest.mark.parametrize("title", ["A folder of images", "A table", "Texts"])
@pytest.mark.filterwarnings("ignore:.*copies of others", "ignore:.*count as misclassified")
def test_the_first_verdict_takes_two_commands(title: str, room: Path) -> None:
    draw = np.random.default_rng(0)
    if title == "A folder of images":
        write(room, "images")
        pictures(room / "held_out", 90)
        pictures(room / "new", 3)
    elif title == "A table":
        write(room, "table")
        for name, n in (("held_out", 400), ("new", 3)):
            with (room / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(
                    [["a", "b", "c", "species"], *([*row, i % 4] for i, row in enumerate(draw.random((n, 3)).tolist()))]
                )
    else:
        write(room, "texts")
        with (room / "held_out.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["n", "text"], *([i, f"order {i} came, {i * i}"] for i in range(90))])
        (room / "new.txt").write_text("order 4\nwhat\n\n")
    commands = dict(SECTION.findall((ROOT / "docs" / "own-data.md").read_text()))[title].splitlines()
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command)[1:]
        extra = ["--evidence", "lite"] if words[0] == "fit" else []
        code, _, err = run(*words, *extra)
        assert code == 0, err
        forgotten = "the data have no labels; columns that are not read: n. With --label NAME" in err
        assert forgotten == (title == "Texts" and words[0] == "fit")
    rows = list(csv.DictReader((room / "verdicts.csv").read_text().splitlines()))
    assert len(rows) == 3
    assert all(0 < float(row["p_value"]) <= 1 for row in rows[:2])
    if title == "Texts":
        assert [(row["name"], row["error"]) for row in rows] == [("order 4", ""), ("what", ""), ("2", "no text")]


@pytest.mark.journey
@pytest.mark.filterwarnings("ignore:.*evidence")
def test_preparation_by_code_is_asked_for_again_and_held_to_its_hash(room: Path) -> None:
    write(room, "images")
    pictures(room / "held_out", 90)
    named = ["--model", "net.py:load", "--data", "held_out"]
    code, _, err = run("fit", *named, "--transform", "net.py:transform", "--evidence", "lite", "--out", "d.gradgeo")
    assert code == 0, err
    code, _, err = run("fit", *named, "--transform", "net.py:transform", "--size", "8", "--out", "e.gradgeo")
    assert code == 1
    assert "leave out --size, which cannot stand beside --transform" in err
    score = ["score", "d.gradgeo", *named, "--out", "v.csv", "--limit", "5"]
    code, _, err = run(*score)
    assert code == 1
    assert "pass --transform net.py:transform: code prepared the inputs of fit" in err
    code, _, err = run(*score, "--transform", "net.py:transform")
    assert code == 0, err
    assert len((room / "v.csv").read_text().splitlines()) == 6
    (room / "net.py").write_text((room / "net.py").read_text() + "# changed")
    code, _, err = run(*score, "--transform", "net.py:transform", "--restart")
    assert code == 1
    assert "net.py:transform is not what prepared the inputs of fit" in err


def test_keys_are_kept_with_the_detector(room: Path) -> None:
    write(room, "table")
    (room / "study.py").write_text(
        "import torch\n"
        "def held_out():\n"
        "    for i in range(90):\n"
        "        yield {'scan': torch.rand(3, generator=torch.Generator().manual_seed(i)), 'kind': 0, 'image': 1}\n"
    )
    fit = ["fit", "--model", "net.py:load", "--data", "study.py:held_out", "--out", "d.gradgeo", "--evidence", "lite"]
    code, _, err = run(*fit, "--keys", "scan,kinds")
    assert code == 1
    assert "expected keys to be those of the items, scan, kind, image, got 'kinds'" in err
    code, _, err = run(*fit, "--keys", "scan")
    assert code == 0, err
    code, _, err = run("explain", "d.gradgeo", "--model", "net.py:load", "--data", "study.py:held_out", "-i", "2")
    assert code == 0, err

"""The site builds strictly and is whole, and its pages do what they say.

Python blocks of a page are run one after the other in one namespace; a block of text below one is what it prints.
Numbers may differ between machines, for their processors round differently and some pages train a classifier: they
count as the same within `RELATIVE` of their value, or within `SHARE` where they have decimals and 1 where they have
none, whichever is more; everything else must be the same, letter by letter.
A block that cannot be run here says why in a comment above it: `<!-- not run: ... -->`. Commands in shell blocks are
parsed, options and all, and not run.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main

import gradgeo
from gradgeo import cli
from gradgeo.detector.calibration.calibration_set import CalibrationSet
from gradgeo.detector.file import serialization as detector_file
from gradgeo.detector.fusion import LEVELS
from gradgeo.errors import GradgeoWarning
from gradgeo.scoring import COLUMNS
from helpers import ROOT
from helpers.shared import made_once

DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
RELATIVE = 0.05
SHARE = 0.05
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Block(NamedTuple):
    language: str
    text: str
    line: int
    excuse: str | None  # why it is not run


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = re.finditer(r"(?:<!-- not run: (.*?) -->\n+)?^```(\w+)[^\n]*\n(.*?)^```", text, re.M | re.S)
    return [Block(match[2], match[3], text[: match.start(2)].count("\n") + 1, match[1]) for match in found]


def different(printed: str, said: str) -> str | None:
    """How what was printed differs from what a page says."""
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", said).split():
        return "the words differ"
    for found, expected in zip(NUMBER.findall(printed), NUMBER.findall(said), strict=True):
        least = SHARE if "." in expected else 1
        if abs(float(found) - float(expected)) > max(RELATIVE * abs(float(expected)), least) + 1e-9:
            return f"{found} is not {expected}"
    return None


def test_what_counts_as_the_same() -> None:
    assert different("AUROC 96.8, 12 of 397", "AUROC  96.1, 12 of 400\n") is None
    assert different("0.93", "0.96") is None
    assert different("0.83", "0.96") == "0.83 is not 0.96"
    assert different("12 trusted", "14 trusted") == "12 is not 14"
    assert different("12 trusted", "12 flagged") == "the words differ"


def ran(page: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    """Run the Python blocks of a page in `folder`; how many there were."""
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    count, all_blocks = 0, blocks(page)
    for block, after in zip(all_blocks, [*all_blocks[1:], None], strict=True):
        if block.language != "python" or block.excuse:
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out), warnings.catch_warnings():
            warnings.simplefilter("ignore", GradgeoWarning)  # pages show some
            exec(compile(block.text, f"{page.name}:{block.line}", "exec"), names)
        said = after.text if after is not None and after.language == "text" else ""
        assert (wrong := different(out.getvalue(), said)) is None, (
            f"{page.name}:{block.line}: {wrong}\n{out.getvalue()}"
        )
        count += 1
    return count


@pytest.mark.site
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=(pytest.mark.rounding, pytest.mark.simulation) if name == "tutorial.md" else ())
        for name in PAGES
        if any(b.language == "python" for b in blocks(DOCS / name))
    ],
)
def test_code_prints_what_stands_below_it(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for library in ("onnxruntime", "pydicom"):
        if library in (DOCS / name).read_text():
            pytest.importorskip(library, reason=f"{library} is not installed")
    for excuse in (block.excuse for block in blocks(DOCS / name) if block.excuse):
        assert len(excuse) > 8
    expected = sum(block.language == "python" and not block.excuse for block in blocks(DOCS / name))
    assert ran(DOCS / name, monkeypatch, tmp_path) == expected


def commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page):
        if block.language in ("sh", "bash"):
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["gradgeo"]:
                    yield words[1:]


@pytest.mark.parametrize("name", [*PAGES, "../README.md"])
def test_commands_have_options_that_exist(name: str) -> None:
    app = typer.main.get_command(cli.app)
    for name_of, *options in commands(DOCS / name):
        assert name_of in app.commands, name_of
        command = app.commands[name_of]
        command.make_context(
            name_of, list(options), parent=typer.Context(app, info_name="gradgeo")
        )  # parses, runs nothing


def test_a_wrong_option_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\ngradgeo fit --modell x \\\n  --data y  # a comment\n```\n")
    assert list(commands(page)) == [["fit", "--modell", "x", "--data", "y"]]
    command = typer.main.get_command(cli.app).commands["fit"]
    with pytest.raises(Exception, match=r"No such option.*--modell|Missing option|--modell"):
        command.make_context("fit", ["--modell", "x", "--data", "y", "--out", "z"])


def named_in_vain(row: str) -> list[str]:
    """Of a row of a table, the commands of its last cell but one and files of its last cell that do not exist."""
    app, makefile = typer.main.get_command(cli.app), (ROOT / "Makefile").read_text()
    *_, cell, evidence, _ = row.split("|")
    options: set[str] = set()
    files = re.findall(r"`((?:results|tests)/[^`]+|[\w.-]+\.(?:md|lock))`", evidence)
    missing = [name for name in files if not (ROOT / name).exists()]
    for code in re.findall(r"`([^`/][^`]*)`", cell):
        first, *words = code.removeprefix("gradgeo ").split()
        if first == "make":
            found = all("=" in word or f"\n{word}: " in makefile for word in words) and bool(words)
        elif first.startswith("--"):  # of the command named before it
            found = first in options
        else:
            command = app.commands.get(first)
            options = {option for each in command.params for option in each.opts} if command else set()
            found = command is not None and {word for word in words if word.startswith("--")} <= options
        if not found:
            missing.append(code)
    return missing


def test_the_table_of_requirements_names_what_exists() -> None:
    rows = [line for line in (DOCS / "compliance.md").read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 15
    assert [missing for row in rows for missing in named_in_vain(row)] == []
    wrong = (
        "| a | `gradgeo card FILE --bensch x`, `fit --groups`, `--together`, `make fuss`, `lint` | `results/none.md` |"
    )
    assert named_in_vain(wrong) == ["results/none.md", "gradgeo card FILE --bensch x", "make fuss", "lint"]


@pytest.mark.site
def test_the_pictures_of_the_theory_are_drawn_by_the_code(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    figures.draw(tmp_path)
    shown = set(re.findall(r"\]\(figures/([\w-]+\.png)\)", (DOCS / "theory.md").read_text()))
    assert shown
    assert {path.name for path in tmp_path.iterdir()} == shown == {path.name for path in (DOCS / "figures").iterdir()}


def test_the_formats_are_those_of_the_code() -> None:
    page = (DOCS / "formats.md").read_text()
    named = set(re.findall(r"`([\w]+)`", page))
    assert set(CalibrationSet.LAYOUT) <= named
    assert set(COLUMNS) <= named
    assert f"`schema` ({detector_file.SCHEMA})" in page
    assert f"(M, {LEVELS})" in page


def test_pictures_are_small() -> None:
    for picture in [*DOCS.rglob("*.png"), *DOCS.rglob("*.svg")]:
        assert picture.stat().st_size < 150_000, picture


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install '.[docs]'")
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install '.[docs]'")

    def build(folder: Path) -> None:
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
        done = subprocess.run(
            [*command, "-f", str(ROOT / "mkdocs.yml"), "-d", str(folder / "html")], capture_output=True, text=True
        )
        (folder / "log").write_text("" if done.returncode == 0 else done.stdout + done.stderr + " ")

    folder = made_once(tmp_path_factory, "site", build)
    assert (folder / "log").read_text() == ""
    return folder / "html"


class Reads(HTMLParser):
    """What a page loads, and the names of its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.anchors.add(named.get("id", ""))
        if tag == "a":
            self.links.append(named.get("href", ""))
        elif tag == "link" and named.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(named.get("href", ""))
        elif tag in ("script", "img", "source", "iframe"):
            self.loads.append(named.get("src", ""))


@pytest.fixture(scope="session")
def read(site: Path) -> dict[str, Reads]:
    return {
        str(path.relative_to(site)): Reads(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"
    }


@pytest.mark.site
def test_nothing_is_loaded_from_elsewhere(site: Path, read: dict[str, Reads]) -> None:
    for name, page in read.items():
        for target in page.loads:
            assert not re.match(r"(https?:)?//", target), (name, target)
            if target and not target.startswith("data:"):
                assert (site / name).parent.joinpath(target.split("#")[0].split("?")[0]).exists(), (name, target)
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert not any(re.search(r"url\([\"']?https?:|@import", style) for style in styles)


@pytest.mark.site
def test_links_within_the_site_lead_somewhere(site: Path, read: dict[str, Reads]) -> None:
    """Also those of pages that MkDocs does not look into, and of the generated ones."""
    for name, page in read.items():
        for link in page.links:
            if not link or re.match(r"\w+:|//", link):
                continue
            target, _, anchor = link.partition("#")
            path = (site / name).parent / target if target else site / name
            assert path.exists(), (name, link)
            known = read.get(str(path.resolve().relative_to(site.resolve())))
            assert not anchor or known is None or anchor in known.anchors, (name, link)


@pytest.mark.site
def test_every_page_of_results_is_shown_with_its_command(site: Path) -> None:
    index = (site / "results" / "index.html").read_text()
    for page in (ROOT / "results").glob("*.md"):
        assert (site / "results" / f"{page.stem}.html").exists(), page
        told = json.loads(page.with_suffix(".json").read_text())
        command = (told[0] if isinstance(told, list) else told)["made"]["command"]
        assert f'href="{page.stem}.html"' in index
        assert command in index


MODULES = ["gradgeo", "gradgeo.attacks", "gradgeo.data", "gradgeo.export", "gradgeo.report.plots"]
NAMED = [f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__]
WITHOUT_ALL = {  # modules without __all__: all that they define and that has no underscore
    "gradgeo.detector.guard": (),
    "gradgeo.metrics": (),
    "gradgeo.certificate": (),
    "gradgeo.integrations.pytorch_ood": (),
    "gradgeo.integrations.scikit_learn": (),
    "gradgeo.watch": (),
    "gradgeo.attacks.decision_path": (),
}
MODULES_SHOWN = {"gradgeo.attacks", "gradgeo.certificate", "gradgeo.export"}  # pages of their own rather than entries


def defined(module: str) -> Iterator[str]:
    for name, value in vars(importlib.import_module(module)).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module:
            yield f"{module}.{name}"


@pytest.mark.site
def test_every_public_name_is_in_the_reference(site: Path, read: dict[str, Reads]) -> None:
    anchors = {anchor for name, page in read.items() if name.startswith("reference/") for anchor in page.anchors}
    wanted = {name for name in NAMED if name not in MODULES_SHOWN}
    for module, inner in WITHOUT_ALL.items():
        elsewhere = (*inner, *gradgeo.__all__)  # what users import from gradgeo stands there
        wanted |= {name for name in defined(module) if name.rpartition(".")[2] not in elsewhere}
    wanted |= {name for name in defined("gradgeo.errors") if name.endswith(("Error", "Warning"))} - {
        "gradgeo.errors.GradgeoError", "gradgeo.errors.GradgeoWarning"  # shown as gradgeo.GradgeoError
    }  # fmt: skip
    assert len(wanted) > 70
    assert sorted(wanted - anchors) == []


@pytest.mark.site
def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "cli.html").read_text()
    for name, command in typer.main.get_command(cli.app).commands.items():
        assert f'id="gradgeo-{name}"' in text
        for option in (option for parameter in command.params for option in parameter.opts if option.startswith("--")):
            assert option in text, (name, option)

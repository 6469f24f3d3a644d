"""What the site shows that is written elsewhere: results, changes, contributing, and the reference of the commands."""

import json
import re
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from gradgeo.cli import app

ROOT = Path(__file__).parent.parent.parent
OF_THE_ROOT = ("CHANGELOG.md", "CONTRIBUTING.md")
CHAPTER = "Benchmarks"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every page of results has a place in the navigation, without being named there."""
    for entry in config.nav or []:
        if CHAPTER in entry:
            entry[CHAPTER] += [f"results/{page.name}" for page in results()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ and those that are generated from the code."""
    folder = ROOT / "results"
    for path in [*folder.glob("*.md"), *folder.glob("*.png"), folder / "battery.html"]:
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    for name in OF_THE_ROOT:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "results/index.md", content=results_index()))
    files.append(File.generated(config, "reference/cli.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that are right in the repository become right on the site."""
    if page.file.src_uri in OF_THE_ROOT:
        return markdown.replace("](docs/", "](")
    names = "|".join(map(re.escape, ("results/", *OF_THE_ROOT)))
    return re.sub(rf"\]\(\.\./((?:\.\./)*(?:{names}))", r"](\1", markdown)


def results() -> list[Path]:
    """The pages of results."""
    return sorted((ROOT / "results").glob("*.md"))


def provenance(page: Path) -> dict[str, Any]:
    """The command, date and versions that a page of results records."""
    content = json.loads(page.with_suffix(".json").read_text())
    return (content[0] if isinstance(content, list) else content)["made"]


INDEX = """# Benchmarks

Every figure here was written by the command in its row; none was typed. Each page ends with the seed, the date, the
versions and the machine.

| page | made by | on |
| --- | --- | --- |
{rows}

The battery is also [one page with charts](battery.html). `--data` names the folder with the trained classifiers and the
test data; `gradgeo bench --quick` needs none. [Measure on your own model](../measure.md) says how to make the same
tables for yours.
"""


def results_index() -> str:
    """Every page of results with the command that makes it."""
    rows = []
    for page in results():
        title, facts = page.read_text().split("\n", 1)[0].removeprefix("# "), provenance(page)
        rows.append(f"| [{title}]({page.name}) | `{facts['command']}` | {facts['date']} |")
    return INDEX.format(rows="\n".join(rows))


def command_line() -> str:
    """The reference of the commands, from the Typer app."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="gradgeo")
    text = text.replace("&#x27;", "'").replace("# `gradgeo`", "# Command line", 1)
    text = re.sub(r"^Example: (.*)$", r"```sh\n\1\n```", text, flags=re.M)
    return text.replace("**Usage**:\n\n", "").replace("**Options**:\n\n", "").replace("**Arguments**:\n\n", "")

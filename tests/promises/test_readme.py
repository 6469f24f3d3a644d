"""The README's code prints what the README says, and names commands that exist."""

import contextlib
import io
import re
import tomllib

import pytest

from gradgeo import cli
from helpers import ROOT

README = (ROOT / "README.md").read_text()


@pytest.mark.site
@pytest.mark.rounding
@pytest.mark.witness
def test_the_code_prints_what_stands_below_it() -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    printed = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert code
    assert printed
    assert README[: code.start()].count("\n") < 25
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.group(1), {})
    assert out.getvalue() == printed.group(1)


def test_every_command_exists() -> None:
    commands = set(re.findall(r"^gradgeo (\w+)", README, re.MULTILINE))
    known = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert commands
    assert commands <= known


URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
HOME = URLS["Repository"]
RAW = HOME.replace("github.com", "raw.githubusercontent.com")


def test_links_also_work_on_the_page_of_a_package_index() -> None:
    """Each is absolute and, within the repository, of a file that is there."""
    assert not re.findall(r"\]\((?!https://)[^)]*\)", README)
    named = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", README, re.MULTILINE))
    prose = re.sub(r"```.*?```", "", re.sub(r"^\[[^\]]+\]: \S+$", "", README, flags=re.MULTILINE), flags=re.DOTALL)
    used = {name for name in named if f"[{name}]" in prose}
    assert used == set(named), "links that nothing uses"
    assert set(re.findall(r"\]\[([^\]]+)\]", prose)) <= set(named), "links without an address"
    assert len(named) > 20
    for target in named.values():
        inside = re.match(rf"(?:{HOME}/blob|{RAW})/main/([^#]*)", target.replace("/main/main/", "/main/"))
        assert target.startswith("https://"), target
        assert inside is None or (ROOT / inside[1]).exists(), target


ADDRESS = re.compile(
    r"(?:github\.com|raw\.githubusercontent\.com|colab\.research\.google\.com/github|mybinder\.org/v2/gh)/([\w.-]+/[\w-]+)"
)
OTHERS = {
    "Jingkang50/OpenOOD",
    "huggingface/safetensors",
    "kserve/open-inference-protocol",
    "sigstore/model-transparency",
}
"""Repositories of other people that our files name."""

NAME_US = ("CITATION.cff", "README.md", "docs/notebooks/tutorial.ipynb", "docs/tutorial.md", "pyproject.toml")


def test_every_file_states_the_address_that_pyproject_holds() -> None:
    """`Repository` of [project.urls] is the one place: whoever changes it is told here which files follow."""
    found: dict[str, set[str]] = {}
    folders = ("docs", "src", "tests", "benchmarks", "deploy", ".ci", ".binder")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix not in (".pyc", ".js")]
    for file in [*files, *ROOT.glob("*.*")]:
        if file.is_file() and file.stat().st_size < 10**6:
            text = file.read_text(errors="replace")
            found[file.relative_to(ROOT).as_posix()] = set(ADDRESS.findall(text)) - OTHERS
    ours = HOME.removeprefix("https://github.com/")
    assert {file: names for file, names in found.items() if names - {ours}} == {}
    assert [file for file in NAME_US if not found[file]] == []
    assert all(url.startswith((HOME, "https://arxiv.org/")) for url in URLS.values())
    assert f"repository-code: {HOME}\n" in (ROOT / "CITATION.cff").read_text()

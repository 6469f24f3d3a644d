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


HOME = "https://github.com/gradgeo/gradgeo"
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


def test_the_package_states_the_same_addresses() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert urls["Repository"] == HOME
    assert all(url.startswith((HOME, "https://arxiv.org/")) for url in urls.values())
    assert f"repository-code: {HOME}" in (ROOT / "CITATION.cff").read_text()

"""The README's code prints what the README says, and names commands that exist."""

import contextlib
import io
import re

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


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target

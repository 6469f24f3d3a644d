"""What is installed is what the lock states, and no line of ours installs a package that nobody has registered."""

import re
import shutil
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import ROOT

LINE = re.compile(
    r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}  # ((?:demo|dev|fuzz|laboratory|tools)(?: (?:demo|dev|fuzz|laboratory|tools))*)"
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def locked(group: str) -> dict[str, str]:
    """The versions of an installation by name."""
    matches = [LINE.fullmatch(line) for line in LOCK]
    return {match[1]: match[2] for match in matches if match and group in match[3].split()}


def wanted(*extras: str) -> list[Requirement]:
    """What we ask for ourselves, with these extras."""
    project = PROJECT["project"]
    found = list(map(Requirement, project["dependencies"]))
    for extra in extras:
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            found += wanted(*requirement.extras) if requirement.name == "gradgeo" else [requirement]
    return found


def test_every_line_has_a_version_a_hash_and_says_what_for() -> None:
    assert len(LOCK) > 100
    assert [line for line in LOCK if not LINE.fullmatch(line)] == []
    names = [line.partition("==")[0] for line in LOCK]
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("group", "extras"),
    [("demo", ("images", "plots")), ("dev", ("dev",)), ("fuzz", ("fuzz",)), ("laboratory", ("laboratory", "numba"))],
)
def test_what_pyproject_asks_for_is_locked(group: str, extras: tuple[str, ...]) -> None:
    versions = locked(group)
    for requirement in [*wanted(*extras), *map(Requirement, PROJECT["build-system"]["requires"])]:
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_makefile_can_hold_to_hashes() -> None:
    command = ["make", "-n", "LOCKED=1", "PYTHON=python3", "-B", ".venv/demo.stamp"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--require-hashes --no-deps --only-binary :all: -r .venv/demo.txt" in printed
    assert "--no-deps --no-build-isolation -e ." in printed
    command[2] = "LOCKED="
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-c .venv/versions.txt -e '.[images,plots]'" in printed
    assert "--require-hashes" not in printed


def test_no_line_installs_a_package_that_is_not_registered() -> None:
    texts = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.py"), *ROOT.glob("results/*.md")]
    assert [str(path) for path in texts if re.search(r"pip3? install [^\n`]*\bgradgeo\b", path.read_text())] == []

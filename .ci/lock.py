"""Make requirements.lock: for each package the version, and the SHA-256 of the file that pip chooses on this platform.

    python .ci/lock.py [--upgrade]

What the lock states stays, and only what it lacks is added; `--upgrade` takes the newest of everything. Versions and
hashes are pip's own, of `pip install --dry-run --report`. The comment of a line says what it is part of.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"

BUILD = ("hatchling>=1.25,<2", "editables>=0.5,<1")
INSTALLATIONS = {
    "dev": ["-e", ".[dev]", *BUILD],
    "demo": ["-e", ".[images,plots]", *BUILD],
    "fuzz": ["-e", ".[fuzz]", *BUILD],
    "laboratory": ["-e", ".[laboratory,numba]", *BUILD],
    "tools": ["build>=1.2", "cyclonedx-bom>=7,<8", "pip-licenses>=5.5,<6", *BUILD],
}
"""Arguments of `pip install` for each; `tools` are those of a release, which live apart."""

HEAD = """\
# What development, CI and releases run with; `make lock` makes it. For each package the version, which the Makefile
# holds to on every platform, and the SHA-256 of the file that pip chooses on {platform}, which
# `make LOCKED=1` checks. The comment of a line says what it is part of.
"""


def resolved(arguments: list[str], versions: dict[str, str]) -> dict[str, Any]:
    """pip's report of an installation in an empty environment, with these `versions`."""
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "versions.txt"), Path(folder, "report.json")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        options = ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", report, "-c", constraints]
        subprocess.run([*pip, *options, *arguments], cwd=ROOT, check=True)
        return json.loads(report.read_text())


def canonical(name: str) -> str:
    """A name as indices spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Resolve each installation, with the versions of those before it, and write the lock."""
    lines = [] if "--upgrade" in sys.argv[1:] else LOCK.read_text().splitlines()
    versions = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", "\n".join(lines), re.M))
    hashes: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    platform = ""
    for group, arguments in INSTALLATIONS.items():
        report = resolved(arguments, versions)
        found = report["environment"]
        system = "{platform_system} {platform_machine} with {implementation_name}".format_map(found)
        platform = f"{system} {found['python_version']}"
        for package in report["install"]:
            if "archive_info" not in package["download_info"]:  # gradgeo itself
                continue
            name = canonical(package["metadata"]["name"])
            versions = {other: version for other, version in versions.items() if canonical(other) != name}
            versions[name] = package["metadata"]["version"]  # the installations that follow take the same
            hashes[name] = package["download_info"]["archive_info"]["hashes"]["sha256"]
            groups.setdefault(name, []).append(group)
    rows = (
        f"{name}=={versions[name]} --hash=sha256:{hashes[name]}  # {' '.join(groups[name])}\n"
        for name in sorted(groups)
    )
    LOCK.write_text(HEAD.format(platform=platform) + "".join(rows))


main()

"""Run again the command that each page of results names; several where it was made in parts.

Some take an hour and more on two cores; cached work is not repeated, so that a run that was killed resumes.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
DATA = "../shared"
"""Where the pages' commands look for data and models; $GRADGEO_DATA takes its place."""


def commands(results: Path = RESULTS) -> dict[str, list[list[str]]]:
    """The commands of each page, from its JSON: several where it was made in parts."""
    commands = {}
    for file in sorted(results.glob("*.json"), key=lambda file: file.stem):
        document = json.loads(file.read_text())
        parts = document if isinstance(document, list) else [document]
        commands[file.stem] = [shlex.split(line) for line in dict.fromkeys(part["made"]["command"] for part in parts)]
    return commands


def run(pages: list[str], *, listed: bool = False) -> int:
    """Run all commands, or those of the pages named, from the root of the repository.

    Args:
        pages: names of pages; empty for all.
        listed: print the commands only.

    Returns:
        0; 1 if a command fails; 2 if there is no such page.
    """
    known = commands()
    if unknown := [name for name in pages if name not in known]:
        print(f"no page {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    data, failed = os.environ.get("GRADGEO_DATA", DATA), []
    for name, words in [(page, words) for page in pages or known for words in known[page]]:
        command = [data if word == DATA else word for word in words]
        print(shlex.join(command), flush=True)
        if listed:
            continue
        python = [sys.executable if word == "python" else word for word in command[:1]]
        environment = {**os.environ, "GRADGEO_DATA": data}
        if subprocess.run([*python, *command[1:]], cwd=ROOT, env=environment, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(dict.fromkeys(failed))}", file=sys.stderr)
    return 1 if failed else 0

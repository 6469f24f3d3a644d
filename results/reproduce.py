"""Run again the command that each page of results names: `make reproduce` does, and then draws the pictures again.

    python results/reproduce.py [--list] [page ...]

Some take an hour and more on two cores; what is in the cache is not made twice, and a run that is killed goes on.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent
MADE_FROM = "../shared"  # where the pages' commands look for data and models; $GRADGEO_DATA takes its place


def commands(results: Path = RESULTS) -> dict[str, list[str]]:
    """The command of each page, as its JSON tells it."""
    found = {}
    for file in sorted(results.glob("*.json")):
        document = json.loads(file.read_text())
        made = (document[0] if isinstance(document, list) else document)["made"]
        found[file.stem] = shlex.split(made["command"])
    return found


def main(arguments: list[str]) -> int:
    """Run all commands, or those of the pages named, from the root of the repository; 1 if any fails."""
    known = commands()
    names = [name for name in arguments if not name.startswith("-")] or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no page {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    for name in names:
        data = os.environ.get("GRADGEO_DATA", MADE_FROM)
        command = [data if word == MADE_FROM else word for word in known[name]]
        print(shlex.join(command), flush=True)
        if "--list" not in arguments:
            environment = {**os.environ, "GRADGEO_DATA": data}
            done = subprocess.run([sys.executable, "-m", *command], cwd=RESULTS.parent, env=environment, check=False)
            failed += [name] if done.returncode else []
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

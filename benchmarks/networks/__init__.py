"""Networks of the kinds that people have, made here: each with its accuracy, its licence and what making it takes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.page import Page
from gradgeo.errors import GradgeoError, expected

if TYPE_CHECKING:
    from benchmarks.shipped import Suite

QUICK = 20
"""With as few inputs as this networks are trained on them alone, for one epoch."""


def run(suite: "Suite") -> Page:
    """Make those that are wanted, and list them."""
    from benchmarks.networks.registry import NETWORKS

    page = Page("The laboratory's networks")
    page.say(
        "Made by this command from what packages and the folder of data hold, once, and found again by a hash of code "
        "and data; the weights are the same for every run on one machine. Right: of the held-out inputs, on which "
        "detectors are fitted and measured too. CPU: seconds of one thread, of training and of measuring that. Fit: "
        "trusted inputs that detectors are fitted on where nothing else is said (`NAME@200` says 200); inputs: in a "
        "scenario at most."
    )
    unknown = [name for name in suite.only or () if name not in NETWORKS]
    if unknown:
        raise expected("cases", f"among {', '.join(NETWORKS)}", unknown[0])
    rows = []
    for name in suite.wanted(NETWORKS):
        facts = _facts(name, suite.folder, QUICK if suite.inputs <= QUICK else None)
        page.data.setdefault("networks", {})[name] = facts
        rows.append(_row(name, facts))
    heading = ["name", "kind", "trained on", "input", "classes", "parameters", "right", "CPU, s", "fit", "inputs"]
    page.table([*heading, "licence"], rows)
    return page


def _facts(name: str, folder: Path, few: int | None) -> dict[str, Any]:
    """What is known of one; with an error where it cannot be made, such as for a package that is not installed."""
    from benchmarks.networks.making import made
    from benchmarks.networks.registry import NETWORKS

    network = NETWORKS[name]
    facts: dict[str, Any] = {
        "kind": network.kind,
        "trained_on": network.trained_on,
        "licence": network.licence,
        "fit": network.fit,
        "size": network.size,
        "error": None,
    }
    try:
        found = made(name, network, folder, few)
    except GradgeoError as error:
        return facts | {"error": str(error).replace(f"{folder}/", "")}
    return facts | {
        "shape": found.shape,
        "classes": found.classes,
        "parameters": found.parameters,
        "accuracy": found.accuracy,
        "cpu_seconds": found.cpu_seconds,
    }


def _row(name: str, facts: dict[str, Any]) -> list[str]:
    if facts["error"]:
        measured = [facts["error"], "", "", "", ""]
    else:
        right = "" if facts["accuracy"] is None else f"{facts['accuracy']:.1%}"
        measured = [
            " x ".join(map(str, facts["shape"])),
            str(facts["classes"]),
            f"{facts['parameters']:,}",
            right,
            f"{facts['cpu_seconds']:.0f}",
        ]
    fit = "all" if facts["fit"] is None else str(facts["fit"])
    return [name, facts["kind"], facts["trained_on"], *measured, fit, str(facts["size"]), facts["licence"]]

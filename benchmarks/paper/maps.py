"""Table 3: the maps of the most likely classes alone."""

import dataclasses

from benchmarks.page import Page
from benchmarks.paper.measured import Measured
from benchmarks.paper.tables import OURS, TEXT


def table(page: Page, each: Measured) -> None:
    """Pooled figures by the number of maps, at our choices and at those of the paper's text."""
    page.say("### Table 3: fewer maps")
    page.say("The paper (CIFAR-100): all 100 maps 98.0, the top 10 98.0, the top 5 97.7 AUROC.")
    rows = []
    for words, choice in (("ours", OURS), ("the text", TEXT)):
        whole = each.row(choice).pooled.value
        for maps in each.by_cause["trusted"].counts:
            found = each.row(dataclasses.replace(choice, maps=maps))
            page.data.setdefault("maps", {}).setdefault(each.case.setup.name, {}).setdefault(words, {})[str(maps)] = {
                **found.as_dict(),
                "loss": whole - found.pooled.value,
            }
            figures = [f"{100 * found.aupr_in:.1f}", f"{100 * found.aupr_out:.1f}"]
            lost = f"{100 * (whole - found.pooled.value):.1f}"
            rows.append([words, str(maps), str(found.pooled), *figures, lost])
    page.table(["choices", "maps", "AUROC", "AUPR-In", "AUPR-Out", "lost AUROC"], rows)

"""Figures quoted in the README and on the pages of docs/ are those of results/, read from both when the test runs.

In docs/ a quoted figure is a link to the page of results it comes from, and the title of the link says where it stands
in the JSON beside it: `[87.9](../results/battery.md "battery > model.name=cifar10 > cells > ... %")`. `%` multiplies by 100,
`name=value` picks from a list, and several paths are divided by semicolons. The README has no such titles: `README` below
says what its sentences are about. In both, a figure that nothing checks is an error too.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gradgeo.bench.methods import METHODS
from helpers import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
QUOTE = re.compile(r'\[([^\]]*\d[^\]]*)\]\(\.\./results/([\w-]+)\.md(?:#[\w-]+)?\s+"([^"]+)"\)')
FIGURE = re.compile(r"\d[\d,]*(?:\.\d+)?")


@cache
def results(name: str) -> Any:
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def looked_up(path: str) -> float:
    """The number at `FILE > key > name=value,other.name=value > 0`, times 100 where it ends in %."""
    times = 100 if path.endswith(" %") else 1
    name, *keys = path.removesuffix(" %").split(" > ")
    found = results(name)
    for key in keys:
        if isinstance(found, list) and "=" in key:
            found = next(entry for entry in found if all(matches(entry, part) for part in key.split(",")))
        else:
            found = found[int(key)] if isinstance(found, list) else found[key]
    return times * float(found)


def matches(entry: Any, condition: str) -> bool:
    name, _, value = condition.partition("=")
    for part in name.split("."):
        entry = entry[part]
    return str(entry) == value


def agrees(shown: str, value: float) -> bool:
    """Whether `shown` is `value` rounded to as many decimals."""
    decimals = len(shown.partition(".")[2])
    return abs(float(shown.replace(",", "")) - value) <= 0.5 * 10.0**-decimals + 1e-9


def wrong(text: str) -> list[str]:
    """The quotes in a page that are not what results say."""
    found = []
    for words, page, title in QUOTE.findall(text):
        shown, paths = FIGURE.findall(words), [path.strip() for path in title.split(";")]
        values = [looked_up(path) for path in paths]
        if len(shown) != len(values) or not all(map(agrees, shown, values)) or paths[0].split(" > ")[0] != page:
            found.append(f"{words} is {values} in {title}")
    return found


@pytest.mark.release
def test_quotes_on_pages_are_what_results_say() -> None:
    quotes = 0
    for page in PAGES:
        text = page.read_text()
        assert wrong(text) == [], page.name
        quotes += len(QUOTE.findall(text))
    assert quotes >= 25


def test_a_stale_quote_is_noticed() -> None:
    path = "evasion > evasion > cifar10 > full > inputs"
    value = looked_up(path)
    assert wrong(f'[{value:.0f}](../results/evasion.md "{path}")') == []
    assert len(wrong(f'[{value + 1:.0f}](../results/evasion.md "{path}")')) == 1
    assert len(wrong(f'[{value:.0f} of 3](../results/evasion.md "{path}")')) == 1
    assert len(wrong(f'[{value:.0f}](../results/battery.md "{path}")')) == 1


SPOKEN = [  # what looks like a measured figure and is none
    r"alpha(?: =)? 0\.\d+|0\.05|0\.01\b|1e-\d",
    r"\d\.\d+\.\d+|version 1\.5|License 1\.1|-2\.0",
    r"powers of 1\.5|power 1\.5|a surprise of [12]\.5",
    r"radius 0\.0001|[Aa]t 0\.01|at 0\.3",
    r"95 %|90 %|5 %",
    r"Python 3\.11|says 99 % to things",
    r"the\s+paper\s+has\s+\d+\.\d(?:\s+and\s+\d+\.\d)?",
]


def unchecked(text: str) -> list[str]:
    """Figures with decimals or in per cent in the prose of a page that no quote covers."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`]*`|^ {4}.*$", "", text, flags=re.M)
    text = QUOTE.sub("", text)
    text = re.sub(r"arXiv [\d.]+", "", re.sub(r"\]\([^)]*\)", "]", text))
    for spoken in SPOKEN:
        text = re.sub(spoken, "", text)
    return re.findall(r"\d[\d,]*\.\d+|\d+ ?%|\b\d+ times\b|\b\d+ points\b", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_figure_on_a_page_goes_unchecked(page: Path) -> None:
    assert unchecked(page.read_text()) == []


def test_an_unchecked_figure_is_noticed() -> None:
    assert unchecked("It has an AUROC of 97.3 and flags 12 % at alpha 0.05, 40 times faster: `1.5`") == [
        "97.3", "12 %", "40 times",
    ]  # fmt: skip


# The README: sentences, and where their figures stand.

WORDS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
}

OURS = ("gradgeo", "gradgeo fast", "gradgeo lite")


@cache
def battery() -> dict[str, Any]:
    """The results by classifier, each fitted as it is by default: NAME@200 shows what fewer trusted inputs do."""
    named = {result["model"]["name"]: result for result in results("battery")}
    return {name: result for name, result in named.items() if "@" not in name}


def row(name: str, peer: str) -> list[float]:
    summary, methods = battery()[name]["summary"], battery()[name]["methods"]
    figures = [100 * summary[method][figure] for method in (*OURS, peer) for figure in ("auroc", "tnr95")]
    return [*figures, summary["gradgeo"]["shortfall"], *(methods[method]["cost"]["n64"] for method in OURS)]


def scenarios() -> list[float]:
    return ends(sorted(len(result["cells"]["gradgeo"]) for result in battery().values()))


def peers() -> list[float]:
    counts = [
        sum(facts["peer"] and not facts["error"] for facts in result["methods"].values())
        for result in battery().values()
    ]
    return ends(sorted(counts))


def inputs(name: str) -> list[float]:
    return [float(re.search(r"--inputs (\d+)", battery()[name]["made"]["command"])[1])]


def lost() -> list[float]:
    """In how many scenarios of how many some peer is better, and of how many classifiers."""
    verdicts = [facts["verdict"] for result in battery().values() for facts in result["differences"].values()]
    return [verdicts.count("lost"), len(verdicts), len(battery())]


def behind_on_mistakes() -> list[float]:
    """By how many points of AUROC MaxSoftmax is ahead, where it is, and on how many classifiers."""
    cells = [result["cells"] for result in battery().values()]
    lead = [
        100 * (c["MaxSoftmax"]["misclassified"]["auroc"][0] - c["gradgeo"]["misclassified"]["auroc"][0]) for c in cells
    ]
    ahead = sorted(value for value in lead if value > 0)
    return [*ends(ahead), len(ahead), len(lead)]


def ends(values: list[float]) -> list[float]:
    return [values[0], values[-1]]


def passes(method: str) -> list[float]:
    """Known of the code, not measured."""
    return [float(n) for n in FIGURE.findall(METHODS[method].passes)]


def faster() -> list[float]:
    return [max(case["times_faster"] for name, case in results("engine")["cases"].items() if "top" not in name)]


def cost_of_full() -> list[float]:
    return [results("presets-cost")[name]["full"]["batch"][0] for name in ("cifar100", "lite0_imagenet")]


def evaded() -> list[float]:
    found = results("evasion")["evasion"]["cifar10"]["full"]
    return [found["evasion"]["flipped and trusted"], found["inputs"], found["PGD"]["flipped and trusted"]]


def price() -> list[float]:
    return [results("price")["prices"]["cifar10"]["full"]["ratio"][1]]


N = r"([\d,]+(?:\.\d+)?)"
README: dict[str, Callable[..., list[float]]] = {
    rf"\| (\w+) \| {N} / {N} \| {N} / {N} \| {N} / {N} \| ([A-Za-z][\w+ ]*?) {N} / {N} \| {N} \| {N}, {N} and {N} \|": row,
    rf"mistakes\) of {N} to {N} scenarios": scenarios,
    rf"against {N} to {N} peers": peers,
    rf"{N} inputs a column, against": lambda: inputs("mnist"),
    rf"in {N} of {N} \(of (\w+) classifiers\)": lost,
    rf"by {N} to {N} points on (\w+) of (\w+)": behind_on_mistakes,
    rf"`evidence=\"full\"` takes {N} forward and min\(C, F, {N}\) backward": lambda: passes("gradgeo"),
    rf"`\"fast\"` {N} forward and {N} backward": lambda: passes("gradgeo fast"),
    rf"`full` costs {N} plain inferences of a batch, with 1,000 \(EfficientNet-Lite0\) {N} ": cost_of_full,
    rf"up to {N} times less than the authors' function": faster,
    rf"got {N} of {N} inputs misclassified and trusted, where PGD got {N}": evaded,
    rf"trusted by `full` as well costs it {N} times the change that flips the answer": price,
    rf"False alarms over {N} random splits": lambda: [max(r["splits"] for r in results("guarantee")["rows"])],
}  # fmt: skip
"""Sentences of the README with figures in brackets of the pattern, and what these should be."""


def compared(text: str) -> tuple[list[str], int, str]:
    """What is wrong in `text`, how many sentences were compared, and what of it no sentence covers."""
    text, found, count = " ".join(text.split()), [], 0
    for pattern, expected in README.items():
        for match in re.finditer(pattern, text):
            names = [group for group in match.groups() if not re.match(r"\d", group) and group not in WORDS]
            shown = [str(WORDS.get(group, group)) for group in match.groups() if group not in names]
            values = expected(*names)
            count += 1
            if len(shown) != len(values) or not all(map(agrees, shown, values)):
                found.append(f"{match[0]!r}, but results say {values}")
        text = re.sub(pattern, "", text)
    return found, count, text


@pytest.mark.release
@pytest.mark.witness
def test_the_readme_says_what_results_say() -> None:
    found, count, rest = compared((ROOT / "README.md").read_text())
    assert found == []
    assert count >= 12
    rest = re.sub(r"```.*?```|\[[^\]]+\]: https\S+", "", rest)
    assert unchecked(rest) == [], "figures in the README that no pattern of `README` covers"


def test_a_stale_sentence_of_the_readme_is_noticed() -> None:
    count, total, pgd = map(int, evaded())
    sentence = "got {} of {} inputs misclassified and\n trusted, where PGD got {}"
    assert compared(sentence.format(count, total, pgd)) == ([], 1, "")
    assert len(compared(sentence.format(count - 1, total, pgd))[0]) == 1

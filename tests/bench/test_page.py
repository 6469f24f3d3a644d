import json
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from gradgeo import errors
from gradgeo.bench.averages import means
from gradgeo.bench.comparison import tally
from gradgeo.bench.page import charts
from gradgeo.bench.page import write as report

COLUMNS = {
    "CIFAR-100": "ood", "MNIST": "ood", "Fashion-MNIST": "ood", "uniform noise": "ood", "Gaussian noise": "ood",
    "constants": "ood", "smooth blobs": "ood", "noisy test images": "ood", "PGD 8/255": "attack", "PGD 2/255": "attack",
    "PGD 1/255": "attack", "FGSM 8/255": "attack", "PGD-t CE 8/255": "attack", "PGD-t MSE 8/255": "attack",
    "min L2": "attack", "CSA 8/255": "attack", "misclassified": "mistake",
}  # fmt: skip
KIND = {
    "CIFAR-100": "near",
    "MNIST": "far",
    "Fashion-MNIST": "far",
    "constants": "spoilt",
    "noisy test images": "spoilt",
}
PEERS = ["MaxSoftmax", "Energy", "MaxLogit", "ODIN", "Mahalanobis", "KNN", "ViM", "GEN", "GradNorm", "ReAct", "ASH"]
METHODS = {"gradgeo": False, "ten statistics": True, "neighbourhood": True, **dict.fromkeys(PEERS, True)}
VOID = {"meta", "link", "br", "hr", "img", "path", "circle", "use", "rect"}


def shares_around(centre: float) -> list[float]:
    """Of a logistic distribution, in 30 bins."""
    shares = np.diff(1 / (1 + np.exp(centre - np.linspace(0, 15, 31))))
    return (shares / shares.sum()).tolist()


def made_up(
    seed: int = 0,
    *,
    name: str = "cifar10",
    columns: dict[str, str] = COLUMNS,
    methods: dict[str, bool] = METHODS,
    failed: dict[str, str] | None = None,
    missing: dict[str, str] | None = None,
    small: tuple[str, ...] = (),
    lift: float = 0.15,
) -> dict:
    """A battery run that nothing measured, whose means, intervals and verdicts follow from its cells."""
    rng, failed, missing = np.random.default_rng(seed), failed or {}, missing or {}
    skill = {m: rng.uniform(-0.1, 0.1) + (0 if peer else lift) for m, peer in methods.items()}
    ease = {c: rng.uniform(0.55, 0.95) for c in columns}
    cells, curves = {}, {}
    grid = np.linspace(0, 1, 101)
    for m in [m for m in methods if m not in failed]:
        cells[m], curves[m] = {}, {}
        for c in [c for c in columns if c not in missing]:
            area = float(np.clip(ease[c] + skill[m] + rng.normal(0, 0.08), 0.05, 1))
            tnr = float(np.clip(2.2 * area - 1.25, 0, 1))
            cells[m][c] = {
                "auroc": [area, max(0.0, area - 0.02), min(1.0, area + 0.02)],
                "tnr95": [tnr, max(0.0, tnr - 0.04), min(1.0, tnr + 0.04)],
            }
            curves[m][c] = {"fpr": grid.tolist(), "tpr": (grid ** ((1 - area) / area)).tolist()}
    summary = {}
    for m, row in cells.items():
        if row:
            areas = {c: cell["auroc"][0] for c, cell in row.items()}
            short = [max(other[c]["auroc"][0] for other in cells.values()) - area for c, area in areas.items()]
            mean, by_kind = means(areas, {c: KIND.get(c, cause) for c, cause in columns.items()})
            summary[m] = {
                "auroc": mean,
                "tnr95": float(np.mean([cell["tnr95"][0] for cell in row.values()])),
                "kinds": {kind: {"auroc": value, "tnr95": 0.5} for kind, value in by_kind.items()},
                "worst_kind": [min(by_kind, key=by_kind.get), min(by_kind.values())],
                "interval": [mean - 0.01, min(1.0, mean + 0.01)],
                "fits": 6,
                "worst": [min(areas, key=areas.get), min(areas.values())],
                "best_in": sum(s < 0.02 for s in short),
                "shortfall": None if methods[m] else float(rng.uniform(0.2, 1.5)),
            }
    ours = next((m for m, peer in methods.items() if not peer and m in cells), None)
    rivals = [m for m, peer in methods.items() if peer and m in cells]
    differences, histograms = {}, {}
    if ours:
        for c in cells[ours] if rivals else ():
            best = max(rivals, key=lambda m: cells[m][c]["auroc"][0])
            gap = cells[ours][c]["auroc"][0] - cells[best][c]["auroc"][0]
            differences[c] = {
                "ours": ours, "peer": best, "difference": gap, "low": gap - 0.03, "high": gap + 0.03,
                "p": float(np.exp(-abs(gap) * 90)), "verdict": "not told apart" if abs(gap) < 0.03 else "won" if gap > 0 else "lost",
            }  # fmt: skip
        histograms[ours] = {
            "edges": np.linspace(0, 15, 31).tolist(),
            "trusted": shares_around(3),
            "columns": {c: shares_around(3 + 9 * (cell["auroc"][0] - 0.5)) for c, cell in cells[ours].items()},
        }
    return {
        "schema": 1,
        "made": {
            "command": f"gradgeo bench battery --model {name}", "seed": seed, "date": "2026-11-22",
            "versions": {"gradgeo": "0.1.0", "torch": "2.14.1"}, "revision": None, "hardware": "x86_64, 2 cores, no GPU",
        },
        "model": {"name": name, "classes": 10, "accuracy": 0.9134, "fitted_on": 4567, "trusted": 1000},
        "columns": {
            c: {
                "cause": cause,
                "count": 0 if c in missing else 12 if c in small else 1000,
                "success_rate": 0.987 if cause == "attack" and c not in missing else None,
                "error": missing.get(c),
            }
            for c, cause in columns.items()
        },
        "methods": {
            m: {
                "peer": peer,
                "error": failed.get(m),
                "ms_per_input": None if m in failed else float(rng.uniform(0.01, 200)),
                "passes": "1 forward" if peer else "1 forward, 10 backward",
            }
            for m, peer in methods.items()
        },
        "tallies": {ours: tally(differences)} if differences else {},
        "mistakes": {
            m: {c: {"augrc": [0.02, 0.01, 0.03], "aurc": 0.03, "risk": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.0866]}}
            for m, row in cells.items() for c in row if columns[c] == "mistake"
        },
        "cells": cells, "summary": summary, "differences": differences, "curves": curves, "histograms": histograms,
    }  # fmt: skip


class Page(HTMLParser):
    """What a browser sees: balanced elements, their text, the addresses they would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.titles: dict[str, str] = {}
        self.text: list[str] = []
        self._cell: list[str] | None = None
        self._title: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self._cell, self._title = [], dict(attrs).get("title")

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        if tag in ("th", "td"):
            text = " ".join("".join(self._cell or []).split())
            self.rows[-1].append(text)
            if self._title:
                self.titles[self._title] = text
            self._cell = None

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)
        if self._cell is not None:
            self._cell.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


DEGENERATE = {
    "no columns": {"columns": {}},
    "one method": {"methods": {"gradgeo": False}},
    "one peer": {"methods": {"MaxSoftmax": True}},
    "no method": {"methods": {}},
    "a failed peer": {"failed": {"KNN": "no penultimate layer was found"}},
    "ours failed": {"failed": {"gradgeo": "out of memory"}},
    "all failed": {"failed": dict.fromkeys(METHODS, "out of memory")},
    "a missing column": {"missing": {"MNIST": "not found; get it from the hub as 'mnist'"}},
    "all columns missing": {"missing": dict.fromkeys(COLUMNS, "no network")},
    "few inputs": {"small": ("misclassified",)},
    "losing": {"lift": -0.3},
}


@pytest.fixture(scope="module")
def whole() -> tuple[dict, Page]:
    results = made_up(failed={"ASH": "no such layer"}, missing={"MNIST": "not found"}, small=("misclassified",))
    return results, Page(report.html(results))


def test_every_cell_of_the_heat_maps_is_that_of_the_json(whole: tuple[dict, Page]) -> None:
    results, page = whole
    ordered = [c for cause in ("ood", "attack", "mistake") for c in COLUMNS if COLUMNS[c] == cause]
    for figure in ("auroc", "tnr95"):
        ranked = sorted(results["summary"], key=lambda m: -results["summary"][m][figure])
        heat = [row for row in page.rows if len(row) == 2 + len(ordered) and row[0] != "Method"]
        heat = [row for row in heat if row[0].removesuffix(" ours") in METHODS]
        heat = heat[: len(ranked)] if figure == "auroc" else heat[len(ranked) :]
        assert [row[0].removesuffix(" ours") for row in heat] == ranked
        for row, m in zip(heat, ranked, strict=True):
            cells = results["cells"][m]
            assert row[1] == percent(results["summary"][m][figure])
            assert row[2:] == [percent(cells[c][figure][0]) if c in cells else "–" for c in ordered]


def test_hovering_tells_a_cell_in_full(whole: tuple[dict, Page]) -> None:
    results, page = whole
    for m, row in results["cells"].items():
        for c, cell in row.items():
            area, tnr = ([percent(v) for v in cell[figure]] for figure in ("auroc", "tnr95"))
            n = f"{results['columns'][c]['count']:,}"
            told = f"{m}, {c}: AUROC {area[0]} [{area[1]}, {area[2]}], TNR95 {tnr[0]} [{tnr[1]}, {tnr[2]}], n = {n}"
            assert page.titles[told] in (area[0], tnr[0])


def signed(value: float) -> str:
    return "0.0" if abs(value) < 5e-4 else f"{100 * value:+.1f}".replace("-", "−")


def test_differences_are_those_of_the_json(whole: tuple[dict, Page]) -> None:
    results, page = whole
    for c, d in results["differences"].items():
        p = "< 0.001" if d["p"] < 0.001 else f"{d['p']:.3f}"
        bounds = f"[{signed(d['low'])}, {signed(d['high'])}]"
        assert [c, d["peer"], signed(d["difference"]), bounds, "", p, d["verdict"]] in page.rows


def test_the_charts_have_tables_of_the_same_numbers(whole: tuple[dict, Page]) -> None:
    results, page = whole
    rivals = sorted((m for m in results["summary"] if METHODS[m]), key=lambda m: -results["summary"][m]["auroc"])
    for m in ["gradgeo", *rivals[:2]]:
        for curve in results["curves"][m].values():
            at = [curve["tpr"][i] for i in (1, 5, 10, 20, 50)]
            assert [m, *map(percent, at)] in page.rows
    histogram = results["histograms"]["gradgeo"]
    columns = [c for c in COLUMNS if c in histogram["columns"]]
    for i, share in enumerate(histogram["trusted"]):
        shares = [percent(histogram["columns"][c][i]) for c in columns]
        bounds = [f"{edge:.3g}" for edge in histogram["edges"][i : i + 2]]
        assert [*bounds, percent(share), *shares] in page.rows
    assert page.elements["figure"] == 2 * len(columns)


def test_curves_are_drawn_where_the_numbers_are() -> None:
    drawn = report.html(made_up(columns={"MNIST": "ood"}))
    path = re.search(r'd="M ([^"]*)"[^>]*stroke: var\(--ours\)', drawn)
    assert path
    xy = np.array(re.findall(r"([\d.]+) ([\d.]+)", path[1]), float)
    left, width = 0.17 * charts.WIDTH, 0.77 * charts.WIDTH
    bottom, height = (1 - 0.14) * charts.HEIGHT, 0.82 * charts.HEIGHT
    curve = made_up(columns={"MNIST": "ood"})["curves"]["gradgeo"]["MNIST"]
    seen = np.interp((xy[:, 0] - left) / width, curve["fpr"], curve["tpr"])
    steep = xy[:, 0] > left + 0.02 * width  # near 0 a tenth of a point across is much up
    assert np.abs(seen - (bottom - xy[:, 1]) / height)[steep].max() < 0.01


def test_failures_are_told(whole: tuple[dict, Page]) -> None:
    results, page = whole
    lines = report.markdown(results).splitlines()
    assert f"| ASH |{' failed |' * len(COLUMNS)}" in lines
    assert any(re.match(r"\| KNN \| [\d.]+ / [\d.]+ \| missing \|", line) for line in lines)
    assert ["ASH", "no such layer"] in page.rows
    assert any(row[0] == "ASH" and row[-1] == "failed no such layer" for row in page.rows)
    assert ["MNIST", "out-of-distribution", "0", "–", "missing not found"] in page.rows
    assert page.titles["KNN, MNIST: not found"] == "–"
    assert ["misclassified", "misclassified", "12", "–", "fewer than 30 inputs: the interval is wide"] in page.rows


@pytest.mark.page
@pytest.mark.grid
@pytest.mark.parametrize("options", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_runs_still_make_pages(options: dict) -> None:
    results = made_up(**options)
    page = Page(report.html(results))
    shown = page.words + report.markdown(results)
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", shown)
    for reason in [*options.get("failed", {}).values(), *options.get("missing", {}).values()]:
        assert reason in page.words
    both = Page(report.html([results, made_up(1, name="ecg5000")]))
    assert "ecg5000" in both.words


@pytest.mark.page
def test_what_json_cannot_hold_is_shown_as_absent(tmp_path: Path) -> None:
    results = made_up()
    results["cells"]["KNN"]["MNIST"]["auroc"] = [float("nan")] * 3
    results["summary"]["KNN"]["tnr95"] = float("inf")
    results["differences"]["MNIST"]["p"] = float("nan")
    page = Page(report.html(results))
    assert page.titles["KNN, MNIST: not measured"] == "–"
    report.write(results, tmp_path, "run")
    kept = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert kept["cells"]["KNN"]["MNIST"]["auroc"] == [None] * 3
    assert kept["cells"]["KNN"]["CIFAR-100"] == results["cells"]["KNN"]["CIFAR-100"]


HOSTILE = "<script>alert(1)</script> \"'> $\\frac{ | `x` [a](http://evil.example) {{ 7 * 7 }} items"


def hostile() -> dict:
    results = made_up(
        name=HOSTILE,
        columns={HOSTILE: "ood", "values": "attack", "lost": "mistake"},
        methods={f"ours {HOSTILE}": False, f"peer {HOSTILE}": True, "keys": True, "get": True},
        failed={"get": HOSTILE},
        missing={"lost": HOSTILE},
    )
    results["made"] |= {"command": HOSTILE, "revision": HOSTILE, "hardware": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    return results


@pytest.mark.parametrize("runs", [hostile(), [hostile(), hostile()]], ids=["one", "several"])
def test_names_are_text(runs: dict | list) -> None:
    page = Page(report.html(runs))
    assert page.elements["script"] == 0
    assert HOSTILE in page.words
    assert f"ours {HOSTILE}" in page.words
    tokens = MarkdownIt("commonmark").enable("table").parse(report.markdown(runs))
    kinds = {child.type for token in tokens for child in [token, *(token.children or [])]}
    assert not kinds & {"html_block", "html_inline", "link_open", "code_inline"}
    cells = [t.content for t in tokens if t.type == "inline"]
    assert any(t.type == "table_open" for t in tokens)
    assert any("alert(1)" in cell for cell in cells)


def test_markdown_tables_are_whole() -> None:
    results = hostile()
    tokens = MarkdownIt("commonmark").enable("table").parse(report.markdown(results))
    widths, inside = [], 0
    for token in tokens:
        inside += token.type in ("th_open", "td_open")
        if token.type == "tr_close":
            widths.append(inside)
            inside = 0
    assert widths == [10] * 3 + [4] * 5 + [5] * 3 + [9] * 5 + [5] * 4
    text = [child.content for t in tokens for child in t.children or [] if child.type in ("text", "text_special")]
    assert HOSTILE in "".join(text)


def test_markdown_holds_the_figures() -> None:
    results = made_up()
    lines = report.markdown(results).splitlines()
    ordered = [c for cause in ("ood", "attack", "mistake") for c in COLUMNS if COLUMNS[c] == cause]
    for m, cells in results["cells"].items():
        row = [f"{percent(cells[c]['auroc'][0])} / {percent(cells[c]['tnr95'][0])}" for c in ordered]
        assert f"| {m} | {' | '.join(row)} |" in lines


@pytest.mark.witness
@pytest.mark.page
def test_nothing_is_loaded_and_nothing_runs(whole: tuple[dict, Page]) -> None:
    results, _ = whole
    text = report.html([results, made_up(1, name="ecg5000")])
    page = Page(text)
    for tag, key, value in page.attributes:
        assert not key.startswith("on")
        assert key not in ("src", "srcset", "data", "poster", "action", "xlink:href", "background")
        if key == "href":
            assert value.startswith(("#", "data:,")) or (tag, value) == ("a", report.PAPER)
    assert not {"script", "iframe", "object", "embed", "img", "base", "form", "use"} & set(page.elements)
    assert not re.search(r"url\(|@import", text)
    assert set(re.findall(r"https?://[^\s\"<]*", text)) == {report.PAPER}


@pytest.mark.page
def test_the_page_can_be_used_without_a_mouse(whole: tuple[dict, Page]) -> None:
    results, _ = whole
    text = report.html([results, made_up(1, name="ecg5000")])
    page = Page(text)
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    links = [value[1:] for tag, key, value in page.attributes if (tag, key) == ("a", "href") and value[0] == "#"]
    assert set(links) <= set(ids)
    named = [value for _, key, value in page.attributes if key == "aria-labelledby"]
    assert set(named) <= set(ids)
    assert text.count('<div class="scroll" role="region" aria-label="') == page.elements["table"]
    assert text.count('tabindex="0"') == page.elements["table"]
    assert page.elements["details"] == page.elements["summary"] == 7
    assert page.elements["h1"] == 1
    charts = re.findall(r"<figure>.*?<svg[^>]*>", text, re.S)
    assert charts
    assert all('role="img" aria-label="' in chart for chart in charts)


@pytest.mark.simulation
def test_a_page_of_five_models_is_small_and_always_the_same() -> None:
    runs = [made_up(seed, name=f"model {seed}") for seed in range(5)]
    page = report.html(runs)
    assert len(page.encode()) < 3_000_000
    assert page == report.html(json.loads(json.dumps(runs)))


@pytest.mark.page
def test_the_overview_has_every_method_of_every_model() -> None:
    runs = [made_up(seed, name=f"model {seed}") for seed in range(2)]
    page, text = Page(report.html(runs)), report.markdown(runs)
    for run in runs:
        wins = Counter(d["verdict"] for d in run["differences"].values())
        tally = " / ".join(str(wins[v]) for v in ("won", "not told apart", "lost"))
        for m, s in run["summary"].items():
            worst = f"{s['worst'][0]} {percent(s['worst'][1])}"
            own = ["–", "–"] if METHODS[m] else [tally, f"{s['shortfall']:.2f}"]
            row = [m, percent(s["auroc"]), percent(s["tnr95"]), worst, *own]
            assert row in page.rows
            assert f"| {run['model']['name']} | {' | '.join(row)} |" in text


@pytest.mark.page
def test_the_first_table_is_of_ours_its_presets_and_the_best_peer() -> None:
    runs = [made_up(s, name=n, methods=METHODS | {"gradgeo fast": False}) for s, n in enumerate(("vit", "ecg5000"))]
    runs[0]["methods"]["gradgeo"]["cost"] = {"n64": 15.21}
    runs[0]["tallies"]["gradgeo fast"] = {"won": ["a"], "not told apart": [], "lost": ["b", "c"]}
    page, text = Page(report.html(runs)), report.markdown(runs)
    assert page.words.index("ecg5000") < page.words.index("vit")  # sorted by name
    header = page.rows[0]
    kinds = ["attacks", "near OOD", "far OOD", "OOD", "spoilt inputs", "mistakes"]
    assert header == ["Method", "Mean", *kinds, "Worst kind", "TNR95", "Lost", "Shortfall", "Cost"]
    for run in runs:
        peers = [m for m in run["summary"] if METHODS.get(m)]
        best = max(peers, key=lambda m: run["summary"][m]["auroc"])
        for m in ("gradgeo", "gradgeo fast", best):
            entry, facts = run["summary"][m], run["methods"][m]
            tally = run["tallies"].get(m)
            areas = [percent(entry["kinds"][k]["auroc"]) for k in ("attack", "near", "far", "ood", "spoilt", "mistake")]
            kind, area = entry["worst_kind"]
            label = dict(zip(("attack", "near", "far", "ood", "spoilt", "mistake"), kinds, strict=True))[kind]
            row = [
                f"{percent(entry['auroc'])} [{', '.join(map(percent, entry['interval']))}]",
                *areas,
                f"{label} {percent(area)}",
                percent(entry["tnr95"]),
                f"{len(tally['lost'])} of {sum(map(len, tally.values()))}" if tally else "–",
                "–" if m == best else f"{entry['shortfall']:.2f}",
                "15.2 ×" if "cost" in facts else f"{charts_cost(facts['ms_per_input'])} ms",
            ]
            assert [m, *row] in page.rows
            cells = " | ".join(cell.replace("[", "\\[").replace("]", "\\]") for cell in row)
            assert f"| {run['model']['name']} | {m} | {cells} |" in text
    assert "over inputs and 6 fits" in page.words


def charts_cost(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@pytest.mark.page
def test_the_headline_names_the_worst_kind_beside_the_mean() -> None:
    results = made_up()
    kind, area = results["summary"]["gradgeo"]["worst_kind"]
    label = {"ood": "OOD", "near": "near OOD", "far": "far OOD", "attack": "attacks", "mistake": "mistakes"}
    said = f"over 17 scenarios of 6 kinds, the worst {label.get(kind, 'spoilt inputs')} with {percent(area)}."
    assert said in Page(report.html(results)).words
    assert said in report.markdown(results)


@pytest.mark.page
def test_a_loss_of_these_fits_is_not_hidden() -> None:
    results = made_up()
    for entry in results["differences"].values():
        entry["of_fit"] = entry["verdict"]
    entry = results["differences"]["min L2"]
    entry |= {"verdict": "not told apart", "of_fit": "lost"}
    page, text = Page(report.html(results)), report.markdown(results)
    assert sum("lost with these fits" in row[-1] for row in page.rows) == 1
    assert text.count("not told apart (lost with these fits)") == 1
    assert "Of those not told apart, with these fits alone 0 won, 1 lost." in page.words


def test_mistakes_have_a_table_of_their_own(whole: tuple[dict, Page]) -> None:
    results, page = whole
    row = ["20.0 [10.0, 30.0]", "30.0", "1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "8.7"]
    for m in results["mistakes"]:
        assert [m, *row] in page.rows
    assert "| KNN | misclassified | 20.0 \\[10.0, 30.0\\] | 30.0 | 1.0 |" in report.markdown(results)


@pytest.mark.page
def test_what_the_protocol_says_is_shown() -> None:
    runs = [made_up(s, name=str(s)) for s in range(2)]
    for run in runs:
        run["made"]["protocol"] = "Sealed sets were opened, for the 2nd time: a <b>reason</b>."
    for shown in (Page(report.html(runs)).words, report.markdown(runs).replace("&lt;", "<").replace("&gt;", ">")):
        assert (
            shown.count("Sealed sets were opened, for the 2nd time: a <b>reason</b>.") == 3
        )  # above all, and with each


@pytest.mark.page
def test_a_page_made_in_parts_says_so_and_what_it_lacks() -> None:
    runs = [made_up(s, name=str(s)) for s in range(2)]
    runs[1]["made"] = {**runs[0]["made"]}
    said = ["Not measured yet: mnist, diamonds.", "Measured in 2 parts: the command, date and revision"]
    assert not any(text in report.markdown(runs) for text in said)
    runs[0]["made"]["lacking"] = said[0]
    runs[1]["made"]["command"] += " --inputs 20"
    for shown in (Page(report.html(runs)).words, report.markdown(runs)):
        assert all(shown.count(text) == 1 for text in said)


def test_a_page_tells_which_models_have_means_of_another_kind() -> None:
    runs = [made_up(s, name=f"model {s}") for s in range(2)]
    for entry in runs[0]["summary"].values():
        del entry["kinds"]
    told = "Measured by a former protocol, with means over all scenarios: model 0."
    assert told in report.markdown(runs)
    assert told not in report.markdown(runs[:1])  # there is no other to mistake it for


@pytest.mark.page
def test_former_results_are_read() -> None:
    former = made_up()
    for name in ("tallies", "mistakes"):
        del former[name]
    for entry in former["summary"].values():
        for name in ("kinds", "worst_kind", "interval", "fits"):
            del entry[name]
    words = {"won": "win", "not told apart": "tie", "lost": "loss"}
    for entry in former["differences"].values():
        entry["verdict"] = words[entry["verdict"]]
    page = Page(report.html(former))
    said = Counter(row[-1] for row in page.rows if len(row) == 7 and row[-1] in words)
    assert said == Counter(d["verdict"] for d in made_up()["differences"].values())
    assert f"{said['won']} won, {said['not told apart']} not told apart, {said['lost']} lost" in page.words
    assert f"{said['lost']} of {len(COLUMNS)}" in report.markdown(former)


def two(ours: float, theirs: float, *, verdict: str) -> dict:
    """One column, two methods, AUROC as given, TNR95 ten points below."""
    results = made_up(columns={"MNIST": "ood"}, methods={"gradgeo": False, "KNN": True})
    for m, area in (("gradgeo", ours), ("KNN", theirs)):
        results["summary"][m] |= {"auroc": area, "tnr95": area - 0.1}
    results["differences"]["MNIST"]["verdict"] = verdict
    return results


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict", "says"),
    [
        (0.9, 0.8, "won", "gradgeo is 10.0 points ahead in AUROC and 10.0 points ahead in TNR95. Against the best peer of each scenario 1 won, 0 not told apart, 0 lost."),
        (0.7, 0.8, "lost", "gradgeo is 10.0 points behind in AUROC and 10.0 points behind in TNR95. Against the best peer of each scenario 0 won, 0 not told apart, 1 lost."),
        (0.8, 0.80004, "not told apart", "gradgeo is level in AUROC and level in TNR95. Against the best peer of each scenario 0 won, 1 not told apart, 0 lost."),
    ],
)  # fmt: skip
def test_the_headline_is_honest(ours: float, theirs: float, verdict: str, says: str) -> None:
    results = two(ours, theirs, verdict=verdict)
    start = f"gradgeo has a mean AUROC of {percent(ours)} and a mean TNR95 of {percent(ours - 0.1)} over 1 scenario."
    peer = f"The best peer, KNN, has {percent(theirs)} and {percent(theirs - 0.1)}:"
    assert f"{start} {peer} {says}" in Page(report.html(results)).words
    assert f"**{start} {peer} {says}**" in report.markdown(results)


def test_the_headline_tells_of_a_peer_with_a_higher_tnr95() -> None:
    results = made_up(methods={"gradgeo": False, "KNN": True, "ViM": True})
    for m, area, tnr in (("gradgeo", 0.9, 0.5), ("KNN", 0.8, 0.4), ("ViM", 0.7, 0.6)):
        results["summary"][m] |= {"auroc": area, "tnr95": tnr}
    assert "ViM has a higher mean TNR95, 60.0." in Page(report.html(results)).words


@pytest.mark.page
def test_a_peer_with_easy_columns_only_is_not_the_best_peer() -> None:
    results = made_up(methods={"gradgeo": False, "KNN": True, "ViM": True})
    results["cells"]["ViM"] = {"MNIST": results["cells"]["ViM"]["MNIST"]}
    results["summary"]["ViM"]["auroc"] = 0.999
    page = Page(report.html(results))
    assert "The best peer, KNN" in page.words
    assert any(row[0] == "ViM" and row[-1] == f"figures in 1 of {len(COLUMNS)} scenarios" for row in page.rows)
    results["cells"]["KNN"].pop("FGSM 8/255")
    assert "has no figures in" in Page(report.html(results)).words


def luminance(colour: str) -> float:
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(scheme: str) -> None:
    css = report.html([])
    light, dark = (
        dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in re.findall(r":root \{(.*?)\n *\}", css, re.S)[:2]
    )
    names = light if scheme == "light" else light | dark

    def colour(name: str) -> str:
        value = names[name]
        return value if value.startswith("#") else colour(value.removeprefix("var(--").removesuffix(")"))

    for name in ("ink", "quiet", "ours", "peer", "other", "odd"):
        assert contrast(colour(name), colour("paper")) >= 4.5, name
    for level in range(8):
        on = "on0" if level < 5 else "on5" if level == 5 else "on6"
        assert contrast(colour(f"q{level}"), colour(on)) >= 4.5, level
    steps = [luminance(colour(f"q{level}")) for level in range(8)]
    assert steps == sorted(steps, reverse=scheme == "light")


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = made_up(columns={"MNIST": "ood"})
    folder = tmp_path / "new"
    assert report.write(results, folder, "battery") == [folder / f"battery.{e}" for e in ("json", "md", "html")]
    assert json.loads((folder / "battery.json").read_text()) == results
    assert (folder / "battery.md").read_text() == report.markdown(results)
    assert (folder / "battery.html").read_text() == report.html(results)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    before = (folder / "battery.html").read_text()
    results["made"]["seed"] = 7
    with pytest.raises(errors.MissingDependencyError, match=r"^write: jinja2 is needed .* '\.\[bench\]'"):
        report.write(results, folder, "battery")
    assert (folder / "battery.html").read_text() == before
    assert json.loads((folder / "battery.json").read_text())["made"]["seed"] == 7
    assert sorted(path.name for path in folder.iterdir()) == ["battery.html", "battery.json", "battery.md"]


def test_a_list_of_runs_is_kept_as_a_list(tmp_path: Path) -> None:
    runs = [made_up(columns={"MNIST": "ood"}, name=name) for name in ("a", "b")]
    report.write(runs, tmp_path, "all")
    assert json.loads((tmp_path / "all.json").read_text()) == runs


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x"])
def test_names_of_files_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.ArgumentError, match=r"^write: expected name to be a file name without folders"):
        report.write(made_up(columns={}), tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_other_schemas_are_refused() -> None:
    with pytest.raises(errors.ArgumentError, match=r"^html: expected results\['schema'\] to be 1, got 2\. Run the"):
        report.html(made_up(columns={}) | {"schema": 2})
    results = made_up(columns={})
    del results["curves"], results["cells"]
    with pytest.raises(
        errors.ArgumentError, match=r"^markdown: expected results to be whole, with cells, curves, got a"
    ):
        report.markdown(results)


def test_no_run_is_a_page_too() -> None:
    assert "No model was measured" in Page(report.html([])).words
    assert "No model was measured" in report.markdown([])


def test_scores_of_any_size_are_drawn() -> None:
    results = made_up(columns={"MNIST": "ood"})
    results["histograms"]["gradgeo"]["edges"] = np.linspace(-1.7e308, 0, 31).tolist()
    assert "-1.7e+308" in Page(report.html(results)).words


@pytest.mark.page
def test_an_empty_column_says_so() -> None:
    results = made_up(missing={"FGSM 8/255": ""})
    results["columns"]["FGSM 8/255"] |= {"error": None, "note": "epsilon 8/255", "success_rate": 0.0}
    page = Page(report.html(results))
    assert ["FGSM 8/255", "adversarial", "0", "0.0", "epsilon 8/255; no inputs"] in page.rows
    assert page.titles["KNN, FGSM 8/255: no inputs"] == "–"

"""The review queue in a browser: what is drawn, decided, kept, taken away and brought back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import made_scores
from gradgeo import report
from gradgeo.scoring import draw
from gradgeo.scoring.decisions import Decisions
from helpers.browsing import Opened, until

pytestmark = pytest.mark.browser

STORAGE_OFF = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('off'); } });"
STORAGE_FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"


def decided(page: Any) -> dict[int, str]:
    read = "all => all.filter(node => node.dataset.decision).map(node => [Number(node.dataset.index), node.dataset.decision])"
    return dict(page.eval_on_selector_all("#review-list li", read))


def current(page: Any) -> int:
    return int(page.get_attribute("#review-list [aria-current]", "data-index"))


def exported(page: Any) -> dict[str, Any]:
    with page.expect_download() as waited:
        page.click("#review-export")
    assert waited.value.suggested_filename == "decisions.json"
    return json.loads(Path(waited.value.path()).read_text())


def read_back(page: Any, document: Any) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    page.evaluate("document.getElementById('review-told').textContent = ''")
    page.set_input_files("#review-import", {"name": "d.json", "mimeType": "application/json", "buffer": text.encode()})
    until(page, "document.getElementById('review-told').textContent !== ''")
    return page.text_content("#review-told")


def test_decisions_are_made_kept_and_taken_away(browser: Any, files: tuple[Path, Path]) -> None:
    rows = {row["index"]: row for row in pq.read_table(files[0]).to_pylist() if row["error"] is None}
    keys = dict(zip(rows, draw.keys(np.array(list(rows))), strict=True))
    drawn = {
        kind: sorted((i for i, row in rows.items() if row["trusted"] == kind), key=keys.__getitem__)
        for kind in (False, True)
    }
    with Opened(browser, files[1], accept_downloads=True) as page:
        items = page.evaluate("JSON.parse(document.getElementById('data-queue').textContent).items")
        shown = {kind: [item["i"] for item in items if bool(item.get("t")) == kind] for kind in (False, True)}
        assert shown[False] == drawn[False]
        assert shown[True] == drawn[True][: len(drawn[False])]
        assert {rows[i]["thumbnail"] is not None for i in shown[True][:200]} == {True}
        for item in items:
            row = rows[item["i"]]
            assert (item["p"], item["l"], item["n"]) == (
                pytest.approx(row["p_value"]),
                made_scores.CLASSES[row["label"]],
                row["name"],
            )
        order = [item["i"] for item in items]
        page.focus("#review-list")
        assert current(page) == order[0]
        for key in ("1", "2", "3", "4"):
            page.keyboard.press(key)
        words = ["agree", "wrong_class", "none_of_the_classes", "artefact"]
        assert decided(page) == dict(zip(order, words, strict=False))
        page.keyboard.press("u")
        assert decided(page) == dict(zip(order[:3], words, strict=False))
        assert current(page) == order[3]
        page.click("[data-choice='4']")
        page.keyboard.press("ArrowRight")  # the next one stays open
        page.click("[data-choice='1']")
        page.click("[data-choice='1']")
        document = exported(page)
        assert Decisions.from_dict(document).as_dict()["decisions"] == document["decisions"]
        assert document["format"] == "gradgeo.decisions/1"
        assert document["detector"] == "ab" * 32
        count = {kind: sum(row["trusted"] == kind for row in rows.values()) for kind in (False, True)}
        assert document["sampling"] == {
            "flagged": {"population": count[False], "shown": count[False]},
            "trusted": {"population": count[True], "shown": count[False]},
            "seed": 0,
            "share": 0.5,
        }
        made = document["decisions"]
        assert [one["index"] for one in made] == [*order[:4], *order[5:7]]
        skipped = bool(items[4].get("t"))
        for one in made:
            row = rows[one["index"]]
            assert (one["name"], one["p"], one["trusted"]) == (
                row["name"],
                pytest.approx(row["p_value"]),
                row["trusted"],
            )
            late = order.index(one["index"]) > 4
            assert one["drawn"] == (not late or row["trusted"] != skipped)
        assert page.text_content("#review-progress").startswith(f"6 of {len(items)} decided. 1 behind one")
        page.reload()
        assert decided(page) == {one["index"]: one["decision"] for one in made}
        assert current(page) == order[4]
        assert "6 decisions were kept" in page.text_content("#review-told")
        page.select_option("#review-order", "p")
        first = page.get_attribute("#review-list li", "data-index")
        assert rows[int(first)]["p_value"] == min(item["p"] for item in items)
        assert current(page) == order[4]


def test_decisions_are_read_back_and_those_of_another_report_refused_by_name(
    browser: Any, files: tuple[Path, Path]
) -> None:
    with Opened(browser, files[1], accept_downloads=True) as page:
        page.focus("#review-list")
        page.keyboard.press("2")
        document = exported(page)
        index = document["decisions"][0]["index"]
        page.keyboard.press("u")
        assert read_back(page, document) == "1 of 1 decisions read."
        assert decided(page) == {index: "wrong_class"}
        hostile = "<img src=x onerror=alert(1)> of yesterday"
        told = read_back(page, document | {"report": hostile})
        assert told == f"These decisions are of the report “{hostile}”. This one is “{document['report']}”."
        assert "are of the detector 0000000000000000" in read_back(page, document | {"detector": "0" * 64})
        for wrong, says in (
            ("{", "it is not JSON"),
            ("[]", "its format is undefined"),
            ({"format": "x"}, "its format is x"),
        ):
            assert says in read_back(page, wrong)
        odd = [{"index": index, "decision": "maybe"}, {"index": -1}, None, 3]
        assert read_back(page, document | {"decisions": odd}) == "0 of 4 decisions read."
        assert decided(page) == {index: "wrong_class"}


@pytest.mark.parametrize("before", [STORAGE_OFF, STORAGE_FULL], ids=["off", "full"])
def test_without_storage_it_says_so_and_goes_on(browser: Any, files: tuple[Path, Path], before: str) -> None:
    with Opened(browser, files[1], before=before, accept_downloads=True) as page:
        page.focus("#review-list")
        page.keyboard.press("1")
        assert page.is_visible("#review-storage")
        assert len(exported(page)["decisions"]) == 1


def test_two_thousand_items_stay_smooth_and_the_page_small(browser: Any, tmp_path: Path) -> None:
    made = made_scores.columns(9000, odd=0.2, pictures=700, trusted_pictures=True)
    made["name"] = ["\u202e<b>" + "\u05d0" * 10_000 if i < 3 else f"{'x' * 60}{i}" for i in range(9000)]
    pq.write_table(made_scores.table(made, made_scores.metadata()), tmp_path / "a.parquet")
    report.write(tmp_path / "a.parquet", tmp_path / "a.html")
    assert (tmp_path / "a.html").stat().st_size < 3_500_000
    timed = """() => {
      const list = document.getElementById("review-list"), times = [];
      for (let i = 0; i < 60; i += 1) {
        const began = performance.now();
        if (i % 2) list.scrollTop += 700; else list.dispatchEvent(new KeyboardEvent("keydown", { key: "1", bubbles: true }));
        list.offsetHeight;
        times.push(performance.now() - began);
      }
      return [list.children.length, times.sort((a, b) => a - b)[30], times.at(-1)];
    }"""
    with Opened(browser, tmp_path / "a.html") as page:
        count, median, _ = page.evaluate(timed)
        assert count == 2000
        assert median < 200
        assert len(decided(page)) == 30


def test_files_without_a_detector_have_no_queue(tmp_path: Path) -> None:
    made = made_scores.columns(300, pictures=0)
    for name, told in (("a", made_scores.metadata(detector="x")), ("b", made_scores.metadata())):
        pq.write_table(made_scores.table(made, told), tmp_path / f"{name}.parquet")
    assert 'id="review"' not in report.html(tmp_path / "a.parquet")
    assert 'id="review"' in report.html(tmp_path / "b.parquet")

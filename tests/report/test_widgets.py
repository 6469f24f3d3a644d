"""The queue and an explanation as widgets: in Python with the real library, and in a browser on a page that hosts them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gradgeo import Detector
from gradgeo.errors import ArgumentError, DataError
from gradgeo.report import widgets
from gradgeo.scoring import draw
from gradgeo.scoring.decisions import Decisions
from gradgeo.scoring.site_check import check_decisions
from helpers.browsing import Opened, until
from helpers.nets import inputs, network

pytest.importorskip("anywidget", reason="anywidget is not installed")

SHAPE = (3, 6, 6)
HOST = """<!doctype html><meta charset="utf-8"><title>host</title><body>
<script type="application/json" id="state">{state}</script>
<script type="module">
const url = URL.createObjectURL(new Blob([{esm}], {{ type: "text/javascript" }}));
const {{ default: widget }} = await import(url);
const state = JSON.parse(document.getElementById("state").textContent), heard = [];
window.state = state;
window.sent = 0;
const model = {{
  get: (name) => state[name],
  set: (name, value) => {{ state[name] = value; for (const call of heard) call(); }},
  save_changes: () => {{ window.sent += 1; }},
  on: (name, call) => heard.push(call),
  off: (name, call) => heard.splice(heard.indexOf(call), 1),
}};
for (let i = 0; i < {views}; i += 1) {{
  const el = document.body.appendChild(document.createElement("div"));
  el.id = `view${{i}}`;
  widget.render({{ model, el }});
}}
window.ready = true;
</script>"""


@pytest.fixture(scope="module")
def fitted() -> Detector:
    torch.manual_seed(0)
    detector = Detector(network(inputs=108).eval(), evidence=["confidence", "csm"]).fit(inputs(120, shape=SHAPE))
    detector.notes = {"class_names": ["ant", "<b>bee", "cat", "dog"], "preprocess": {"channels": 3}}
    return detector


@pytest.fixture(scope="module")
def x() -> Tensor:
    x = inputs(40, seed=5, shape=SHAPE)
    x[25:] *= 40
    x[3] = torch.nan
    return x


@pytest.fixture(scope="module")
def queue(fitted: Detector, x: Tensor) -> Any:
    with pytest.warns(UserWarning, match="1 of 40"):
        predictions = fitted.predict(x)
    return widgets.review(fitted, x, predictions, names=[f"{i}.png" for i in range(40)], name="ward 3")


def hosted(widget: Any, folder: Path, views: int = 1) -> Path:
    state = {name: getattr(widget, name) for name in ("html", "payload", "document")}
    page = HOST.format(state=json.dumps(state).replace("<", "\\u003c"), esm=json.dumps(str(widget._esm)), views=views)
    (folder / "host.html").write_text(page)
    return folder / "host.html"


def test_the_queue_is_drawn_as_that_of_a_report(queue: Any, fitted: Detector, x: Tensor) -> None:
    with pytest.warns(UserWarning, match="1 of 40"):
        predictions = fitted.predict(x)
    keys = draw.keys(torch.arange(40).numpy())
    items = queue.payload["items"]
    for kind in (False, True):
        rows = [i for i in range(40) if i != 3 and bool(predictions.trusted[i]) == kind]
        assert [item["i"] for item in items if bool(item.get("t")) == kind] == sorted(rows, key=lambda i: keys[i])
    for item in items:
        row = predictions[item["i"]]
        assert (item["n"], item["p"]) == (f"{item['i']}.png", pytest.approx(float(row.p_value)))
        assert item["l"] == fitted.class_names_[int(row.label)]
        assert item["pic"]
        assert ("sal" in item, "csm" in item) == (not row.trusted, not row.trusted)
    assert queue.decisions.sampling.flagged.population + queue.decisions.sampling.trusted.population == 39
    assert queue.decisions.decisions == ()


@pytest.mark.browser
def test_decisions_made_in_a_notebook_are_read_from_python_and_checked(
    browser: Any, queue: Any, fitted: Detector, tmp_path: Path
) -> None:
    with Opened(browser, hosted(queue, tmp_path, views=2)) as page:
        until(page, "window.ready === true")
        first = page.locator("#view0")
        shown = first.locator("#review-list li")
        assert shown.count() == len(queue.payload["items"])
        first.locator("#review-list").focus()
        for key in ("1", "2", "3", "u", "1"):
            page.keyboard.press(key)
        assert page.evaluate("window.sent") == 5
        flagged = next(item["i"] for item in queue.payload["items"] if "csm" in item)
        first.locator(f"#review-list li[data-index='{flagged}']").click()
        assert first.locator("#review-picture").is_visible()
        assert first.locator("#review-csm svg").count() == 1
        told = page.locator("#view1 #review-progress").text_content()  # the other view of the same widget
        assert told.startswith("3 of ")
        assert page.evaluate("document.querySelector('#view0').dataset.lmSuppressShortcuts") == "true"
        state = page.evaluate("window.state")
    assert queue.decisions.decisions == ()
    queue.set_state({"document": state["document"]})  # as a kernel hears it
    order = [item["i"] for item in queue.payload["items"]]
    made = [(each.index, each.decision) for each in queue.decisions.decisions]
    assert made == list(zip(order, ("agree", "wrong_class", "agree"), strict=False))
    queue.decisions.write(tmp_path / "decisions.json")
    read = Decisions.read(tmp_path / "decisions.json")
    assert read == queue.decisions
    assert check_decisions(fitted, read).inputs == 39


@pytest.mark.browser
def test_an_explanation_shows_picture_evidence_and_statistics(
    browser: Any, fitted: Detector, x: Tensor, tmp_path: Path
) -> None:
    (explained,) = fitted.explain(x[30:31])
    widget = widgets.explanation(explained, x[30], detector=fitted, name="<i>odd.png")
    with pytest.raises(DataError, match="an explanation is only looked at"):
        _ = widget.decisions
    with Opened(browser, hosted(widget, tmp_path)) as page:
        until(page, "window.ready === true")
        view = page.locator("#view0")
        assert view.locator(".card .file").text_content().startswith("<i>odd.png")
        assert view.locator("tr[data-evidence]").count() == 2
        assert view.locator(".figures tbody tr").count() == 10
        view.locator(".zoom").click()
        assert view.locator("#large-picture").is_visible()
        assert view.locator("#large-overlay").is_visible()
    plain = widgets.explanation(explained)
    assert "<img" not in plain.html
    assert 'class="csm"' in plain.html


def test_decisions_go_on_and_those_on_other_verdicts_are_refused_by_name(
    queue: Any, fitted: Detector, x: Tensor, tmp_path: Path
) -> None:
    item = queue.payload["items"][0]
    one = {"index": item["i"], "name": item["n"], "p": item["p"], "trusted": bool(item.get("t")), "drawn": True}
    document = {**queue.document, "decisions": [{**one, "decision": "agree", "time": "2026-11-29T10:11:12Z"}]}
    Decisions.from_dict(document).write(tmp_path / "d.json")
    names, ours = [f"{i}.png" for i in range(40)], fitted.predict(x[:3])
    given = {"names": names, "name": "ward 3", "decisions": tmp_path / "d.json"}
    with pytest.warns(UserWarning, match="1 of 40"):
        again = widgets.review(fitted, x, **given)
    assert again.decisions == Decisions.from_dict(document)
    with (
        pytest.warns(UserWarning, match="1 of 40"),
        pytest.raises(DataError, match=r"are of the report ward 3 .* is of w"),
    ):
        widgets.review(fitted, x, **given | {"name": "ward 4"})
    with pytest.raises(ArgumentError, match="review: expected predictions to be of the 2 inputs of x, got 3"):
        widgets.review(fitted, x[:2], ours)
    with pytest.raises(ArgumentError, match="review: expected names to be of the 3 inputs of x, got 40"):
        widgets.review(fitted, x[:3], ours, names=names)
    with (
        pytest.warns(UserWarning, match="1 of 1"),
        pytest.raises(DataError, match="none of the 1 inputs could be judged"),
    ):
        widgets.review(fitted, x[3:4])

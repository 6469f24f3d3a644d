"""The page at `/`, as bytes and in a real browser: what it may load, what it shows, who may open it."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradgeo.serve import parsing
from gradgeo.serve.inference import Facts
from gradgeo.serve.limits import Limits
from gradgeo.serve.protocol import Detail
from gradgeo.serve.server import Server
from helpers.serving import LocalPool, ReadsHere, request, served

SHAPE, TOKEN = (1, 4, 4), "s3cret"
NAMES = ["<b>ant</b>", "bee", "cat"]
PARAMETERS = {"detector_sha256": "ab" * 32, "class_names": NAMES, "preprocess": {"size": [4, 4], "channels": 1}}
FACTS = Facts(SHAPE, 3, False, 99, PARAMETERS)
ASSETS = ("/", "/page.js", "/page.css")


def png(side: int, mode: str = "L") -> bytes:
    stream = BytesIO()
    Image.new(mode, (side, side), 200 if mode == "L" else (255, 64, 0, 99)).save(stream, "PNG")
    return stream.getvalue()


def verdicts(x: np.ndarray, explain: Detail) -> dict[str, Any]:
    """Bright pictures are not trusted."""
    n = len(x)
    p = np.where(x.reshape(n, -1).mean(1) > 0.5, 0.01, 0.8)
    columns: dict[str, Any] = {
        "logits": np.zeros((n, 3), np.float32),
        "label": np.zeros(n, np.int64),
        "probability": np.full(n, 0.75),
        "outlier_score": -np.log(p),
        "p_value": p,
        "trusted": p > 0.05,
        "cause": ["unlike" if value <= 0.05 else "" for value in p],
    }
    if explain != Detail.PICTURES:
        return columns
    overlay = base64.b64encode(png(4, "RGBA")).decode()
    detail = {
        "picture": base64.b64encode(png(4)).decode(),
        "maps": [{"class": 0, "picture": overlay}, {"class": 2, "picture": overlay}],
        "csm": [1, -0.5, None, -0.5, 1, 0.2, None, 0.2, 1],
        "csm_classes": [0, 2, 1],
        "evidence": {"csm": 0.0004, "gradient": None},
    }
    return {**columns, "detail": [json.dumps(detail)] * n}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "Pool", ReadsHere)
        with served(LocalPool(verdicts, facts=FACTS), Limits(delay=0), token=TOKEN) as server:
            yield server


def test_it_needs_no_token_and_loads_nothing_from_elsewhere(server: Server) -> None:
    for path in ASSETS:
        status, content, headers = request(server, "GET", path)
        assert status == 200
        assert b"http" not in content
        policy = headers["content-security-policy"]
        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert b'data-takes="files"' in request(server, "GET", "/")[1]
    status, told, _ = request(server, "POST", "/v1/judge", png(4))
    assert (status, "expected the header Authorization" in told["error"]) == (401, True)
    assert request(server, "GET", "/openapi.json")[0] == 401


def test_pages_of_other_sites_and_names_get_nothing(server: Server) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for path in ASSETS:
        assert request(server, "GET", path, headers={"Host": "evil.example"})[0] == 421
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        assert request(server, "POST", "/v1/judge", png(4), {**bearer, "Origin": origin})[0] == 403
    own = "http://{}:{}".format(*server.address)
    assert request(server, "POST", "/v1/judge", png(4), {**bearer, "Origin": own})[0] == 200


def test_it_can_be_left_out() -> None:
    with served(page=False) as server:
        assert [request(server, "GET", path)[0] for path in ASSETS] == [404] * 3


def of_texts(x: np.ndarray, explain: Detail) -> dict[str, Any]:
    """Long texts are not trusted."""
    trusted = np.array([len(text) < 20 for text in x])
    return {**verdicts(np.zeros((len(x), 1)), Detail.VERDICTS), "trusted": trusted}


@pytest.mark.browser
def test_a_text_is_written_and_judged(browser: Any) -> None:
    with served(LocalPool(of_texts, facts=replace(FACTS, shape=(20,), texts=True)), Limits(delay=0)) as server:
        page = browser.new_page()
        page.goto("http://{}:{}".format(*server.address))
        assert [page.locator(each).is_visible() for each in ("#write", "#drop", "#numbers")] == [True, False, False]
        for text, said in (("что? <b>", "trusted"), ("a text of which there is too much", "do not trust this")):
            page.fill("#text", text)
            page.click("#write button")
            page.locator("#verdict", has_text=f"<b>ant</b>: {said}").wait_for()
            assert page.locator("#seen").is_hidden()
        assert "file" not in page.inner_text("#facts").split("\n")
        page.close()


@pytest.mark.browser
def test_numbers_are_pointed_to_their_path(browser: Any) -> None:
    numbers = replace(FACTS, shape=(7,), parameters={**PARAMETERS, "preprocess": None})
    with served(LocalPool(verdicts, facts=numbers), Limits(delay=0)) as server:
        page = browser.new_page()
        page.goto("http://{}:{}".format(*server.address))
        assert [page.locator(each).is_visible() for each in ("#write", "#drop", "#numbers")] == [False, False, True]
        page.close()


@pytest.mark.browser
def test_a_picture_is_dropped_and_judged(browser: Any, server: Server, tmp_path: Path) -> None:
    bright, text = tmp_path / "bright.png", tmp_path / "lie.png"
    bright.write_bytes(png(9))
    text.write_text("<script>alert(1)</script>")
    own = "http://{}:{}".format(*server.address)
    context = browser.new_context()
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda each: asked.append(each.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(own)

    page.set_input_files("#file", bright)
    page.wait_for_selector("#ask:visible")
    assert "Authorization" in page.inner_text("#state")
    page.fill("#token", TOKEN)
    page.click("#ask button")
    page.wait_for_selector("#verdict.doubted:visible")
    assert page.inner_text("#verdict") == "<b>ant</b>: do not trust this"
    assert page.inner_text("#facts").split("\n") == [
        *("file", "bright.png", "probability by the model", "0.750", "p-value", "0.010"),
        *("outlier score", "4.605", "likely cause", "unlike"),
    ]
    assert page.locator("#picture img").count() == 2
    assert page.eval_on_selector_all("#picture img", "all => all.every(one => one.naturalWidth === 4)")
    page.select_option("#map", index=0)
    assert page.locator("#picture img").count() == 1
    cells = page.eval_on_selector_all("#csm td", "cells => cells.map(cell => cell.textContent)")
    assert cells == ["", "1.00", "-0.50", "", "-0.50", "1.00", "0.20", "", "0.20", "1.00"]
    assert page.inner_text("#evidence").split("\n")[1:] == ["csm\t4.0e-4", "gradient\tnone"]

    # dropped, as with a mouse
    dropped = page.evaluate_handle(
        """async () => {
            const data = new DataTransfer();
            data.items.add(new File([await (await fetch('/page.css')).blob()], 'style.png'));
            return data;
        }"""
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.wait_for_selector("#state.failed:visible")
    assert "expected the file to be an image" in page.inner_text("#state")
    assert page.locator("#answer").is_hidden()
    page.set_input_files("#file", text)
    page.locator("#state", has_text="image").wait_for()  # a function of ours would be an eval, which the policy forbids
    assert all(url.startswith((own, "data:")) for url in asked)
    assert all("status of 40" in line for line in complaints), complaints  # the refusals, and no fault of the policy

    # a page of another site shows nothing of it, and cannot use it
    other = context.new_page()
    other.set_content(f"<iframe src='{own}'></iframe>")
    other.wait_for_timeout(200)
    assert all(frame.query_selector("#drop") is None for frame in other.frames[1:])
    context.close()

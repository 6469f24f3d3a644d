import re
import sys
from pathlib import Path

import jinja2
import numpy as np
import pytest

from gradgeo.errors import MissingDependencyError
from gradgeo.report import parts
from gradgeo.report.html import TEMPLATES, charts, environment, numbers


def rendered(folder: Path, *, toggle: bool) -> str:
    (folder / "page.html.j2").write_text(
        '{% extends "base.html.j2" %}{% block body %}{{ words }} {{ 0.5 | percent }}{% endblock %}'
    )
    made = environment(jinja2, folder, filters={}, names={}, toggle=toggle)
    return made.get_template("page.html.j2").render(title="<t>", words="<b>")


@pytest.mark.parametrize("toggle", [False, True])
def test_pages_escape_what_they_show_and_have_the_theme(tmp_path: Path, toggle: bool) -> None:
    text = rendered(tmp_path, toggle=toggle)
    assert "&lt;b&gt; 50.0" in text
    assert "<title>&lt;t&gt;</title>" in text
    assert "default-src 'none'" in text
    assert ('[data-theme="dark"]' in text) == toggle
    assert text.count("--paper: #10151b") == 1 + toggle


def test_a_misspelt_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.html.j2").write_text("{{ wrods }}")
    made = environment(jinja2, tmp_path, filters={}, names={})
    with pytest.raises(jinja2.UndefinedError, match="'wrods' is undefined"):
        made.get_template("bad.html.j2").render()


def test_charts_have_no_ids_no_colours_of_their_own_and_whole_labels() -> None:
    def draw(axes: object) -> None:
        axes.plot([0, 1 / 3], [0, 1], color=charts.ROLES["ours"])
        axes.set_xticks([0, 0.25], ["0.125", "0.25"])

    text = charts.tidy(charts.chart(draw, size=(100, 60), frame=(0.1, 0.1, 0.8, 0.8), extra="plots"))
    assert "var(--ours)" in text
    assert not re.search(r"#0000\d\d|\bid=|url\(|clip-path|<use|<image", text)
    assert re.findall(r">([\d.]+)</text>", text)[:2] == ["0.125", "0.25"]
    assert not re.search(r' d="[^"]*\d\.\d\d', text)


def test_panels_are_taken_apart() -> None:
    around, inside = charts.panels(
        '<g><g id="panel-0"><a/></g><b/><g id="panel-2"> <c/></g><g id="panel-0"><d/></g></g>'
    )
    assert around == "<g><b/></g>"
    assert inside == {0: "<a/><d/>", 2: "<c/>"}


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"matplotlib is needed here .*'\.\[bench\]'"):
        charts.chart(print, size=(1, 1), frame=(0, 0, 1, 1), extra="bench")


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (numbers.percent(0.1234), "12.3"), (numbers.percent(None), "–"), (numbers.percent(float("nan")), "–"),
        (numbers.points(-0.05), "−5.0"), (numbers.points(1e-5), "0.0"), (numbers.points(None), "–"),
        (numbers.number(12345), "12,345"), (numbers.number(None), "–"), (numbers.p_value(0.0004), "< 0.001"),
        (numbers.p_value(0.25), "0.250"), (numbers.interval((0.5, 0.25, 1)), "50.0 [25.0, 100.0]"),
    ],
)  # fmt: skip
def test_numbers_read_as_they_should(shown: str, text: str) -> None:
    assert shown == text


def luminance(colour: str) -> float:
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_in_both_schemes(scheme: int) -> None:
    theme = (TEMPLATES / "theme.css.j2").read_text()
    block = re.findall(r"{% macro \w+\(\) %}(.*?){% endmacro %}", theme, re.S)[scheme]
    names = dict(re.findall(r"--([\w-]+): (#\w{6});", block))
    paper = luminance(names["paper"])
    for name in ("ink", "quiet", "ours", "peer", "other", "odd"):
        low, high = sorted([luminance(names[name]), paper])
        assert (high + 0.05) / (low + 0.05) >= 4.5, name
    css = (parts.TEMPLATES / "report.css.j2").read_text()
    cosine = [c for _, c in re.findall(r"--c(\d+): (#\w{6});", css)][11 * scheme : 11 * scheme + 11]
    light = [luminance(c) for c in cosine]
    order = light if scheme == 0 else [-value for value in light]
    assert order[:6] == sorted(order[:6])
    assert order[5:] == sorted(order[5:], reverse=True)

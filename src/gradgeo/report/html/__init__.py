"""HTML pages that load nothing: one theme in light and dark, numbers in one form, charts as SVG in its colours."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gradgeo.report.html import numbers

TEMPLATES = Path(__file__).parent / "templates"


def environment(
    jinja2: Any,
    folder: Path,
    *,
    filters: Mapping[str, Callable[..., str]],
    names: Mapping[str, Any],
    toggle: bool = False,
) -> Any:
    """Jinja's environment for the templates in `folder` and those of the theme.

    Whatever a template shows is escaped, and a name that it misspells is an error.

    Args:
        jinja2: the module.
        folder: of the templates.
        filters: for the templates, in addition to those of `gradgeo.report.html.numbers`.
        names: constants for the templates.
        toggle: whether the page has a button that sets `data-theme` of the root element to light or dark.
    """
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= numbers.FILTERS | dict(filters)
    jinja.globals |= {"NONE": numbers.NONE, "TOGGLE": toggle, **names}
    return jinja

"""How the reference reads the house's docstrings: comments that describe fields, and sections of one line."""

import ast
import re
from typing import Any

import griffe

LABELS = r"Args, errors|Args|Cost|Deviations?|How|Interval|Not noticed|Raises|Returns|Source[\w ]*"
ONE_LINE = re.compile(rf"^({LABELS}): (?=\S)", re.M)
RAISES = re.compile(r"(?<=^Raises:\n)(?: {4}.*\n?)+", re.M)


class Docstrings(griffe.Extension):
    """Comments behind the fields of dataclasses become their descriptions; labels of one-line sections stand out."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Mark the examples as examples and the labels as labels."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
            text = RAISES.sub(lambda block: re.sub(r"(?<=\.) (\w+Error): ", r"\n    \1: ", block[0]), text)
            obj.docstring.value = ONE_LINE.sub(r"**\1:** ", text)

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Take the comment behind a field."""
        if attr.docstring is None and isinstance(node, ast.AnnAssign) and attr.lines:
            comment = re.search(r"#\s*(.*)$", attr.lines[-1])
            if comment:
                attr.docstring = griffe.Docstring(comment[1], parent=attr)

"""What one item or batch of somebody's data holds: an input, or an input and its class, bare or in a mapping."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradgeo.errors import expected

INPUTS = (
    *("image", "pixel_values", "inputs_embeds", "input_values", "x", "input", "inputs", "data", "features"),
    *("text", "sentence"),
)
"""Keys of the input in items that are mappings, as MONAI, Hugging Face and others name it."""

LABELS = ("label", "labels", "y", "target", "targets")
"""Keys of the class."""


def input_and_label(item: Any, keys: Sequence[str] = ()) -> tuple[Any, Any]:
    """The input and the label, None without one.

    Args:
        item: x, (x, y, ...) or a mapping.
        keys: of the input and, where there are labels, of the label in a mapping; none for those of `INPUTS`, of which
            it must have exactly one, and of `LABELS`.

    Raises: ArgumentError for a mapping without these keys, or for `keys` and something else than a mapping.
    """
    if isinstance(item, Mapping):
        if keys:
            missing = [key for key in keys if key not in item]
            if missing:
                raise expected("keys", f"those of the items, {_names(item)}", ", ".join(missing))
            return item[keys[0]], item[keys[1]] if len(keys) > 1 else None
        found = [name for name in INPUTS if name in item]
        if len(found) != 1:
            raise expected(
                "each item of data",
                f"a mapping with one of the keys {', '.join(INPUTS)}",
                f"one with {_names(item)}",
                "Name the keys of input and label, or give (x, y).",
            )
        return item[found[0]], next((item[name] for name in LABELS if name in item), None)
    if keys:
        raise expected("keys", "none for items that are not mappings", ", ".join(keys))
    x, y = (item[0], item[1]) if isinstance(item, tuple | list) and len(item) > 1 else (item, None)
    return (x[0] if isinstance(x, tuple | list) and len(x) == 1 else x), y


def _names(item: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(item)[:20]))

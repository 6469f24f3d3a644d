"""The tutorial as a notebook: `make notebooks`, python docs/notebook.py. Its outputs are those that tests compare."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HOME = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
PAGE, NOTEBOOK = HERE / "tutorial.md", HERE / "notebooks" / "tutorial.ipynb"
INSTALL = f'%pip install --quiet "gradgeo[images,plots] @ git+{HOME}"'
PRINTED = re.compile(r"\A```text\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)


def notebook(text: str) -> Any:
    """The notebook of a page: its Python blocks as cells, the block of text below one as its output."""
    import jupytext
    from nbformat import v4

    absolute = re.sub(r"!\[([^\]]*)\]\(([\w/-]+\.png)\)", rf"![\1]({HOME}/raw/main/docs/\2)", text)
    absolute = re.sub(r"\]\(([\w/-]+\.md)(#[\w-]+)?\)", rf"]({HOME}/blob/main/docs/\1\2)", absolute)
    made = v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    made.cells.append(v4.new_code_cell(INSTALL))
    for cell in jupytext.reads(absolute, fmt="md").cells:
        said = PRINTED.match(cell.source + "\n") if cell.cell_type == "markdown" else None
        if said is not None and made.cells[-1].cell_type == "code":
            made.cells[-1].outputs = [v4.new_output("stream", name="stdout", text=said[1])]
            cell.source = (cell.source + "\n")[said.end() :].strip()
        if cell.source:
            made.cells.append(
                v4.new_code_cell(cell.source) if cell.cell_type == "code" else v4.new_markdown_cell(cell.source)
            )
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"  # else drawn at random
    return made


def written(text: str) -> str:
    """The file of the notebook."""
    import nbformat

    made = notebook(text)
    nbformat.validate(made)
    return str(nbformat.writes(made)) + "\n"


if __name__ == "__main__":
    NOTEBOOK.parent.mkdir(exist_ok=True)
    NOTEBOOK.write_text(written(PAGE.read_text()))
    sys.stdout.write(f"written to {NOTEBOOK}\n")

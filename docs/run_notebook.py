"""Runs the notebook in `examples/` again and stores its outputs: `make pictures`.

It runs in a temporary folder, so that its files do not end up in the repository, and no output names a folder of this machine.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "fit_and_predict.ipynb"
TIMEOUT_S = 300  # for one cell


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
        text = nbformat.writes(notebook)
        for path in (folder, sys.prefix, str(NOTEBOOK.parents[1])):
            if path in text:
                sys.exit(f"error: an output contains {path}")
    NOTEBOOK.write_text(text + "\n", encoding="utf-8")
    print(f"{NOTEBOOK.name}: {len(text):,} bytes")


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Runs all cells in a folder; keeps only what a reader sees."""
    NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs)
    notebook.metadata.language_info = {"name": "python"}


def tidy(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Joins the lines of a stream, and drops finished progress bars and second copies of a picture."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        elif output.output_type == "stream" or any(output.data.values()):
            kept.append(output)
        if "image/png" in output.get("data", {}):
            output.data.pop("image/jpeg", None)
    return kept


if __name__ == "__main__":
    main()

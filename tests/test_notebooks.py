"""The notebooks run from top to bottom, from their own folder, and draw something."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = {"data_analysis": 3, "main": 2, "results": 3}


def outputs(book) -> list:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def test_every_notebook_is_there():
    assert [path.stem for path in BOOKS] == sorted(FIGURES)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    book = nbformat.read(path, as_version=4)
    assert outputs(book) == []
    assert all(cell.execution_count is None for cell in book.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_draws(path, monkeypatch):
    # A person's own choice of another backend would draw into a window.
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    book = nbformat.read(path, as_version=4)
    client = NotebookClient(book, timeout=180, allow_errors=False, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    pictures = [out for out in outputs(book) if "image/png" in out.get("data", {})]
    assert len(pictures) == FIGURES[path.stem]

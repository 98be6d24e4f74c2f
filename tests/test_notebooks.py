"""The notebooks run from top to bottom, from their own folder, and are kept with what they drew."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {"data_analysis": 4, "main": 3, "results": 9}
LARGEST = 600_000  # bytes: each new version stays in the repository for good
PATIENCE = 900  # seconds for a cell: one trains a network, for three minutes and what comes after them


def drawn(book) -> int:
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/jpeg" in output.get("data", {}) for output in outputs)


def test_every_notebook_is_there():
    assert [path.stem for path in BOOKS] == sorted(PICTURES)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_outputs(path):
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # run once, from the top
    assert drawn(book) == PICTURES[path.stem]
    assert path.stat().st_size <= LARGEST


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_leaves_the_work_to_the_package(path):
    source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert not [word for word in ("def ", "class ", "pyplot", "numpy") if word in source]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_draws(path, monkeypatch):
    # A person's own choice of another backend would draw into a window, of other photos into another result.
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in ("ANOMALY_DATA", "ANOMALY_RUNS"):
        monkeypatch.delenv(name, raising=False)
    book = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(book, timeout=PATIENCE, allow_errors=False, resources=where)
    client.execute()
    assert drawn(book) == PICTURES[path.stem]


def test_a_notebook_reads_any_folder(toy_data, monkeypatch):
    monkeypatch.setenv("ANOMALY_DATA", str(toy_data))
    path = ROOT / "notebooks" / "data_analysis.ipynb"
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=PATIENCE, resources={"metadata": {"path": str(path.parent)}}).execute()
    said = [output.text for cell in book.cells for output in cell.get("outputs", ()) if output.output_type == "stream"]
    assert said == ["1 products: hex_nut\n"]

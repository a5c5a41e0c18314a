"""Every file under examples/ runs to its end. Each one checks its own result."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes
EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").iterdir())


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.suffix == ".py"], ids=lambda path: path.name)
def test_example_script_runs(path, tmp_path):
    run = subprocess.run([sys.executable, "-W", "error", str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.suffix == ".ipynb"], ids=lambda path: path.name)
def test_example_notebook_runs(path, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="notebooks are run where nbclient is installed")
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run where nbclient is installed")
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before committing"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

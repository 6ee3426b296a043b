"""The notebook: its cells run one after another, and what is committed is what they gave, whole and small."""

import json
import re

import matplotlib
import pytest
from conftest import EXAMPLES
from transformers.utils import logging


NOTEBOOK = EXAMPLES / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


@pytest.fixture
def own_logging():
    """A notebook silences Transformers for its reader: not for the tests after it."""
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


def test_the_cells_run(own_logging, tmp_path, monkeypatch, capsys):
    """In few steps, without a kernel: they hold nothing but Python."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("TOUR_STEPS", "3")
    names = {"__name__": "__main__"}
    for number, cell in enumerate(CODE):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "3 steps" in printed and "has rank" in printed
    assert (tmp_path / "runs" / "tour" / "model" / "model.safetensors").exists()
    matplotlib.pyplot.close("all")


def test_what_is_committed_was_run_in_order():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    # Warnings would show where it was run.
    assert not re.search(r"site-packages|/home/|/root/|/tmp/", json.dumps(outputs))
    assert NOTEBOOK.stat().st_size < 500_000


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell["cell_type"] == "markdown"])
def test_links_lead_somewhere(cell):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", "".join(cell["source"])):
        assert (EXAMPLES / target).exists(), target

"""The notebook runs from the first cell to the last, and shows its pictures."""

import ast
import io
import json
from pathlib import Path

import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "examples/afternoon.ipynb"
SHORT = 'TRAIN, VAL, EPOCHS = 200, 50, 2\nDATA, RUN, OTHER = "data", "runs/one", "runs/other"'


def cells():
    return [
        cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"
    ]


def run(source, names):
    """Run a cell as a notebook does; returns the value of the expression that it ends with."""
    *body, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        body, last = [*body, last], None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_outputs_are_stripped():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells())


@pytest.mark.slow
def test_all_cells_run_and_eight_show_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, shown = {"__name__": "notebook"}, []
    for cell in cells():
        short = "parameters" in cell["metadata"].get("tags", ())
        value = run(SHORT if short else "".join(cell["source"]), names)
        if hasattr(value, "_repr_png_"):
            with Image.open(io.BytesIO(value._repr_png_())) as picture:
                assert picture.format == "PNG" and min(picture.size) > 100
            shown.append(value)
    assert len(shown) == 8
    printed = capsys.readouterr().out
    assert "60,965,224 parameters" in printed and "epoch 2 ends" in printed
    assert names["probabilities"].shape == (2, 10)

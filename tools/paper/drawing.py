"""What the drawing commands have in common."""

import io
from pathlib import Path

from matplotlib import figure as matplotlib_figure
from matplotlib.backend_bases import FigureCanvasBase

from alexnet_dali.pipeline.system.files import atomic_write

BLUE, RED, GREY = "#4c72b0", "#c44e52", "#808080"


class Figure(matplotlib_figure.Figure):
    """A figure that a notebook shows where a cell ends with it, whatever the backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=80)
        return buffer.getvalue()


def check_name(path: Path, option: str = "--out") -> None:
    """ValueError unless the end of the name is that of a picture which Matplotlib can write."""
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(
            f"{option} is {path}; expected a name that ends in .png, .svg, .pdf or .jpg "
            f"(or another of {', '.join(sorted(known))})"
        )


def write_figure(figure: matplotlib_figure.Figure, path: Path, dpi: int) -> None:
    """Write the figure in the format that the name's end says; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=dpi)


def save_figure(figure: matplotlib_figure.Figure, path: Path) -> None:
    """Write the figure; for a PNG, the SVG goes beside it."""
    write_figure(figure, path, dpi=150)
    if path.suffix.lower() == ".png":
        write_figure(figure, path.with_suffix(".svg"), dpi=150)

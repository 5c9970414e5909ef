"""What the drawing commands have in common."""

from pathlib import Path

from matplotlib.figure import Figure

from pipeline.files import atomic_write

BLUE, RED = "#4c72b0", "#c44e52"


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as PNG and, beside it, as SVG; `path` may have either suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for beside in (path.with_suffix(".png"), path.with_suffix(".svg")):
        with atomic_write(beside) as file:
            figure.savefig(file, format=beside.suffix[1:], dpi=150)

"""What preparation has found, and how it is written: the files that pipeline/dataset.py reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from alexnet_dali.pipeline.dataset import FORMAT, NAMES, SPLITS, fingerprint
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.messages import one_line
from alexnet_dali.pipeline.stats import PixelStats


@dataclass(frozen=True)
class PreparedFiles:
    """The content of a prepared folder; `rejected` and `converted` are (path, why)."""

    train: ImageList
    val: ImageList
    classes: list[str]
    names: list[str]
    stats: PixelStats
    rejected: list[tuple[str, str]]
    converted: list[tuple[str, str]]
    targets: str = "classes"
    test: ImageList | None = None

    def lists(self) -> dict[str, ImageList]:
        """Those that there are, by their names in SPLITS."""
        lists = {"train": self.train, "val": self.val}
        return lists if self.test is None else lists | {"test": self.test}

    def counts(self) -> dict[str, int]:
        """How many images there are, as dataset.yaml says it."""
        return {f"{name}_images": len(images) for name, images in self.lists().items()}

    def counted(self) -> str:
        """How many images there are, in words."""
        *first, last = (f"{len(images)} {SPLITS[name]}" for name, images in self.lists().items())
        return f"{', '.join(first)} and {last} images"

    def write(self, folder: Path, about: dict[str, Any]) -> None:
        """Write every file of the format into `folder`, dataset.yaml, with `about`, last."""
        arrays: dict[str, Any] = {}
        roots = {}
        for name, images in self.lists().items():
            images.text.tofile(folder / f"{name}.txt")
            arrays |= {name: images.sizes, f"{name}_labels": images.labels}
            if images.spans is not None:
                arrays[f"{name}_spans"] = images.spans
            if images.lengths is not None:
                arrays[f"{name}_lengths"] = images.lengths
            if images.targets is not None:
                arrays[f"{name}_targets"] = images.targets
            roots[f"{name}_root"] = images.root
        np.savez(folder / "sizes.npz", **arrays)
        _write_lines(folder / "classes.txt", self.classes)
        _write_lines(folder / "names.txt", [one_line(name) for name in self.names])
        remarks = (("rejected.txt", self.rejected), ("converted.txt", self.converted))
        for file_name, files in remarks:
            lines = [f"{one_line(path)}\t{one_line(why)}" for path, why in files]
            _write_lines(folder / file_name, lines)
        with open(folder / "stats.npz", "wb") as file:
            self.stats.save(file)
        header = {
            "format": FORMAT,
            "targets": self.targets,
            "fingerprint": fingerprint(folder, self.lists()),
        }
        about = {**header, **roots, **about}
        (folder / "dataset.yaml").write_text(yaml.safe_dump(about, sort_keys=False))


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(line + "\n" for line in lines).encode(*NAMES))

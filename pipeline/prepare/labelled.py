"""Files that bring their labels along, as those of parquet files and WebDataset shards do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.dataset import DatasetError
from pipeline.prepare.names import same, some
from pipeline.prepare.place import Place


@dataclass(frozen=True)
class Labelled:
    """Files in archives in `root`, each with a `label`: a class's number, or its name.

    `class_names` are people's names of the classes, by number, where the archives hold them.
    """

    path: Path
    root: Path
    names: list[str]
    places: list[Place]
    labels: Sequence[int | str]
    class_names: list[str] | None = None

    def classes(self) -> list[str]:
        """The classes, as training numbers them: sorted names, or the numbers themselves.

        DatasetError where one of them has no file.
        """
        if any(isinstance(label, str) for label in self.labels):
            return sorted({str(label) for label in self.labels})
        found = {int(label) for label in self.labels}
        count = max(max(found) + 1, len(self.class_names or ()))
        empty = [str(number) for number in range(count) if number not in found]
        if empty or min(found) < 0:
            raise DatasetError(
                f"{self.path}: found {len(found)} classes numbered {min(found)} to {max(found)}; "
                f"expected 0 to {count - 1}, each with images (missing: {some(empty)})"
            )
        return [str(number) for number in range(count)]

    def indices(self, classes: list[str]) -> list[int]:
        """Each file's label as an index into `classes`; DatasetError where one is not there."""
        index = {same(name): label for label, name in enumerate(classes)}
        unknown = sorted({str(label) for label in self.labels if same(str(label)) not in index})
        if unknown:
            raise DatasetError(
                f"{self.path}: the labels {some(unknown)} are not among the {len(classes)} "
                f"training classes ({some(classes)})"
            )
        return [index[same(str(label))] for label in self.labels]

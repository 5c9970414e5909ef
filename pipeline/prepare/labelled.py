"""Files that bring their labels along, as those of parquet files and WebDataset shards do."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_dali.pipeline.messages import DatasetError, one_line
from alexnet_dali.pipeline.prepare.archives.archive_member import ArchiveMember
from alexnet_dali.pipeline.prepare.names import fits_a_list, same, seen_as, some

Label = int | str
"""A class's number, or its name."""

_PART = re.compile(r"(?:.*[-_.])?(train|validation|valid|val|test)[-_.].*")


def check_one_part(path: Path, files: Sequence[str]) -> None:
    """DatasetError where files are of several parts of a data set (train-..., validation-...)."""
    parts = {match[1]: file for file in files if (match := _PART.fullmatch(file))}
    if len(parts) > 1:
        part, file = min(parts.items())
        before = file[: file.rindex(part)]
        folder = path if path.is_dir() else path.parent
        raise DatasetError(
            f"{path}: holds the files of several parts ({', '.join(sorted(parts))}); name one, "
            f"such as '{folder}/{before}{part}*{Path(file).suffix}'"
        )


@dataclass(frozen=True)
class Labelled:
    """Files in `root`, or in archives there, each with a `label` of the `origin` (column "label").

    `own_names` are those that the files had before they were packed. `class_names` are people's
    names of the classes, by number, where the archives hold them.
    """

    path: Path
    root: Path
    names: list[str]
    own_names: list[str]
    places: list[ArchiveMember] | None
    labels: list[Label]
    class_names: list[str] | None = None
    remarks: list[str] = field(default_factory=list)
    origin: str = ""

    def remark(self) -> str:
        """How labels were read, with an example, for the user."""
        numbers = [label for label in self.labels if isinstance(label, int)]
        span = f", numbers {min(numbers)} to {max(numbers)}" if numbers else ""
        label = self.labels[0]
        shown = str(label)
        if isinstance(label, int) and label < len(self.class_names or ()):
            shown += f" ({(self.class_names or ())[label]})"
        return (
            f"labels: {one_line(self.origin)} of {one_line(self.path.name)}{span}; "
            f"{one_line(self.names[0])} is {one_line(shown)}"
        )

    def classes(self) -> list[str]:
        """The classes, as training numbers them: sorted names, or the numbers themselves.

        DatasetError where one of them has no file.
        """
        kinds = {type(label) for label in self.labels}
        if not kinds <= {int} and kinds != {str}:
            raise DatasetError(
                f"{self.path}: labels are of several kinds "
                f"({', '.join(sorted(kind.__name__ for kind in kinds))}); expected numbers or names"
            )
        if kinds == {str}:
            return self._check_texts(sorted({str(label) for label in self.labels}))
        found = {int(label) for label in self.labels}
        if not found:
            raise DatasetError(f"{self.path}: found no image")
        count = max(max(found) + 1, len(self.class_names or ()))
        empty = next((number for number in range(count) if number not in found), None)
        if min(found) < 0 or empty is not None:
            raise DatasetError(
                f"{self.path}: found {len(found)} classes, numbered {min(found)} to {max(found)}; "
                f"expected 0 to {count - 1}, each with images ({empty} has none)"
            )
        if self.class_names is not None and len(self.class_names) != count:
            raise DatasetError(
                f"{self.path}: its schema names {len(self.class_names)} classes, but labels go "
                f"up to {count - 1}"
            )
        return [str(number) for number in range(count)]

    def _check_texts(self, classes: list[str]) -> list[str]:
        """The classes; DatasetError where a list can't hold one, or people can't tell two apart."""
        seen: dict[str, str] = {}
        for name in classes:
            if not fits_a_list(name):
                raise DatasetError(
                    f"{self.path}: the label {name!r} has a line break or half a character in it, "
                    "which no list of classes can hold"
                )
            if not name.strip():
                place = self.labels.index(name)
                raise DatasetError(f"{self.path}: the label of {self.names[place]} is empty")
            if seen.setdefault(seen_as(name), name) != name:
                raise DatasetError(
                    f"{self.path}: the labels {seen[seen_as(name)]!r} and {name!r} look the same: "
                    "they differ in blanks or in how accents are written (Unicode NFC and NFD); "
                    "write one of them"
                )
        return classes

    def indices(self, classes: list[str]) -> list[int]:
        """Each file's label as an index into `classes`; DatasetError where one is not there."""
        if not self.labels:
            raise DatasetError(f"{self.path}: found no image")
        index = {same(name): label for label, name in enumerate(classes)}
        unknown = sorted({str(label) for label in self.labels if same(str(label)) not in index})
        if unknown:
            raise DatasetError(
                f"{self.path}: the labels {some(unknown)} are not among the {len(classes)} "
                f"training classes ({some(classes)})"
            )
        return [index[same(str(label))] for label in self.labels]


def check_alike(
    path: Path, names: list[str], columns: Mapping[str, Sequence[Label | None]], remedy: str
) -> None:
    """The columns divide the files alike, where they have values, so that any may be the label.

    DatasetError with an example if not, which ends with the `remedy`.
    """
    (first, chosen), *others = columns.items()
    for title, column in others:
        there: dict[Label, tuple[Label, int]] = {}
        back: dict[Label, tuple[Label, int]] = {}
        for place, (one, other) in enumerate(zip(chosen, column, strict=True)):
            if one is None or other is None:
                continue
            for key, value, seen in ((one, other, there), (other, one, back)):
                known, before = seen.setdefault(key, (value, place))
                if known != value:
                    raise DatasetError(
                        f"{path}: {first} and {title} could both be the label, and differ: "
                        f"{names[before]} is {chosen[before]} and {column[before]}, "
                        f"{names[place]} is {one} and {other}; {remedy}"
                    )

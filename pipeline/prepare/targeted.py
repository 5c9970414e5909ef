"""Images whose targets are not the class folders that they lie in."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_dali.pipeline.image_list import NO_CLASS
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.labels.label_file import class_column
from alexnet_dali.pipeline.prepare.labels.targets import read_targets
from alexnet_dali.pipeline.prepare.sources import Source, any_files, is_image


class Targeted(NamedTuple):
    """Files with their targets, the targets' names, and remarks for the user."""

    source: Source
    names: list[str]
    remarks: list[str]


def files_with_targets(
    path: Path, label_file: Path | None, kind: str, names: Sequence[str] | None = None
) -> Targeted:
    """The files below `path`, whatever holds them, with targets of a `kind` of dataset.TARGETS.

    "multilabel" and "numbers" come from `label_file`; `names` are those of the training targets.
    """
    source, remarks = any_files(path)
    if kind == "none":
        return Targeted(_without_class(source), [], [*remarks, "targets: none"])
    if label_file is None:
        raise DatasetError(
            f"--targets {kind} for {path} come from a label file; expected --train-labels and "
            "--val-labels, CSV with a column of file names"
        )
    source = _but(source, label_file)
    found = read_targets(
        kind, label_file, path, list(source.names), lambda index: is_image(source, index), names
    )
    chosen = replace(_without_class(source.take(found.indices)), targets=found.values)
    return Targeted(chosen, found.names, remarks + found.remarks)


def classes_of(path: Path, label_file: Path) -> list[str]:
    """The classes of the images below `path` by a label file: its column's sorted values."""
    source = _but(any_files(path)[0], label_file)
    return class_column(label_file, path, list(source.names), lambda i: is_image(source, i))


def _without_class(source: Source) -> Source:
    return replace(source, labels=np.full(len(source), NO_CLASS))


def _but(source: Source, label_file: Path) -> Source:
    """All but the label file, which may lie among the images."""
    own = os.path.abspath(label_file)
    return source.take(
        [
            index
            for index in range(len(source))
            if os.path.abspath(source.root / source.listed_name(index)) != own
        ]
    )

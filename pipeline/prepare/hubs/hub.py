"""Datasets as the Hugging Face hub serves them: parquet files of images and labels."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet_dali.pipeline.dataset import DatasetError
from alexnet_dali.pipeline.prepare.archives.archive_member import ArchiveMember
from alexnet_dali.pipeline.prepare.archives.tree import matching
from alexnet_dali.pipeline.prepare.hubs.parquet import arrow, columns, parquet
from alexnet_dali.pipeline.prepare.labelled import Label, Labelled, check_alike

_REMEDY = (
    "write files without the other: pq.write_table(pq.read_table(file).drop_columns(name), copy)"
)
_SPLIT = re.compile(r"(train|validation|valid|val|test)(?=[-_.])")


def tables(path: Path) -> list[Path]:
    """The parquet files that `path` means: a file, those in a folder, or a pattern's; or none.

    DatasetError where they are of several splits (train-..., validation-...).
    """
    if path.is_dir():
        found = sorted(path.glob("*.parquet"))
    else:
        found = [path] if path.is_file() else matching(path)
        found = [file for file in found if file.suffix == ".parquet"]
    splits = sorted({match[0] for file in found if (match := _SPLIT.match(file.name))})
    if path.is_dir() and len(splits) > 1:
        raise DatasetError(
            f"{path}: holds the parquet files of several parts ({', '.join(splits)}); name one, "
            f"such as '{path}/{splits[0]}-*.parquet'"
        )
    return found


def labelled(path: Path, files: list[Path]) -> Labelled:
    """The images of parquet files with their labels, and the schema's names of the classes.

    DatasetError where a file can't be read, its schema shows no images with labels, or an image has
    no label.
    """
    if parquet is None:
        raise DatasetError(
            f"{path}: parquet files need pyarrow: pip install 'alexnet-dali[parquet]'"
        )
    found = Labelled(path, files[0].parent, [], [], [], None)
    values: dict[str, list[Label | None]] = {}
    for file in files:
        try:
            found = _with(found, file, values)
        except DatasetError:
            raise
        except Exception as error:  # pyarrow raises many kinds for a file that is damaged
            raise DatasetError(f"{file}: expected a whole parquet file ({error})") from error
    column = next(iter(values))
    missing = [
        name
        for name, label in zip(found.names, values[column], strict=True)
        if label is None or label == -1
    ]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} of {len(found.names)} images have no label, {missing[0]} the "
            "first; the hub serves test sets so; choose another split"
        )
    titles = {f'column "{name}"': values[name] for name in values}
    check_alike(path, found.names, titles, _REMEDY)
    labels = [label for label in values[column] if label is not None]
    return replace(found, labels=labels, origin=next(iter(titles)))


def _with(found: Labelled, path: Path, values: dict[str, list[Label | None]]) -> Labelled:
    """`found`, to whose lists the images of one more file are added, and to `values` its labels."""
    with parquet.ParquetFile(path) as file:
        which = columns(path, file.schema_arrow)
        if found.names and found.class_names != which.names:
            raise DatasetError(
                f"{path}: its schema names other classes than the files before it, or in another "
                "order"
            )
        if found.names and list(values) != which.labels:
            raise DatasetError(
                f"{path}: has the columns of labels {', '.join(which.labels)}; the files before it "
                f"have {', '.join(values)}"
            )
        wanted = [*which.labels, *_name_columns(file.schema_arrow, which.image)]
        for column in which.labels:
            values.setdefault(column, [])
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, wanted)
            for column in which.labels:
                values[column].extend(table[column].to_pylist())
            found.names.extend(_names(table, which.image, f"{path.stem}/{group:04d}"))
            found.places.extend(
                ArchiveMember(path.name, group, row, "parquet") for row in range(table.num_rows)
            )
    return replace(found, class_names=which.names)


def _name_columns(schema: Any, image_column: str) -> list[str]:
    kind = schema.field(image_column).type
    has_path = arrow.types.is_struct(kind) and kind.get_field_index("path") >= 0
    return [f"{image_column}.path"] if has_path else []


def _names(table: Any, image_column: str, prefix: str) -> list[str]:
    """A name for each row, the file's own one where the table has it."""
    numbers = [f"{prefix}-{row:06d}" for row in range(table.num_rows)]
    if image_column not in table.column_names:
        return numbers
    paths = table[image_column].combine_chunks().field("path").to_pylist()
    return [
        f"{number}/{Path(path).name}" if path else number
        for number, path in zip(numbers, paths, strict=True)
    ]

"""Datasets as the Hugging Face hub serves them: parquet files of images and labels."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.archives import unread
from alexnet_dali.pipeline.prepare.archives.archive_member import ArchiveMember
from alexnet_dali.pipeline.prepare.archives.tree import matching
from alexnet_dali.pipeline.prepare.hubs.parquet import arrow, columns, has_images, parquet
from alexnet_dali.pipeline.prepare.labelled import Label, Labelled, check_alike, check_one_part
from alexnet_dali.pipeline.prepare.names import image_suffixes, is_skipped, some, suffix

_REMEDY = (
    "write files without the other: pq.write_table(pq.read_table(file).drop_columns(name), copy)"
)


def tables(path: Path) -> tuple[list[Path], list[str]]:
    """The parquet files that `path` means: a file, those in a folder, or a pattern's; or none.

    And the names of those that systems leave behind. Beside images or folders, parquet files are no
    images. DatasetError where they are of several splits (train-..., validation-...).
    """
    skipped: list[str] = []
    if path.is_dir():
        entries = [entry for entry in os.scandir(path) if not is_skipped(entry.name)]
        if any(entry.is_dir() or suffix(entry.name) in image_suffixes() for entry in entries):
            return [], []
        every = sorted(path.glob("*.parquet"))
        found = [file for file in every if not is_skipped(file.name)]
        skipped = [file.name for file in every if file not in found]
    else:
        found = [path] if path.is_file() else matching(path)
        found = [file for file in found if file.suffix == ".parquet"]
    check_one_part(path, [file.name for file in found])
    return found, skipped


def labelled(path: Path, files: list[Path], skipped: list[str]) -> Labelled:
    """The images of parquet files with their labels, and the schema's names of the classes.

    A file without images beside those that have some is skipped, too. DatasetError where a file
    can't be read, its schema shows no images with labels, or an image has no label.
    """
    if parquet is None:
        raise DatasetError(
            f"{path}: parquet files need pyarrow: pip install 'alexnet-dali[parquet]'"
        )
    found, of_others = Labelled(path, files[0].parent, [], [], [], []), []
    values: dict[str, list[Label | None]] = {}
    for file in files:
        unread.check_file(file)
        try:
            if len(files) > 1 and not has_images(parquet.read_schema(file)):
                of_others.append(file.name)
            else:
                found = _with(found, file, values)
        except DatasetError:
            raise
        except Exception as error:  # pyarrow raises many kinds for a file that is damaged
            raise DatasetError(f"{file}: expected a whole parquet file ({error})") from error
    if len(of_others) == len(files):
        columns(files[0], parquet.read_schema(files[0]))  # says what they have in place of images
    for what, names in (("what systems leave behind", skipped), ("files of no images", of_others)):
        if names:
            found.remarks.append(f"{path}: skipped {what}: {some(names)} ({len(names)} in all)")
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
    places = found.places if found.places is not None else []
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
            for row, own in enumerate(_paths(table, which.image)):
                number = f"{group:04d}-{row:06d}"
                found.own_names.append(own or number)
                found.names.append("/".join([path.stem, number] + [Path(own).name] * bool(own)))
            places.extend(
                ArchiveMember(path.name, group, row, "parquet") for row in range(table.num_rows)
            )
    return replace(found, places=places, class_names=which.names)


def _name_columns(schema: Any, image_column: str) -> list[str]:
    kind = schema.field(image_column).type
    has_path = arrow.types.is_struct(kind) and kind.get_field_index("path") >= 0
    return [f"{image_column}.path"] if has_path else []


def _paths(table: Any, image_column: str) -> list[str]:
    """The path of each row's own file, where the table has it."""
    if image_column not in table.column_names:
        return [""] * table.num_rows
    return [path or "" for path in table[image_column].combine_chunks().field("path").to_pylist()]

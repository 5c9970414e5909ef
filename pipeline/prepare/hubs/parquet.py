"""Parquet files of images: which columns they have, and the image in a row (needs pyarrow)."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.labels.headings import is_label

try:
    import pyarrow as arrow
    from pyarrow import parquet
except ImportError:
    arrow = parquet = None


_IMAGES = ("image", "img", "jpg", "png", "bytes")


class Columns(NamedTuple):
    """Which columns hold images and labels, and what the labels mean where the schema says so.

    `labels` are all that could be; the first is taken if the others divide the images alike.
    """

    image: str
    labels: list[str]
    names: list[str] | None


def image(path: str, group: int, row: int) -> bytes:
    """The encoded image in a row; ValueError where there is none or the file is damaged."""
    try:
        data = _images(path, group)[row].as_py()
    except Exception as error:  # pyarrow raises many kinds for a file that is damaged
        raise ValueError(f"damaged in its parquet file ({str(error)[:100]})") from error
    if not isinstance(data, bytes) or not data:
        raise ValueError("its row in the parquet file has no bytes")
    return data


@lru_cache(maxsize=1)
def _images(path: str, group: int) -> Any:
    """The encoded images of a row group: neighbours are asked for one after the other."""
    with parquet.ParquetFile(path) as file:
        name = columns(Path(path), file.schema_arrow).image
        column = file.read_row_group(group, [name])[name].combine_chunks()
    return column.field("bytes") if arrow.types.is_struct(column.type) else column


def columns(path: Path, schema: Any) -> Columns:
    """The columns of images and labels; DatasetError where there are none."""
    features = _features(schema)
    images = [field.name for field in schema if _holds_images(field.type)]
    images = [name for name in images if name.lower() in _IMAGES] or images
    named = {name for name, about in features.items() if about.get("_type") == "ClassLabel"}
    labels = [name for name in schema.names if name in named or is_label(name)]
    labels.sort(key=lambda name: (name not in named, name.lower() != "label"))
    if not images or not labels:
        raise DatasetError(
            f"{path}: found the columns {', '.join(schema.names)}; expected one of images (bytes, "
            "or bytes and path) and one named label"
        )
    if len(images) > 1:
        raise DatasetError(
            f"{path}: the columns {', '.join(images)} all hold images; expected one, or one named "
            "image"
        )
    twice = [name for name in labels if schema.names.count(name) > 1]
    if twice:
        raise DatasetError(f"{path}: found two columns named {twice[0]}; expected one")
    fitting = [name for name in labels if _holds_labels(schema.field(name).type)]
    if labels[0] not in fitting:
        raise DatasetError(
            f"{path}: the column {labels[0]} holds {schema.field(labels[0]).type}; expected whole "
            "numbers or text"
        )
    names = features.get(labels[0], {}).get("names")
    are_texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names is not None and not are_texts:
        raise DatasetError(f"{path}: its schema names classes {str(names)[:80]}; expected texts")
    return Columns(images[0], fitting, names)


def has_images(schema: Any) -> bool:
    """Whether one of the columns holds images."""
    return any(_holds_images(field.type) for field in schema)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What the `datasets` library has noted of each column."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about["info"]["features"]
        return {name: of for name, of in features.items() if isinstance(of, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _holds_labels(kind: Any) -> bool:
    """Whether a column is of whole numbers or text, which may be stored as a dictionary."""
    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    is_text = arrow.types.is_string(kind) or arrow.types.is_large_string(kind)
    return bool(arrow.types.is_integer(kind) or is_text)


def _holds_images(kind: Any) -> bool:
    if arrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind)

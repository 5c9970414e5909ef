"""Parquet files of images: which columns they have, and the image in a row (needs pyarrow)."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_dali.pipeline.dataset import DatasetError

try:
    import pyarrow as arrow
    from pyarrow import parquet
except ImportError:
    arrow = parquet = None


_IMAGES = ("image", "img", "jpg", "png", "bytes")
_LABELS = ("label", "labels", "fine_label", "class", "target")


class Columns(NamedTuple):
    """Which columns hold images and labels, and what the labels mean where the schema says so."""

    image: str
    label: str
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
    images.sort(key=lambda name: name.lower() not in _IMAGES)
    labels = [name for name, about in features.items() if about.get("_type") == "ClassLabel"]
    labels = labels or [name for name in _LABELS if name in schema.names]
    if not images or not labels or labels[0] not in schema.names:
        raise DatasetError(
            f"{path}: found the columns {', '.join(schema.names)}; expected one of images (bytes, "
            "or bytes and path) and one named label"
        )
    kind = schema.field(labels[0]).type
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = arrow.types.is_string(kind) or arrow.types.is_large_string(kind)
    if not arrow.types.is_integer(kind) and not is_text:
        raise DatasetError(
            f"{path}: the column {labels[0]} holds {kind}; expected whole numbers or text"
        )
    names = features.get(labels[0], {}).get("names")
    are_texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names is not None and not are_texts:
        raise DatasetError(f"{path}: its schema names classes {str(names)[:80]}; expected texts")
    return Columns(images[0], labels[0], names)


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


def _holds_images(kind: Any) -> bool:
    if arrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind)

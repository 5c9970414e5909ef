"""What lies in a prepared folder for people, and for others' readers of its images."""

import json
from pathlib import Path

import numpy as np

from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.prepare.prepared_files import PreparedFiles

_README = """\
# A prepared folder

Made by alexnet-dali; its `DataLoader` reads it. `dataset.yaml` has the command.

- {lists}: a line for each image: path, space, {label}. Paths begin in
  {roots}.
- `classes.txt`: {classes}; `names.txt`: what people call them.
- `sizes.npz`: height and width of each image, its place in an archive or its length{targets}.
- `stats.npz`: mean image, mean colour and principal components of colour of the training images.
- `rejected.txt`, `converted.txt`: files that were left out or stored in another form, and why.

{how}
"""
_CLASSES = {"label": "label", "classes": "line 1 is label 0", "targets": ""}
_OTHER_TARGETS = {
    "label": "-1 (`--targets {}`)",
    "classes": "line 1 is the first column of targets",
    "targets": ", its targets",
}
_FILES = """\
Others read the lists with the folder that paths begin in, such as DALI:
`fn.readers.file(file_root="{train_root}", file_list="train.txt")`."""
_NO_LABELS = """\
Readers of files and classes refuse the label -1, as DALI's `fn.readers.file` does."""
_SHARDS = """\
Images lie in `shards/`, as WebDataset with the keys `jpg` and `cls`; `_info.json` there is timm's.
Readers of files can't use the lists: their paths lead into archives."""
_ARCHIVES = """\
Images lie in archives, into which the paths of the lists lead: readers of files can't use them."""


def write(folder: Path, files: PreparedFiles) -> None:
    """Write README.md, and timm's _info.json beside shards."""
    lists = files.lists()
    where = {
        "lists": ", ".join(f"`{name}.txt`" for name in lists),
        "roots": " and ".join(f"`{images.root}`" for images in lists.values()),
    }
    if (folder / "shards").is_dir():
        how = _SHARDS
        splits = {name: _shards(name, images) for name, images in lists.items()}
        (folder / "shards/_info.json").write_text(json.dumps({"splits": splits}, indent=1))
    elif files.train.spans is not None:
        how = _ARCHIVES
    else:
        how = _FILES if files.targets == "classes" else _NO_LABELS
    labels = _CLASSES if files.targets == "classes" else _OTHER_TARGETS
    words = {name: text.format(files.targets) for name, text in labels.items()}
    text = _README.format(**where, **words, how=how.format(train_root=files.train.root))
    (folder / "README.md").write_text(text, "utf-8", "surrogateescape")


def _shards(split: str, images: ImageList) -> dict[str, object]:
    assert images.spans is not None
    lengths = images.spans[:, :1]
    table = images.name_table(np.arange(len(images)), lengths[:, 0])
    names, counts = np.unique(table, axis=0, return_counts=True)
    return {
        "name": split,
        "num_samples": len(images),
        "filenames": [Path(name.tobytes().rstrip(b"\0").decode()).name for name in names],
        "shard_lengths": counts.tolist(),
    }

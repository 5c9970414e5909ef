"""Addresses of networks in the place of paths, and the tool that copies or mounts what is there."""

import re
from pathlib import Path

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_COPY = {
    "s3": "copy it (aws s3 cp --recursive) or mount it (mount-s3)",
    "gs": "copy it (gcloud storage cp -r) or mount it (gcsfuse)",
    "http": "download it (curl -LO)",
    "https": "download it (curl -LO)",
    "hf": "download it (hf download --repo-type dataset)",
    "hdfs": "copy it (hdfs dfs -get)",
    "file": "write the path alone, without file://",
    "pipe": "run the command into a file",
}


def what_to_do(path: Path) -> str:
    """What to do where `path` is an address, such as s3://bucket/images; empty where it is none.

    Paths that were made absolute, and so have lost a slash of `//`, are known, too.
    """
    for place, part in enumerate(path.parts):
        match = _SCHEME.match(part)
        if match is None or not (match.end() == len(part) or match[1] == "pipe"):
            continue
        if Path(*path.parts[: place + 1]).exists():
            return ""
        address = "/".join((part + "/" * (match.end() == len(part)), *path.parts[place + 1 :]))
        do = _COPY.get(match[1].lower(), "copy it, or mount it (rclone copy, rclone mount)")
        return f"{address}: images are read from a file system, not from an address; {do}"
    return ""

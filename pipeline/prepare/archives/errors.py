"""What is said of an archive that can't be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_dali.pipeline.messages import one_line


@contextmanager
def named(path: Path, kind: str) -> Iterator[None]:
    """Errors inside are of the archive at `path`, a tar or a zip.

    OSError where it can't be read, ValueError for all others.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(str(error))}") from error
    except OSError as error:
        raise OSError(f"{path} can't be read ({error})") from error
    except Exception as error:  # tarfile and zipfile raise many kinds for a file that is damaged
        raise ValueError(f"{path}: expected a whole {kind} archive ({error!r})") from error

"""Faults of the machine, told apart from faults of files and settings."""

import errno
import re

_OUT_OF_MEMORY = re.compile(
    r"out of memory|bad_alloc|can't allocate memory|cudaErrorMemoryAllocation"
    r"|NVJPEG_STATUS_ALLOCATOR_FAILURE|nvJPEG error \(5\)",
    re.IGNORECASE,
)
_NO_THREADS = re.compile("can't start new thread|Resource temporarily unavailable")
_DEVICE = re.compile(r"CUDA (error|runtime API error|driver API error)|CUDNN_STATUS|NVML")
"""What CUDA and its driver say of themselves. nvJPEG's errors are not among these: most of them
speak of a file."""

_MISTAKE = re.compile("device-side assert|capturing|during capture")
"""An index out of range, or a call that can't be captured: mistakes in a program, which the GPU
only reports."""


class ResourceError(OSError):
    """Memory or a GPU failed: no file is to blame, and what has been done so far is kept."""


def resource_error(error: BaseException) -> ResourceError | None:
    """The message for users where memory or a GPU failed; None for any other error."""
    if isinstance(error, ResourceError):
        return error
    if not isinstance(error, (MemoryError, RuntimeError)):
        return None
    said = gist(error)
    if (
        isinstance(error, MemoryError)
        or _is_torchs(error, "OutOfMemoryError")
        or _OUT_OF_MEMORY.search(str(error))
    ):
        return ResourceError(
            f"out of memory ({said}); rerun the command to resume. See what else "
            "runs here (free -h, nvidia-smi); a smaller batch takes less"
        )
    if _NO_THREADS.search(str(error)):
        return ResourceError(
            f"no more threads or processes can be started ({said}): the limit is reached (ulimit "
            "-u, or a container's pids). Raise it, or lower --data.num_threads and "
            "OMP_NUM_THREADS, and rerun the command to resume"
        )
    if (
        _is_torchs(error, "AcceleratorError") or _DEVICE.search(str(error))
    ) and not _MISTAKE.search(str(error)):
        return ResourceError(
            f"the GPU or its driver failed ({said}); rerun the command to resume. "
            "nvidia-smi and the kernel's log (dmesg, lines with Xid) say more of the GPU"
        )
    return None


_OF_ONE_FILE = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)


def the_files_own(error: OSError) -> bool:
    """Whether one file alone may be at fault.

    A disk that fails, a server that is gone or too many open files are no file's.
    """
    return error.errno in _OF_ONE_FILE


_OF_THE_DISK = (
    errno.EIO,
    errno.ESTALE,
    errno.EREMOTEIO,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
)


def the_disks_own(error: BaseException) -> bool:
    """Whether a disk, or the server of files, has failed: the file may be sound."""
    return isinstance(error, OSError) and error.errno in _OF_THE_DISK


_ADVICE = {
    errno.ENOSPC: "make room and rerun the same command",
    errno.EDQUOT: "make room in your quota and rerun the same command",
    errno.EFBIG: "files may not be as large here (ulimit -f, or FAT's 4 GB): raise the limit, or "
    "choose a folder on another file system, and rerun the same command",
    errno.EAGAIN: "the limit of processes is reached (ulimit -u, or a container's pids)",
    errno.EROFS: "the file system is read-only: choose a folder on another",
    errno.EACCES: "the rights do not allow it: choose another folder, or change them",
}


def advice(error: Exception) -> str:
    """What to do about a disk or its rights, to follow the message; empty for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    return f"; {_ADVICE[number]}" if number in _ADVICE else ""


def gist(error: BaseException) -> str:
    """What an error says, without a library's advice and traceback.

    If it says nothing, its kind.
    """
    text = str(error)
    if "encountered:" in text:  # DALI quotes the lines that defined the graph first
        text = text.split("encountered:", 1)[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (
        " ".join(lines[:2])[:300]
        .removesuffix("Current pipeline object is no longer valid.")
        .strip()
        or type(error).__name__
    )


def _is_torchs(error: BaseException, name: str) -> bool:
    """By name: preparing does without torch, whose import takes a second."""
    return any(kind.__name__ == name for kind in type(error).__mro__)

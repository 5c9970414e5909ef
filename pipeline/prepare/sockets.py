"""Room for the socket of the server that forks processes."""

import os
import tempfile

_LONGEST_TEMPORARY = 70
"""Bytes of the temporary folder's path: the fork server's socket lies in it, and a socket's path
has 107 at most.
"""


def fit_the_fork_server() -> None:
    """To be called before a process is started by multiprocessing's fork server."""
    if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_TEMPORARY:
        tempfile.tempdir = "/tmp"

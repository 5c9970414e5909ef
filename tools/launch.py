"""Start commands of this project on one rank or on several: torchrun, with its end made plain.

    python -m alexnet_dali.tools.launch --nproc_per_node=2 -m alexnet_dali.train CONFIG.yaml ...

It takes torchrun's options. A rank that fails has said why: no traceback of torchrun's follows. The
exit status is 2 after a user's error, which would come again, 1 after another, and 128 + n after
signal n. LOGLEVEL=INFO shows what torchrun does.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import parse_args, run

from alexnet_dali.pipeline.system.faults import gist


def main(argv: list[str]) -> int:
    """Run torchrun with these arguments; returns the exit status."""
    if "LOGLEVEL" not in os.environ:
        logging.disable()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's choice, too
    with TemporaryDirectory(prefix="torchelastic_") as logs:
        args = parse_args(["--log-dir", logs, *argv])
        if args.standalone:
            _stay_on_this_machine(args)
        try:
            run(args)
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            notes = _notes(Path(logs))
            if not notes:
                print(f"error: rank {rank} {_ended(failure.exitcode)}", file=sys.stderr)
            status = 1 if failure.exitcode > 0 else 128 - failure.exitcode
        except SignalException as signalled:  # a rank sends it, too, where a restart is no help
            notes, status = _notes(Path(logs)), 128 + signalled.sigval
        except RendezvousError as lost:
            print(
                f"error: the machines can't meet ({lost}); one may be gone, or its address or port "
                "(--rdzv_endpoint) is not reached from here",
                file=sys.stderr,
            )
            return 1
        except (ValueError, AssertionError) as error:  # torchrun's, of its own options
            print(f"error: torchrun refuses its options ({gist(error)})", file=sys.stderr)
            return 2
        else:
            return 0
        finally:  # signals that still come would only interrupt Python's end
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return 2 if any(note["refused"] for note in notes) else status


def _stay_on_this_machine(args: Namespace) -> None:
    """Let ranks meet by the loopback address: the machine's name may lead nowhere.

    To look it up can take half a minute, and torchrun does for each entry of its log.
    """
    args.local_addr = args.local_addr or "localhost"
    socket.getfqdn = lambda name="": name or socket.gethostname()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _notes(logs: Path) -> list[dict[str, Any]]:
    """What ranks have left by train.parallel.ranks.report_error, in any attempt."""
    return [json.loads(path.read_text()) for path in logs.rglob("error.json")]


def _ended(status: int) -> str:
    if status > 0:
        return f"has ended with status {status}"
    return f"was ended by signal {-status} (killed, or out of memory?)"


def launcher(num_ranks: int) -> list[str]:
    """What goes between `python` and `-m MODULE`: this launcher where there are several ranks."""
    if num_ranks == 1:
        return []
    return ["-m", "alexnet_dali.tools.launch", "--standalone", f"--nproc_per_node={num_ranks}"]


def train_on_ranks(options: list[str], num_ranks: int) -> None:
    """Train on several ranks, with these options of train; ValueError where that fails."""
    command = [sys.executable, *launcher(num_ranks), "-m", "alexnet_dali.train", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, message = process.communicate()
    except KeyboardInterrupt:  # has reached torchrun, too; a second signal would not let it save
        process.communicate()
        raise
    except BaseException:  # torchrun passes the signal on, and its ranks save
        process.terminate()
        process.communicate()
        raise
    if process.returncode:
        raise ValueError(f"training failed with status {process.returncode}:\n{message[-2000:]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Start commands of this project on one rank or on several."""

import subprocess
import sys


def launcher(num_ranks: int) -> list[str]:
    """What goes between `python` and `-m MODULE`: torchrun where there are several ranks."""
    if num_ranks == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"]


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

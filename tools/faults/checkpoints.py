"""Checkpoints that are damaged."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from alexnet_dali.tools.faults.outcomes import Outcome
from alexnet_dali.tools.faults.runs import Bench, difference, last_state
from alexnet_dali.train.checkpoints import checkpoint


def damaged_checkpoint(
    damage: Callable[[Bench, Path], None],
) -> Callable[[Bench, int], Iterator[Outcome]]:
    """The newest checkpoint is damaged; the run goes on from the one before."""

    def trials(bench: Bench, times: int) -> Iterator[Outcome]:
        shutil.rmtree(bench.folder / "stopped", ignore_errors=True)
        bench.finish("stopped", "--run.max_steps", 30, ranks=1)
        for _ in range(times):
            folder = bench.copy("stopped", "damaged")
            newest = checkpoint.newest(folder / "checkpoints")
            assert newest is not None
            damage(bench, newest)
            run = bench.start("damaged", ranks=1)
            said = run.wait()
            warned = [line for line in said.splitlines() if line.startswith(("warning:", "error:"))]
            saw = warned[0].replace(f"{bench.folder}/", "") if warned else ""
            lost = difference(last_state(folder), bench.expected(1)) if saw else "its name"
            yield Outcome(lost, saw)

    return trials


def truncate(bench: Bench, path: Path) -> None:
    """Cut the file short."""
    os.truncate(path, bench.random.randrange(1, path.stat().st_size))


def empty(bench: Bench, path: Path) -> None:
    """Leave nothing of the file but its name."""
    os.truncate(path, 0)


def make_folder(bench: Bench, path: Path) -> None:
    """Put a folder in the file's place."""
    path.unlink()
    path.mkdir()


def _flip(bench: Bench, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[bench.random.randrange(len(content))] ^= 1 << bench.random.randrange(8)
    path.write_bytes(content)


def flipped_bits(bench: Bench, times: int) -> Iterator[Outcome]:
    """A bit of a checkpoint flips; it must be found before anything is loaded."""
    bench.expected(1)
    folder = bench.copy("reference-1", "flipped")
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    sound = newest.read_bytes()
    for _ in range(times):
        newest.write_bytes(sound)
        _flip(bench, newest)
        try:
            last_state(folder)
            yield Outcome("the flip was not found", "")
        except ValueError as error:
            yield Outcome("nothing", "error: " + str(error).replace(f"{bench.folder}/", ""))

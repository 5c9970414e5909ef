"""Images and shards that go bad while a run reads them."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools.faults.outcomes import Outcome
from alexnet_dali.tools.faults.runs import Bench, Run, sources


def bad_images(bench: Bench, times: int) -> Iterator[Outcome]:
    """Images become text, noise, stumps or smaller pictures while the run goes on."""
    whole = bench.prepared
    for trial in range(times):
        copy = bench.folder / "bad"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(bench.folder / "bad-run", ignore_errors=True)
        shutil.copytree(bench.folder / "images", copy / "images")
        shutil.copytree(whole, copy / "prepared")
        about = copy / "prepared/dataset.yaml"
        about.write_text(about.read_text().replace(f"{bench.folder}/images", f"{copy}/images"))
        images = Dataset.open(copy / "prepared").train
        options = ("--data.root", copy / "prepared", "--data.max_bad_fraction", 0.9)
        run = bench.start("bad-run", *options, ranks=1 + trial % 2)
        run.wait_for("step 10/")
        damaged = bench.random.sample(range(len(images)), bench.random.randrange(1, 400))
        for index in damaged:
            path = Path(images.path(index))
            content = path.read_bytes()
            noise, stump = bench.random.randbytes(len(content)), content[: len(content) // 3]
            kinds = [b"text\n" * 99, noise, stump, _smaller(content)]
            path.write_bytes(bench.random.choice(kinds))
        said = run.wait()
        listed = (bench.folder / "bad-run/bad_images.txt").read_text().splitlines()
        names = {line.split("\t")[1] for line in listed}
        named = names <= {images.path(index) for index in damaged}
        ends = "finished" in said and run.process.returncode == 0
        warning = next((line for line in said.splitlines() if line.startswith("warning:")), "")
        yield Outcome(
            "nothing" if named and ends else f"the run: {run.message()}",
            warning.replace(f"{bench.folder}/", ""),
        )


def _smaller(content: bytes) -> bytes:
    """The picture at half its size, as a JPEG file."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.reduce(2).save(file, "JPEG")
    return file.getvalue()


def cut_shard(bench: Bench, times: int) -> Iterator[Outcome]:
    """A shard is cut short while the run reads it."""
    for trial in range(times):
        out = bench.folder / "shards"
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(bench.folder / "shard-run", ignore_errors=True)
        command = [
            "-m",
            "alexnet_dali.tools",
            "prep",
            *sources(bench.folder / "images"),
            "--resize",
            "64",
        ]
        Run(out, [*command, "--shards", "--out", str(out)]).wait()
        options = ("--data.root", out, "--data.max_bad_fraction", 0.9)
        run = bench.start("shard-run", *options, ranks=1 + trial % 2)
        run.wait_for("step 10/")
        shard = Path(Dataset.open(out).train.archive(0)[0])
        os.truncate(shard, bench.random.randrange(shard.stat().st_size // 2, shard.stat().st_size))
        said = run.wait()
        warning = next((line for line in said.splitlines() if line.startswith("warning:")), "")
        ends = "finished" in said and run.process.returncode == 0
        yield Outcome(
            "nothing" if ends and shard.name in warning else f"the run: {run.message()}",
            warning.replace(f"{bench.folder}/", ""),
        )

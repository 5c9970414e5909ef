"""Memory runs out, or a GPU is lost: no image is blamed or rejected.

One message says what happened.
"""

import contextlib
import gc
import re

import pytest
import torch
from nvidia.dali.pipeline import Pipeline

from alexnet_dali.pipeline import decode
from alexnet_dali.pipeline.crops import RandomCrop
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.feeder import Feeder
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare import examine, preparation
from alexnet_dali.pipeline.system.faults import ResourceError, resource_error
from alexnet_dali.pipeline.transform import Pixels
from alexnet_dali.tools import prep_imagenet
from alexnet_dali.train.__main__ import main
from alexnet_dali.train.trainer import Trainer
from tests.feeding import training_plan
from tests.images import write_class_folders
from tests.recipes import TINY

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
)
LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"
FAULTS = {
    "host memory": (
        RuntimeError("Critical error in pipeline:\nencountered:\n\nstd::bad_alloc"),
        "out of memory",
    ),
    "Python's memory": (MemoryError(), r"out of memory \(MemoryError\)"),
    "torch's memory": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        "out of memory",
    ),
    "threads": (
        RuntimeError("can't start new thread"),
        r"no more threads or processes can be started .*ulimit -u, or a container's pids",
    ),
    "GPU memory": (torch.OutOfMemoryError(OUT_OF_MEMORY), "out of memory.*79.11 GiB"),
    "DALI's GPU memory": (
        RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nno"),
        "out of memory",
    ),
    "nvJPEG's memory": (
        RuntimeError(
            "Critical error in pipeline:\nError when executing Mixed operator decoders__Image "
            "encountered:\nError in thread 0: [/opt/dali/dali/operators/decoder/nvjpeg/"
            'nvjpeg_decoder_decoupled_api.h:840] NVJPEG error "5" : NVJPEG_STATUS_ALLOCATOR_FAILURE'
        ),
        "out of memory",
    ),
    "lost GPU": (
        torch.AcceleratorError(LOST),
        "GPU or its driver failed.*unspecified launch failure",
    ),
    "DALI's lost GPU": (
        RuntimeError("CUDA driver API error CUDA_ERROR_LAUNCH_FAILED (719):\nx"),
        "GPU or its driver",
    ),
    "a forked GPU": (
        RuntimeError("CUDA runtime API error cudaErrorInitializationError (3):\nx"),
        "GPU or its driver",
    ),
}
each_fault = pytest.mark.parametrize("error, message", FAULTS.values(), ids=FAULTS)


class Failing:
    """A DALI pipeline that fails."""

    def __init__(self, error):
        self._error = error

    def feed_input(self, name, data):
        pass

    def run(self):
        raise self._error


class NoWorkers(contextlib.nullcontext):
    """Examines files in this process, where the test can plant faults."""

    def __enter__(self):
        return self

    def results(self, tasks):
        return (task.run() for task in tasks)

    def why_not_decoded(self, *file):
        return examine.why_not_decoded(*file)


@each_fault
def test_a_fault_while_decoding_rejects_no_file_and_the_command_can_be_rerun(
    error, message, monkeypatch, tmp_path
):
    write_class_folders(tmp_path / "train", {"a": 3, "b": 3})
    monkeypatch.setattr(preparation, "Workers", NoWorkers)
    monkeypatch.setattr(examine, "_decoder_said", lambda: "")
    command = [
        "--train",
        str(tmp_path / "train"),
        "--hold-out",
        "0.4",
        "--out",
        str(tmp_path / "out"),
    ]
    with monkeypatch.context() as planted:
        failing = lambda: Failing(error)  # noqa: E731 - with an attribute
        failing.cache_clear = lambda: None
        planted.setattr(decode, "_pipeline", failing)
        with pytest.raises(
            ResourceError, match=f"(?s){message}.*It happened at .*jpg; if it happens there again"
        ):
            prep_imagenet.main(command)
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.unfinished").is_dir()
    prep_imagenet.main(command)
    assert (
        len(Dataset.open(tmp_path / "out").train) == 4
        and not (tmp_path / "out/rejected.txt").read_text()
    )


def test_an_error_of_the_decoder_still_rejects_the_image(monkeypatch, tmp_path):
    """Otherwise, the test above would prove nothing."""
    write_class_folders(tmp_path / "train", {"a": 3, "b": 3})
    victim = tmp_path / "train/a/001.jpg"
    victim.write_bytes(victim.read_bytes()[:400])
    monkeypatch.setattr(preparation, "Workers", NoWorkers)
    monkeypatch.setattr(examine, "_decoder_said", lambda: "")
    prep_imagenet.main(
        ["--train", str(tmp_path / "train"), "--hold-out", "0.4", "--out", str(tmp_path / "out")]
    )
    assert "a/001.jpg" in (tmp_path / "out/rejected.txt").read_text()


def begun(dataset):
    """A feeder whose first batch has come."""
    transform = Pixels("image", lighting_std=0.1).transform(dataset.stats, RandomCrop(80, 96))
    feeder = Feeder(dataset.train, training_plan(dataset.train), transform)
    feeder.next()
    return feeder


@pytest.mark.parametrize(
    "error, message", [fault for fault in FAULTS.values() if isinstance(fault[0], RuntimeError)]
)
def test_a_fault_in_the_loader_blames_no_image(error, message, dataset, monkeypatch):
    feeder = begun(dataset)
    monkeypatch.setattr(feeder, "_pipeline", Failing(error))
    with pytest.raises(ResourceError, match=f"(?s){message}") as caught:
        feeder.next()
    assert ".jpg" not in str(caught.value) and not feeder._requests.faults


OF_A_FILE = [
    "Failed to decode sample #3 :",
    "nvImageCodec failure: '#4'",
    "something new",
    "Error in thread 4: [/opt/dali/dali/operators/decoder/nvjpeg/"
    'nvjpeg_decoder_decoupled_api.h:840] NVJPEG error "2" : '
    "NVJPEG_STATUS_INVALID_PARAMETER n04515003/n03928589_1742.JPEG",
    "Error in thread 0: [/opt/dali/dali/operators/decoder/nvjpeg/"
    'nvjpeg_decoder_decoupled_api.h:1021] NVJPEG error "4" : NVJPEG_STATUS_JPEG_NOT_SUPPORTED',
    'NVJPEG error "2" : nvJPEG error (2): Wrong parameter was passed. For example, a null pointer '
    "as input data, or an image index not in the allowed range.",
    "[nvjpeg_cuda_decoder] Could not decode jpeg code stream - nvJPEG error (3): Cannot parse the "
    "JPEG stream. Likely due to a corruption.",
]
"""What DALI says of files, or may: its older decoders and nvImageCodec."""


@pytest.mark.parametrize("said", OF_A_FILE)
def test_what_is_said_of_a_file_is_no_fault_of_the_machine(said):
    assert (
        resource_error(RuntimeError(f"Critical error in pipeline:\nencountered:\n{said}")) is None
    )


@pytest.mark.parametrize("said", OF_A_FILE)
def test_the_loader_blames_no_image_if_each_decodes_alone(said, dataset, monkeypatch):
    """A GPU's decoder may fail for a reason of its own."""
    feeder = begun(dataset)
    monkeypatch.setattr(
        feeder, "_pipeline", Failing(RuntimeError(f"Critical error\nencountered:\n\n{said}"))
    )
    with pytest.raises(
        ResourceError, match=f"12 images, each of which can be decoded alone .*{re.escape(said)}"
    ):
        feeder.next()
    assert not feeder._requests.faults


def test_running_out_of_memory_while_looking_for_the_bad_image_blames_none(dataset, monkeypatch):
    feeder = begun(dataset)
    monkeypatch.setattr(feeder, "_pipeline", Failing(RuntimeError("Failed to decode sample #3 :")))
    alone = Failing(RuntimeError("std::bad_alloc"))
    monkeypatch.setattr(feeder, "_graph", lambda requests: alone)
    with pytest.raises(ResourceError, match="out of memory"):
        feeder.next()
    assert not feeder._requests.faults


@pytest.mark.parametrize("said", OF_A_FILE)
def test_an_image_is_blamed_where_it_alone_fails_with_what_is_said_of_files(
    said, dataset, monkeypatch
):
    """Anything new is the machine's, or DALI's: images are not replaced for it."""
    feeder, seen = begun(dataset), []
    feeder._on_bad_image = seen.append
    error = RuntimeError(f"Critical error\nencountered:\n\n{said}")
    graphs = iter([Failing(error)])
    right = feeder._graph
    monkeypatch.setattr(feeder, "_pipeline", Failing(error))
    monkeypatch.setattr(feeder, "_graph", lambda asked: next(graphs, None) or right(asked))
    if said == "something new":
        with pytest.raises(ResourceError, match="DALI's decoder failed"):
            feeder.next()
        assert not feeder._requests.faults
    else:
        feeder.next()
        (bad,) = seen
        assert "it can't be decoded" in bad.why


def test_a_graph_for_which_there_is_no_room_blames_no_image(dataset, monkeypatch):
    def fail(self):
        raise RuntimeError("Critical error\nencountered:\n\nnvImageCodec failure: '#8'")

    monkeypatch.setattr(Pipeline, "build", fail)
    with pytest.raises(ResourceError, match="DALI can't start"):
        begun(dataset)


@pytest.mark.parametrize(
    "error, message", [FAULTS[name] for name in ("host memory", "GPU memory", "lost GPU")]
)
def test_a_fault_in_a_step_gives_one_message_and_keeps_the_checkpoint(
    error, message, prepared, tmp_path, monkeypatch, capsys
):
    (tmp_path / "tiny.yaml").write_text(TINY)
    command = [
        str(tmp_path / "tiny.yaml"),
        "--data.root",
        str(prepared),
        "--run.dir",
        str(tmp_path / "run"),
    ]
    train_step = Trainer.train_step

    def fail_in_the_fifth(self, batch):
        if self.state.step == 4:
            raise error
        train_step(self, batch)

    with monkeypatch.context() as planted:
        planted.setattr(Trainer, "train_step", fail_in_the_fifth)
        assert main(command) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert (
        lines[-1].startswith("error: ")
        and sum("error:" in line.lower() for line in lines[:-1]) == 0
    )
    assert (
        "Traceback" not in "".join(lines)
        and ".jpg" not in lines[-1]
        and "rerun the command to resume" in lines[-1]
    )
    checkpoints = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints == ["best.pt", "step-0000000003.pt"]
    error.__traceback__ = None  # it holds the trainer, which holds its folder's lock
    gc.collect()  # the trainer is part of a cycle, which Python 3.14 keeps for longer
    assert main([*command, "--run.max_steps", "4"]) == 0


@pytest.mark.parametrize(
    "mistake",
    [
        RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"),
        RuntimeError("CUDA error: operation failed due to a previous error during capture"),
        KeyError("CUDA error"),
        DatasetError("a.jpg"),
    ],
)
def test_mistakes_of_the_program_or_its_user_are_not_machine_errors(mistake):
    assert resource_error(mistake) is None

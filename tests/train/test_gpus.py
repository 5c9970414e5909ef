"""Which device a command takes, and what it says where it can't have one.

These tests need no GPU.
"""

import pytest
import torch

from alexnet_dali.model.columns import Columns
from alexnet_dali.train import data
from alexnet_dali.train.config import DataConfig
from alexnet_dali.train.parallel import devices as gpus
from alexnet_dali.train.parallel.devices import runs_on, set_matmul_precision
from alexnet_dali.train.parallel.ranks import Ranks, join
from alexnet_dali.train.record.stopwatch import Stopwatch

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). "
    "Please update your GPU driver\nmore"
)


@pytest.fixture
def cuda(monkeypatch):
    """A machine with two GPUs of compute capability 7.0 and a PyTorch for CUDA 13.0."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (7, 0))
    monkeypatch.setattr(
        torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "compute_120"]
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpus, "driver", lambda: "535.104.05")
    return monkeypatch


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_driver_that_is_too_old_gives_one_message_that_says_what_to_do(asked, cuda):
    def fail():
        raise RuntimeError(TOO_OLD)

    cuda.setattr(torch.cuda, "init", fail)
    with pytest.raises(ValueError) as caught, join(asked):
        pass
    message = str(caught.value)
    assert (
        "2 GPUs were found" in message
        and "found driver 535.104.05, expected R580 or newer" in message
    )
    assert (
        "built for an older CUDA" in message
        and "--run.device cpu" in message
        and "\n" not in message
    )


def test_a_busy_gpu_is_not_blamed_on_the_driver(cuda):
    def fail(number):
        raise torch.AcceleratorError(
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nmore"
        )

    cuda.setattr(torch.cuda, "set_device", fail)
    with (
        pytest.raises(
            ValueError, match=r"GPU 0 of 2 can't be taken \(.*busy or unavailable\)"
        ) as caught,
        join("cuda"),
    ):
        pass
    assert "driver" not in str(caught.value)


def test_a_gpu_that_is_too_old_gives_one_message_that_says_what_to_do(cuda):
    with (
        pytest.raises(
            ValueError, match=r"GPU 0 is a Tesla V100.*capability 7\.0.*CUDA 13\.0.*older CUDA"
        ),
        join("auto"),
    ):
        pass


def test_a_supported_gpu_is_taken(cuda):
    cuda.setattr(torch.cuda, "get_device_capability", lambda number: (8, 6))
    with join("auto") as ranks:
        assert ranks.device == torch.device("cuda", 0)


@pytest.mark.parametrize(
    "capability, built_for, runs",
    [
        ((8, 0), ["sm_80"], True),
        ((8, 9), ["sm_80"], True),  # machine code of the same major version
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # compiled by the driver
        ((7, 0), ["sm_75", "compute_90"], False),
        ((12, 0), ["sm_90", "sm_100", "sm_120"], True),
        ((9, 0), ["sm_90a"], True),
    ],
)
def test_runs_on_follows_cudas_rules_of_compatibility(capability, built_for, runs):
    """CUDA's rules for binary and for virtual architectures."""
    assert runs_on(capability, built_for) == runs


def test_the_drivers_version_is_read_from_the_kernels_file(monkeypatch, tmp_path):
    text = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:15:47 UTC 2025\n"
        "GCC version: 12.2.0"
    )
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(gpus, "Path", lambda path: tmp_path / "version")
    assert gpus.driver() == "580.65.06"
    (tmp_path / "version").unlink()
    assert gpus.driver() == "unknown"


@pytest.mark.parametrize(
    "device, cores, threads", [("cpu", 64, 64), ("cuda", 64, 16), ("cuda", 4, 4)]
)
def test_a_gpus_decoding_threads_are_capped(device, cores, threads, dataset, monkeypatch):
    """DALI reserves GPU memory for each thread."""
    taken = []

    def loader(*arguments, num_threads, **options):
        taken.append(num_threads)
        raise InterruptedError

    monkeypatch.setattr(data, "DataLoader", loader)
    ranks = Ranks(0, 1, torch.device(device), cores, Columns.whole(2))
    with pytest.raises(InterruptedError):
        data.evaluation_batches(dataset.val, DataConfig(resize=64, crop=56), ranks, 5)
    assert taken == [threads]


class Event:
    """A CUDA event, on a GPU whose host runs ahead of it."""

    host, device = 0.0, 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.device = max(
            Event.device, Event.host
        )  # a GPU can't reach an event before it is issued
        self.at = Event.device

    def query(self):
        return self.at <= Event.host

    def elapsed_time(self, other):
        return 1000 * (other.at - self.at)


@pytest.mark.parametrize("host_waits, fraction", [(0.5, 0.0), (3.0, 1 / 3)])
def test_a_gpu_waits_for_data_only_while_it_is_idle(host_waits, fraction, monkeypatch):
    """The host runs ahead of the GPU.

    As long as the GPU is busy, a host that waits costs nothing.
    """
    monkeypatch.setattr(torch.cuda, "Event", Event)
    Event.host = Event.device = 0.0
    stopwatch = Stopwatch(torch.device("cuda"))
    for _ in range(41):
        stopwatch.resume()
        Event.host += host_waits
        stopwatch.got_batch()
        Event.device = max(Event.device, Event.host) + 2.0
        stopwatch.end_step()
    found = stopwatch.metrics(batch_size=128)
    assert found["throughput/data_wait_fraction"] == pytest.approx(fraction)
    assert found["throughput/step_ms"] == pytest.approx(1000 * max(2.0, host_waits))


@pytest.mark.parametrize(
    "issuing, computing, waiting, ahead, busy",
    [
        (1.0, 0.6, 0.0, 1000.0, 0.6),  # the host issues too slowly: gaps between all kernels
        (0.3, 0.6, 0.0, 1000.0, 1.0),
        (0.3, 0.6, 0.0, 5.0, 1.0),  # never gaps, though never a whole step ahead
        (0.3, 0.6, 18.0, 1000.0, 0.5),  # 20 kernels take 12 ms, and the host 18 + 6
        (1.0, 0.6, 10.0, 1000.0, 0.4),  # both
    ],
)
def test_the_share_of_time_in_which_a_gpu_computes(
    issuing, computing, waiting, ahead, busy, monkeypatch
):
    """Steps of 20 kernels; milliseconds of host and GPU for each, and of waiting for data a step.

    The host is never more than `ahead` in front of the GPU when it begins a step.
    """

    def hold(cycles):
        Event.device = max(Event.device, Event.host) + cycles / 2e9

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", hold)
    monkeypatch.setattr("alexnet_dali.train.record.stopwatch.time.monotonic", lambda: Event.host)
    Event.host = Event.device = 0.0
    stopwatch = Stopwatch(torch.device("cuda"), holds=True)
    for step in range(1, 451):
        Event.host = max(Event.host + waiting / 1000, Event.device - ahead / 1000)
        stopwatch.got_batch()
        for _ in range(20):
            Event.host += issuing / 1000
            Event.device = max(Event.device, Event.host) + computing / 1000
        stopwatch.end_step()
        if step % 150 == 0:
            Event.host = max(Event.host, Event.device)
            found = stopwatch.metrics(batch_size=128)
            stopwatch.reset()
        stopwatch.end_turn()
    assert found["throughput/gpu_busy_fraction"] == pytest.approx(busy, abs=0.02)


def test_what_the_loop_does_between_steps_counts_but_not_as_waiting(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    Event.host = Event.device = 0.0
    stopwatch = Stopwatch(torch.device("cuda"))
    for _ in range(11):
        Event.host += 1.0
        stopwatch.got_batch()
        Event.host += 2.0
        stopwatch.end_step()
        Event.host += 1.0  # a line
        stopwatch.end_turn()
        Event.host += 5.0  # a checkpoint
        stopwatch.resume()
    found = stopwatch.metrics(batch_size=128)
    assert found["throughput/data_wait_fraction"] == pytest.approx(0.25, abs=0.01)
    assert found["throughput/step_ms"] == pytest.approx(4000, rel=0.03)
    assert "throughput/gpu_busy_fraction" not in found


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_gpu_without_a_precision_is_refused(precision, cuda):
    """The rehearsed GPU is a V100. torch itself would say nothing."""
    with pytest.raises(ValueError, match=r"V100.* capability 7\.0; .*8\.0 or more: expected fp32"):
        set_matmul_precision(precision, torch.device("cuda", 0))
    set_matmul_precision("fp32", torch.device("cuda", 0))
    cuda.setattr(torch.cuda, "get_device_capability", lambda number: (8, 0))
    set_matmul_precision(precision, torch.device("cuda", 0))
    set_matmul_precision("fp32", torch.device("cuda", 0))

"""Without a GPU: a training step can be a CUDA graph, and runs that replay one are the same runs.

Two steps must be the same operations on the same tensors, with the same numbers. A number of
Python's that changes would be the first step's in every replay, and nobody would be told.
"""

import contextlib
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from alexnet_dali.model import alexnet, randomness
from alexnet_dali.train import trainer as trainer_module
from alexnet_dali.train.capture import CudaGraph
from alexnet_dali.train.config import load
from alexnet_dali.train.optim import PaperSGD
from alexnet_dali.train.parallel import ranks as distributed
from alexnet_dali.train.parallel.watchdog import Progress
from alexnet_dali.train.trainer import Trainer
from tests.recipes import TINY
from tests.rehearsal import test_collectives, test_step
from tests.tape import Tape, TapeRecorder, fixed_tensors
from tests.train import test_train

on_meta, recipe, train = test_step.trainer, test_train.recipe, test_train.train


def notes(trainer, batch):
    """Of the next step."""
    trainer.masks.set_step(trainer.state.step)
    names = {f"batch {place}": part for place, part in enumerate(batch)}
    with Tape(fixed_tensors(trainer) | names) as tape:
        trainer.compute(batch)
    trainer.state.step += 1
    return tape


def differences(trainer, batch):
    """What is different in two steps, or comes from neither of them; learning rates change, too."""
    first = notes(trainer, batch)
    trainer.state.optimizer.set_lr(0.001, epoch=1)
    second = notes(trainer, batch)
    assert len(first.notes) > 100
    found = [pair for pair in zip(first.notes, second.notes) if pair[0] != pair[1]]
    if len(first.notes) != len(second.notes):
        found.append((len(first.notes), len(second.notes)))
    return [*map(str, found), *first.strangers, *second.strangers]


def test_two_steps_on_a_device_are_the_same_operations(on_meta):
    assert differences(on_meta, test_step.batch()) == []


def with_keys_as_numbers(share, rows, columns, width, key, bernoulli=randomness.bernoulli):
    return bernoulli(share, rows, columns, width, torch.tensor(int(key)))


def with_rates_as_numbers(self, step=PaperSGD.step):
    tensors = [group["lr"] for group in self.param_groups]
    for group in self.param_groups:
        group["lr"] = group["rate"]
    step(self)
    for group, rate in zip(self.param_groups, tensors):
        group["lr"] = rate


def test_masks_of_a_number_are_detected(on_meta, monkeypatch):
    def of_a_number(share, rows, columns, width, key, bernoulli=randomness.bernoulli):
        number = on_meta.state.step
        return bernoulli(share, rows, columns, width, key).ne(number)

    monkeypatch.setattr(alexnet, "bernoulli", of_a_number)
    assert any("aten.ne.Scalar" in one for one in differences(on_meta, test_step.batch()))


def test_a_learning_rate_that_is_a_number_is_detected(on_meta, monkeypatch):
    monkeypatch.setattr(PaperSGD, "step", with_rates_as_numbers)
    test_step._META_KERNELS.impl("_fused_sgd_", lambda *arguments, **options: None)
    assert any("_fused_sgd_" in one for one in differences(on_meta, test_step.batch()))


def test_a_tensor_made_by_the_host_is_detected(on_meta, monkeypatch):
    def with_a_new_key(share, rows, columns, width, key, bernoulli=randomness.bernoulli):
        return bernoulli(share, rows, columns, width, made_elsewhere)

    made_elsewhere = torch.empty((), dtype=torch.int64, device="meta")
    monkeypatch.setattr(alexnet, "bernoulli", with_a_new_key)
    assert "a tensor [] from elsewhere" in differences(on_meta, test_step.batch())


@pytest.fixture
def one_of_four(prepared, tmp_path, monkeypatch):
    """The trainer of one of four ranks, whose collectives are answered as by itself."""
    new_group = partial(test_collectives._without_backend, dist.new_group)
    monkeypatch.setattr(distributed.dist, "new_group", new_group)
    dist.init_process_group("fake", rank=1, world_size=4, store=FakeStore())
    try:
        ranks = distributed._in_pairs(1, 4, torch.device("cpu"), 1)
        collectives = test_collectives.Notes(monkeypatch, None)
        collectives.know(ranks)
        (tmp_path / "tiny.yaml").write_text(TINY)
        options = ["--data.root", str(prepared), "--run.dir", str(tmp_path / "run")]
        yield Trainer(load([str(tmp_path / "tiny.yaml"), *options]), ranks), collectives.calls
    finally:
        dist.destroy_process_group()


def test_two_steps_of_two_columns_in_two_pairs_are_the_same_operations(one_of_four):
    trainer, calls = one_of_four
    batch = next(trainer.batches())
    calls.clear()
    assert differences(trainer, batch) == []
    half = len(calls) // 2
    assert calls[:half] == calls[half:]
    assert {call[:2] for call in calls} == {
        ("all_gather", "column"),
        ("reduce_scatter", "column"),
        ("all_reduce", "data"),
    }


@pytest.fixture
def recorders(monkeypatch):
    """Steps are recorded on tapes: those of each trainer that is made, in order."""
    found = []

    def record_on_tape(self, *arguments, init=Trainer.__init__):
        init(self, *arguments)
        if self.captured:
            self.captured._recorder = TapeRecorder(fixed_tensors(self))
            found.append(self.captured._recorder)

    monkeypatch.setattr(trainer_module, "CudaGraph", lambda device: None)
    monkeypatch.setattr(Trainer, "__init__", record_on_tape)
    # Two threads can't write on one tape.
    monkeypatch.setattr(alexnet, "dist", SimpleNamespace(is_initialized=lambda: True))
    return found


GRAPH = ("--train.cuda_graph", "true")
"""For a recipe of twelve steps, three in an epoch: 1, 3, 6, 9 and 12 are watched. Steps 2, 4 and 5
warm up; 7, 8, 10 and 11 are replays."""


def test_a_run_of_replays_is_the_run(train, recorders, tmp_path):
    """Evaluations, a falling learning rate, watched steps and pictures come between replays."""
    schedule = ("--optim.schedule", "exponential", "--run.pictures", "true")
    schedule += ("--run.log_seconds", "0")
    schedule += ("--optim.lr_factors", "{conv1: [[2, 0.5], [3, 0]]}")
    assert train(tmp_path / "eager", *schedule) == 0
    assert train(tmp_path / "graph", *schedule, *GRAPH) == 0
    (recorder,) = recorders
    assert (recorder.asides, recorder.records, recorder.replays) == (3, 1, 4)
    test_train.assert_same_run(tmp_path / "eager", tmp_path / "graph")


def test_a_run_of_replays_that_is_interrupted_is_the_run(train, recorders, tmp_path):
    assert train(tmp_path / "eager") == 0
    for stop in ("8", "11"):
        assert train(tmp_path / "graph", *GRAPH, "--run.max_steps", stop) == 0
    assert train(tmp_path / "graph", *GRAPH) == 0
    found = [(one.asides, one.records, one.replays) for one in recorders]
    assert found == [(3, 1, 2), (2, 0, 0), (0, 0, 0)]
    test_train.assert_same_run(tmp_path / "eager", tmp_path / "graph")


def test_gradients_and_progress_are_those_of_the_last_step(train, recorders, tmp_path, monkeypatch):
    """Of a replay, or of a step that was none. A checkpoint looks at gradients, the watch at
    progress."""
    seen, doing, begun = {}, [], []
    step, at = Trainer.train_step, Progress.at

    def note(self, what, number):
        begun.append(what)
        at(self, what, number)

    def spy(self, batch):
        step(self, batch)
        doing.append(begun[-1])
        gradients = [parameter.grad.clone() for parameter in self.state.model.parameters()]
        seen.setdefault(self.folder.name, []).append(torch.cat([one.ravel() for one in gradients]))

    monkeypatch.setattr(Trainer, "train_step", spy)
    monkeypatch.setattr(Progress, "at", note)
    assert train(tmp_path / "eager") == train(tmp_path / "graph", *GRAPH) == 0
    assert len(seen["eager"]) == test_train.STEPS and recorders[0].replays == 4
    assert all(map(torch.equal, seen["eager"], seen["graph"]))
    # The first step says so; step 7 is recorded, which ends with its update.
    replayed = [number for number, what in enumerate(doing[-12:], 1) if what == "captured step"]
    assert doing[:12] == ["first step", *["update"] * 11] and replayed == [8, 10, 11]


@pytest.mark.parametrize(
    "owner, name, fault",
    [(alexnet, "bernoulli", with_keys_as_numbers), (PaperSGD, "step", with_rates_as_numbers)],
)
def test_a_replay_with_an_old_number_is_detected(
    owner, name, fault, train, recorders, tmp_path, monkeypatch
):
    """Such faults change nothing in a run without replays."""
    options = ("--optim.schedule", "exponential")
    assert train(tmp_path / "eager", *options) == 0
    monkeypatch.setattr(owner, name, fault)
    assert train(tmp_path / "eager too", *options) == train(tmp_path / "graph", *options, *GRAPH)
    test_train.assert_same_run(tmp_path / "eager", tmp_path / "eager too")
    with pytest.raises(AssertionError):
        test_train.assert_same_run(tmp_path / "eager", tmp_path / "graph")


def test_a_graph_on_a_cpu_is_refused(train, tmp_path, capsys):
    message = test_train.fails(capsys, train(tmp_path / "run", *GRAPH))
    assert "only GPUs have CUDA graphs: expected false, or a GPU" in message


class Streams:
    """Stands in for CUDA's streams and graphs; notes the order of events."""

    def __init__(self, monkeypatch):
        self.events = []
        queue, side = (mock.Mock(), mock.Mock())
        queue.wait_stream = lambda other: self.events.append("the queue waits")
        side.wait_stream = lambda other: self.events.append("the side waits")
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: queue)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", mock.Mock)
        monkeypatch.setattr(torch.cuda, "graph", self._graph)

    def _graph(self, graph, stream, capture_error_mode):
        self.events.append(capture_error_mode)
        graph.replay = lambda: self.events.append("replay")
        return contextlib.nullcontext()


def test_work_aside_comes_between_what_is_before_and_after(monkeypatch):
    streams = Streams(monkeypatch)
    recorder = CudaGraph(torch.device("cuda", 0))
    recorder.aside(lambda: streams.events.append("work"))
    assert streams.events == ["the side waits", "work", "the queue waits"]
    replay = recorder.record(lambda: streams.events.append("recorded"))
    replay()
    assert streams.events[3:] == ["thread_local", "recorded", "replay"]


@pytest.mark.parametrize(
    "error, kind, message",
    [
        (
            torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"),
            ValueError,
            "can't be captured .*not permitted.* leave out train.cuda_graph",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), torch.OutOfMemoryError, "out of memory"),
        (torch.AcceleratorError("CUDA error: unknown error"), torch.AcceleratorError, "unknown"),
        (RuntimeError("CUDA error: device-side assert triggered"), RuntimeError, "device-side"),
    ],
)
def test_only_a_step_that_cant_be_captured_is_blamed_on_the_option(
    error, kind, message, monkeypatch
):
    def fail():
        raise error

    Streams(monkeypatch)
    with pytest.raises(kind, match=message):
        CudaGraph(torch.device("cuda", 0)).record(fail)

"""The training step on the meta device: it shows, without a GPU, what would slow one down.

A meta tensor has no values. Code that asks for one fails here: on a GPU, its host would wait. Code
that mixes a meta tensor with a tensor of the CPU fails, too.
"""

import contextlib
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.autograd.function import once_differentiable
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_dali.model import alexnet
from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.columns import Columns
from alexnet_dali.model.config import ModelConfig
from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.train import evaluation
from alexnet_dali.train import trainer as trainer_module
from alexnet_dali.train.config import load
from alexnet_dali.train.evaluation import centre_view, error_rates, probabilities
from alexnet_dali.train.optim import OptimConfig, PaperSGD
from alexnet_dali.train.parallel.ranks import Ranks
from alexnet_dali.train.trainer import Trainer

META = torch.device("meta")
_META_KERNELS = torch.library.Library("aten", "IMPL", "Meta")
# It writes only to its inputs, so there are no output shapes to compute
_META_KERNELS.impl("_fused_sgd_.tensor_lr", lambda *arguments, **options: None)
KERNELS = 165 if torch.__version__ >= TorchVersion("2.13") else 173
"""The most kernels that a step of the paper's network may have in one process.

The response norm is a compiled one. On the meta device, torch 2.11 copies eight gradients into the
layout of their weights.
"""


class Watch(TorchDispatchMode):
    """Counts what would be kernels on a GPU, and refuses tensors of the CPU.

    Only the source of a copy to the device may be on the CPU.
    """

    def __init__(self):
        super().__init__()
        self.kernels = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        devices = {
            x.device.type
            for x in torch.utils._pytree.tree_leaves((args, result))
            if torch.is_tensor(x)
        }
        if name not in ("copy_", "_to_copy") and "cpu" in devices:
            raise AssertionError(f"{name} on the CPU, in a step of a GPU")
        views = any(
            value.alias_info and not value.alias_info.is_write for value in function._schema.returns
        )
        if devices and not views and not name.startswith(("empty", "new_empty", "detach")):
            self.kernels[name] += 1
        return result


class _OneKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.neg()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad.neg()


@pytest.fixture
def trainer(prepared, tmp_path, monkeypatch):
    """A trainer on the meta device, with as much of the paper's network as its images allow."""
    # Autocast and the fused update support GPUs, but not the meta device
    monkeypatch.setattr(
        trainer_module, "autocast", lambda precision, device: contextlib.nullcontext()
    )
    monkeypatch.setattr(
        sys.modules["torch.optim.sgd"], "_device_dtype_check_for_fused", lambda parameter: None
    )
    monkeypatch.setattr(trainer_module, "local_response_norm", lambda x, alpha: _OneKernel.apply(x))
    options = ["--data.root", str(prepared), "--train.batch_size", "6", "--train.compile", "false"]
    config = load(["configs/alexnet.yaml", *options, "--run.dir", str(tmp_path / "run")])
    return Trainer(config, Ranks(0, 1, META, 1, Columns.whole(2)))


def batch():
    return Batch(
        torch.empty(6, 3, 224, 224, device=META), torch.empty(6, dtype=torch.int64, device=META)
    )


def test_a_step_stays_on_the_device_and_has_few_kernels(trainer):
    trainer.train_step(batch())
    with Watch() as watch:
        trainer.train_step(batch())
    print(f"{watch.kernels.total()} kernels: {watch.kernels.most_common(12)}")
    assert watch.kernels["_fused_sgd_"] == 1
    assert watch.kernels.total() <= KERNELS


def test_a_mask_drawn_on_the_host_is_detected(trainer, monkeypatch):
    monkeypatch.setattr(alexnet, "bernoulli", lambda *arguments: torch.rand(6, 4096) < 0.5)
    with Watch(), pytest.raises((AssertionError, RuntimeError), match=r"on the CPU|device"):
        trainer.train_step(batch())


def test_a_host_that_waits_for_the_device_is_detected(trainer, monkeypatch):
    labels_places = evaluation.label_ranks
    monkeypatch.setattr(
        evaluation, "label_ranks", lambda *arguments: print(labels_places(*arguments).sum().item())
    )
    with pytest.raises(RuntimeError, match=r"meta"):
        trainer.train_step(batch())


def test_an_optimizer_group_for_each_weight_is_detected(trainer, monkeypatch):
    monkeypatch.setattr("alexnet_dali.train.optim._treatment", lambda name, config: name)
    trainer.state.optimizer = PaperSGD(trainer.state.model.named_parameters(), OptimConfig())
    with Watch() as watch:
        trainer.train_step(batch())
    assert watch.kernels["_fused_sgd_"] == 32


def gradients_in_other_layouts(model):
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or parameter.grad.stride() != parameter.stride()
    ]


@pytest.mark.parametrize("device", [META, torch.device("cpu")])
def test_gradients_have_the_memory_layout_of_their_weights(device):
    """The fused update walks through a weight and its gradient side by side.

    Where their layouts differ, it copies, or adds to the wrong weights.
    """
    config = replace(ModelConfig(), fc_width=64)
    model = AlexNet(config, 10, 64, norm=lambda x, alpha: _OneKernel.apply(x)).to(device)
    images = torch.zeros(2, 3, 64, 64, device=device)
    model(images, alexnet.DropoutMasks(0, 0, device)).sum().backward()
    assert gradients_in_other_layouts(model) == []
    for parameter in model.parameters():  # a planted fault
        parameter.grad = parameter.grad.contiguous()
    assert "own_columns.0.conv2.weight" in gradients_in_other_layouts(model)


@pytest.mark.filterwarnings("ignore:for .*no-op")
def test_restoring_and_evaluating_a_run_stay_on_its_device(trainer):
    trainer.train_step(batch())
    model, optimizer = trainer.state.model, trainer.state.optimizer
    # on the CPU, as read from a file
    model.load_full_state(AlexNet(trainer.config.model, 3, 224).full_state())
    for column in model.own_columns:
        buffers = {
            name: torch.zeros(parameter.shape) for name, parameter in column.named_parameters()
        }
        optimizer.restore(column, buffers, 0.001, epoch=2)
    with Watch():
        trainer.train_step(batch())
        mean = torch.empty(3, 224, 224, device=META)
        squares = Batch(torch.empty(6, 3, 256, 256, device=META), batch().labels)
        # The host waits once all is added up, and no sooner
        with pytest.raises(RuntimeError, match="meta"):
            error_rates(model, [squares, squares], mean, added_up)
        for num_views in (1, 10):
            assert probabilities(model, squares.images, mean, num_views).shape == (6, 3)
        assert model.last_hidden(centre_view(squares.images, 224)).shape == (6, 4096)


def added_up(counts):
    assert counts.device == META and counts.shape == (4,)
    return counts

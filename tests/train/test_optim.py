import numpy as np
import pytest
import torch

from alexnet_dali.train import optim
from alexnet_dali.train.optim import OptimConfig, PaperSGD, PlateauSchedule, schedule


@pytest.mark.parametrize("rounded", [False, True], ids=["float64", "float32"])
def test_updates_follow_the_papers_rule_across_changes_of_the_learning_rate(rounded, monkeypatch):
    """v <- 0.9 v - 0.0005 lr w - lr g; w <- w + v, with lr dropped and raised again.

    GPUs have rates in float32: velocity is preserved for those that the update really uses.
    """
    if rounded:
        monkeypatch.setattr(optim, "_new_rate", lambda device: torch.zeros((), dtype=torch.float32))
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    w, v = parameter.detach().clone(), torch.zeros(7, dtype=torch.float64)
    optimizer = PaperSGD([("fc6.weight", parameter)], OptimConfig())
    for asked in (0.01, 0.01, 0.001, 0.001, 0.02, 0.02):
        if optimizer.lr != asked:
            optimizer.set_lr(asked)
        lr = float(np.float32(asked)) if rounded else asked
        optimizer.zero_grad()
        (parameter.sin() * torch.arange(7)).sum().backward()
        gradient = w.cos() * torch.arange(7)
        optimizer.step()
        v = 0.9 * v - 0.0005 * lr * w - lr * gradient
        w = w + v
        torch.testing.assert_close(parameter.detach(), w, rtol=0, atol=1e-14)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_restored_optimizer_continues_exactly(layout):
    """A buffer in another memory layout than its parameter would be added to the wrong weights."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(5, 2, 3).to(memory_format=layout) for _ in range(2)]
    optimizers = [PaperSGD(layer.named_parameters(), OptimConfig()) for layer in layers]
    for _ in range(3):
        step(optimizers[0], layers[0])
    layers[1].load_state_dict(layers[0].state_dict())
    buffers = {
        name: buffer.contiguous() for name, buffer in optimizers[0].momentum(layers[0]).items()
    }
    optimizers[1].restore(layers[1], buffers, optimizers[0].lr)
    for optimizer, layer in zip(optimizers, layers):
        optimizer.set_lr(0.003)
        step(optimizer, layer)
    assert torch.equal(layers[0].weight, layers[1].weight) and torch.equal(
        layers[0].bias, layers[1].bias
    )


def test_no_tensor_is_replaced_whatever_changes():
    """A captured step reads and writes the same addresses in every replay."""
    layer = torch.nn.Linear(3, 2)
    optimizer = PaperSGD(layer.named_parameters(), OptimConfig(bias_lr=0.02))

    def addresses():
        rates = [group["lr"].data_ptr() for group in optimizer.param_groups]
        return rates + [buffer.data_ptr() for buffer in optimizer.momentum(layer).values()]

    before = addresses()
    for lr in (0.01, 0.001, 0.1):
        optimizer.set_lr(lr)
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    optimizer.restore(layer, {name: torch.ones_like(p) for name, p in layer.named_parameters()}, 1)
    assert addresses() == before and len(set(before)) == 4
    assert [group["lr"].item() for group in optimizer.param_groups] == [1, 0.02]


def step(optimizer, layer):
    optimizer.zero_grad()
    (layer(torch.arange(3 * 5 * 9.0).view(3, 5, 3, 3).sin()) ** 3).sum().backward()
    optimizer.step()


def test_a_stall_divides_lr_by_ten_and_the_one_after_the_last_drop_ends_training():
    schedule = PlateauSchedule(OptimConfig(lr=0.01, lr_drops=3, patience=2))
    errors = [0.9, 0.8, 0.8, 0.9, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6]
    lrs, finished = [], []
    for error in errors:
        schedule.end_epoch(error)
        lrs.append(schedule.lr)
        finished.append(schedule.finished)
    assert lrs[:11] == pytest.approx([0.01] * 3 + [0.001] * 3 + [1e-4] * 3 + [1e-5] * 2)
    assert finished == [False] * 11 + [True]


def test_a_restored_schedule_remembers_earlier_epochs():
    config = OptimConfig(patience=2)
    first, second = PlateauSchedule(config), PlateauSchedule(config)
    for error in (0.5, 0.6):
        first.end_epoch(error)
    second.restore(first.state())
    second.end_epoch(0.5)
    assert second.lr == pytest.approx(0.001)


def test_layers_with_a_learning_rate_of_their_own_follow_the_papers_rule():
    """A tensor's factor goes before its layer's, and that before the one for all biases.

    A factor of 0 freezes.
    """
    names = ["0.conv1.weight", "0.conv1.bias", "0.fc8.weight", "0.fc8.bias", "0.fc7.bias"]
    factors = {"conv1": 0.0, "fc8.weight": 10.0, "bias": 2.0}
    own = [0.0, 0.0, 10.0, 2.0, 2.0]
    parameters = [
        torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64) + i) for i in range(5)
    ]
    w, v = (
        [p.detach().clone() for p in parameters],
        [torch.zeros(5, dtype=torch.float64) for _ in parameters],
    )
    optimizer = PaperSGD(zip(names, parameters), OptimConfig(lr_factors=factors))
    for lr in (0.01, 0.01, 0.001, 0.02):
        if optimizer.lr != lr:
            optimizer.set_lr(lr)
        optimizer.zero_grad()
        sum(p.sin().sum() for p in parameters).backward()
        optimizer.step()
        for i, factor in enumerate(own):
            v[i] = 0.9 * v[i] - 0.0005 * factor * lr * w[i] - factor * lr * w[i].cos()
            w[i] = w[i] + v[i]
            torch.testing.assert_close(parameters[i].detach(), w[i], rtol=0, atol=1e-14)


def test_biases_and_later_epochs_follow_the_rule_of_2012():
    """Biases have a learning rate of their own, and no weight decay.

    conv1 is slower after one epoch. After two it stops at once.
    """
    names = ["conv1.weight", "conv1.bias", "fc8.weight", "fc8.bias"]
    later = {"conv1": [(2, 0.0)], "conv1.weight": [(1, 0.1), (2, 0.0)]}
    config = OptimConfig(decay_biases=False, bias_lr=0.02, lr_factors=later)
    parameters = [
        torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64) + i) for i in range(4)
    ]
    w, v = (
        [p.detach().clone() for p in parameters],
        [torch.zeros(5, dtype=torch.float64) for _ in parameters],
    )
    optimizer = PaperSGD(zip(names, parameters), config)
    rates = {
        0: [0.01, 0.02, 0.01, 0.02],
        1: [0.0001, 0.02, 0.001, 0.02],
        2: [0.0, 0.0, 0.001, 0.02],
    }
    for epoch, lr in [(0, 0.01), (1, 0.001), (1, 0.001), (2, 0.001), (2, 0.001)]:
        optimizer.set_lr(lr, epoch)
        optimizer.zero_grad()
        sum(p.sin().sum() for p in parameters).backward()
        optimizer.step()
        for i, rate in enumerate(rates[epoch]):
            if rate:
                v[i] = 0.9 * v[i] - (0.0005 * rate * w[i] if i % 2 == 0 else 0) - rate * w[i].cos()
                w[i] = w[i] + v[i]
            torch.testing.assert_close(parameters[i].detach(), w[i], rtol=0, atol=1e-14)


def test_a_restored_optimizer_applies_the_factors_of_its_epoch():
    config = OptimConfig(lr_factors={"weight": [(3, 0.5)]})
    layer = torch.nn.Linear(2, 1)
    optimizer = PaperSGD(layer.named_parameters(), config)
    optimizer.restore(
        layer, {name: torch.ones_like(p) for name, p in layer.named_parameters()}, 0.1, epoch=3
    )
    before = layer.weight.detach().clone()
    layer(
        torch.zeros(1, 2)
    ).sum().backward()  # the weight has no gradient: it moves by its momentum
    optimizer.step()
    decayed = 0.9 + 0.0005 * before
    torch.testing.assert_close(layer.weight.detach(), before - 0.05 * decayed)


def test_a_factor_for_an_unknown_layer_is_an_error():
    with pytest.raises(ValueError, match="no layer is named fc9"):
        PaperSGD(torch.nn.Linear(2, 2).named_parameters(), OptimConfig(lr_factors={"fc9": 2.0}))


def test_the_steps_schedule_drops_after_the_given_epochs():
    steps = schedule(OptimConfig(schedule="multistep", milestones=(2, 3)), epochs=5)
    rates = [steps.lr]
    for _ in range(4):
        steps.end_epoch(0.5)
        rates.append(steps.lr)
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.0001, 0.0001]) and not steps.finished


def test_exponential_decay_ends_at_the_given_share():
    """lr_e = lr_0 * decay^(-e/E), also after a checkpoint has been restored."""
    config = OptimConfig(schedule="exponential", decay=250.0)
    whole, half = schedule(config, epochs=10), schedule(config, epochs=10)
    for epoch in range(1, 11):
        whole.end_epoch(0.5)
        assert whole.lr == pytest.approx(0.01 * 250 ** (-epoch / 10))
        if epoch == 4:
            half.restore(whole.state())
            assert half.lr == whole.lr
    assert whole.lr == pytest.approx(0.01 / 250)

import pytest
import torch

from train.optim import OptimConfig, PaperSGD, PlateauSchedule


def test_updates_are_the_papers_across_changes_of_the_learning_rate():
    """v <- 0.9 v - 0.0005 lr w - lr g; w <- w + v, with lr dropped and raised again."""
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    w, v = parameter.detach().clone(), torch.zeros(7, dtype=torch.float64)
    optimizer = PaperSGD([parameter], OptimConfig())
    for lr in (0.01, 0.01, 0.001, 0.001, 0.02, 0.02):
        if optimizer.lr != lr:
            optimizer.lr = lr
        optimizer.zero_grad()
        (parameter.sin() * torch.arange(7)).sum().backward()
        gradient = w.cos() * torch.arange(7)
        optimizer.step()
        v = 0.9 * v - 0.0005 * lr * w - lr * gradient
        w = w + v
        torch.testing.assert_close(parameter.detach(), w, rtol=0, atol=1e-14)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_restored_optimizer_goes_on_exactly(layout):
    """A buffer in another memory layout than its parameter would be added to the wrong weights."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(5, 2, 3).to(memory_format=layout) for _ in range(2)]
    optimizers = [PaperSGD(layer.parameters(), OptimConfig()) for layer in layers]
    for _ in range(3):
        step(optimizers[0], layers[0])
    layers[1].load_state_dict(layers[0].state_dict())
    buffers = {name: buffer.contiguous() for name, buffer in optimizers[0].momentum(layers[0]).items()}
    optimizers[1].restore(layers[1], buffers, optimizers[0].lr)
    for optimizer, layer in zip(optimizers, layers):
        optimizer.lr = 0.003
        step(optimizer, layer)
    assert torch.equal(layers[0].weight, layers[1].weight) and torch.equal(layers[0].bias, layers[1].bias)


def step(optimizer, layer):
    optimizer.zero_grad()
    (layer(torch.arange(3 * 5 * 9.0).view(3, 5, 3, 3).sin()) ** 3).sum().backward()
    optimizer.step()


def test_lr_drops_by_ten_at_each_stall_and_the_stall_after_the_last_drop_ends_training():
    schedule = PlateauSchedule(OptimConfig(lr=0.01, lr_drops=3, patience=2))
    errors = [0.9, 0.8, 0.8, 0.9, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6]
    lrs, finished = [], []
    for error in errors:
        schedule.end_epoch(error)
        lrs.append(schedule.lr)
        finished.append(schedule.finished)
    assert lrs[:11] == pytest.approx([0.01] * 3 + [0.001] * 3 + [1e-4] * 3 + [1e-5] * 2)
    assert finished == [False] * 11 + [True]


def test_a_schedule_remembers():
    config = OptimConfig(patience=2)
    first, second = PlateauSchedule(config), PlateauSchedule(config)
    for error in (0.5, 0.6):
        first.end_epoch(error)
    second.restore(first.state())
    second.end_epoch(0.5)
    assert second.lr == pytest.approx(0.001)

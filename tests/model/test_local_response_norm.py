from collections import Counter
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from alexnet_dali.model import local_response_norm as module
from alexnet_dali.model.local_response_norm import (
    compiled_local_response_norm,
    local_response_norm,
    within_channel_norm,
)


def printed_formula(x):
    """The formula as the paper prints it, loop by loop (section 3.3).

    b_i = a_i / (k + alpha * sum over j in [i - n/2, i + n/2] of a_j^2)^beta
    """
    n, alpha, beta, k = 5, 1e-4, 0.75, 2
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        neighbours = range(max(0, i - n // 2), min(x.shape[1] - 1, i + n // 2) + 1)
        out[:, i] = x[:, i] / (k + alpha * sum(x[:, j] ** 2 for j in neighbours)) ** beta
    return out


def test_values_match_the_formula_in_the_paper():
    x = 100 * torch.randn(2, 12, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(local_response_norm(x), printed_formula(x), rtol=1e-12, atol=1e-12)


def test_values_match_torchs_for_the_same_alpha_per_term():
    x = 100 * torch.randn(2, 12, 3, 4, dtype=torch.float64)
    # Torch divides alpha by 5
    expected = F.local_response_norm(x, size=5, alpha=5e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(local_response_norm(x), expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_matches_finite_differences():
    x = (100 * torch.randn(2, 8, 2, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(local_response_norm, x, eps=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_is_nearly_as_accurate_as_its_format_allows(layout):
    """It differs from the formula in float64 by at most 1 % of the largest value.

    A bfloat16 number itself is accurate to 0.4 %.
    """
    x = (30 * torch.randn(4, 48, 7, 7)).bfloat16().contiguous(memory_format=layout).requires_grad_()
    exact = x.detach().double().requires_grad_()
    grad = torch.randn(x.shape, dtype=torch.float64).bfloat16()
    y, expected = local_response_norm(x), printed_formula(exact)
    y.backward(grad)
    expected.backward(grad.double())
    assert y.dtype == x.grad.dtype == torch.bfloat16
    for found, wanted in ((y, expected), (x.grad, exact.grad)):
        error = (found.double() - wanted).abs() / wanted.abs().max()
        assert error.max() < 0.01 and error.mean() < 0.003


def over_neighbours(x):
    """The 2012 code's second norm, pixel by pixel.

    x / (1 + 0.001 / 25 * sum of squares of 5 x 5 neighbours in the same map)^0.75
    """
    out = torch.empty_like(x)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            window = x[:, :, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            out[:, :, row, column] = (
                x[:, :, row, column] / (1 + 0.001 / 25 * (window**2).sum((2, 3))) ** 0.75
            )
    return out


def test_the_second_norm_of_2012_sums_over_neighbours_in_a_map():
    x = 100 * torch.randn(2, 3, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(within_channel_norm(x), over_neighbours(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("deviation", [3, 30])
def test_the_second_norm_in_bfloat16_is_as_accurate_as_its_format_allows(deviation):
    """The sum must not be computed in bfloat16.

    There, 1 plus a small share would often be 1. Mean squares of 9 change values by 0.7 %.
    """
    x = (deviation * torch.randn(4, 16, 9, 9)).bfloat16()
    error = (within_channel_norm(x).double() / over_neighbours(x.double()) - 1).abs()[x != 0]
    assert (
        within_channel_norm(x).dtype == torch.bfloat16
        and error.max() < 0.004
        and error.mean() < 0.002
    )


def test_the_compiled_form_and_its_fallback_give_the_same_values(monkeypatch):
    x = 100 * torch.randn(2, 12, 3, 4, dtype=torch.float64)
    compiled = compiled_local_response_norm(x.device)
    torch.testing.assert_close(compiled(x), local_response_norm(x), rtol=1e-12, atol=1e-12)
    gradients = []
    for norm in (compiled, local_response_norm):
        leaf = x.clone().requires_grad_()
        norm(leaf).sin().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)

    def no_compiler(function, **options):
        def fail(*tensors):
            raise RuntimeError("no C++ compiler")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.warns(UserWarning, match="runs uncompiled"):
        assert compiled_local_response_norm(x.device) is local_response_norm


real_compile = torch.compile


def compile_and_count(counts, function, **options):
    """torch.compile, which counts what it compiles and how often that runs."""

    def backend(graph, inputs):
        counts["compiled"] += 1

        def run(*arguments):
            counts["run"] += 1
            return graph(*arguments)

        return run

    return real_compile(function, backend=backend, **options)


def train_and_evaluate_with_many_shapes(norm):
    """More shapes than the compiler allows for a piece of code, each in the ways of a run."""
    calls = 0
    for rows in range(1, 11):
        maps = torch.randn(rows, 6, 3, 3, requires_grad=True)
        for _ in range(2):
            norm(maps).sum().backward()
            with torch.no_grad():
                norm(maps)
            calls += 3
    return calls


def test_every_shape_runs_compiled(monkeypatch):
    """From the ninth on, the compiler by itself would run them uncompiled, and say nothing."""
    counts = Counter()
    monkeypatch.setattr(torch, "compile", partial(compile_and_count, counts))
    norm = compiled_local_response_norm(torch.device("cpu"))
    counts.clear()
    calls = train_and_evaluate_with_many_shapes(norm)
    assert counts["run"] == calls and 20 <= counts["compiled"] <= 30


def test_shapes_that_run_uncompiled_are_detected(monkeypatch):
    counts = Counter()
    one_for_all = partial(compile_and_count, counts, dynamic=False)
    monkeypatch.setattr(module, "_compiled", one_for_all)
    norm = compiled_local_response_norm(torch.device("cpu"))
    counts.clear()
    calls = train_and_evaluate_with_many_shapes(norm)
    assert counts["run"] < calls

import torch
from torch.nn import functional as F

from model.response_norm import response_norm


def printed_formula(x):
    """b_i = a_i / (k + alpha * sum over j in [i - n/2, i + n/2] of a_j^2)^beta, loop by loop (paper, section 3.3)."""
    n, alpha, beta, k = 5, 1e-4, 0.75, 2
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        neighbours = range(max(0, i - n // 2), min(x.shape[1] - 1, i + n // 2) + 1)
        out[:, i] = x[:, i] / (k + alpha * sum(x[:, j] ** 2 for j in neighbours)) ** beta
    return out


def test_values_are_the_printed_formulas():
    x = 100 * torch.randn(2, 12, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(response_norm(x), printed_formula(x), rtol=1e-12, atol=1e-12)


def test_values_are_torchs_where_alpha_is_meant_alike():
    x = 100 * torch.randn(2, 12, 3, 4, dtype=torch.float64)
    expected = F.local_response_norm(x, size=5, alpha=5e-4, beta=0.75, k=2.0)  # torch divides alpha by 5
    torch.testing.assert_close(response_norm(x), expected, rtol=1e-12, atol=1e-12)


def test_gradient_is_the_derivative():
    x = (100 * torch.randn(2, 8, 2, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(response_norm, x, eps=1e-4)

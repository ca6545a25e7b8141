"""Each norm equals an independent formula, and padding has no part in the statistics of a batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsf_llm.norms_tsf_llm import TsfLlmBatchNorm, TsfLlmDynamicTanh, TsfLlmRMSNorm


def test_rms_norm_equals_torch(close):
    ours, reference = TsfLlmRMSNorm(6, eps=1e-3), nn.RMSNorm(6, eps=1e-3)
    nn.init.normal_(ours.weight)
    reference.weight.data.copy_(ours.weight)
    x = torch.randn(2, 3, 6)
    close(ours(x), reference(x))
    assert ours(x.bfloat16()).dtype == torch.bfloat16


def test_gradients_of_rms_norm_have_gradients():
    norm, x = TsfLlmRMSNorm(6, eps=1e-3), torch.randn(3, 6, requires_grad=True)
    ahead = torch.randn(6)

    def formula(x):
        return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt()

    found, wanted = (
        torch.autograd.functional.hessian(lambda x, f=f: (f(x) * ahead).sum(), x) for f in (norm, formula)
    )
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(found, wanted)


def test_dynamic_tanh_formula(close):
    norm, x = TsfLlmDynamicTanh(6, eps=0), torch.randn(2, 3, 6)
    nn.init.constant_(norm.alpha, 0.7)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    expected = np.tanh(0.7 * x.numpy()) * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    close(norm(x), torch.from_numpy(expected))


def batch_norms():
    """Ours and torch's, with the same weights."""
    ours, reference = TsfLlmBatchNorm(6, eps=1e-3), nn.BatchNorm1d(6, eps=1e-3)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    reference.load_state_dict(ours.state_dict(), strict=False)
    return ours, reference


@pytest.mark.parametrize("autocast", [False, True])
def test_batch_norm_equals_torch_with_running_statistics(close, autocast):
    ours, reference = batch_norms()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        for step in range(3):
            x = 3 * torch.randn(4, 5, 6) + step
            close(ours(x), reference(x.flatten(0, 1)).view_as(x))
    close(ours.running_mean, reference.running_mean)
    close(ours.running_var, reference.running_var)
    x = torch.randn(4, 5, 6)
    close(ours.eval()(x), reference.eval()(x.flatten(0, 1)).view_as(x))


def test_batch_norm_leaves_padding_out(close):
    ours, reference = batch_norms()
    x, mask = torch.randn(3, 5, 6), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    x[mask == 0] = 1e3
    x.requires_grad_()
    out = ours(x, mask)[mask == 1]
    close(out, reference(x[mask == 1]))
    close(ours.running_mean, reference.running_mean)
    close(ours.running_var, reference.running_var)
    out.square().sum().backward()
    assert (x.grad[mask == 0] == 0).all()
    assert (x.grad[mask == 1] != 0).any()


@pytest.mark.parametrize("shape", [(2, 3, 5), (4, 5), (1, 1, 5)], ids=str)
def test_the_rms_norm_has_torchs_own_gradient(shape, close):
    norm, x = TsfLlmRMSNorm(5, eps=1e-3), torch.randn(shape, requires_grad=True)
    nn.init.normal_(norm.weight)
    own = F.rms_norm(x, (5,), norm.weight, 1e-3)
    assert torch.equal(norm(x), own)
    inputs = (x, norm.weight)
    close(torch.autograd.grad(norm(x).sin().sum(), inputs), torch.autograd.grad(own.sin().sum(), inputs))
    with torch.no_grad():
        assert torch.equal(norm(x), own)
    norm.requires_grad_(False)
    close(torch.autograd.grad(norm(x).sum(), x), torch.autograd.grad(F.rms_norm(x, (5,), norm.weight, 1e-3).sum(), x))

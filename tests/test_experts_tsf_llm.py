"""experts_tsf_llm.py: sorted experts against the eager reference, the router, and the loss of balance."""

import doctest

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tsf_llm import experts_tsf_llm as experts
from tsf_llm import products_tsf_llm as products
from tsf_llm.configuration_tsf_llm import TsfLlmConfig
from tsf_llm.experts_tsf_llm import TsfLlmExperts, load_balancing_loss


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
@pytest.mark.parametrize("norm_topk_prob", [True, False])
def test_fused_experts_equal_eager(tiny_model, tiny_batch, close, implementation, norm_topk_prob):
    model, batch = tiny_model(norm_topk_prob=norm_topk_prob), tiny_batch()
    results = []
    for name in ("eager", implementation):
        model.set_experts_implementation(name)
        model.zero_grad()
        logits = model(**batch).logits
        logits.square().mean().backward()
        results.append((logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}))
    close(results[1], results[0])


@pytest.fixture(autouse=True)
def sorted_by_expert(monkeypatch):
    """`SortedExperts` runs whatever this machine's speeds and however small the experts."""
    monkeypatch.setattr(products, "onednn_wins", lambda: torch.backends.mkldnn.is_available())
    monkeypatch.setattr(products, "SMALLEST", 0)


@pytest.fixture
def made():
    """Experts of unusual sizes by number of experts, with random weights."""

    def make(num_experts=4, hidden_act="silu", implementation="grouped_mm"):
        config = TsfLlmConfig(
            hidden_size=24, moe_intermediate_size=20, n_routed_experts=num_experts, hidden_act=hidden_act
        )
        config._experts_implementation = implementation
        module = TsfLlmExperts(config)
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(1))
        return module

    return make


def routed(N, choices, K=2):
    """Positions, weights, and experts among `choices`, `K` different ones for each position."""
    generator = torch.Generator().manual_seed(N)
    index_NK = torch.stack([torch.randperm(len(choices), generator=generator)[:K] for _ in range(N)])
    weights_NK = torch.rand(N, K, generator=generator)
    return torch.randn(N, 24, generator=generator), torch.tensor(choices)[index_NK], weights_NK


def answer_and_gradients(module, x, index, weights):
    inputs = (x.clone().requires_grad_(), weights.clone().requires_grad_(), *module.parameters())
    out = module(inputs[0], index, inputs[1])
    return out, torch.autograd.grad(out.sin().sum(), inputs)


@pytest.mark.parametrize("hidden_act", ["silu", "gelu", "linear", "prelu"])
@pytest.mark.parametrize("N", [1, 2, 3, 40, 100])
@pytest.mark.parametrize("choices", [(0, 1, 2, 3), (1, 3), (0, 1)], ids=str)
def test_sorted_experts_equal_eager(made, close, N, choices, hidden_act):
    wanted = answer_and_gradients(made(hidden_act=hidden_act, implementation="eager"), *routed(N, choices))
    found = answer_and_gradients(made(hidden_act=hidden_act), *routed(N, choices))
    close(found, wanted, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        x, index, weights = routed(N, choices)
        assert torch.equal(made(hidden_act=hidden_act)(x, index, weights), found[0])


def test_sorted_experts_have_the_gradient_of_their_answer(made):
    module = made().double()
    x, index, weights = routed(5, (0, 2, 3))

    def answer(x, weights, gate_up, down):
        return experts.SortedExperts.apply(x, weights, index, gate_up, down, module.act_fn)

    inputs = (x.double().requires_grad_(), weights.double().requires_grad_(), *module.parameters())
    assert torch.autograd.gradcheck(answer, inputs)


def test_an_activation_that_is_its_input_leaves_what_is_kept_alone(made):
    module, (x, index, weights) = made(hidden_act="linear"), routed(20, (0, 1, 2, 3))
    loss = module(x, index, weights).sin().sum()
    first, second = (torch.autograd.grad(loss, list(module.parameters()), retain_graph=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_gradients_of_sorted_experts_have_gradients(made, close):
    """Weights are made of the positions, as a router does."""
    found = []
    for implementation in ("eager", "grouped_mm"):
        module, (x, index, weights) = made(implementation=implementation), routed(20, (0, 1, 2))
        x.requires_grad_()
        loss = module(x, index, weights * x[:, :2]).square().sum()
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), (x, *module.parameters())))
    largest = [one.abs().max() for one in found[0]]
    close(*([one / most for one, most in zip(side, largest, strict=True)] for side in found), rtol=0, atol=1e-4)


def test_frozen_experts_pass_the_gradient_on(made, close):
    module, (x, index, weights) = made(), routed(6, (0, 1, 2, 3))
    wanted = answer_and_gradients(module, x, index, weights)[1][0]
    x = x.requires_grad_()
    (found,) = torch.autograd.grad(module.requires_grad_(False)(x, index, weights).sin().sum(), x)
    close(found, wanted)
    assert all(weight.grad is None for weight in module.parameters())


def test_sorted_places_bring_every_choice_back():
    index = torch.tensor([[2, 0], [0, 3], [2, 3]])
    token, row, sizes = experts.sorted_places(index, 5)
    assert sizes == [2, 0, 2, 2, 0]
    assert token[row].tolist() == [[0, 0], [1, 1], [2, 2]]
    starts = np.cumsum([0, *sizes])
    for choices, rows in zip(index.tolist(), row.tolist(), strict=True):
        assert all(starts[e] <= at < starts[e + 1] for e, at in zip(choices, rows, strict=True))
    sized = experts.sorted_places(torch.zeros(17, 1, dtype=torch.long), 1)[0]
    assert sized.tolist() == [*range(17), *[0] * 15]  # rounded up by the expert's first position


def test_an_answer_does_not_depend_on_who_shares_its_experts(made):
    module, (x, index, weights) = made(), routed(70, (0, 1, 2, 3))
    with torch.no_grad():
        whole = module(x, index, weights)
        for rows in (4, 5, 17, 33, 64):
            torch.testing.assert_close(module(x[:rows], index[:rows], weights[:rows]), whole[:rows])


def test_no_position_has_no_answer(made):
    x, index, weights = routed(1, (0, 1))
    assert made()(x[:0], index[:0], weights[:0]).shape == (0, 24)


def test_autocast_runs_the_experts_in_bf16(made):
    module, (x, index, weights) = made(), routed(30, (0, 1, 2, 3))
    wanted, wanted_gradients = answer_and_gradients(module, x, index, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, gradients = answer_and_gradients(module, x, index, weights)
    assert found.dtype == torch.float32
    assert not torch.equal(found, wanted)
    assert F.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.999
    for gradient, wanted_gradient in zip(gradients, wanted_gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert F.cosine_similarity(gradient.flatten(), wanted_gradient.flatten(), dim=0) > 0.95


def test_experts_equal_their_formula(tiny_model, close):
    moe = tiny_model().model.layers[0].mlp
    x = torch.randn(7, 32)
    probs = (x @ moe.gate.weight.T).softmax(-1)
    expected = moe.shared_experts(x)
    for n in range(7):
        best = probs[n].argsort(descending=True)[:2]
        for e in best:
            gate, up = (moe.experts.gate_up_proj[e] @ x[n]).chunk(2)
            weight = probs[n, e] / probs[n, best].sum()
            expected[n] = expected[n] + weight * (moe.experts.down_proj[e] @ (F.silu(gate) * up))
    close(moe(x[None])[0], expected)


def test_router_decides_in_float32_under_autocast(tiny_model, close):
    router, x = tiny_model().model.layers[0].mlp.gate, torch.randn(50, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, weights, index = router(x)
    close((logits, weights, index), router(x))


def test_balanced_experts_cost_one(close):
    turns = 10.0 * torch.stack([torch.eye(4)[[n % 4, (n + 1) % 4]].sum(0) for n in range(8)])  # each pair in its turn
    close(load_balancing_loss((turns, turns), 2, None), torch.tensor(1.0))


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_collapsed_experts_cost_their_number_over_k(close, top_k):
    collapsed = torch.full((6, 8), -50.0)
    collapsed[:, :top_k] = 50.0
    close(load_balancing_loss((collapsed,), top_k, None), torch.tensor(8.0 / top_k))


def test_load_balancing_formula_without_padding():
    rng = np.random.default_rng(0)
    layers = rng.normal(size=(3, 10, 5)).astype(np.float32)
    mask = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    expected = []
    for logits in layers[:, mask.ravel() == 1]:
        probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        choices = np.bincount(np.argsort(-probs, axis=-1)[:, :2].ravel(), minlength=5) / (2 * len(probs))
        expected.append(5 * (choices * probs.mean(0)).sum())
    layers[:, mask.ravel() == 0] = 1e4  # padding, which must not count
    got = load_balancing_loss(tuple(torch.from_numpy(layers)), 2, torch.from_numpy(mask))
    np.testing.assert_allclose(got.item(), np.mean(expected), rtol=1e-5)


def test_load_balancing_gradient_reaches_every_router(tiny_model, tiny_batch):
    model, batch = tiny_model().train(), tiny_batch()
    model(**batch, labels=batch["input_ids"].clamp(max=17)).aux_loss.backward()
    for layer in model.model.layers:
        assert layer.mlp.gate.weight.grad.abs().sum() > 0


def test_examples():
    assert doctest.testmod(experts).failed == 0

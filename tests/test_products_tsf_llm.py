"""products_tsf_llm.py: oneDNN's products against torch's own, and when they are chosen."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsf_llm import products_tsf_llm as products
from tsf_llm.products_tsf_llm import TsfLlmLinear, product, product_of_few, weight_gradient

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.fixture
def chosen(monkeypatch):
    """oneDNN is chosen or not, whatever this machine's speeds; says how often it was called."""
    calls = []

    def choose(wins):
        monkeypatch.setattr(products, "onednn_wins", lambda: wins)
        monkeypatch.setattr(products, "SMALLEST", 24)
        onednn = products.onednn
        monkeypatch.setattr(products, "onednn", lambda *args: calls.append(args) or onednn(*args))
        return calls

    return choose


def gradients(linear, x):
    x = x.clone().requires_grad_()
    learned = [weight for weight in linear.parameters() if weight.requires_grad]
    return torch.autograd.grad(linear(x).sin().sum(), (x, *learned))


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 300), (2, 5, 300), (40, 300)], ids=str)
def test_linear_equals_torchs_own(chosen, close, shape, bias):
    calls, x = chosen(True), torch.randn(shape)
    ours = TsfLlmLinear(300, 20, bias=bias)
    own = nn.Linear(300, 20, bias=bias)
    own.load_state_dict(ours.state_dict())
    close(ours(x), own(x), rtol=1e-5, atol=1e-5)
    close(gradients(ours, x), gradients(own, x), rtol=1e-4, atol=1e-4)
    assert len(calls) == 1 + 3
    with torch.inference_mode():
        close(ours(x), own(x), rtol=1e-5, atol=1e-5)
    close(gradients(copy.deepcopy(ours).requires_grad_(False), x)[:1], gradients(own, x)[:1], rtol=1e-4, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize("outputs", [3, 50])
def test_products_take_any_strides(chosen, close, outputs):
    calls = chosen(True)
    x, weight, grad = torch.randn(9, 20), torch.randn(20, outputs).T, torch.randn(9, outputs)
    close(product(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)
    close(weight_gradient(x, grad), grad.T @ x, rtol=1e-5, atol=1e-5)
    assert len(calls) == 2


@needs_onednn
def test_rows_do_not_depend_on_their_number(chosen):
    chosen(True)
    x, weight = torch.randn(70, 256), torch.randn(48, 256)
    whole = product(x, weight)
    for rows in (2, 3, 16, 33, 64):
        assert torch.equal(product(x[:rows], weight), whole[:rows])


@needs_onednn
@pytest.mark.parametrize("rows", [0, 1, 2, 4, 5])
def test_few_rows_of_a_large_matrix(chosen, close, monkeypatch, rows):
    calls, x, weight = chosen(True), torch.randn(5, 40)[:rows], torch.randn(40, 30).T
    wanted = F.linear(x, weight)
    close(product_of_few(x, weight), wanted)
    assert not calls
    monkeypatch.setattr(products, "WORTH_A_CALL", 1)
    close(product_of_few(x, weight), wanted, rtol=1e-5, atol=1e-5)
    assert len(calls) == (rows > 1)
    monkeypatch.setattr(products, "FROM_MEMORY", 1)
    close(product_of_few(x, weight), wanted, rtol=1e-5, atol=1e-5)
    assert len(calls) == (rows > 1) + (rows > products.FEW)
    assert product_of_few(x.double(), weight.double()).dtype == torch.float64


def test_the_blas_gets_the_rest(chosen):
    calls, weight = chosen(True), torch.randn(3, 8)
    TsfLlmLinear(8, 2)(torch.randn(4, 8))
    for x in (torch.randn(1, 8), torch.randn(8), torch.randn(0, 8)):
        product(x[None] if x.ndim == 1 else x, weight)
    product(torch.randn(4, 8).bfloat16(), weight.bfloat16())
    product(torch.randn(4, 8).double(), weight.double())
    TsfLlmLinear(8, 3, device="meta")(torch.randn(4, 8, device="meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert TsfLlmLinear(8, 3)(torch.randn(4, 8)).dtype == torch.bfloat16
    chosen(False)
    TsfLlmLinear(8, 3)(torch.randn(4, 8))
    assert not calls


def test_a_graph_holds_torchs_own_product(chosen):
    calls = chosen(True)
    program = torch.export.export(TsfLlmLinear(8, 3), (torch.randn(4, 8),))
    assert "linear" in str(program.graph)
    assert not calls


@needs_onednn
def test_gradients_have_gradients(chosen, close):
    chosen(True)
    ours, own, x = TsfLlmLinear(8, 3), nn.Linear(8, 3), torch.randn(4, 8, requires_grad=True)
    own.load_state_dict(ours.state_dict())
    found = []
    for linear in (ours, own):
        (grad,) = torch.autograd.grad(linear(x).sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), (x, linear.weight)))
    close(found[0], found[1], rtol=1e-4, atol=1e-5)


@needs_onednn
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_transforms_of_functions_see_torchs_own_product(chosen, close):
    calls, linear, x = chosen(True), TsfLlmLinear(8, 3), torch.randn(4, 8)
    close(torch.func.grad(lambda x: linear(x).sum())(x), linear.weight.sum(0).expand(4, 8))
    traced = torch.jit.trace(linear, x, check_trace=False)
    close(traced(x), F.linear(x, linear.weight, linear.bias), rtol=1e-5, atol=1e-5)
    assert not calls


@needs_onednn
def test_the_libraries_are_timed_on_one_thread(monkeypatch):
    products.onednn_wins.cache_clear()
    threads, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    monkeypatch.setattr(products, "best_seconds", lambda _: seen.append(torch.get_num_threads()) or [1.0, 1.0])
    products.onednn_wins()
    seen.append(torch.get_num_threads())
    torch.set_num_threads(threads)
    products.onednn_wins.cache_clear()
    assert seen == [1, 2]


def test_the_faster_library_is_found_once(monkeypatch):
    products.onednn_wins.cache_clear()
    timed = []
    monkeypatch.setattr(products, "best_seconds", lambda products: timed.append(products) or [1.0, 1.0])
    assert not products.onednn_wins()  # no faster, so not chosen
    products.onednn_wins()
    assert len(timed) in (0, 1)
    monkeypatch.undo()
    products.onednn_wins.cache_clear()
    assert isinstance(products.onednn_wins(), bool)

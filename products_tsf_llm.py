"""Matrix products on a CPU, by whichever of torch's two libraries is faster there.

Design choices:
* torch gives float32 products to its BLAS. On CPUs that are not Intel's, MKL leaves half of AVX-512 unused, while
  oneDNN, which torch gives bfloat16 to, uses all of it. One product is timed once per process; oneDNN has to win
  clearly (`WORTH`), so that chance does not choose and a run gives the same numbers as the last one.
* A small matrix (`SMALLEST`) and a single row go to the BLAS. From two rows on the choice does not depend on their
  number, and oneDNN computes a row to the same bits whatever the number of rows.
* `FEW` rows wait for their matrix to be read. Where MKL is the slower one, its product with few columns reads one that
  lies in no cache (`FROM_MEMORY`) nearly twice as fast as oneDNN, or as itself with one: a single row is taken twice.
* oneDNN's answers are fresh tensors each time, so freed memory is kept for the next one.
* torch has no gradient for its call of oneDNN: `LinearByOneDnn` is that gradient.

Shapes: N rows, D in, O out.
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

ROWS, INNER, OUTER = 256, 256, 512  # rows of an expert, width and inner width: .07 GFLOP
REPEATS = 9
WORTH = 1.3  # times as fast as the BLAS
FEW, FROM_MEMORY = 4, 1 << 18  # rows; numbers of a matrix, a MiB
WORTH_A_CALL = 1 << 20  # rows times numbers of a matrix; below, oneDNN loses what it wins
SMALLEST = 10_000  # numbers of a matrix; below, a call of oneDNN costs more than the product
LARGEST_KEPT = (32 << 20) - (1 << 16)  # bytes; glibc's own bound is 32 MiB
PLAIN = (torch.Tensor, nn.Parameter)  # no int8, distributed or traced tensor


def onednn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x @ weight.T` of float32 `[*,D]` and `[O,D]`, in any strides."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def keep_freed_memory() -> None:
    """Has glibc keep up to 62 MiB of what is freed, for the next layer, which otherwise pays for fresh pages.

    It learns how much to keep from the largest block freed so far; this one is never touched, and costs nothing."""
    torch.empty(LARGEST_KEPT, dtype=torch.uint8)


def best_seconds(products: Sequence[Callable[[], Any]]) -> list[float]:
    """The shortest run of each, of a few in turns: what else runs here falls on all. The first ones warm up."""
    best = [float("inf")] * len(products)
    for repeat in range(1 + REPEATS):
        for i, run in enumerate(products):
            started = time.perf_counter()
            run()
            if repeat:
                best[i] = min(best[i], time.perf_counter() - started)
    return best


@lru_cache(maxsize=1)
def onednn_wins() -> bool:
    """Whether oneDNN's float32 products are clearly faster here; found out in some milliseconds."""
    keep_freed_memory()
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where the machine has other work, and chance chooses
    try:
        with torch.no_grad():
            x, weight = torch.ones(ROWS, INNER), torch.ones(OUTER, INNER)
            blas, other = best_seconds((partial(F.linear, x, weight), partial(onednn, x, weight)))
    finally:
        torch.set_num_threads(threads)
    return blas >= WORTH * other


def is_followed() -> bool:
    """Whether torch follows the call to make another of it (compile, export, trace, `torch.func`): it needs operations
    that it knows, and a compiler chooses its products itself."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def is_for_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `linear` gives this product to oneDNN."""
    return (
        weight.numel() >= SMALLEST
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(x) in PLAIN
        and type(weight) in PLAIN
        and not is_followed()
        and x.shape[:-1].numel() > 1
        and not torch.is_autocast_enabled("cpu")
        and onednn_wins()
    )


def product(x_ND: torch.Tensor, weight_OD: torch.Tensor) -> torch.Tensor:
    """`x @ weight.T` without a gradient."""
    return onednn(x_ND, weight_OD) if is_for_onednn(x_ND, weight_OD) else F.linear(x_ND, weight_OD)


def product_of_few(x_ND: torch.Tensor, weight_OD: torch.Tensor) -> torch.Tensor:
    """`product` for rows of which there may be few: a row's last bits depend on their number."""
    N, size = len(x_ND), weight_OD.numel()
    if size < FROM_MEMORY and N * size < WORTH_A_CALL:
        return F.linear(x_ND, weight_OD)
    if size < FROM_MEMORY or not 0 < N <= FEW or not is_for_onednn(x_ND.expand(2, N, -1), weight_OD):
        return product(x_ND, weight_OD)
    x_ND = x_ND.repeat(2, 1) if N == 1 else x_ND.contiguous()
    return torch.mm(weight_OD, x_ND.T).T[:N]


def weight_gradient(x_ND: torch.Tensor, grad_NO: torch.Tensor) -> torch.Tensor:
    """`grad.T @ x`, `[O,D]`, which may be a transposed view: oneDNN copies what comes first, here the smaller."""
    if grad_NO.shape[1] <= x_ND.shape[1]:
        return product(grad_NO.T, x_ND.T)
    return product(x_ND.T, grad_NO.T).T


def gradients_in_graph(
    function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], needed: Sequence[bool], grad: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of `function`, None where not needed, that have gradients of their own: for `create_graph=True`."""
    inputs = [one.view_as(one) for one in inputs]  # one may be made of another, which is none of our business here
    asked = [one for one, is_needed in zip(inputs, needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(function(*inputs), asked, grad, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)


class LinearByOneDnn(torch.autograd.Function):
    """`onednn` with gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return onednn(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            return gradients_in_graph(F.linear, (x, weight), ctx.needs_input_grad, grad)
        grad_x = onednn(grad, weight.T) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(x.flatten(0, -2), grad.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight


class TsfLlmLinear(nn.Linear):
    """`nn.Linear` by the faster library."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not is_for_onednn(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        out = LinearByOneDnn.apply(x, self.weight) if learns else onednn(x, self.weight)
        return out if self.bias is None else out + self.bias


__all__ = [
    "TsfLlmLinear",
    "best_seconds",
    "gradients_in_graph",
    "is_followed",
    "is_for_onednn",
    "onednn_wins",
    "product",
    "product_of_few",
    "weight_gradient",
]

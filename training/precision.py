"""Which of float32 and bfloat16 is faster here: CPUs without AMX or AVX-512 lose by bf16, others gain, as GPUs do.

Design choices:
* A product of the size that training makes is timed once per process, before anything else is done: each as training
  makes it, float32 by the library that the model takes, bfloat16 with the casts of its two sides.
* bf16 is chosen where it is clearly faster (`WORTH`): float32 gives the same weights on every run.
* Several processes must agree, and their clocks might not: there the device's own word counts, not the time.
"""

import os
from functools import lru_cache, partial

import torch

from ..products_tsf_llm import best_seconds, product

ROWS, INNER, OUTER = 1024, 256, 512  # bars, width and inner width: .27 GFLOP
MORE = 16  # times as many rows beside a CPU, where a call costs as much as a small product
WORTH = 1.2  # times as fast as float32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@lru_cache(maxsize=1)
def matmul_speeds(device: str) -> dict[str, float]:
    """GFLOP/s of a matrix product in `fp32` and in `bf16`, the best of a few, in a moment."""
    rows = ROWS if device == "cpu" else MORE * ROWS
    x, weight = (torch.ones(shape, device=device) for shape in ((rows, INNER), (OUTER, INNER)))
    seconds = best_seconds([partial(_multiply, x, weight, dtype) for dtype in DTYPES.values()])
    return {name: round(2 * rows * INNER * OUTER / one / 1e9, 1) for name, one in zip(DTYPES, seconds, strict=True)}


def _multiply(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> None:
    product(x.to(dtype), weight.to(dtype))
    if x.device.type != "cpu":
        torch.accelerator.synchronize()


def faster_in_bf16(speeds: dict[str, float]) -> bool:
    """
    >>> faster_in_bf16({"fp32": 58.0, "bf16": 1.2}), faster_in_bf16({"fp32": 100.0, "bf16": 450.0})
    (False, True)
    """
    return speeds["bf16"] >= WORTH * speeds["fp32"]


def in_words(speeds: dict[str, float]) -> str:
    """
    >>> in_words({"fp32": 58.0, "bf16": 1.2})
    'here a product in bf16 runs at 1.2 GFLOP/s, in fp32 at 58'
    """
    return f"here a product in bf16 runs at {speeds['bf16']:g} GFLOP/s, in fp32 at {speeds['fp32']:g}"


def device_here(*, use_cpu: bool) -> str:
    """The kind of device that training will use: `cpu`, `cuda`, ..."""
    found = None if use_cpu else torch.accelerator.current_accelerator()
    return "cpu" if found is None else found.type


def several_processes() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def has_bf16(device: str) -> bool:
    """Whether a device says that it multiplies bf16 itself."""
    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

"""Small networks that predict all steps at once from the last values: DLinear, PatchTST, a two-layer LSTM.

* Each reads the `length` values up to the origin, less the last one and in units of its sigma (* sqrt(length)), and
  answers with the outcome's quantiles at every step in units of sigma * sqrt(step): series of all sizes are pooled.
* A network adds to the plain law of the outcomes it was trained on, from nothing on: where it finds nothing in the
  last tenth of what is known, the plain law stays.
* Trained once, at the panel's first fence, on outcomes known there.
* A missing value is its last known one; before the first value the window is filled with it.

Shapes: n forecasts, k rows of a fit, T values of a window, P steps, Q knots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ...bars_tsf_llm import Kind
from ...feature_extraction_tsf_llm import EncodedSeries
from ..distributions import Forecast
from .knots import KNOTS, Outcomes, law, unit
from .panel import Panel, filled

LAST_SHARE = 0.1  # of what is known: training stops where the loss on it grows
SMOOTHED = 25  # values that DLinear's trend is a mean of


@dataclass(frozen=True)
class Sizes:
    """Of a network and its training."""

    length: int = 96
    width: int = 32
    windows: int = 20_000
    batch: int = 256
    epochs: int = 30
    patience: int = 3
    rate: float = 2e-3


SIZES = Sizes()


class DLinear(nn.Module):
    """A linear map of the trend and one of the rest (Zeng et al. 2023, arXiv:2205.13504)."""

    def __init__(self, length: int, width: int, outputs: int):
        super().__init__()
        self.trend, self.rest = nn.Linear(length, outputs), nn.Linear(length, outputs)

    def forward(self, x_BT: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(x_BT[:, None], (SMOOTHED // 2, SMOOTHED // 2), mode="replicate")
        trend_BT = nn.functional.avg_pool1d(padded, SMOOTHED, stride=1)[:, 0]
        return self.trend(trend_BT) + self.rest(x_BT - trend_BT)


def patch_tst(length: int, outputs: int, **shape: Any) -> nn.Module:
    """transformers' own as its paper has it (Nie et al. 2023, arXiv:2211.14730): its head reads all patches, where
    transformers' default is their mean, and norms follow the layers."""
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    window = {"context_length": length, "prediction_length": outputs, "patch_length": 16, "patch_stride": 8}
    paper = {"num_input_channels": 1, "pooling_type": None, "pre_norm": False, "loss": "mse"}
    return PatchTSTForPrediction(PatchTSTConfig(**window, **paper, **shape))


class PatchTST(nn.Module):
    """A small `patch_tst`, without a scaling of its own: windows are scaled already."""

    def __init__(self, length: int, width: int, outputs: int):
        super().__init__()
        shape = {"d_model": width, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 2 * width}
        self.network = patch_tst(length, outputs, **shape, head_dropout=0.1, scaling=None)

    def forward(self, x_BT: torch.Tensor) -> torch.Tensor:
        return self.network(past_values=x_BT[..., None]).prediction_outputs[..., 0]


class Lstm(nn.Module):
    """Two layers; the last state gives all steps at once."""

    def __init__(self, length: int, width: int, outputs: int):
        super().__init__()
        self.layers = nn.LSTM(1, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, x_BT: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x_BT[..., None])[0][:, -1])


class Corrected(nn.Module):
    """The plain quantiles `[P,Q]` plus what a network adds to them, which is nothing at first."""

    def __init__(self, network: nn.Module, plain_PQ: torch.Tensor):
        super().__init__()
        self.network, self.gain = network, nn.Parameter(torch.zeros_like(plain_PQ))
        self.register_buffer("plain", plain_PQ)

    def forward(self, x_BT: torch.Tensor) -> torch.Tensor:
        return self.plain + self.gain * self.network(x_BT).unflatten(1, self.gain.shape)


def network_forecasts(
    panel: Panel, steps: Sequence[int], *, build: Callable[[int, int, int], nn.Module], sizes: Sizes = SIZES
) -> dict[int, Forecast]:
    """Of a panel of any number of series.

    Raises:
        ValueError: where too few outcomes are known at the first fence.
    """
    inputs = partial(_windows, kind=panel.kind, length=sizes.length)
    outcomes = Outcomes.of(panel.series, max(steps), panel.kind)
    fence = panel.fences()[0][0]
    split = outcomes.split(fence, outcomes.cut(fence, LAST_SHARE), np.random.default_rng(panel.seed), sizes.windows)
    train, check = (
        (
            outcomes.apply(panel.series, at, inputs),
            outcomes.apply(panel.series, at, partial(_targets, kind=panel.kind, steps=steps)),
        )
        for at in split
    )
    pairs = list(zip(panel.series, panel.rows, strict=True))
    asked = np.concatenate([inputs(one, rows) for one, rows in pairs])
    knots_nPQ = fit_predict(build, train, check, asked, sizes, panel.seed)
    return {
        step: law(knots_nPQ[:, i], np.concatenate([unit(one, rows, step) for one, rows in pairs]))
        for i, step in enumerate(steps)
    }


def dlinear(panel: Panel, steps: Sequence[int]) -> dict[int, Forecast]:
    """See `network_forecasts`."""
    return network_forecasts(panel, steps, build=DLinear)


def patchtst(panel: Panel, steps: Sequence[int]) -> dict[int, Forecast]:
    """See `network_forecasts`."""
    return network_forecasts(panel, steps, build=PatchTST)


def lstm(panel: Panel, steps: Sequence[int]) -> dict[int, Forecast]:
    """See `network_forecasts`."""
    return network_forecasts(panel, steps, build=Lstm)


def fit_predict(
    build: Callable[[int, int, int], nn.Module],
    train: tuple[np.ndarray, np.ndarray],
    check: tuple[np.ndarray, np.ndarray],
    asked: np.ndarray,
    sizes: Sizes,
    seed: int = 0,
) -> np.ndarray:
    """Quantiles `[n,P,Q]` at `KNOTS`, given windows `[n,T]`; the pairs are windows `[k,T]` and outcomes `[k,P]` to
    train on and to stop on. Leaves torch's random state as it was."""
    plain_PQ = torch.from_numpy(np.nanquantile(train[1], KNOTS, axis=0).T.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Corrected(build(sizes.length, sizes.width, plain_PQ.numel()), plain_PQ)
        _train(model, [torch.from_numpy(x) for x in train], [torch.from_numpy(x) for x in check], sizes)
    return _predict(model, torch.from_numpy(asked), sizes).double().numpy()


def _train(model: Corrected, train: list[torch.Tensor], check: list[torch.Tensor], sizes: Sizes) -> None:
    """Until the loss on `check` has not fallen for `patience` epochs; the best weights stay."""
    optimizer = torch.optim.Adam(model.parameters(), lr=sizes.rate)
    best, kept, waited = _loss(model, check, sizes), _copy(model), 0
    for _ in range(sizes.epochs):
        model.train()
        for rows in torch.randperm(len(train[0])).split(sizes.batch):
            optimizer.zero_grad()
            pinball(model(train[0][rows]), train[1][rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss = _loss(model, check, sizes)
        waited = 0 if loss < best else waited + 1
        if loss < best:
            best, kept = loss, _copy(model)
        if waited == sizes.patience:
            break
    model.load_state_dict(kept)


def pinball(knots_BPQ: torch.Tensor, outcome_BP: torch.Tensor) -> torch.Tensor:
    """Mean pinball loss at `KNOTS` of the outcomes that are known."""
    levels = torch.as_tensor(KNOTS, dtype=torch.float32)
    error = outcome_BP[..., None] - knots_BPQ
    return torch.maximum(levels * error, (levels - 1) * error)[~outcome_BP.isnan()].mean()


def _loss(model: Corrected, check: list[torch.Tensor], sizes: Sizes) -> float:
    return float(pinball(_predict(model, check[0], sizes), check[1]))


@torch.no_grad()
def _predict(model: Corrected, windows: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    model.eval()
    return torch.cat([model(some) for some in windows.split(sizes.batch)])


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _windows(one: EncodedSeries, rows: np.ndarray, *, kind: Kind, length: int) -> np.ndarray:
    """float32 `[k,T]`."""
    values = filled(one, kind)
    first = int(np.isfinite(values).argmax())
    at = np.maximum(rows[:, None] - np.arange(length)[::-1], first)
    return ((values[at] - values[rows, None]) / unit(one, rows, length)[:, None]).astype(np.float32)


def _targets(one: EncodedSeries, rows: np.ndarray, *, kind: Kind, steps: Sequence[int]) -> np.ndarray:
    """float32 `[k,P]`, NaN where an outcome between is missing."""
    changes = [kind.change(one.close[rows + step], one.close[rows]) / unit(one, rows, step) for step in steps]
    return np.stack(changes, axis=1).astype(np.float32)

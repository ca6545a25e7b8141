"""The specialists of long horizons that `series` sets beside our model: networks, seasonal naive, AutoETS.

Design choices:
* All of them answer with one number per step. Networks read `length` standardised values up to the origin, learn the
  mean squared error of all steps and stop where it no longer falls on validation dates; the best weights stay.
* DLinear and PatchTST have the settings of their papers on ETTh1; they and the LSTM are one network for all columns.
  To bound the cost, an epoch takes every `stride`-th origin of each column, from another one each time, and validation
  as many.
* AutoETS is fitted once, on the last values of the training dates; from there on its state follows the values known
  at each origin. It has no season beyond 24 rows, as everywhere.

Shapes: T rows, C columns, n origins, B windows, L values of a window, P steps.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from statsmodels.tools.sm_exceptions import ModelWarning
from torch import nn

from ..common.inference import evaluating
from ..evaluation.baselines.classical import HISTORY, Ahead, ets_statsforecast, ets_statsmodels, statsforecast
from ..evaluation.baselines.networks import DLinear, patch_tst

LONGEST_SEASON = 24  # of ETS
AT_ONCE = 512  # windows
Predict = Callable[[np.ndarray, int], np.ndarray]  # rows of origins [n], a column -> standardised values [n,P]


@dataclass(frozen=True)
class Series:
    """Columns side by side, cut by time into three parts.

    `values` float64 `[T,C]`, NaN where unknown; the parts end before the rows `ends`. `targets` are the columns that
    are forecast; `season` rows are what the seasonal naive repeats and MASE is measured in.
    """

    times: np.ndarray
    values: np.ndarray
    names: tuple[str, ...]
    targets: tuple[int, ...]
    ends: tuple[int, int, int]
    season: int

    def standard(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values in units of the deviation from the mean of the training part `[T,C]`, those means and deviations."""
        train = self.values[: self.ends[0]]
        mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        return (self.values - mean) / deviation, mean, deviation

    def known(self) -> np.ndarray:
        """Standardised values, an unknown one being the last before it, or 0: `[T,C]`."""
        z_TC = self.standard()[0]
        last_TC = np.maximum.accumulate(np.where(np.isnan(z_TC), -1, np.arange(len(z_TC))[:, None]), axis=0)
        return np.where(last_TC < 0, 0.0, np.take_along_axis(z_TC, np.maximum(last_TC, 0), axis=0))

    def origins(self, part: int, *, horizon: int, length: int = 0) -> np.ndarray:
        """Rows with a value whose steps ahead all lie in that part, after `length` rows; earlier parts may be read."""
        first = 0 if part == 0 else self.ends[part - 1]
        rows = np.arange(max(first - 1, length - 1), self.ends[part] - horizon)
        return rows[np.isfinite(self.values[rows][:, list(self.targets)]).all(axis=1)]


@dataclass(frozen=True)
class Sizes:
    """Of a network and its training. `decay` multiplies the rate after each epoch."""

    length: int
    stride: int
    batch: int
    rate: float
    decay: float = 1.0
    epochs: int = 40
    patience: int = 3
    every: int = 1  # value of the window that is read
    all_columns: bool = False


class OwnLinear(DLinear):
    """DLinear of the target (Zeng et al. 2023, arXiv:2205.13504)."""

    def __init__(self, length: int, horizon: int, columns: int):
        super().__init__(length, columns, horizon)

    def forward(self, x_BLC: torch.Tensor) -> torch.Tensor:
        return super().forward(x_BLC[..., 0])


class PatchTST(nn.Module):
    """`patch_tst` with the shape of the paper on ETTh1."""

    def __init__(self, length: int, horizon: int, columns: int):
        super().__init__()
        shape = {"d_model": 16, "num_attention_heads": 4, "num_hidden_layers": 3, "ffn_dim": 128}
        dropout = {"attention_dropout": 0.0, "positional_dropout": 0.3, "ff_dropout": 0.3, "path_dropout": 0.3}
        self.network = patch_tst(length, horizon, scaling="std", **shape, **dropout)

    def forward(self, x_BLC: torch.Tensor) -> torch.Tensor:
        return self.network(past_values=x_BLC[..., :1]).prediction_outputs[..., 0]


class Lstm(nn.Module):
    """Two layers; the last state gives all steps at once, as differences from the last value."""

    def __init__(self, length: int, horizon: int, columns: int, width: int = 64):
        super().__init__()
        self.layers = nn.LSTM(columns, width, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(width, horizon)

    def forward(self, x_BLC: torch.Tensor) -> torch.Tensor:
        last_B1 = x_BLC[:, -1, :1]
        shift_B1C = torch.cat([last_B1, torch.zeros_like(x_BLC[:, -1, 1:])], dim=1)[:, None]
        return last_B1 + self.head(self.layers(x_BLC - shift_B1C)[0][:, -1])


NETWORKS: dict[str, tuple[type[nn.Module], Sizes]] = {
    "DLinear": (OwnLinear, Sizes(length=336, stride=1, batch=224, rate=5e-3, decay=0.5)),
    "PatchTST": (PatchTST, Sizes(length=336, stride=4, batch=128, rate=5e-4, decay=0.9)),
    "LSTM": (Lstm, Sizes(length=96, stride=8, batch=64, rate=2e-3, decay=0.9)),
}


class Windows:
    """Inputs `[B,L,C]` and outcomes `[B,P]` of pairs (origin, target column): the target first, then, where all
    columns are read, the others."""

    def __init__(self, series: Series, horizon: int, sizes: Sizes):
        self.series, self.horizon, self.sizes = series, horizon, sizes
        self.x_TC = torch.from_numpy(series.known().astype(np.float32))
        self.y_TC = torch.from_numpy(series.standard()[0].astype(np.float32))
        self.back_L = torch.arange(0, sizes.length, sizes.every).flip(0)
        self.ahead_P = torch.arange(1, horizon + 1)

    @property
    def columns(self) -> int:
        return self.x_TC.shape[1] if self.sizes.all_columns else 1

    def pairs(self, part: int, stride: int = 1, start: int = 0) -> torch.Tensor:
        """(origin, target column) of every `stride`-th origin, `[N,2]`."""
        rows = self.series.origins(part, horizon=self.horizon, length=self.sizes.length)[start::stride]
        return torch.cartesian_prod(torch.from_numpy(rows), torch.tensor(self.series.targets))

    def inputs(self, pairs_B2: torch.Tensor) -> torch.Tensor:
        at_BL = pairs_B2[:, :1] - self.back_L
        own_BL1 = self.x_TC[at_BL, pairs_B2[:, 1:]][..., None]
        if not self.sizes.all_columns:
            return own_BL1
        target = self.series.targets[0]  # one, where all columns are read
        others = [column for column in range(self.x_TC.shape[1]) if column != target]
        return torch.cat([own_BL1, self.x_TC[at_BL][..., others]], dim=-1)

    def outcomes(self, pairs_B2: torch.Tensor) -> torch.Tensor:
        return self.y_TC[pairs_B2[:, :1] + self.ahead_P, pairs_B2[:, 1:]]


@torch.no_grad()
def _loss(model: nn.Module, windows: Windows, pairs: torch.Tensor) -> float:
    """Mean squared error of the known outcomes."""
    with evaluating(model):
        squares = [(model(windows.inputs(some)) - windows.outcomes(some)).square() for some in pairs.split(AT_ONCE)]
    return float(torch.cat(squares).nanmean())


def trained(build: type[nn.Module], series: Series, horizon: int, sizes: Sizes, seed: int) -> tuple[nn.Module, str]:
    """The network at its best on validation dates, and what ended its training. Torch's random state is left alone."""
    windows, generator = Windows(series, horizon, sizes), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(len(windows.back_L), horizon, windows.columns)
        optimizer = torch.optim.Adam(model.parameters(), lr=sizes.rate)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, sizes.decay)
        check = windows.pairs(1, sizes.stride)
        best, kept, at, epoch = np.inf, {}, 0, 0
        while epoch < sizes.epochs and epoch - at < sizes.patience:
            epoch += 1
            pairs = windows.pairs(0, sizes.stride, (epoch - 1) % sizes.stride)
            for some in pairs[torch.randperm(len(pairs), generator=generator)].split(sizes.batch):
                known = ~(outcome := windows.outcomes(some)).isnan()
                optimizer.zero_grad()
                (model(windows.inputs(some)) - outcome)[known].square().mean().backward()
                optimizer.step()
            schedule.step()
            if (loss := _loss(model, windows, check)) < best:
                best, kept, at = loss, {name: one.clone() for name, one in model.state_dict().items()}, epoch
    model.load_state_dict(kept)
    ended = "early stopping" if epoch - at >= sizes.patience else "the cap on epochs"
    return model, f"best epoch {at}, validation MSE {best:.4f}, ended by {ended}"


def network(build: type[nn.Module], series: Series, horizon: int, sizes: Sizes, seed: int) -> tuple[Predict, int, str]:
    """Its forecasts, number of parameters, and how its training went."""
    model, told = trained(build, series, horizon, sizes, seed)
    windows = Windows(series, horizon, sizes)

    @torch.no_grad()
    def predict(rows: np.ndarray, column: int) -> np.ndarray:
        pairs = torch.cartesian_prod(torch.from_numpy(rows), torch.tensor([column]))
        with evaluating(model):
            return torch.cat([model(windows.inputs(some)) for some in pairs.split(AT_ONCE)]).double().numpy()

    return predict, sum(one.numel() for one in model.parameters()), told


def seasonal_naive(series: Series, horizon: int) -> Predict:
    """The value a whole number of seasons before each step."""
    steps, known_TC = np.arange(1, horizon + 1), series.known()
    back = steps - series.season * -(-steps // series.season)
    return lambda rows, column: known_TC[np.maximum(rows[:, None] + back, 0), column]


@lru_cache(maxsize=32)
def fitted_ets(values: tuple[float, ...], season: int | None) -> Ahead:
    """One fit for all horizons, whose first alone has its cost."""
    fit = ets_statsmodels if statsforecast is None else ets_statsforecast
    return fit(np.array(values), season)


def auto_ets(series: Series, horizon: int) -> Predict:
    """statsforecast's where it is installed, else statsmodels' additive form of least AICc."""
    known_TC, season = series.known(), series.season if series.season <= LONGEST_SEASON else None
    start = max(0, series.ends[0] - HISTORY)

    def predict(rows: np.ndarray, column: int) -> np.ndarray:
        values = known_TC[start:, column]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (ModelWarning, UserWarning, RuntimeWarning))
            ahead = fitted_ets(tuple(values[: series.ends[0] - start]), season)
            return ahead(values[: rows.max() + 1 - start], rows - start, range(1, horizon + 1))

    return predict


def ets_name() -> str:
    return f"{'statsmodels' if statsforecast is None else 'statsforecast'}, additive forms"

"""Our model in `series`, the way that a user goes: a table of series, `sft` with a recipe, windows of the processor.

Design choices:
* The recipe is `train_scripts/configs/series.yaml`; a section changes what its data ask for (horizon, context).
* Trained on the training dates and stopped on the validation dates, as the others are. The folder is gone afterwards.
* A point is the mean of its quantiles, each weighed by its share of the law: MSE asks for the mean.

Shapes: n origins, P steps, Q quantile levels.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..common.inference import evaluating
from ..common.parser import Parser
from ..data_prep.windows import WindowDataset
from ..series_head_tsf_llm import shares
from ..training.arguments import DataArguments, ModelArguments, SftArguments
from ..training.data import TrainingData
from ..training.models import head_of, load_model
from ..training.supervised import train
from .series_rivals import AT_ONCE, Series

RECIPE = Path(__file__).parents[1] / "train_scripts" / "configs" / "series.yaml"
QUICK = {"num_train_epochs": 1, "context_length": 48, "stride": 16}
LEVELS = np.arange(1, 10) / 10  # that laws are scored at
UNREAD = ("labels", "loss_weight")  # of a window, by a forecast
Law = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # origins, column -> points [n,P], quantiles [n,P,Q]


def write_series(series: Series, path: Path) -> None:
    """The target columns as plain series below one another."""
    parts = [
        pd.DataFrame({"timestamp": series.times, "series_id": f"y{column}", "value": series.values[:, column]})
        for column in series.targets
    ]
    pd.concat(parts).to_parquet(path, index=False)


def ours(series: Series, horizon: int, seed: int, **changed: Any) -> tuple[Law, int, str]:
    """Its law, number of parameters, and how its training went. `changed` are options of `sft` over the recipe's."""
    ends = [pd.Timestamp(series.times[end - 1]).strftime("%Y-%m-%dT%H:%M") for end in series.ends]
    fences = dict(zip(("train_through", "valid_through"), ends, strict=False))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "series.parquet"
        write_series(series, file)
        options = {"data": str(file), "horizon": horizon, "seed": seed, "report_samples": 0, **fences, **changed}
        parser = Parser([DataArguments, ModelArguments, SftArguments], prog="series")
        arguments = parser.read(RECIPE, output_dir=f"{folder}/model", **options)
        data = TrainingData.read(arguments[0], series_form=arguments[1].series_form)
        report = train(*arguments, data=data)
        model = load_model(f"{folder}/model")
    return law_of(model, data, series), model.num_parameters(), told(report, arguments[2])


def told(report: dict[str, Any], args: SftArguments) -> str:
    """How a training went, from its report."""
    epochs = report["steps"] * args.per_device_train_batch_size / report["windows"]["train"]
    ended = "early stopping" if epochs < args.num_train_epochs - 0.5 else "the end of its schedule"
    return (
        f"{report['steps']} steps, {epochs:.1f} epochs, validation loss {report['valid_loss']:.4f}, ended by {ended}"
    )


def law_of(model: Any, data: TrainingData, series: Series) -> Law:
    """Standardised values, from all origins behind the validation dates."""
    windows = data.part(head_of(model), after=data.split.valid_through, stride=1)
    named, starts = [one.ticker for one in data.series], np.unique(windows.start_of)
    start = dict(zip(named, starts, strict=True))
    close = np.concatenate([one.close for one in data.series])
    (_, mean, deviation), own = series.standard(), np.asarray(model.config.quantiles)

    def law(rows: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
        mine = np.flatnonzero(windows.start_of[windows.origins] == start[f"y{column}"])
        times = windows.timestamp[windows.origins[mine]].astype("datetime64[ns]")
        at = np.searchsorted(times, series.times[rows].astype("datetime64[ns]"))
        asked = mine[at]
        assert (times[at] == series.times[rows]).all()
        origins = windows.origins[asked]
        values = answers(model, windows, asked) * windows.sigma[origins, None, None] + close[origins, None, None]
        values = (values - mean[column]) / deviation[column]
        return values @ shares(torch.from_numpy(own)).numpy(), at_levels(values, own)

    return law


@torch.inference_mode()
def answers(model: Any, windows: WindowDataset, asked: np.ndarray) -> np.ndarray:
    """What the head says `[n,P,Q]` of these windows."""
    parts = []
    with evaluating(model):
        for start in range(0, len(asked), AT_ONCE):
            batch = windows.__getitems__(asked[start : start + AT_ONCE].tolist())
            read = {name: values for name, values in batch.items() if name not in UNREAD}
            parts.append(model(**read).prediction.float().numpy())
    return np.concatenate(parts).astype(float)


def at_levels(quantiles: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The quantiles at `LEVELS` of a law with quantiles [n,P,q] at levels `own` [q], straight lines between them."""
    right = np.clip(np.searchsorted(own, LEVELS), 1, len(own) - 1)
    share = np.clip((LEVELS - own[right - 1]) / (own[right] - own[right - 1]), 0, 1)
    return quantiles[..., right - 1] * (1 - share) + quantiles[..., right] * share

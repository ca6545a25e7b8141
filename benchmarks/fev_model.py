"""Models of this package on the tasks of fev (github.com/autogluon/fev, Apache-2.0), as its `ForecastingModel`s.

    task = fev.Task(dataset_path="sales.parquet", horizon=28, seasonality=7, quantile_levels=[0.1, 0.5, 0.9])
    model = TsfLlmModel()
    task.evaluation_summary(model.fit_predict(task), model_name=model.model_name)

Design choices:
* `TsfLlmModel("folder")` answers zero-shot, as the folder is; without one a new model is trained per task, on the past
  of its first window alone. That past lies before every outcome that is scored.
* Several targets of an item are several series. Covariates that are no numbers are left out.
* fev wants an answer for every series. Those that the model cannot read, as too short or never moving, get that of the
  seasonal naive; `left_out` names them.
* Points are means for metrics of squares, else medians.

Shapes: N rows of a series, P steps, L quantile levels.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import fev
import numpy as np
import pandas as pd

from ..common.files import write_parquet
from ..common.parser import Parser
from ..data_prep.survey import survey
from ..data_prep.windows import fence
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import quantile_column
from ..serving.loading import load_pipeline
from ..serving.series_plan import CONFIG, series_options
from ..training.arguments import DataArguments, ModelArguments, SftArguments
from ..training.supervised import train

OF_SQUARES = ("MSE", "RMSE", "RMSSE")  # metrics whose best point is the mean
MEDIAN = 0.5
MOST_VALUES, MOST_ROWS = 1_000_000, 20_000  # that a model is trained on, and of one series
AT_ONCE = 500  # series
ERRORS = 500  # of the seasonal naive, the last ones
VALID_SHARE = 0.1


class TsfLlmModel(fev.ForecastingModel):
    """A folder of plain series, or one that is trained for each task.

    Args:
        model: folder or Hub name; by default a new model is trained per task.
        recipe: YAML of `train_scripts/sft.py` for that; by default a model in series form, whose context, patches,
            epochs and bounds follow from the past of the first window as in a quick start.
        seconds: of training; by default those of the recipe.
        seed: of weights, windows and sampled paths.

    Raises:
        ValueError: the folder reads prices, another frequency or covariates that the task lacks, or its head knows
            fewer steps; no series of a task is long enough to train on.
    """

    model_name = "tsf-llm"

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        recipe: str | Path | None = None,
        seconds: float | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.model, self.recipe, self.seconds, self.seed = model, recipe, seconds, seed
        self.left_out: dict[str, str] = {}  # series of the last task -> why the model did not answer

    def _fit_predict(self, task: fev.Task) -> list[datasets.DatasetDict]:
        self.left_out = {}
        windows = list(task.iter_windows())
        with self._record_training_time():
            pipe = self._pipeline(task, windows[0])
        with self._record_inference_time():
            return [self._answer(pipe, task, window) for window in windows]

    def _pipeline(self, task: fev.Task, first: fev.EvaluationWindow) -> TsfLlmPipeline:
        if self.model is not None:
            pipe = load_pipeline(self.model)
            if pipe.processor.kind.name != "univariate":
                raise ValueError(f"{self.model} reads prices, and tasks of fev are plain series: name another model")
            return pipe
        known = Known.of(task, first)
        with TemporaryDirectory() as folder:
            return trained(known, Path(folder), self.recipe, seconds=self.seconds, seed=self.seed)

    def _answer(self, pipe: TsfLlmPipeline, task: fev.Task, window: fev.EvaluationWindow) -> datasets.DatasetDict:
        known, levels = Known.of(task, window), sorted({*task.quantile_levels, MEDIAN})
        if task.quantile_levels and not pipe.samples_paths:
            raise ValueError("the task asks for quantiles, and the model gives one number: use --head quantile")
        answers = seasonal_naive(known.past, task, levels)
        point = "mean" if _name(task.eval_metric) in OF_SQUARES or not pipe.samples_paths else quantile_column(MEDIAN)
        columns = [point, *map(quantile_column, levels)]
        for frame in known.some():
            asked: dict[str, Any] = {"horizon": task.horizon, "quantile_levels": levels, "seed": self.seed}
            try:
                found = pipe(frame, **asked)
            except ValueError as error:
                if frame["series_id"].nunique() > 1:
                    raise
                self.left_out[known.names[frame["series_id"].iloc[0]]] = str(error)
                continue
            self.left_out |= {known.names.get(name, name): why for name, why in found.attrs["skipped"].items()}
            for name, rows in found.groupby("ticker", sort=False):
                answers[str(name)] = rows[columns].to_numpy().T
        return _as_predictions(answers, task, levels)


class SeasonalNaive(fev.ForecastingModel):
    """The value a whole number of seasons before, with the errors that this rule made up to the origin."""

    model_name = "seasonal_naive"

    def _fit_predict(self, task: fev.Task) -> list[datasets.DatasetDict]:
        levels = sorted({*task.quantile_levels, MEDIAN})
        with self._record_inference_time():
            windows = (Known.of(task, window).past for window in task.iter_windows())
            return [_as_predictions(seasonal_naive(past, task, levels), task, levels) for past in windows]


class Known:
    """What a window shows: `past` and `future` as frames of plain series, and the `names` of their `series_id`."""

    def __init__(self, past: pd.DataFrame, future: pd.DataFrame, names: dict[str, str], task: fev.Task):
        self.past, self.future, self.names = past, future, names
        numbers = {name for name in past if pd.api.types.is_numeric_dtype(past[name])}
        self.past_covariates = [name for name in task.past_dynamic_columns if name in numbers]
        self.known_covariates = [name for name in task.known_dynamic_columns if name in numbers]

    @classmethod
    def of(cls, task: fev.Task, window: fev.EvaluationWindow) -> "Known":
        past, future, _ = fev.convert_input_data(window, as_univariate=True, univariate_target_column="value")
        names = [str(name) for name in past[task.id_column].unique()]
        keys = {name: f"{i}" for i, name in enumerate(names)}  # names may be of any form

        def ours(frame: pd.DataFrame) -> pd.DataFrame:
            ids = frame[task.id_column].astype(str).map(keys)
            frame = frame.drop(columns=task.id_column).rename(columns={task.timestamp_column: "timestamp"})
            logical = frame.select_dtypes("bool").columns
            return frame.astype(dict.fromkeys(logical, float)).assign(series_id=ids)

        return cls(ours(past), ours(future), {key: name for name, key in keys.items()}, task)

    def some(self) -> Iterator[pd.DataFrame]:
        """The rows of `AT_ONCE` series at a time: the past, and the rows to come without a value."""
        columns = ["timestamp", "series_id", "value", *self.past_covariates, *self.known_covariates]
        whole = self.past[columns]
        if self.known_covariates:
            whole = pd.concat([whole, self.future.reindex(columns=columns)]).sort_values(
                ["series_id", "timestamp"], kind="stable"
            )
        group = whole["series_id"].astype(int) // AT_ONCE
        for _, rows in whole.groupby(group):
            yield rows.reset_index(drop=True)


def trained(
    known: Known, folder: Path, recipe: str | Path | None, *, seconds: float | None, seed: int
) -> TsfLlmPipeline:
    """A model of the past of a window, with one head for all of its steps; the last tenth of the times validates.

    Raises:
        ValueError: no series is long enough.
    """
    some, horizon = bounded(known.past), known.future.groupby("series_id").size().max()
    times = np.sort(some["timestamp"].unique())
    held_back = max(int(VALID_SHARE * len(times)), min(3 * horizon, len(times) // 3))
    write_parquet(some, folder / "series" / "past.parquet")
    options: dict[str, Any] = {"max_seconds": seconds, "seed": seed, "report_samples": 0, "disable_tqdm": True}
    if recipe is None:
        learned = some[some["timestamp"] <= times[-held_back - 1]]
        sizes = {"train": int(learned.groupby("series_id").size().max()), "series": learned["series_id"].nunique()}
        options |= series_options(survey(some), survey(learned), horizon=int(horizon), **sizes)
    given = Parser((DataArguments, ModelArguments, SftArguments)).read(
        recipe or CONFIG,
        data=str(folder / "series"),
        value_column="value",
        output_dir=str(folder / "model"),
        horizon=int(horizon),
        head="quantile",
        past_covariates=known.past_covariates,
        known_covariates=known.known_covariates,
        train_through=fence(pd.Timestamp(times[-held_back - 1])),
        valid_through=fence(pd.Timestamp(times[-1])),
        through=fence(pd.Timestamp(times[-1])),
        **options,
    )
    train(*given)
    pipe = load_pipeline(folder / "model")
    pipe.model.config.trained_through = None  # that is the first origin, and no outcome of it was seen
    return pipe


def bounded(past: pd.DataFrame) -> pd.DataFrame:
    """The last `MOST_ROWS` of every series, of `MOST_VALUES` in all at most: then of each k-th series alone."""
    some = past.groupby("series_id", sort=False).tail(MOST_ROWS)
    every = -(-len(some) // MOST_VALUES)
    return some[some["series_id"].astype(int) % every == 0].reset_index(drop=True)


def seasonal_naive(past: pd.DataFrame, task: fev.Task, levels: Sequence[float]) -> dict[str, np.ndarray]:
    """By `series_id` its points and quantiles, `[1+L,P]`; a missing value is taken from its last known one."""
    values = past.groupby("series_id", sort=False)["value"]
    return {str(name): _repeated(one.to_numpy(float), task, np.array(levels)) for name, one in values}


def _repeated(value: np.ndarray, task: fev.Task, levels: np.ndarray) -> np.ndarray:
    value = pd.Series(value).ffill().bfill().fillna(0.0).to_numpy()
    season = task.seasonality if task.seasonality < len(value) else 1
    answers = []
    for step in range(1, task.horizon + 1):
        point = value[len(value) - season + (step - 1) % season]
        back = season * -(-step // season)
        errors = (value[back:] - value[:-back])[-ERRORS:]
        quantiles = point + np.quantile(errors, levels) if len(errors) else np.full(len(levels), point)
        answers.append([point, *quantiles])
    return np.array(answers).T


def _as_predictions(answers: dict[str, np.ndarray], task: fev.Task, levels: Sequence[float]) -> datasets.DatasetDict:
    """Of series in the order of the window, targets of an item behind one another."""
    wanted = ["predictions", *map(str, task.quantile_levels)]
    places = [0, *(1 + levels.index(level) for level in task.quantile_levels)]
    stacked = np.stack([answers[str(i)][places] for i in range(len(answers))])
    table = datasets.Dataset.from_dict({name: list(stacked[:, i]) for i, name in enumerate(wanted)})
    return fev.combine_univariate_predictions_to_multivariate(table, target_columns=task.target_columns)


def _name(metric: str | dict[str, Any]) -> str:
    return (metric if isinstance(metric, str) else metric["name"]).upper()

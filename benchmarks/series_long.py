"""Long horizons of `series`: ETTh1 and the weather of Jena, ours beside the specialists of `series_rivals`.

Design choices:
* Scores are means over all origins of the test part, no window left out. MSE and MAE are of standardised values; CRPS
  is the weighted quantile loss of the levels 0.1 to 0.9 (twice the pinball loss over the mean absolute outcome), and
  MASE the absolute error over that of the seasonal naive in the training part, a mean over columns: both of raw
  values.
* A model of points gets the law of its own errors on validation dates, per column and step, so that its CRPS means
  the same.

Shapes: T rows, C columns, n origins, P steps, Q quantile levels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from torch import nn

from .series_frame import OURS, Context, Found, Measure, Row, Section
from .series_ours import LEVELS, QUICK, RECIPE, Law, ours
from .series_rivals import NETWORKS, Predict, Series, Sizes, auto_ets, ets_name, network, seasonal_naive

MEASURES = (
    Measure("mse", "MSE", ".4f"),
    Measure("mae", "MAE", ".4f"),
    Measure("crps", "CRPS", ".4f"),
    Measure("mase", "MASE", ".3f"),
)


def scores(series: Series, horizon: int, law: Law) -> dict[str, list[float]]:
    """The four losses of each origin of the test part."""
    z_TC, mean, deviation = series.standard()
    rows = series.origins(2, horizon=horizon)
    at, season, train = rows[:, None] + np.arange(1, horizon + 1), series.season, series.values[: series.ends[0]]
    sums = {name: np.zeros(len(rows)) for name in ("mse", "mae", "crps", "mase")}
    count, weight = np.zeros(len(rows)), np.zeros(len(rows))
    for column in series.targets:
        outcome, (points, quantiles) = z_TC[at, column], law(rows, column)
        error, scale = outcome - points, deviation[column]
        naive = np.nanmean(np.abs(train[season:, column] - train[:-season, column]))
        below = outcome[..., None] - quantiles
        pinball = np.maximum(LEVELS * below, (LEVELS - 1) * below).mean(axis=-1)
        sums["mse"] += np.nansum(error**2, axis=1)
        sums["mae"] += np.nansum(np.abs(error), axis=1)
        sums["crps"] += 2 * scale * np.nansum(pinball, axis=1)
        sums["mase"] += scale * np.nansum(np.abs(error), axis=1) / naive
        weight += np.nansum(np.abs(mean[column] + scale * outcome), axis=1)
        count += np.isfinite(outcome).sum(axis=1)
    some = count > 0  # an origin of which nothing came has no loss
    over = {"crps": weight[some].sum() / count[some].sum()}
    return {name: (each[some] / count[some] / over.get(name, 1.0)).tolist() for name, each in sums.items()}


def with_errors(series: Series, horizon: int, predict: Predict) -> Law:
    """The law of a model of points: its forecasts plus the quantiles of its errors in the validation part."""
    z_TC, rows = series.standard()[0], series.origins(1, horizon=horizon)
    at = rows[:, None] + np.arange(1, horizon + 1)

    def law(asked: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
        points = predict(np.concatenate([rows, asked]), column)
        errors_QP = np.nanquantile(z_TC[at, column] - points[: len(rows)], LEVELS, axis=0)
        return points[len(rows) :], points[len(rows) :, :, None] + errors_QP.T

    return law


@dataclass(frozen=True)
class Contestant:
    """`make(series, horizon)` gives its law, number of parameters, and a note. Settings are all that it depends on."""

    name: str
    seed: int | None
    settings: Mapping[str, Any]
    make: Callable[[Series, int], tuple[Law, int | None, str]]


def plain(
    forecast: Callable[[Series, int], Predict], note: str, series: Series, horizon: int
) -> tuple[Law, None, str]:
    return with_errors(series, horizon, forecast(series, horizon)), None, note


def learned(
    build: type[nn.Module], sizes: Sizes, seed: int, series: Series, horizon: int
) -> tuple[Law, int | None, str]:
    predict, parameters, note = network(build, series, horizon, sizes, seed)
    return with_errors(series, horizon, predict), parameters, note


def contestants(context: Context, sizes: Mapping[str, Sizes], options: Mapping[str, Any]) -> Iterator[Contestant]:
    """What draws nothing first, then all of a seed: a run that is stopped has compared what it has.

    `options` are those of our training over the recipe's, fields of `model_config` one by one.
    """
    yield Contestant("seasonal naive", None, {}, partial(plain, seasonal_naive, ""))
    yield Contestant("AutoETS", None, {"by": ets_name()}, partial(plain, auto_ets, f"by {ets_name()}"))
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    shape = {"model_config": recipe["model_config"] | options.get("model_config", {})}
    options = dict(options) | shape | (QUICK if context.quick else {})
    for seed in context.seeds:
        yield Contestant(OURS, seed, {"recipe": recipe, **options}, partial(ours, seed=seed, **options))
        for name, (build, _) in NETWORKS.items():
            size = sizes[name]
            if context.quick:
                size = replace(size, length=min(size.length, 48), stride=4, epochs=2)
            yield Contestant(name, seed, asdict(size), partial(learned, build, size, seed))


def compared(
    context: Context, tasks: Mapping[str, tuple[Series, int]], *told: Mapping[str, Any]
) -> Iterator[Row | None]:
    """A row of each contestant at each task, a series and its horizon by name; `told` goes to `contestants`."""
    for one in contestants(context, *told):
        for task, (series, horizon) in tasks.items():

            def measure(one: Contestant = one, series: Series = series, horizon: int = horizon) -> Found:
                law, parameters, note = one.make(series, horizon)
                return Found({}, scores(series, horizon, law), horizon, parameters, note)

            yield context.row(one.name, task, measure, seed=one.seed, ends=series.ends, **one.settings)


# --- ETTh1 ---------------------------------------------------------------------------------------------------------

ETTH1_FILES = ("ETTh1.csv.gz", "ETTh1.csv")
ETTH1_ENDS = (8640, 11520, 14400)  # hours: twelve, four and four months of thirty days
ETTH1_HORIZONS = (96, 192, 336, 720)
ETTH1_FAR = 192  # steps, from which on the validation part is better told without the decoder


def made_up(targets: tuple[int, ...] = (0, 1)) -> Series:
    """Of a quick run: two columns with the rhythm of a day."""
    rng, hours = np.random.default_rng(0), np.arange(1000)
    wave = np.sin(2 * np.pi * hours / 24)[:, None] * [1.0, 3.0]
    walk = rng.standard_normal((len(hours), 2)).cumsum(axis=0) * 0.05
    values = 10 + wave + walk + 0.3 * rng.standard_normal(wave.shape)
    times = pd.date_range("2020-01-01", periods=len(hours), freq="h").to_numpy()
    return Series(times, values, ("a", "b"), targets, (600, 800, 1000), 24)


def read_etth1(path: Path) -> Series:
    """Raises ValueError for another file."""
    frame = pd.read_csv(path)
    if list(frame.columns[:1]) != ["date"] or frame.shape[1] != 8 or len(frame) < ETTH1_ENDS[-1]:
        raise ValueError(f"{path} is not ETTh1: it has {len(frame)} rows of {', '.join(map(str, frame))}")
    names = tuple(frame.columns[1:])
    values = frame[list(names)].to_numpy(float)[: ETTH1_ENDS[-1]]
    times = pd.to_datetime(frame["date"]).to_numpy()[: ETTH1_ENDS[-1]]
    return Series(times, values, names, tuple(range(len(names))), ETTH1_ENDS, 24)


def run_etth1(context: Context) -> Iterator[Row | None]:
    series = made_up() if context.data is None else read_etth1(context.file(*ETTH1_FILES))
    sizes = {name: sizes for name, (_, sizes) in NETWORKS.items()}
    for horizon in (24,) if context.quick else ETTH1_HORIZONS:
        options = {} if horizon < ETTH1_FAR else {"model_config": {"context_share": 0.0}}
        yield from compared(context, {f"{horizon} steps": (series, horizon)}, sizes, options)


ETTH1 = Section(
    title="ETTh1: load and oil temperature of a transformer, hourly",
    about="""All seven columns, each a series of its own: 8,640 hours to train, 2,880 to validate, 2,880 to test, where
windows may read back over a fence. Standardised by the training part. Every origin of the test part counts. Settings
were chosen on the validation part, for `tsf-llm` also that the decoder is left out from 192 steps on (`context_share`
0: linear maps, seasons and step network remain). Each row looked at the test part once; before that two earlier
recipes of `tsf-llm` (96 steps) and a PatchTST that read the mean of its patches were scored there, and nothing was
chosen by it. Also published at 96 steps: iTransformer .386, TimesNet .384.

MSE and MAE are of standardised values. CRPS is the weighted quantile loss of nine levels (0.1 to 0.9), MASE has the
seasonal naive of 24 hours in the training part below the line: both of raw values. Models of points get the law of
their own errors in the validation part, per column and step.""",
    files={" or ".join(ETTH1_FILES): "github.com/zhouhaoyi/ETDataset, ETT-small; CC BY-ND 4.0"},
    measures=MEASURES,
    run=run_etth1,
    published={("DLinear", "96 steps"): ".375 (Zeng et al. 2023)", ("PatchTST", "96 steps"): ".370 (Nie et al. 2023)"},
)

# --- weather -------------------------------------------------------------------------------------------------------

WEATHER_FILE = "jena_weather_2020_10min.parquet"
TARGET = "T (degC)"
BESIDE = (
    "p (mbar)",
    "VPmax (mbar)",
    "VPdef (mbar)",
    "sh (g/kg)",
    "rho (g/m**3)",
    "wv (m/s)",
)  # as the course has them
SENTINEL = -9999.0
DAY = 144  # rows


def read_weather(path: Path) -> Series:
    """Rows ten minutes apart; one that is absent is unknown, of two at a time the first counts.

    Raises:
        ValueError: another file.
    """
    frame = pd.read_parquet(path)
    if missing := [name for name in ("date", TARGET, *BESIDE) if name not in frame]:
        raise ValueError(f"{path} is not the weather of Jena: it has no column {missing[0]}")
    frame = frame.drop_duplicates("date").set_index("date").sort_index()
    frame = frame[[TARGET, *BESIDE]].asfreq("10min").replace(SENTINEL, np.nan)
    total = len(frame)
    ends = (int(0.7 * total), int(0.9 * total), total)
    return Series(frame.index.to_numpy(), frame.to_numpy(float), (TARGET, *BESIDE), (0,), ends, DAY)


WEATHER_SIZES = {
    "DLinear": Sizes(length=720, stride=2, batch=128, rate=1e-3, decay=0.7),
    "PatchTST": Sizes(length=720, stride=12, batch=64, rate=1e-3, decay=0.9),
    "LSTM": Sizes(length=720, stride=12, batch=64, rate=2e-3, decay=0.9, every=6, all_columns=True),
}
WEATHER_OPTIONS = {"num_train_epochs": 30, "model_config": {"context_share": 1.0}}
WEATHER_TASKS: dict[str, tuple[int, dict[str, Any]]] = {  # steps, and options of our training
    "72 steps": (72, {**WEATHER_OPTIONS, "context_length": 720, "early_stopping_patience": 6}),
    "1 step": (1, {**WEATHER_OPTIONS, "context_length": 144, "stride": 1}),
}


def run_weather(context: Context) -> Iterator[Row | None]:
    series = made_up((0,)) if context.data is None else read_weather(context.file(WEATHER_FILE))
    for task, (horizon, options) in WEATHER_TASKS.items():
        yield from compared(context, {task: (series, horizon)}, WEATHER_SIZES, options)


WEATHER = Section(
    title="Jena: temperature, every ten minutes",
    about="""A weather station in 2020: 70 % of the time to train, 20 % to validate, 10 % to test. Temperature from the
720 rows (five days) up to the origin, the next 72 rows (twelve hours) or the next one. The LSTM reads every sixth row
of temperature and six other columns, as the course does; all others read temperature alone. The sentinel -9999 is an
unknown value; a row that is absent is not scored. The season has 144 rows; AutoETS has none. Scores are those of
ETTh1. Settings were chosen on the validation part and, since that knows no winter, on January and February, forecast
by a training on the months after them, where the six columns did harm. Before that three earlier recipes of
`tsf-llm`, one of 96 training steps and one that read the six columns, were scored on the test part.""",
    files={WEATHER_FILE: "bgc-jena.mpg.de/wetter (`weather` of Autoformer, as parquet); free with attribution"},
    measures=(replace(MEASURES[0], form=".5f"), *MEASURES[1:]),  # of one step it is small
    run=run_weather,
)

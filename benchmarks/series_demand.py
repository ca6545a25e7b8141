"""Demand of `series`: a chain's items 28 days ahead, an online shop's 7 and 28 days, ours beside what planners use.

Design choices:
* Origins are every seventh row of the test dates, the same for all models, which know the rows up to it and no later
  one: baselines are fitted at the first of them, ours is trained and stopped on earlier dates.
* Scores are those of `evaluation/demand.py`: WRMSSE is compared. Losses are means over the series of an origin.
* An online shop is closed on some days, mostly Saturdays: they are no rows, and steps count opening days. A day is
  open if anything at all was sold. What a series did not sell on an open day since its first sale is a zero; what
  came back is no demand, so a day of more returns than sales is a zero too.
* Nothing of a step ahead is taken as known but its calendar: no price, no promotion.
* The chain's totals (all, stores, items) are series of their own for our model. They are reconciled by MinT with the
  errors of validation dates, see `evaluation/hierarchy.py`.
* Each row tells what orders by its law would have cost, see `evaluation/newsvendor.py`.

Shapes: n forecasts, series by series; P steps.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ..bars_tsf_llm import UNIVARIATE
from ..common.parser import Parser
from ..common.tables import Table, number
from ..data_prep.columns import Columns
from ..data_prep.sources import read_for
from ..evaluation.baselines.catalogue import choose
from ..evaluation.baselines.panel import Panel
from ..evaluation.baselines.run import run
from ..evaluation.demand import Demand, DemandErrors
from ..evaluation.distributions import LEVELS, Admitted, Scored
from ..evaluation.hierarchy import METHODS, Hierarchy, reconciled
from ..evaluation.newsvendor import critical_level, decision_cost, order_quantities
from ..evaluation.scores import bands
from ..evaluation.significance import overlap
from ..evaluation.walk_forward import pick_origins, step_laws
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..serving.loading import load_pipeline
from ..training.arguments import DataArguments, ModelArguments, SftArguments
from ..training.supervised import train
from .series_frame import OURS, Context, Found, Measure, Row, Section

RECIPE = Path(__file__).parents[1] / "train_scripts" / "configs" / "demand.yaml"
QUICK = {"num_train_epochs": 1, "context_length": 28, "stride": 16}
STRIDE = 7  # rows between origins
AT_ONCE = 32  # series
RATIOS = {"1 to 1": (1.0, 1.0), "3 to 1": (3.0, 1.0), "9 to 1": (9.0, 1.0)}  # a missing unit to one left over
PLAIN = {"seasonal naive": "seasonal_naive", "AutoETS": "auto_ets", "Croston": "croston", "TSB": "tsb"}
LIGHTGBM = "LightGBM"
HURDLE = "tsf-llm, zero_inflated"
MEASURES = (
    Measure("wrmsse", "WRMSSE"),
    Measure("rmsse_m5", "RMSSE"),
    Measure("wql", "WQL", ".4f", tested=True),
    Measure("bias", "bias", "+.3f", plain=False),
    Measure("coverage_80", "coverage 80 %", plain=False),
    Measure("zeros_forecast", "P(zero)", plain=False),
)


@dataclass(frozen=True)
class Shop:
    """Series of one shop, as rows (timestamp, series_id, value, static covariates), and how they are split.

    `test` is the first day of the test dates; `scored` are the series that count, in order. `options` are those of our
    training over the recipe's.
    """

    frame: pd.DataFrame
    train_through: str
    valid_through: str
    season: int
    scored: list[str]
    options: Mapping[str, Any]
    hierarchy: Hierarchy | None = None
    rivals: Sequence[str] = (*PLAIN, LIGHTGBM)

    @property
    def has_zeros(self) -> bool:
        """Among the training dates."""
        return bool((self.frame.loc[self.frame["timestamp"] <= self.train_through, "value"] == 0).any())

    @property
    def test(self) -> pd.Timestamp:
        return pd.Timestamp(self.valid_through) + pd.Timedelta(days=1)


@dataclass(frozen=True)
class Asked:
    """The forecasts that every model is asked for, and what came."""

    series: list[EncodedSeries]
    rows: list[np.ndarray]
    horizon: int
    season: int
    bounds: Mapping[str, bool]  # `nonnegative`, `integer`: what all forecasts keep to
    outcome: np.ndarray = field(init=False)  # [n,P] in units
    demand: Demand = field(init=False)
    dates: np.ndarray = field(init=False)  # [n]

    def __post_init__(self) -> None:
        pairs = list(zip(self.series, self.rows, strict=True))
        demand = Demand.joined([Demand.of(one, rows) for one, rows in pairs])
        ahead = np.concatenate([one.ahead(rows, self.horizon) for one, rows in pairs])
        dates = np.concatenate([one.timestamp[rows] for one, rows in pairs])
        object.__setattr__(self, "outcome", (ahead - demand.value[:, None]) / demand.unit[:, None])
        object.__setattr__(self, "demand", demand)
        object.__setattr__(self, "dates", dates)

    @classmethod
    def of(cls, shop: Shop, horizon: int) -> "Asked":
        """Of the scored series on the test dates. One that is too short at an origin is not asked there."""
        series = plain_series(shop.frame, shop.scored)
        history = shop.season * -(-horizon // shop.season) + 2 * shop.season + horizon
        rows = pick_origins(series, shop.test, None, horizon, STRIDE, history)
        some = [i for i, each in enumerate(rows) if len(each)]
        bounds = {name: bool(shop.options.get(name)) for name in ("nonnegative", "integer")}
        return cls([series[i] for i in some], [rows[i] for i in some], horizon, shop.season, bounds)


def plain_series(frame: pd.DataFrame, names: Sequence[str]) -> list[EncodedSeries]:
    """As baselines read them: values and the scale of their differences."""
    parts = dict(list(frame.groupby("series_id", sort=False)))
    made = []
    for name in names:
        value = parts[name]["value"].to_numpy(float)
        change = np.diff(value, prepend=np.nan)
        sigma = UNIVARIATE.volatility(change, UNIVARIATE.sigma_decay, UNIVARIATE.sigma_floor, None)
        times = parts[name]["timestamp"].to_numpy().astype("datetime64[ns]")
        features, observed = np.empty((len(value), 0), np.float32), np.isfinite(value)
        made.append(EncodedSeries(name, times, features, observed, value, change, sigma))
    return made


# --- scores ----------------------------------------------------------------------------------------------------------


def found(steps: Sequence[Scored], asked: Asked, **told: Any) -> Found:
    """Of the forecasts of each step."""
    errors = DemandErrors.of(steps, asked.outcome, asked.demand, asked.dates)
    days = np.unique(asked.dates)
    count = len(asked.dates) / len(days)
    losses = {
        name: [float(getattr(errors, name)[asked.dates == day].sum() / count) for day in days]
        for name in ("wrmsse", "wql")
    }
    coverage = np.mean([bands(one, asked.outcome[:, p])["coverage_80"] for p, one in enumerate(steps)])
    extra = {"newsvendor": newsvendor(steps, asked), "zeros": errors.zeros, "series": len(asked.series)}
    return Found(
        {**errors.row(), "coverage_80": float(coverage)},
        losses,
        overlap(asked.horizon, STRIDE),
        told.pop("parameters", None),
        told.pop("note", ""),
        extra | told,
    )


def newsvendor(steps: Sequence[Scored], asked: Asked) -> dict[str, dict[str, float]]:
    """Of each ratio the cost per unit asked for, of orders by the law and by its mean, and the share of what was asked
    for that was there."""
    unit, value = asked.demand.unit, asked.demand.value
    came = np.concatenate([asked.outcome[:, p] * unit + value for p in range(asked.horizon)])
    whole = bool(asked.demand.whole.all())
    told = {}
    for name, (underage, overage) in RATIOS.items():
        costs = {"underage": underage, "overage": overage}
        laws = [one.quantiles * unit[:, None] + value[:, None] for one in steps]
        by_law = np.concatenate([order_quantities(one, LEVELS, **costs, whole=whole) for one in laws])
        by_mean = np.concatenate([np.maximum(one.point * unit + value, 0) for one in steps])
        by_mean = np.rint(by_mean) if whole else by_mean
        told[name] = {
            "level": critical_level(**costs),
            "law": float(decision_cost(by_law, came, **costs).sum() / came.sum()),
            "mean": float(decision_cost(by_mean, came, **costs).sum() / came.sum()),
            "served": float(np.minimum(by_law, came).sum() / came.sum()),
        }
    return told


# --- models ----------------------------------------------------------------------------------------------------------


def baseline(asked: Asked, name: str, seed: int = 0) -> Found:
    """One of `evaluation/baselines`. Raises ValueError where it fails on more series than it answers."""
    panel = Panel(asked.series, asked.rows, UNIVARIATE, asked.season, seed=seed, **asked.bounds)
    steps = range(1, asked.horizon + 1)
    made, failed = run(
        choose([name], UNIVARIATE, asked.season), panel, steps, asked.outcome, asked.demand.unit, keep=False
    )
    if name not in made:
        raise ValueError(f"{name}: {failed[name]}")
    return found([made[name][step] for step in steps], asked, note=failed.get(name, ""))


def ours(shop: Shop, asked: Asked, seed: int, changed: Mapping[str, Any]) -> Found:
    """Trained by `sft` on the recipe, as anyone would."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "shop.parquet"
        shop.frame.to_parquet(file, index=False)
        fences = {"train_through": shop.train_through, "valid_through": shop.valid_through}
        options = {"data": str(file), "horizon": asked.horizon, "seed": seed, "report_samples": 0, **fences, **changed}
        parser = Parser([DataArguments, ModelArguments, SftArguments], prog="series")
        report = train(*parser.read(RECIPE, output_dir=f"{folder}/model", **options))
        pipe = load_pipeline(f"{folder}/model")
        frame = read_for(pipe.processor, str(file), None, Columns(value="value"))
    extractor = pipe.processor.feature_extractor
    encoded = {one.ticker: one for one in pipe.processor.encode(extractor.check_known(frame))}
    pairs = [(encoded[one.ticker], rows) for one, rows in zip(asked.series, asked.rows, strict=True)]
    steps = forecasts(pipe, pairs, asked.outcome, asked.demand.unit, asked.horizon)
    told: dict[str, Any] = {"parameters": report["parameters"], "note": f"{report['steps']} steps"}
    if shop.hierarchy is not None:
        told["levels"] = levels(pipe, shop, shop.hierarchy, encoded, asked.horizon)
    return found(steps, asked, **told)


def forecasts(
    pipe: TsfLlmPipeline,
    pairs: Sequence[tuple[EncodedSeries, np.ndarray]],
    outcome: np.ndarray,
    unit: np.ndarray,
    horizon: int,
) -> list[Scored]:
    """Of each step, from the rows of each series, in units `[n]`, beside outcomes `[n,P]` in them."""
    parts, done = [], 0
    for i in range(0, len(pairs), AT_ONCE):
        some = pairs[i : i + AT_ONCE]
        mine = slice(done, done + sum(len(rows) for _, rows in some))
        laws, _ = step_laws(pipe, pipe.processor.batch(some), horizon, 256, 0)
        now = np.concatenate([one.close[rows] for one, rows in some])
        laws = [Admitted(law, now, pipe.processor.feature_extractor.admissible, unit[mine]) for law in laws]
        parts.append([Scored.of(law, outcome[mine, p]) for p, law in enumerate(laws)])
        done = mine.stop
    return [Scored.joined([part[p] for part in parts]) for p in range(horizon)]


def levels(
    pipe: TsfLlmPipeline, shop: Shop, hierarchy: Hierarchy, encoded: Mapping[str, EncodedSeries], horizon: int
) -> dict[str, dict[str, float]]:
    """RMSSE of each level, of forecasts as they come and reconciled; `gap` is how far they are from adding up."""
    series = [encoded[name] for name in hierarchy.names]
    learned = pd.Timestamp(shop.train_through) + pd.Timedelta(days=1)
    earlier, later = ((learned, shop.valid_through), (shop.test, None))
    errors, _, _ = _of_all(pipe, series, *earlier, horizon)
    test_errors, means, deviations = _of_all(pipe, series, *later, horizon)
    outcome = means + test_errors
    fence = np.searchsorted(series[0].timestamp, np.datetime64(shop.test))
    square = np.array([np.mean(np.diff(one.close[:fence]) ** 2) for one in series])
    told = {}
    for name in ("none", *METHODS):
        made = (
            {"mean": means}
            if name == "none"
            else reconciled(hierarchy, means, name, errors=errors, deviation=deviations)
        )
        rmsse = np.sqrt(((outcome - made["mean"]) ** 2).mean(axis=1) / square)
        told[name] = {level: float(rmsse[hierarchy.level == level].mean()) for level in dict.fromkeys(hierarchy.level)}
        told[name]["gap"] = hierarchy.incoherence(made["mean"])
        if "low" in made:
            inside = (made["low"][..., 0] <= outcome) & (outcome <= made["high"][..., 0])
            told[name]["coverage_80"] = float(inside.mean())
    return told


def _of_all(
    pipe: TsfLlmPipeline, series: Sequence[EncodedSeries], start: Any, end: Any, horizon: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors (outcome less mean), means and deviations of forecasts of all series, `[A,k]` each, k origins x steps."""
    rows = pick_origins(series, start, end, horizon, STRIDE)
    if end is not None:  # outcomes lie before it too
        rows = [
            each[each + horizon < np.searchsorted(one.timestamp, np.datetime64(pd.Timestamp(end)))]
            for one, each in zip(series, rows, strict=True)
        ]
    pairs = list(zip(series, rows, strict=True))
    value = np.concatenate([one.close[each] for one, each in pairs])
    outcome = np.concatenate([one.ahead(each, horizon) for one, each in pairs]) - value[:, None]
    steps = forecasts(pipe, pairs, outcome, np.ones(len(value)), horizon)
    means = np.stack([one.point for one in steps], axis=1)
    deviations = np.sqrt(np.stack([one.variance for one in steps], axis=1))
    parts = (outcome - means, means + value[:, None], deviations)
    errors, means, deviations = (one.reshape(len(series), -1) for one in parts)
    return errors, means, deviations


def compared(context: Context, shop: Shop, horizon: int, task: str) -> Iterator[Row | None]:
    """A row of each model; what draws numbers has one of each seed."""
    made: list[Asked] = []  # once, and only where a row is computed

    def asked() -> Asked:
        if not made:
            made.append(Asked.of(shop, horizon))
        return made[0]

    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    changed = {**shop.options, **(QUICK if context.quick else {})}
    config = recipe.pop("model_config")
    fences = {"train_through": shop.train_through, "valid_through": shop.valid_through, "stride": STRIDE}
    for name in shop.rivals:
        if name != LIGHTGBM:
            yield context.row(name, task, lambda name=name: baseline(asked(), PLAIN[name]), horizon=horizon, **fences)
    forms = {OURS: False, HURDLE: True} if shop.has_zeros else {OURS: False}
    for seed in context.seeds:
        options = {"seed": seed, "horizon": horizon, **fences}
        for name, hurdle in forms.items():
            told = {**changed, "model_config": {**config, "zero_inflated": hurdle}}
            yield context.row(
                name,
                task,
                lambda seed=seed, told=told: ours(shop, asked(), seed, told),
                recipe=recipe,
                options=told,
                **options,
            )
        if LIGHTGBM in shop.rivals:
            yield context.row(LIGHTGBM, task, lambda seed=seed: baseline(asked(), "lightgbm_lags", seed), **options)


def made_up(*, whole: float) -> pd.DataFrame:
    """Of a quick run: two stores with three items each, with a week; a share of days without a sale."""
    rng, days = np.random.default_rng(0), np.arange(420)
    parts = []
    for place in range(6):
        rate = 6 * (1 + place) * (1 + 0.4 * np.sin(2 * np.pi * days / 7))
        value = rng.poisson(rate) * (rng.random(len(days)) < whole)
        store, item = f"s{place // 3}", f"i{place % 3}"
        times = pd.date_range("2020-01-01", periods=len(days))
        parts.append(
            pd.DataFrame(
                {"timestamp": times, "series_id": f"{store}_{item}", "value": value, "store": store, "item": item}
            )
        )
    return pd.concat(parts, ignore_index=True)


# --- a chain of stores -----------------------------------------------------------------------------------------------

RETAIL_FILE = "retail_store_item_daily.parquet"
TOTALS: tuple[tuple[str, ...], ...] = ((), ("store",), ("item",))


def read_retail(path: Path) -> pd.DataFrame:
    """Raises ValueError for another file."""
    frame = pd.read_parquet(path)
    if missing := [name for name in ("series_id", "date", "store", "item", "sales") if name not in frame]:
        raise ValueError(f"{path} is not the sales of stores and items: it has no column {missing[0]}")
    frame = frame.rename(columns={"date": "timestamp", "sales": "value"})
    frame["store"], frame["item"] = "s" + frame["store"].astype(str), "i" + frame["item"].astype(str)
    return frame[["timestamp", "series_id", "value", "store", "item"]]


def with_totals(frame: pd.DataFrame) -> tuple[pd.DataFrame, Hierarchy]:
    """The series of all levels below one another; the labels of a total are `all` where it sums over them."""
    labels = frame.groupby("series_id", sort=False)[["store", "item"]].first()
    hierarchy = Hierarchy.of(labels, TOTALS)
    parts = []
    for level in TOTALS:
        keys = ["timestamp", *level]
        total = frame.groupby(keys, sort=False, as_index=False)["value"].sum()
        for name in ("store", "item"):
            if name not in level:
                total[name] = "all"
        total["series_id"] = total[level[0]] if level else "total"
        parts.append(total.sort_values(["series_id", "timestamp"], kind="stable"))
    return pd.concat([*parts, frame])[list(frame)].reset_index(drop=True), hierarchy


RETAIL_TESTS = {  # training and validation end; the last day that is read at all, the file's own where None
    "28 days": ("2017-03-31", "2017-06-30", None),
    "28 days, all of 2016": ("2015-09-30", "2015-12-31", "2016-12-31"),
}


def run_retail(context: Context) -> Iterator[Row | None]:
    options = {"static_covariates": ["store", "item"], "nonnegative": True, "integer": True}
    rivals = ("seasonal naive", "AutoETS", LIGHTGBM)
    if context.quick:
        frame, horizon, tests = made_up(whole=1.0), 7, {"7 days": ("2020-10-31", "2020-12-15", None)}
    else:
        frame, horizon, tests = read_retail(context.file(RETAIL_FILE)), 28, RETAIL_TESTS
    scored = frame["series_id"].unique().tolist()
    for task, (*fences, last) in tests.items():
        everything, hierarchy = with_totals(frame if last is None else frame[frame["timestamp"] <= last])
        totals = hierarchy if last is None else None  # told of one test
        shop = Shop(everything, *fences, 7, scored, options, totals, rivals)
        yield from compared(context, shop, horizon, task)


# --- an online shop --------------------------------------------------------------------------------------------------

ONLINE_FILE = "ecommerce_online_retail_daily.parquet"


def read_online(path: Path, column: str) -> pd.DataFrame:
    """Rows of opening days, see above; `column` is `units` or `revenue`. Raises ValueError for another file."""
    frame = pd.read_parquet(path)
    if missing := [name for name in ("series_id", "date", "revenue", "units") if name not in frame]:
        raise ValueError(f"{path} is not the days of the online shop: it has no column {missing[0]}")
    table = frame.pivot(index="date", columns="series_id", values=column)
    open_days = table.index[table.notna().any(axis=1)]
    parts = []
    for name in table:
        value = table.loc[open_days, name].clip(lower=0.0).fillna(0.0)
        value = value[int((value > 0).to_numpy().argmax()) :]
        kind = str(name).partition(":")[0]
        parts.append(
            pd.DataFrame({"timestamp": value.index, "series_id": name, "value": value.to_numpy(), "kind": kind})
        )
    return pd.concat(parts, ignore_index=True)


def run_online(context: Context) -> Iterator[Row | None]:
    fences = ("2020-10-31", "2020-12-15") if context.quick else ("2011-02-28", "2011-05-31")
    for column in ("units",) if context.quick else ("units", "revenue"):
        if context.data is None:
            frame = made_up(whole=0.5).assign(kind="item").drop(columns=["store", "item"])
        else:
            frame = read_online(context.file(ONLINE_FILE), column)
        options = {"static_covariates": ["series_id", "kind"], "nonnegative": True, "integer": column == "units"}
        options |= {"stride": 1, "num_train_epochs": 5}  # few rows: all windows, and more often
        shop = Shop(frame, *fences, 7 if context.quick else 6, frame["series_id"].unique().tolist(), options)
        for horizon in (7,) if context.quick else (7, 28):
            yield from compared(context, shop, horizon, f"{column}, {horizon} days")


# --- what the page tells ---------------------------------------------------------------------------------------------


def orders(rows: Sequence[Row]) -> str:
    """What orders by each forecast cost."""
    text = """#### What the forecast is worth: orders

One order per series and day, of what is worthless the day after (the newsvendor's problem). A missing unit costs so
many times what one that is left over costs; cells are costs per unit asked for, means over seeds. By the law: its
quantile at that ratio. By the mean: its mean forecast, whatever the ratio. `evaluation/newsvendor.py` decides."""
    parts = [text]
    tasks = dict.fromkeys(row.task for row in rows if "newsvendor" in row.found.extra)
    for task in tasks:
        models = dict.fromkeys(row.model for row in rows if row.task == task)
        naive = _costs(rows, task, "seasonal naive")
        table = [{"model": model, "costs": _costs(rows, task, model)} for model in models]
        columns: dict[str, Callable[[dict], str]] = {"orders by": lambda row: row["model"]}
        for ratio in RATIOS:
            columns[f"{ratio}, law"] = lambda row, ratio=ratio: number(row["costs"][ratio]["law"], ".3f")
            columns[f"{ratio}, mean"] = lambda row, ratio=ratio: number(row["costs"][ratio]["mean"], ".3f")
        parts += [f"{task}:" if len(tasks) > 1 else "", Table.of(table, columns).markdown()]
        if OURS in models and naive:
            parts.append(_saved(task, _costs(rows, task, OURS), naive))
    return "\n\n".join(part for part in parts if part)


def _costs(rows: Sequence[Row], task: str, model: str) -> dict[str, dict[str, float]]:
    """Means over seeds."""
    told = [row.found.extra["newsvendor"] for row in rows if (row.task, row.model) == (task, model)]
    keys = ("level", "law", "mean", "served")
    return {
        ratio: {key: float(np.mean([one[ratio][key] for one in told])) for key in keys} for ratio in RATIOS if told
    }


def _saved(task: str, ours: Mapping[str, Mapping[str, float]], naive: Mapping[str, Mapping[str, float]]) -> str:
    lines = []
    for ratio, one in ours.items():
        against = {
            "the seasonal naive's mean": naive[ratio]["mean"],
            "its law": naive[ratio]["law"],
            "our own mean": one["mean"],
        }
        told = ", ".join(f"{one['law'] / cost - 1:+.1%} beside orders by {name}" for name, cost in against.items())
        lines.append(
            f"* {task}, {ratio}: orders at the {one['level']:.0%} quantile cost {told}; {one['served']:.1%} of what "
            "was asked for was there."
        )
    return "\n".join(lines)


def totals(rows: Sequence[Row]) -> str:
    """What reconciling changes."""
    told = [row.found.extra["levels"] for row in rows if "levels" in row.found.extra]
    if not told:
        return ""
    names = {
        "none": "as they come",
        "bottom_up": "bottom up",
        "wls": "MinT, variances alone",
        "mint": "MinT, shrunk covariance",
    }
    table = [
        {"forecasts": label, **{key: float(np.mean([one[name][key] for one in told])) for key in told[0][name]}}
        for name, label in names.items()
    ]
    columns: dict[str, Callable[[dict], str]] = {"forecasts": lambda row: row["forecasts"]}
    for level in [key for key in told[0]["none"] if key != "gap"]:
        columns[level] = lambda row, level=level: number(row.get(level), ".3f")
    columns["do not add up by"] = lambda row: f"{row['gap']:.2%}"
    columns["coverage 80 %"] = lambda row: number(row.get("coverage_80"), ".3f")
    text = """#### Totals that add up

Our model forecasts all levels; RMSSE of each, mean over its series and over seeds. Weights are from the errors of
validation dates; intervals are those of the normal law of what is reconciled (`pip install 'tsf-llm[hierarchy]'`)."""
    return f"{text}\n\n{Table.of(table, columns).markdown()}"


def retail_more(rows: Sequence[Row]) -> str:
    return "\n\n".join(part for part in (totals(rows), orders(rows)) if part)


RETAIL = Section(
    title="Retail: items of a chain, daily",
    about=f"""250 series, 50 items in five stores, 2013 to 2017, every day and never zero. Trained up to 31 March
2017, stopped on the three months after it; origins are every seventh day from July 2017 on, 28 days ahead. WRMSSE and
RMSSE as in M5, of the mean; WQL over 10 to 90 % (`docs/evaluation.md`). Baselines are fitted on all days before the
first origin. Settings were chosen on the first five months of 2017, with a training up to the end of 2016; each row
looked at the test dates once, after an earlier recipe of ours. Half a year has 23 origins whose 28 days overlap, so
the same is done for a whole year too: trained up to September 2015, stopped on the three months after it, with
origins in 2016, and no later day is read. The recipe: `train_scripts/configs/{RECIPE.name}`.""",
    files={
        RETAIL_FILE: "Kaggle's Store Item Demand, stores 1 to 5: series_id, date, store, item, sales; not to be shared"
    },
    measures=MEASURES,
    run=run_retail,
    more=retail_more,
)
ONLINE = Section(
    title="E-commerce: an online shop, daily",
    about="""69 series of UCI's Online Retail II, December 2009 to December 2011: the total, 8 countries, the 60
largest items; units and revenue. Days on which the shop sold nothing at all are no rows, so steps count opening days;
what a series did not sell on an open day since its first sale is a zero; a day of more returns than sales is a zero
too. No price or promotion ahead is taken as known. Trained up to February 2011, stopped on the three months after;
origins are every seventh opening day from June 2011 on. `zero_inflated` gives zero a probability of its own; on
validation dates it was worse, so it is a row of its own. Each row looked at the test dates once.""",
    files={ONLINE_FILE: "UCI Online Retail II, summed per day: series_id, date, revenue, units; CC BY 4.0"},
    measures=MEASURES,
    run=run_online,
    more=orders,
)

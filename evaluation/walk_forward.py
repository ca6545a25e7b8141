"""Walk-forward scores: what the model said on past days, beside what naive forecasts said on the same days.

Design choices:
* Origins are every `stride`-th bar time of the period, the same for all tickers. At each, the model sees the bars up
  to it and nothing else; so do the baselines.
* Everything is scored on the cumulative log return to each step. The row of a model is its score at the last step.
* A plain series is scored on its differences, in units of its mean absolute one-step difference known at the origin:
  so series of all sizes count alike. Its baselines include the seasonal naive one, where it has a season. Beside that
  its rows have the scores of `demand.py`, in its own units and over all steps.
* A causal model's law of a step up to its last horizon is known from its logits and is scored exactly. Paths are
  sampled further ahead.
* Of every law only what scores ask of it is kept (`Scored`), chunk by chunk: paths cost no memory.
* Where values are bounded (`nonnegative`, `integer`), so are all forecasts, the baselines' too.
* Outcomes that are not in the data yet, or fall on a missing bar, are left out for all models alike.

Shapes: n forecasts (origins of all tickers), K samples, P steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..bars_tsf_llm import Kind
from ..calibration_tsf_llm import Calibration
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline
from .baselines.catalogue import choose
from .baselines.naive import VOLATILITY_WINDOW, naive_scale, naive_square_scale
from .baselines.panel import Panel
from .baselines.run import MANY_STEPS, run
from .demand import Demand, DemandErrors, demand_verdicts
from .distributions import Admitted, Forecast, Law, Moved, Piecewise, Quantiles, Samples, Scored, StratifiedSamples
from .ranking import Ranked, energy_scores
from .scores import bands, brief, score, skill
from .significance import compare, overlap

ORIGINS_AT_ONCE = 32
KEYS = ("ticker", "origin")  # of a forecast
OPTIONAL = ("square_scale", "sigma", "due", "energy")
STEP_KEYS = ("crps", "mase", "coverage_80", "direction_accuracy")
MEANS = ("crps", "mase")  # of which the mean over the steps is told


@dataclass
class WalkForward:
    """Forecasts and outcomes of one period: `steps[p][model]` are n forecasts for step p + 1."""

    ticker: np.ndarray  # [n]
    origin: np.ndarray  # [n] datetime64
    realised: np.ndarray  # [n,P] cumulative log returns, or differences in units known at the origin
    scale: np.ndarray  # [n,P] MASE denominators
    stride: int = 1  # bars between origins
    steps: list[dict[str, Forecast]] = field(default_factory=list)
    square_scale: np.ndarray | None = None  # [n] RMSSE denominators of the last step
    sigma: np.ndarray | None = None  # [n] volatility known at the origin, in units of it
    due: np.ndarray | None = None  # [n] datetime64 of the outcome at the last step
    refits: dict[str, str] = field(default_factory=dict)  # of each baseline: how often, in words
    failed: dict[str, str] = field(default_factory=dict)  # of each baseline that failed somewhere: why
    energy: np.ndarray | None = None  # [n] energy score of the model's paths, where it has some
    uncalibrated: Scored | None = None  # the model at the last step, where a calibration has moved it
    demand: Demand | None = None  # of a plain series

    def by_name(self, seed: int = 0) -> dict[str, dict[str, Any]]:
        """One row per model, `model` is ours: scores at the last step; CRPS, MASE, coverage, direction at every step,
        and of the first two the mean over all."""
        ranked = Ranked.of(self.realised[:, -1], self.origin, seed)
        last = self.steps[-1].items()
        rows = {name: {"model": name, **self._score(forecast, seed, ranked)} for name, forecast in last}
        for name, row in rows.items():
            before = [brief(one[name], self.realised[:, p], self.scale[:, p]) for p, one in enumerate(self.steps[:-1])]
            row |= {f"{key}_by_step": [one[key] for one in [*before, row]] for key in STEP_KEYS}
            row |= {f"{key}_mean": _mean(row[f"{key}_by_step"]) for key in MEANS}
            row["energy_score"] = float(self.energy.mean()) if name == "model" and self.energy is not None else None
        for name, errors in self.demand_errors().items():
            rows[name] |= errors.row()
        return rows

    def demand_errors(self) -> dict[str, DemandErrors]:
        """Of each model over all steps, if this is a plain series; else of none."""
        if self.demand is None:
            return {}
        return {
            name: DemandErrors.of([one[name] for one in self.steps], self.realised, self.demand, self.origin)
            for name in self.steps[-1]
        }

    def demand_verdicts(self, seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
        """The model's WRMSSE and weighted quantile loss against each baseline's, paired by origin."""
        return demand_verdicts(self.demand_errors(), self.origin, horizon=self.overlap, seed=seed)

    def rows(self, seed: int = 0) -> list[dict[str, Any]]:
        """Those of `by_name`."""
        return [*self.by_name(seed).values()]

    def verdicts(self, seed: int = 0) -> dict[str, dict[str, Any]]:
        """The model's CRPS against each baseline at the last step, paired by origin, in numbers and in words."""
        answers = {}
        for name in list(self.steps[-1])[1:]:
            ours, theirs = self.crps(), self.crps(name)
            difference = compare(ours, theirs, self.origin, name, horizon=self.overlap, seed=seed)
            saved = skill({"crps": float(ours.mean())}, {"crps": float(theirs.mean())})
            answers[name] = {**difference, "skill": saved}
        return answers

    @property
    def strongest(self) -> str | None:
        """The baseline of least CRPS at the last step; None where there is none."""
        return min([*self.steps[-1]][1:], key=lambda name: self.crps(name).mean(), default=None)

    def calibration(self) -> dict[str, Any]:
        """The model's CRPS and coverage at the last step before a calibration, and after it if one was used."""
        used, forecast, outcome = self.uncalibrated is not None, self.steps[-1]["model"], self.realised[:, -1]
        told = [bands(one, outcome) for one in (*([self.uncalibrated] if used else []), forecast)]
        return {"used": used, "before": told[0], "after": told[1] if used else None}

    def against(self, other: "WalkForward", name: str, seed: int = 0) -> dict[str, Any]:
        """The model's CRPS against that of another model, called `name`, on the same outcomes at the last step."""
        return compare(self.crps(), other.crps(), self.origin, name, horizon=self.overlap, seed=seed)

    @property
    def overlap(self) -> int:
        """How many origins in a row share a part of their outcomes at the last step."""
        return overlap(len(self.steps), self.stride)

    def crps(self, model: str = "model") -> np.ndarray:
        """Of each forecast at the last step, `[n]`."""
        return self.steps[-1][model].crps(self.realised[:, -1])

    def words(self, seed: int = 0) -> dict[str, str]:
        """`verdicts` in words alone."""
        return {name: answer["verdict"] for name, answer in self.verdicts(seed).items()}

    def pit(self, model: str = "model") -> np.ndarray:
        """Probability integral transform at the last step, `[n]`."""
        return self.steps[-1][model].pit(self.realised[:, -1])

    def _score(self, forecast: Forecast, seed: int, ranked: Ranked) -> dict[str, Any]:
        parts = (self.realised[:, -1], self.origin, self.scale[:, -1])
        options = {"square_scale": self.square_scale, "stride": self.stride, "ranked": ranked}
        return score(forecast, *parts, horizon=len(self.steps), seed=seed, **options)


def _mean(by_step: Sequence[float | None]) -> float | None:
    """None where a step has no score."""
    known = [one for one in by_step if one is not None]
    return float(np.mean(known)) if len(known) == len(by_step) else None


def pick_origins(
    series: Sequence[EncodedSeries], start: Any, end: Any, horizon: int, stride: int, history: int = VOLATILITY_WINDOW
) -> list[np.ndarray]:
    """Rows of each ticker that lie on every `stride`-th bar time of [start, end] and whose outcomes are known.

    `history` is how many bars must lie before an origin.

    Raises:
        ValueError: if there is none, with the dates that the data offers.
    """
    found = [one.origins(start, end, horizon=horizon) for one in series]
    found = [rows[_is_ready(one, rows, history, horizon)] for one, rows in zip(series, found, strict=True)]
    times = np.unique(np.concatenate([one.timestamp[rows] for one, rows in zip(series, found, strict=True)]))
    if not len(times):
        first, last = min(one.timestamp[0] for one in series), max(one.timestamp[-1] for one in series)
        since, until = "the first bar" if start is None else start, "the last" if end is None else end
        raise ValueError(
            f"no forecast of {horizon} step(s) can be scored between {since} and {until}: the bars run from "
            f"{pd.Timestamp(first)} to {pd.Timestamp(last)} and the outcomes must be among them"
        )
    return [rows[np.isin(one.timestamp[rows], times[::stride])] for one, rows in zip(series, found, strict=True)]


def history_before(season: int | None, horizon: int) -> int:
    """Bars that lie before an origin, so that every baseline can forecast from it."""
    return max(VOLATILITY_WINDOW if season is None else season * -(-horizon // season) + VOLATILITY_WINDOW, horizon)


def _is_ready(one: EncodedSeries, rows: np.ndarray, history: int, horizon: int) -> np.ndarray:
    """Where enough bars lie before an origin, and enough of them are known for the baselines."""
    first, known = int(one.observed.argmax()), np.cumsum(one.observed)
    return (rows - first >= history) & (known[rows] > max(VOLATILITY_WINDOW, horizon))


def walk_forward(
    pipe: TsfLlmPipeline,
    series: Sequence[EncodedSeries],
    *,
    start: Any,
    end: Any,
    horizon: int,
    stride: int | None = None,
    samples: int = 256,
    seed: int = 0,
    baselines: str | Sequence[str] = "fast",
    calibration: str = "auto",
    num_proc: int = 1,
    progress: bool = True,
    keep: bool = True,
    bounded: bool = True,
) -> WalkForward:
    """Forecasts of the model and of the baselines (`catalogue.choose`) from every `stride`-th bar of [start, end].

    `series` is what the model's own processor makes of the bars. `stride` defaults to the horizon, so that outcomes do
    not overlap. `num_proc` processes run the baselines, whose fits stay on disk if `keep`. `calibration` is that of
    the pipeline's calls. If not `bounded`, the model's laws are left as they are before its answers are bounded.

    Raises:
        ValueError: for a model without numbers (classes), an unknown baseline, or an empty period.
    """
    if pipe.model.config.prediction_type == "classification" and not pipe.model.can_generate():
        raise ValueError(
            "a classification model has no return to score: evaluate a causal LM, quantile or regression model"
        )
    extractor = pipe.processor.feature_extractor
    kind, season = extractor.series_kind, next(iter(extractor.seasons or ()), None)
    chosen = choose(baselines, kind, season)
    origins = pick_origins(series, start, end, horizon, stride or horizon, history_before(season, horizon))
    kept = [(one, rows) for one, rows in zip(series, origins, strict=True) if len(rows)]
    chunks = [(one, rows[i : i + ORIGINS_AT_ONCE]) for one, rows in kept for i in range(0, len(rows), ORIGINS_AT_ONCE)]
    if pipe.samples_paths and horizon > max(pipe.law_reach, 1):
        together = max(len(rows) for _, rows in chunks)
        pipe.check_size(together, extractor.context_length, horizon=horizon, samples=samples)
    bar = tqdm(chunks, desc="walk-forward", unit="chunk", disable=None if progress else True, leave=False)
    calibrated = pipe.calibration(calibration, horizon)
    bound = bounded and extractor.is_bounded
    scored = [_scored(pipe, chunk, horizon, samples, seed, kind, calibrated, bound) for chunk in bar]
    pairs, energies = [one for one, _ in scored], [one for _, one in scored if one is not None]
    ours = [[after for _, after in one] for one in pairs]

    def joined(function) -> np.ndarray:
        return np.concatenate([function(one, rows) for one, rows in kept])

    unit = joined(lambda one, rows: _unit(one, rows, kind))  # [n]
    naive = [joined(lambda one, rows, h=h: naive_scale(one.close, rows, h, kind)) for h in range(1, horizon + 1)]
    result = WalkForward(
        ticker=joined(lambda one, rows: np.repeat(one.ticker, len(rows))),
        origin=joined(lambda one, rows: one.timestamp[rows]),
        realised=joined(lambda one, rows: _realised(one, rows, horizon, kind)),
        scale=np.stack(naive, axis=1) / unit[:, None],
        stride=stride or horizon,
        square_scale=joined(lambda one, rows: naive_square_scale(one.close, rows, horizon, kind)) / unit**2,
        sigma=joined(lambda one, rows: one.sigma[rows]) / unit,
        due=joined(lambda one, rows: one.timestamp[rows + horizon]),
        demand=Demand.joined([Demand.of(one, rows) for one, rows in kept]) if kind.unit_scores else None,
        energy=np.concatenate(energies) if energies else None,
    )
    if calibrated is not None and horizon <= calibrated.steps:
        result.uncalibrated = Scored.joined([one[-1][0] for one in pairs])
    bounds = {"nonnegative": extractor.nonnegative, "integer": extractor.integer}
    panel = Panel([one for one, _ in kept], [rows for _, rows in kept], kind, season, seed=seed, **bounds)
    steps = range(1, horizon + 1)
    options = {"num_proc": num_proc, "progress": progress, "keep": keep, "brief": True}
    theirs, result.failed = run(chosen, panel, steps, result.realised, unit, **options)
    result.refits = {one.name: one.refit for one in chosen if one.name in theirs}
    for step in steps:
        others = {name: scored[step] for name, scored in theirs.items()}
        result.steps.append({"model": Scored.joined([one[step - 1] for one in ours]), **others})
    return result


def pool(results: Sequence[WalkForward]) -> WalkForward:
    """The forecasts of several folds as one period, in order: `rows` and `verdicts` then speak of all of them.

    Raises:
        ValueError: if two folds forecast from the same bar, or differ in models or steps.
    """
    if len({(len(one.steps), *one.steps[0]) for one in results}) != 1:
        raise ValueError("pool needs at least one result, all of the same models and steps")
    origins = pd.MultiIndex.from_arrays([np.concatenate([getattr(one, name) for one in results]) for name in KEYS])
    if origins.has_duplicates:
        again = origins[origins.duplicated()][0]
        raise ValueError(f"two folds forecast {again[0]} from {again[1]}: their test periods must not overlap")
    names = [*KEYS, "realised", "scale", *(name for name in OPTIONAL if getattr(results[0], name) is not None)]
    parts = {name: np.concatenate([getattr(one, name) for one in results]) for name in names}
    steps = [
        {name: Scored.joined([one.steps[p][name] for one in results]) for name in results[0].steps[p]}
        for p in range(len(results[0].steps))
    ]
    known = [one.demand for one in results if one.demand is not None]
    demand = Demand.joined(known) if len(known) == len(results) else None
    return WalkForward(**parts, stride=min(one.stride for one in results), steps=steps, demand=demand)


def _unit(one: EncodedSeries, rows: np.ndarray, kind: Kind) -> np.ndarray:
    return naive_scale(one.close, rows, 1, kind) if kind.unit_scores else np.ones(len(rows))


def _realised(one: EncodedSeries, rows: np.ndarray, horizon: int, kind: Kind) -> np.ndarray:
    """Outcomes `[n,P]` in units known at the origin."""
    return kind.change(one.ahead(rows, horizon), one.close[rows, None]) / _unit(one, rows, kind)[:, None]


def _scored(
    pipe: TsfLlmPipeline,
    chunk: tuple[EncodedSeries, np.ndarray],
    horizon: int,
    samples: int,
    seed: int,
    kind: Kind,
    calibrated: Calibration | None,
    bounded: bool,
) -> tuple[list[tuple[Scored, Scored]], np.ndarray | None]:
    """The forecasts of a chunk at each step, before and after the calibration; and its energy scores, if it has paths.

    A calibration moves each step by itself, which leaves no joint law to score."""
    unit, realised = _unit(*chunk, kind), _realised(*chunk, horizon, kind)
    laws, paths = step_laws(pipe, pipe.processor.batch([chunk]), horizon, samples, seed)
    extractor, now, pairs = pipe.processor.feature_extractor, chunk[0].close[chunk[1]], []

    def scored(law: Law, outcome: np.ndarray) -> Scored:
        steps = len(outcome) // len(now)
        if bounded:
            law = Admitted(law, np.tile(now, steps), extractor.admissible, np.tile(unit, steps))
        return Scored.of(law, outcome)

    def kept(told: Scored, p: int) -> Scored:
        return told.brief() if horizon > MANY_STEPS and p < horizon - 1 else told

    if calibrated is None and all(isinstance(law, Quantiles) for law in laws):  # at once: a head has many steps
        law = Quantiles.joined(laws)
        law = law if bounded else law.divided(np.tile(unit, horizon))
        whole, n = scored(law, realised.T.ravel()), len(now)
        told = [kept(whole.take(np.arange(p * n, (p + 1) * n)), p) for p in range(horizon)]
        return [(one, one) for one in told], None
    for p, law in enumerate(laws if bounded else (law.divided(unit) for law in laws)):
        before = after = kept(scored(law, realised[:, p]), p)
        if calibrated is not None and p < calibrated.steps:
            moved = Moved.about_median(law, calibrated.shift[p], calibrated.spread[p])
            after = kept(scored(moved, realised[:, p]), p)
        pairs.append((before, after))
    if paths is None or calibrated is not None:
        return pairs, None
    return pairs, energy_scores(paths / unit[:, None, None], realised)


def step_laws(
    pipe: TsfLlmPipeline, batch: Any, horizon: int, samples: int, seed: int
) -> tuple[list[Law], np.ndarray | None]:
    """Of each step: the model's own up to its last horizon, that of the paths beyond; a single number stands twice.

    And the paths `[n,K,P]`, where some were needed."""
    if pipe.model.can_generate():
        known = pipe.law_reach or horizon == 1
        laws: list[Law] = [Piecewise.like(law) for law in pipe.laws(batch, horizon)] if known else []
        if len(laws) == horizon:
            return laws, None
        paths = pipe.sample(batch, horizon=horizon, samples=samples, seed=seed)
        return laws + [StratifiedSamples(paths[..., p]) for p in range(len(laws), horizon)], paths
    if pipe.samples_paths:  # evenly spaced quantiles
        values = pipe.sample(batch, horizon=horizon, samples=samples, seed=seed)
        levels = np.arange(1, samples + 1) / (samples + 1)
        return [Quantiles(values[..., p], levels) for p in range(horizon)], None
    prediction = pipe.predict_head(batch, horizon)
    return [Samples(np.repeat(prediction[:, [p]], 2, axis=1)) for p in range(horizon)], None

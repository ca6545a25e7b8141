"""What every training script starts from and ends with: bars, fences and processor; scores on the dates after them.

Design choices:
* Data is read, checked and encoded once. Windows for training and forecasts for the report are cut from that.
* Whatever is fitted is fitted on the training dates; a model to go on from brings its own processor, unchanged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers.utils import logging

from ..bars_tsf_llm import (
    MIN_BARS,
    OHLCV,
    UNIVARIATE,
    CheckedBars,
    Kind,
    day_end,
    kind_of,
    known_by,
    split_tickers,
    step_fence,
)
from ..calendars_tsf_llm import bar_spacing
from ..columns_tsf_llm import SERIES_ALIASES, find_columns, with_static_of
from ..common.inference import evaluating
from ..configuration_tsf_llm import TsfLlmConfig
from ..data_prep.augment import parse_augmentations
from ..data_prep.columns import with_names
from ..data_prep.prepare import Prepared, is_prepared, load_prepared
from ..data_prep.sources import read_data, read_market
from ..data_prep.tables import open_table
from ..data_prep.windows import Objective, Split, WindowDataset, fence, side_by_side
from ..evaluation.walk_forward import WalkForward, walk_forward
from ..feature_extraction_tsf_llm import EncodedSeries, TsfLlmFeatureExtractor, usual_spacing
from ..market_tsf_llm import implied_index
from ..modeling_tsf_llm import TsfLlmForPrediction
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import TsfLlmProcessor
from ..tokenization_tsf_llm import TsfLlmTokenizer
from .arguments import DataArguments
from .models import load_processor

logger = logging.get_logger(__name__)
COLUMNS_OF_A_MODEL = ("past_covariates", "known_covariates", "static_covariates")


@dataclass(frozen=True)
class TrainingData:
    """Bars, fences, the processor of one training, and what it makes of the bars."""

    args: DataArguments
    bars: pd.DataFrame
    split: Split
    processor: TsfLlmProcessor
    series: list[EncodedSeries]  # what the processor makes of the bars: computed once, for windows and forecasts alike
    market: pd.DataFrame | None  # bars that the features read beside their own
    skipped: dict[str, str] = field(default_factory=dict)  # ticker or file -> why nothing is trained on it

    @classmethod
    def read(
        cls,
        args: DataArguments,
        model: str | None = None,
        config: TsfLlmConfig | None = None,
        *,
        refit: bool = False,
        series_form: bool = False,
    ) -> "TrainingData":
        """Reads `args.data`. `model` is the folder or Hub name whose processor is used instead of a new one, and
        `config` that of its head, which must answer for the horizon. With `refit` only its features and the number of
        its bins are: scalers, edges and the time between bars are fitted anew. A new model in `series_form` is told
        what is known of each step ahead.

        Raises:
            ValueError: for data, tickers, dates or a horizon that cannot be used.
        """
        prepared = load_prepared(args.data) if len(files_of(args)) == 1 and is_prepared(files_of(args)[0]) else None
        given = None if model is None else load_processor(model)
        if given is not None and config is not None and config.architectures == [TsfLlmForPrediction.__name__]:
            reach = given.feature_extractor.reach or config.prediction_length
            if args.horizon != reach:
                raise ValueError(
                    f"horizon={args.horizon}, but {model} answers for {reach} bar(s): add --horizon {reach}"
                )
        if given is not None:  # a model reads the columns that it knows
            given.calibration = None  # which was that of the old weights
            args = replace(args, **{name: getattr(given.feature_extractor, name) for name in COLUMNS_OF_A_MODEL})
        else:
            args = with_static_names(args)
        old, given = given, None if refit else given
        spacing = None if given is None else given.feature_extractor.bar_seconds
        read = _read_and_split(args, spacing) if prepared is None else _stored_bars(prepared, args)
        bars, split, universe, checked = read
        if refit and prepared is not None:
            raise ValueError(f"{args.data} is prepared, and fitted: refit on the prices that it was made of")
        if given is None and prepared is not None:
            skipped = prepared.info["skipped"]
            if (prepared.processor.feature_extractor.steps_ahead is not None) != series_form:
                form = "--series-form" if series_form else "no --series-form"
                raise ValueError(f"{args.data} is prepared for models of another form: prepare it with {form}")
            return cls(args, bars, split, prepared.processor, prepared.series(), prepared.market(), skipped)
        kind = kind_of(bars)
        fresh = partial(new_processor, args, series_form=series_form) if old is None else partial(unfitted, old)
        processor = given or fresh(kind)
        market = _market_bars(args, processor.feature_extractor, universe)
        extractor = processor.feature_extractor
        panel = (extractor.check if given is None else extractor.check_known)(checked, strict=args.strict)
        if given is None:
            series = processor.fit_encode(panel, split.train_through, market=market)
        else:
            series = processor.encode(panel, market=market)
        series = side_by_side(series, sum(len(one.close) for one in series))
        bars = bars[bars[processor.kind.id].isin([one.ticker for one in series])].reset_index(drop=True)
        return cls(args, bars, split, processor, series, market, panel.skipped)

    def with_fences_of(self, config: TsfLlmConfig) -> "TrainingData":
        """A model's own fences, where none are chosen and the bars lie on both sides of them; else 80/10/10."""
        if is_prepared(self.args.data) or self.args.train_through or self.args.valid_through:
            return self
        fences = self.processor.fitted_through, config.trained_through
        try:
            split = Split.of(self.bars, *fences) if all(fences) else Split.of(self.bars)
        except ValueError:
            split = Split.of(self.bars)
        return replace(self, split=split)

    def known_by(self, fence: pd.Timestamp) -> list[EncodedSeries]:
        """The series without a row behind the fence. A row reads no later one, so the others stay as they are."""
        kept = [(one, int(np.searchsorted(one.timestamp, fence.to_datetime64(), side="right"))) for one in self.series]
        arrays = [part.name for part in fields(EncodedSeries) if part.name != "ticker"]
        return [
            replace(one, **{name: getattr(one, name)[:rows] for name in arrays if getattr(one, name) is not None})
            for one, rows in kept
            if rows
        ]

    def windows(
        self, objective: Objective, *, seed: int = 0, after: pd.Timestamp | None = None
    ) -> tuple[WindowDataset, WindowDataset]:
        """Training and validation windows, an embargo of one horizon between their labels.

        Only training windows are augmented, weighted or without context. Their labels lie behind `after`, where given.

        Raises:
            ValueError: if there is none of either.
        """
        args, split = self.args, self.split
        train = self.part(
            objective,
            after=after,
            through=split.train_through,
            augment=parse_augmentations(args.augment),
            context_dropout=args.context_dropout,
            sample_weights=args.sample_weights,
            seed=seed,
        )
        valid = self.part(
            objective,
            after=split.train_through,
            through=split.valid_through,
            embargo=args.horizon,
            stride=args.valid_stride or args.stride,
        )
        if args.bag_years and len(train):
            train.origins = bag_of_years(train.origins, train.timestamp, seed)
        for name, part in (("training", train), ("validation", valid)):
            if len(part) == 0:
                raise ValueError(
                    f"no {name} window of {args.horizon} steps fits: move the fences or give more history (a value "
                    "that never changed has none)"
                )
        return train, valid

    def walk_forward(
        self, model: Any, *, seed: int = 0, start: Any = None, end: Any = None, most: int | None = None
    ) -> WalkForward:
        """The model's forecasts beside the baselines'; by default on the dates after validation.

        With `most`, those of the model alone, from that many origins or fewer, evenly spaced."""
        if self.args.report_samples == 0 and model.can_generate():
            raise ValueError("report_samples=0: models are compared on sampled paths, give 2 or more")
        start = self.split.valid_through + pd.Timedelta(1, "ns") if start is None else start
        options: dict[str, Any] = {"samples": self.args.report_samples, "seed": seed}
        if most is not None:
            options |= {"baselines": (), "stride": self._sparse(start, most)}
        with evaluating(model):
            return walk_forward(
                TsfLlmPipeline(model=model, processor=self.processor, device=model.device),
                self.series,
                start=start,
                end=self.bars["timestamp"].max() if end is None else end,
                horizon=self.args.horizon,
                **options,
            )

    def _sparse(self, start: Any, most: int) -> int:
        """Bars between origins, a multiple of the horizon, that leave at most `most` from `start` on."""
        since = day_end(start).to_datetime64()
        forecasts = sum(int((one.timestamp >= since).sum()) for one in self.series) / self.args.horizon
        return self.args.horizon * max(1, math.ceil(forecasts / most))

    def part(self, objective: Objective, **options: Any) -> WindowDataset:
        """Windows between any fences (`after`, `through`, `embargo`, `stride`), normally not augmented or weighted."""
        options = {"horizon": self.args.horizon, "stride": self.args.stride, **options}
        return WindowDataset(self.processor, self.series, objective=objective, **options)

    def describe(self) -> str:
        """What the weights are trained on, in words, without a path of this machine."""
        tickers = list(self.bars[kind_of(self.bars).id].unique())
        listed = ", ".join(tickers[:8]) + (f" and {len(tickers) - 8} more" if len(tickers) > 8 else "")
        names = " and ".join(Path(one).name for one in files_of(self.args))
        return f"{names}: {listed}, from {self.bars['timestamp'].min().date()}"

    def mark(self, model: Any) -> None:
        """Writes into a model's config what it is trained on, before it is."""
        self.mark_config(model.config)
        model.dates_itself = model.base_model.dates_itself = True

    def mark_config(self, config: Any) -> None:
        """Weights forget no date: a later one there stays, and what an earlier training saw may be unknown."""
        before, now = config.trained_through, fence(self.split.valid_through)
        unknown = before is None and config.name_or_path  # a model to go on from
        if not unknown and (before is None or day_end(before) <= day_end(now)):
            config.trained_through = now
        config.trained_on = self.describe()
        config.processor_digest = self.processor.digest

    def provenance(self, config: Any) -> dict[str, Any]:
        """The lines of a report that say what was trained on and whether its scores are a test."""
        return {
            "data": config.trained_on,
            "train_through": fence(self.split.train_through),
            "valid_through": fence(self.split.valid_through),
            "trained_through": config.trained_through,
            "out_of_sample": config.trained_through and config.trained_through == fence(self.split.valid_through),
            "skipped": self.skipped,
        }


def _read_and_split(
    args: DataArguments, spacing: float | None = None
) -> tuple[pd.DataFrame, Split, pd.DataFrame, CheckedBars]:
    """Bars of the tickers that can be used, fences, the bars of all, and those that can be used, checked. A market
    that left out those which are short today would know how long a ticker is going to live."""
    covariates = [*args.past_covariates, *args.known_covariates]
    universe = known_to_training(args, read_files(args, covariates))
    panel = _usable(universe, MIN_BARS + args.horizon, spacing, strict=args.strict, static=args.static_covariates)
    bars = universe[universe[kind_of(universe).id].isin(panel)].reset_index(drop=True)
    return bars, _split(bars, args), universe, panel


def files_of(args: DataArguments) -> list[str]:
    """What `data` names: one source, or several where a script takes them."""
    return [args.data] if isinstance(args.data, str) else list(args.data)


def read_files(args: DataArguments, covariates: Sequence[str] = ()) -> pd.DataFrame:
    """The bars of all files of `data`. Of a ticker that several hold the first file counts, whole."""
    options: dict[str, Any] = {"columns": args.columns, "covariates": covariates, "strict": args.strict}
    first, *more = files_of(args)
    if not more:
        return read_data(first, args.tickers, **options)
    frames: list[pd.DataFrame] = []
    for file in (first, *more):
        bars = read_data(file, **options)
        id = kind_of(bars).id
        known = {name for one in frames for name in one[id].unique()}
        if (again := sorted({*bars[id]} & known)) and frames:
            logger.warning(f"{Path(file).name}: {', '.join(again)} stand in an earlier file too, which counts")
        wanted = ~bars[id].isin(known) if args.tickers is None else bars[id].isin({*args.tickers} - known)
        frames.append(bars[wanted])
    return pd.concat(frames, ignore_index=True)


def known_to_training(args: DataArguments, bars: pd.DataFrame) -> pd.DataFrame:
    """The bars without those of `held_out` tickers and those after `through`.

    Raises ValueError if none is left."""
    id, told = kind_of(bars).id, dict(bars.attrs)
    kept = ~bars[id].isin(args.held_out)
    if args.through is not None:
        kept &= known_by(bars["timestamp"], args.through, told.get("lasting"))
    if not kept.any():
        raise ValueError(f"through={args.through}, held_out={' '.join(args.held_out)} leave no bar: give other ones")
    bars = bars[kept].reset_index(drop=True)
    bars.attrs.update(told)
    return bars


def _split(bars: pd.DataFrame, args: DataArguments) -> Split:
    """Fences within the bars; where validation goes as far as `through`, nothing is left to test."""
    times, lasting = bars["timestamp"], bars.attrs.get("lasting")
    train, valid = (step_fence(times, at, lasting) for at in (args.train_through, args.valid_through))
    if args.through is None or args.valid_through is None or day_end(args.valid_through) < day_end(args.through):
        return Split.of(bars, train, valid)
    first, last = times.min(), times.max()
    if args.train_through is None or not first < day_end(args.train_through) < last:
        raise ValueError(f"train_through={args.train_through}: give a date within the bars, from {first} to {last}")
    return Split(day_end(train), day_end(valid))


def bag_of_years(origins: np.ndarray, stamps: np.ndarray, seed: int) -> np.ndarray:
    """Origins of as many years as there are, drawn with replacement: those of one that is drawn twice come twice.

    >>> stamps = np.array(["2001-01-01", "2002-01-01", "2003-01-01"], "datetime64[ns]")
    >>> bag_of_years(np.arange(3), stamps, seed=0).tolist()
    [1, 1, 2]
    """
    years, which = np.unique(stamps[origins].astype("datetime64[Y]"), return_inverse=True)
    drawn = np.random.default_rng(seed).integers(len(years), size=len(years))
    return np.repeat(origins, np.bincount(drawn, minlength=len(years))[which])


def _usable(
    bars: pd.DataFrame, needed: int, spacing: float | None = None, *, strict: bool = False, static: Sequence[str] = ()
) -> CheckedBars:
    """The bars, checked, of all but the tickers that are too short for a single window or of another frequency than
    `spacing` (by default that of most): the fences are shares of the bars of the others.

    Raises ValueError if none is left."""
    kind = kind_of(bars)
    covariates = [name for name in bars if name not in ("timestamp", kind.id, *kind.columns, *static)]
    panel = with_static_of(split_tickers(bars, kind, covariates, strict=strict), bars, static)
    for name, frame in list(panel.items()):
        if (count := int(frame[kind.value].notna().sum())) < needed:
            panel.skip(
                name,
                f"{name}: {count} bars, and a ticker needs {needed} of them for {needed - MIN_BARS} steps ahead: give "
                "more history, or a shorter horizon",
            )
    panel.settle()
    seconds = {name: bar_spacing(frame["timestamp"].to_numpy()) for name, frame in panel.items()}
    usual = spacing or usual_spacing([*seconds.values()])
    for name, own in seconds.items():
        if not 0.5 < own / usual < 2:
            every, others = pd.Timedelta(seconds=own), pd.Timedelta(seconds=usual)
            remedy = "resample it" if kind is OHLCV else "bring all to one step (--resample 1d:mean)"
            panel.skip(name, f"{name}: a bar every {every}, the others every {others}: {remedy}, or train on it alone")
    bars.attrs["skipped"] = dict(panel.skipped)  # told: a market of all of them tells it no second time
    return panel.settle()


def _stored_bars(prepared: Prepared, args: DataArguments) -> tuple[pd.DataFrame, Split, pd.DataFrame, pd.DataFrame]:
    """Bars, fences, market and bars to check of a prepared folder. Others would need a new fit: they are refused."""
    fixed = ["tickers", "train_through", "valid_through", "through", "held_out", "market"]
    fixed += ["static", "static_covariates", "nonnegative", "integer"]
    if given := [name for name in fixed if getattr(args, name)]:
        raise ValueError(f"{prepared.folder} is prepared, so {', '.join(given)} cannot be chosen: prepare it again")
    bars, market = prepared.bars(), prepared.market()
    return bars, prepared.split, bars if market is None else market, bars


def unfitted(processor: TsfLlmProcessor, kind: Kind) -> TsfLlmProcessor:
    """The same features, bins and horizons, to fit on the training dates of another market or frequency.

    Raises ValueError for the original's inputs, or bars of another kind."""
    features, bins = processor.feature_extractor, processor.tokenizer
    if features.reach is not None or features.series_kind is not kind:
        raise ValueError("refit_processor: the model reads another kind of series than these; train a new model")
    return TsfLlmProcessor(features.unfitted(calendar=None), TsfLlmTokenizer(n_bins=bins.n_bins), None, bins.horizons)


def with_static_names(args: DataArguments) -> DataArguments:
    """With the static covariates by name, where they are all of a table."""
    if args.static is None or args.static_covariates:
        return args
    table = with_names(open_table(Path(args.static)), args.id_column)
    id = find_columns(table, {UNIVARIATE.id: SERIES_ALIASES[UNIVARIATE.id]}, args.static)
    return replace(args, static_covariates=[name for name in table if name not in id.values()])


def new_processor(args: DataArguments, kind: Kind, *, series_form: bool = False) -> TsfLlmProcessor:
    """A processor to fit on the training dates alone."""
    features = TsfLlmFeatureExtractor(
        feature_groups=args.feature_groups,
        scaling=args.scaling,
        per_ticker=args.per_ticker,
        context_length=args.context_length,
        calendar=args.calendar,
        kind=kind.name,
        past_covariates=args.past_covariates,
        known_covariates=args.known_covariates,
        static_covariates=args.static_covariates,
        nonnegative=args.nonnegative,
        integer=args.integer,
        steps_ahead=args.horizon if series_form else None,
    )
    horizons = args.horizons or (None if kind is OHLCV else range(1, args.horizon + 1))
    horizons = (1,) if series_form else horizons  # its head needs no laws
    return TsfLlmProcessor(features, TsfLlmTokenizer(n_bins=args.n_bins), horizons=horizons)


def _market_bars(args: DataArguments, features: TsfLlmFeatureExtractor, universe: pd.DataFrame) -> pd.DataFrame | None:
    """The prices of `market`; if they hold no universe or index, and the group was chosen, the data's own as well."""
    given = []
    if args.market is not None:
        given = [known_to_training(args, read_market(args.market, dates=args.dates, decimal=args.decimal))]
    is_universe = any(implied_index(name) is None for one in given for name in one["ticker"].unique())
    chosen = "market" in (features.feature_groups or ()) or "universe" in features.market_parts
    if chosen and features.reads_market and not is_universe:
        given.append(universe[given[0].columns] if given else universe)
    return pd.concat(given, ignore_index=True) if len(given) > 1 else next(iter(given), None)

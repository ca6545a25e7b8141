"""The processor: bars -> tensors -> bars. No leak is possible past it, and `audit` proves so on the user's own data.

Design choices:
* `TsfLlmProcessor` = `TsfLlmFeatureExtractor` (features, scalers, volatility) + `TsfLlmTokenizer` (return bins), so
  that AutoProcessor, Trainer and trl find what they ask for. All fitted state is plain JSON beside the weights.
* `fit(bars, through=...)` reads no bar after the fence. A row's features, volatility and token read no later row.
* `feature_extraction_tsf_llm`, `tokenization_tsf_llm` and `audit_tsf_llm` have the parts; this is their face.

Shapes: N bars of one ticker, B windows, T bars of a window, F features, K sampled paths, P steps, Q quantiles.
"""

from .versions_tsf_llm import NEEDED  # noqa: F401 (first: a processor that opens without a model checks it too)

# isort: split
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from .ahead_tsf_llm import IN_DIGEST, Ahead
from .audit_tsf_llm import audit_features
from .bars_tsf_llm import MIN_BARS, Bars, CheckedBars, Kind, bars_through, day_end, refuse_if_none_left
from .calendars_tsf_llm import next_timestamps, recent_times
from .calibration_tsf_llm import check_state
from .dependence_tsf_llm import loadings
from .emission_tsf_llm import mean_volume
from .feature_extraction_tsf_llm import EncodedSeries, TsfLlmFeatureExtractor, standard_return
from .laws_tsf_llm import PiecewiseLaw, horizon_returns
from .original_features_tsf_llm import OriginalFeatureExtractor
from .tokenization_tsf_llm import TsfLlmTokenizer
from .training_examples_tsf_llm import HEADS, Head, dataset_of, examples, lazy_dataset

HORIZONS = (1, 5, 20)  # bars ahead whose law a causal model names where none are given; the first is its next token
logger = logging.get_logger(__name__)
FORECAST_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def quantile_column(level: float) -> str:
    """The column of a quantile level, in percent.

    >>> quantile_column(0.05), quantile_column(0.975)
    ('q05', 'q97.5')
    """
    percent = round(100 * level, 6)
    return f"q{percent:02.0f}" if percent == round(percent) else f"q{percent:04g}"


FORECAST_COLUMNS = ["ticker", "origin", "step", "timestamp", "mean", *map(quantile_column, FORECAST_QUANTILES), "p_up"]


class TsfLlmProcessor(ProcessorMixin):
    """Bars in, tensors out; samples in, price forecasts out.

    >>> processor = TsfLlmProcessor().fit(bars, through="2018-12-31")  # doctest: +SKIP
    >>> batch = processor(bars, as_of="2020-06-30")  # doctest: +SKIP
    >>> paths = model.generate(**batch, max_new_tokens=5, do_sample=True, num_return_sequences=100)  # doctest: +SKIP
    """

    feature_extractor: TsfLlmFeatureExtractor
    tokenizer: TsfLlmTokenizer

    def __init__(
        self,
        feature_extractor: TsfLlmFeatureExtractor | None = None,
        tokenizer: TsfLlmTokenizer | None = None,
        calibration: dict[str, Any] | None = None,
        horizons: Sequence[int] | None = None,
        **kwargs: Any,
    ):
        if calibration is not None:
            check_state(calibration)
        self.horizons = None if horizons is None else sorted(horizons)  # as asked for; the tokenizer's are fitted
        self.calibration = calibration  # of the model beside it: whether one was kept, and what it is
        super().__init__(feature_extractor or TsfLlmFeatureExtractor(), tokenizer or TsfLlmTokenizer(), **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "TsfLlmProcessor":  # type: ignore[override]
        """Both parts with this module's own classes: no Auto class, hence no remote code, is needed."""
        settings, rest = TsfLlmFeatureExtractor.get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        name = settings.get("feature_extractor_type")
        is_original = name == OriginalFeatureExtractor.__name__ or settings.get("feature_set") == "seed64"
        features = OriginalFeatureExtractor if is_original else TsfLlmFeatureExtractor
        return cls(
            features.from_dict(settings, **rest),
            TsfLlmTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs),
            (own := cls.get_processor_dict(pretrained_model_name_or_path, **kwargs)[0]).get("calibration"),
            own.get("horizons"),
        )

    @property
    def kind(self) -> Kind:
        return self.feature_extractor.series_kind

    @property
    def covariates(self) -> list[str]:
        return self.feature_extractor.covariates

    @property
    def digest(self) -> str:
        """Of what a model's numbers mean: its features, in order, the bins of its laws, what is told of each step.

        Not of the features' scalers: an adapter may have those of its ticker."""
        features = self.feature_extractor
        meaning: list[Any] = [features.names, self.tokenizer.bin_edges, self.tokenizer.law_edges]
        if (features.ahead or {}).get(IN_DIGEST):
            meaning.append([features.ahead, features.seasons, features.known_covariates])
        return hashlib.blake2b(json.dumps(meaning, sort_keys=True).encode(), digest_size=8).hexdigest()

    @property
    def fitted_through(self) -> str | None:
        """The fence (ISO date): no later bar shaped the scalers or the bins."""
        return self.feature_extractor.fitted_through

    def fit(
        self, bars: Bars, through: Any = None, *, market: Bars | None = None, strict: bool = False
    ) -> "TsfLlmProcessor":
        """Learns scalers and return bins from the bars up to and including `through`, by default all of them.

        `market` is the bars of an index, or of a universe, for features that read them. Of several tickers, those
        without an honest reading or of another frequency than most are skipped, and a warning names them.

        Raises:
            ValueError: for bars without an honest reading, or too few before the fence: of all tickers or, if
                `strict`, of one.
        """
        tickers = self.feature_extractor.check(bars, strict=strict)
        self.feature_extractor.fit(tickers, through, market=market)
        self._fit_bins(tickers, through)
        return self

    def fit_encode(
        self, bars: Bars, through: Any = None, *, market: Bars | None = None, strict: bool = False
    ) -> list[EncodedSeries]:
        """`fit`, then `encode` of the same bars, those after the fence as well: to the same bits, for half the work.

        Each bar is checked and each feature computed once; the fit still reads nothing after the fence.

        Raises:
            ValueError: as `fit` and `encode`.
        """
        tickers = self.feature_extractor.check(bars, strict=strict)
        encoded = self.feature_extractor.fit_encode(tickers, through, market=market)
        self._fit_bins(tickers, through)
        return encoded

    def _fit_bins(self, tickers: CheckedBars, through: Any) -> None:
        if self.feature_extractor.reach is None:
            closes = [one[self.kind.value].to_numpy() for one in bars_through(tickers, through, self.kind).values()]
            moves = [self.feature_extractor.volatility(close) for close in closes]
            returns = np.concatenate([standard_return(*move) for move in moves])
            if self.feature_extractor.steps_ahead and np.isfinite(returns).sum() < self.tokenizer.n_bins:
                returns = np.linspace(-3, 3, 10 * self.tokenizer.n_bins)  # too few, but the series form reads no bins
            self.tokenizer.fit(returns)
            far = [h for h in self.horizons or HORIZONS if h > 1]
            ahead = (
                horizon_returns(self.kind.additive(close), sigma, far)
                for close, (_, sigma) in zip(closes, moves, strict=True)
            )
            returns_NH = np.concatenate([*ahead])
            if self.horizons is None:
                enough = np.isfinite(returns_NH).sum(axis=0) >= self.tokenizer.n_bins
                if left_out := [h for h, kept in zip(far, enough, strict=True) if not kept]:
                    logger.warning(f"too few bars for the law of {left_out} bars ahead: paths will say what follows")
                returns_NH, far = returns_NH[:, enough], [h for h, kept in zip(far, enough, strict=True) if kept]
            self.tokenizer.fit_laws(returns_NH, far)

    def encode(
        self, bars: Bars, as_of: Any = None, *, market: Bars | None = None, strict: bool = False
    ) -> list[EncodedSeries]:
        """Every bar of every ticker, up to and including `as_of`; see `TsfLlmFeatureExtractor.encode`."""
        return self.feature_extractor.encode(bars, as_of, market=market, strict=strict)

    def windows(self, series: EncodedSeries, origins: np.ndarray) -> dict[str, np.ndarray]:
        """The `context_length` bars that end at each origin; see `EncodedSeries.windows`."""
        return series.windows(origins, self.feature_extractor.context_length)

    def training_dataset(
        self,
        bars: Bars,
        horizon: int,
        after: Any = None,
        through: Any = None,
        market: Bars | None = None,
        *,
        head: Head = "causal_lm",
        stride: int | None = None,
    ) -> Any:
        """Windows with labels as a plain `datasets.Dataset`, for `Trainer` as it comes and `default_data_collator`.

        Labels lie in (after, through]; no bar after `through` is read. Bars before `after` are context alone.

        Args:
            head: `causal_lm`, or the `prediction_type` of a TsfLlmForPrediction, which decides the labels.
            stride: bars between windows of a ticker; by default `horizon`. All windows lie in memory, but for those of
                the series form (`steps_ahead`), which are cut when they are read, and whose horizon is its own.

        Raises:
            ImportError: datasets is not installed.
            ValueError: not fitted, an unknown head, dates in the wrong order, or no window fits.
        """
        stride = horizon if stride is None else stride
        if min(horizon, stride) < 1 or head not in HEADS:
            raise ValueError(f"horizon={horizon}, stride={stride}, head={head!r}: give 1 or more, and one of {HEADS}")
        if self.feature_extractor.reach is not None:
            raise ValueError("the original has a target of its own: train its weights on its .npz sequences")
        self.feature_extractor.check_head(None if head == "causal_lm" else head, horizon)
        if after is not None and through is not None and day_end(after) >= day_end(through):
            raise ValueError(f"after={after} does not lie before through={through}: no label lies between them")
        length = self.feature_extractor.context_length
        options: dict[str, Any] = {"context_length": length, "horizon": horizon, "stride": stride, "head": head}
        encoded = self.encode(bars, through, market=market)
        if self.feature_extractor.steps_ahead is not None:
            return lazy_dataset(encoded, self.feature_extractor, stride=stride, after=after, through=through)
        parts = [examples(one, self.tokenizer, **options, kind=self.kind, after=after) for one in encoded]
        if not (found := [part for part in parts if part is not None]):
            raise ValueError(
                f"no window of {horizon} step(s) has its labels in (after={after}, through={through}]: move the dates "
                "or give more history"
            )
        return dataset_of(found)

    def __call__(
        self,
        bars: Bars,
        as_of: Any = None,
        return_tensors: str | None = "pt",
        *,
        market: Bars | None = None,
        strict: bool = False,
        joint: bool = False,
        horizon: int | None = None,
    ) -> BatchFeature:
        """The last window of every ticker, up to and including `as_of`, beside the market as of then.

        In series form a series whose known covariates are unknown for one of the next `horizon` steps, by default all,
        is skipped.

        Returns:
            `past_values [B,T,F]`, `attention_mask [B,T]`, `input_ids [B,T]` (bar placeholders) for the model, and
            `scale [B]` (sigma at the origin), `last_close [B]`, `mean_volume [B]` (NaN where none is known), `ticker`,
            `origin`, `bar_times` (lists) for `decode`;
            in series form also what `Ahead.inputs` tells of the steps ahead, and with known covariates `step_times`,
            the times of the rows to come, which date the steps;
            `skipped`: ticker -> why it has no window, which a warning says too. If `joint`, `loading [B]` too: sampled
            paths of tickers that share an origin then move together, see `dependence_tsf_llm`.

        Raises:
            ValueError: not fitted; bars without an honest reading, or too few of them: of all tickers or, if `strict`,
                of one.
        """
        tickers = self.feature_extractor.check_known(bars, strict=strict)
        tickers = tickers.like(tickers)
        encoded = self.feature_extractor.encode(tickers, as_of, market=market, last_window=True)
        for series in encoded:
            if not len(series.origins()):
                tickers.skip(
                    series.ticker,
                    f"{series.ticker}: fewer than {MIN_BARS - 1} returns are known (gaps have none), or its value "
                    "never changed: give more history",
                )
        answered = [(series, series.origins()[-1:]) for series in encoded if series.ticker not in tickers.skipped]
        if self.feature_extractor.ahead is not None and answered:
            answered = self._told_of_all_steps(answered, tickers, horizon)
        refuse_if_none_left(answered, tickers.skipped)
        batch = self.batch(answered, return_tensors=return_tensors, loading=loadings(answered) if joint else None)
        tickers.settle()
        batch["skipped"] = dict(tickers.skipped)
        return batch

    def _told_of_all_steps(
        self, answered: list[tuple[EncodedSeries, np.ndarray]], tickers: CheckedBars, horizon: int | None
    ) -> list[tuple[EncodedSeries, np.ndarray]]:
        """Those whose known covariates are known for all steps; the others are skipped."""
        features = self.feature_extractor
        steps = min(horizon or features.steps_ahead or 1, features.steps_ahead or 1)
        ahead, origins = Ahead.of_requests(answered, features)
        counts = ahead.steps_known(origins)
        for (series, _), count in zip(answered, counts, strict=True):
            if count < steps:
                tickers.skip(
                    series.ticker,
                    f"{series.ticker}: {', '.join(features.known_covariates)} must be known {steps} steps ahead, and "
                    f"step {count + 1} is not: give the rows to come, with these and without a value",
                )
        return [one for one, count in zip(answered, counts, strict=True) if count >= steps]

    def batch(
        self,
        requests: Sequence[tuple[EncodedSeries, np.ndarray]],
        return_tensors: str | None = "pt",
        *,
        loading: np.ndarray | None = None,
    ) -> BatchFeature:
        """Windows of encoded series at given origins; the fields are those of `__call__`.

        `loading` [B] is that of each origin, for joint paths: `dependence_tsf_llm.loadings` of all tickers."""
        requests = [(series, np.asarray(origins)) for series, origins in requests if len(origins)]
        if not requests:
            raise ValueError("no origin to forecast from: give more history or other dates")
        longest = max(int(origins.max()) + 1 for _, origins in requests)
        length = min(self.feature_extractor.context_length, longest)
        parts = [series.windows(origins, length) for series, origins in requests]
        arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        arrays["input_ids"] = np.full(arrays["attention_mask"].shape, self.tokenizer.bar_token_id)
        calm = ((series.sigma if series.calm is None else series.calm, origins) for series, origins in requests)
        arrays["scale"] = np.concatenate([sigma[origins] for sigma, origins in calm])
        arrays["last_close"] = np.concatenate([series.close[origins] for series, origins in requests])
        traded = (np.full(len(one.close), np.nan) if one.volume is None else one.volume for one, _ in requests)
        arrays["mean_volume"] = np.concatenate(
            [mean_volume(volume)[origins] for volume, (_, origins) in zip(traded, requests, strict=True)]
        )
        told: dict[str, Any] = {}
        if self.feature_extractor.ahead is not None:
            ahead, origins = Ahead.of_requests(requests, self.feature_extractor)
            arrays |= ahead.inputs(origins, arrays["attention_mask"] > 0, arrays["scale"])
            if ahead.covariates:
                told["step_times"] = list(ahead.steps.times(origins, ahead.horizon))
        if loading is not None:
            arrays["loading"] = loading
        batch = BatchFeature(arrays, tensor_type=return_tensors)
        batch["ticker"] = [series.ticker for series, origins in requests for _ in origins]
        batch["origin"] = [pd.Timestamp(stamp) for series, origins in requests for stamp in series.timestamp[origins]]
        batch["bar_times"] = [series.timestamp[: row + 1] for series, origins in requests for row in origins]
        batch.update(told)
        return batch

    # --- prices out

    def path_returns(self, tokens: np.ndarray | torch.Tensor, batch: BatchFeature) -> np.ndarray:
        """Sampled return tokens `[B,K,P]` -> cumulative log returns from the origin, float64 `[B,K,P]`."""
        standard = self.tokenizer.decode_returns(np.asarray(tokens))
        return np.cumsum(standard, axis=-1) * np.asarray(batch["scale"], dtype=float)[:, None, None]

    def horizon_law(self, shares: np.ndarray, batch: BatchFeature, horizon: int) -> PiecewiseLaw:
        """Shares of the bins of a horizon `[B,n_bins]` -> the law of the cumulative log return (difference) to it."""
        unit = np.asarray(batch["scale"], dtype=float) * np.sqrt(horizon)
        return PiecewiseLaw.of_bins(shares, self.tokenizer.edges_of(horizon), unit)

    def log_returns(self, values: np.ndarray | torch.Tensor, batch: BatchFeature) -> np.ndarray:
        """A head's numbers `[B,P]` or `[B,P,Q]` -> cumulative log returns from the origin, of the same shape."""
        return self.feature_extractor.log_returns(np.asarray(values, dtype=float), batch)

    def inverse_transform(self, values: np.ndarray | torch.Tensor, batch: BatchFeature) -> np.ndarray:
        """A head's numbers `[B,P]` or `[B,P,Q]`, see `log_returns` -> prices of the same shape."""
        log_returns = self.log_returns(values, batch)
        last_close = np.asarray(batch["last_close"], dtype=float).reshape(-1, *[1] * (log_returns.ndim - 1))
        return self.kind.level(last_close, log_returns)

    def decode(
        self,
        cumulative: np.ndarray,
        batch: BatchFeature,
        quantile_levels: Sequence[float] = FORECAST_QUANTILES,
        calendar: str | None = None,
    ) -> pd.DataFrame:
        """Sampled cumulative log returns (differences) `[B,K,P]` -> one row per origin and step, in price units.

        Columns: ticker, origin, step, timestamp, mean, q05, q10, q25, q50, q75, q90, q95 (or those of the given
        levels), p_up, where `p_up` is the share of paths above the last close, ties counted half. The `calendar`, by
        default the processor's own, dates the steps; see `next_timestamps`.
        """
        last_close = np.asarray(batch["last_close"], dtype=float)[:, None, None]
        prices_BKP = self.kind.level(last_close, cumulative)
        quantiles_QBP = np.quantile(prices_BKP, quantile_levels, axis=1, method="weibull")  # unbiased coverage
        if self.feature_extractor.is_bounded:  # of quantiles alike: no order is lost
            prices_BKP, quantiles_QBP = map(self.feature_extractor.admissible, (prices_BKP, quantiles_QBP))
            cumulative = prices_BKP - last_close
        frame = self._empty_forecast(batch, cumulative.shape[-1], calendar or self.feature_extractor.calendar)
        columns = {"mean": prices_BKP.mean(axis=1).ravel()}
        for level, values in zip(quantile_levels, quantiles_QBP, strict=True):
            columns[quantile_column(level)] = values.ravel()
        columns["p_up"] = ((cumulative > 0).mean(axis=1) + 0.5 * (cumulative == 0).mean(axis=1)).ravel()
        return pd.concat([frame, pd.DataFrame(columns)], axis=1)

    def decode_laws(
        self,
        laws: Sequence[PiecewiseLaw],
        batch: BatchFeature,
        quantile_levels: Sequence[float] = FORECAST_QUANTILES,
        calendar: str | None = None,
    ) -> pd.DataFrame:
        """The law of each step -> the rows of `decode`, exact."""
        last_close = np.asarray(batch["last_close"], dtype=float)
        frame = self._empty_forecast(batch, len(laws), calendar or self.feature_extractor.calendar)

        def stacked(columns: Iterable[np.ndarray]) -> np.ndarray:
            return np.stack([*columns], axis=1).ravel()

        def possible(change: np.ndarray) -> np.ndarray:
            return self.feature_extractor.admissible(self.kind.level(last_close[:, None], change))

        columns = {"mean": stacked(law.expectation(possible) for law in laws)}
        prices_PBQ = [possible(law.quantile(quantile_levels)) for law in laws]
        for i, level in enumerate(quantile_levels):
            columns[quantile_column(level)] = stacked(prices[:, i] for prices in prices_PBQ)
        columns["p_up"] = stacked(self._p_up(law, last_close) for law in laws)
        return pd.concat([frame, pd.DataFrame(columns)], axis=1)

    def _p_up(self, law: PiecewiseLaw, last_close: np.ndarray) -> np.ndarray:
        """That of the nearest possible values `[B]`, of which those that stay count half, as in `decode`."""
        features = self.feature_extractor
        if not features.is_bounded:
            return law.p_up
        least = np.full(len(last_close), 0.5 if features.integer else 0.0)  # change that is seen
        falls = np.where(features.nonnegative & (last_close <= 0), 0.0, law.cdf(-least))
        return (2.0 - law.cdf(least) - falls) / 2

    def _empty_forecast(self, batch: BatchFeature, horizon: int, calendar: str | None) -> pd.DataFrame:
        B = len(batch["ticker"])
        known: dict[bytes, pd.DatetimeIndex] = {}  # tickers of one market mostly share their last times
        past = [recent_times(times) for times in batch["bar_times"]]
        keys = [times.tobytes() for times in past]
        for key, times in zip(keys, past, strict=True):
            if key not in known:
                known[key] = next_timestamps(times, horizon, calendar)
        stamps = [known[key] for key in keys]
        if "step_times" in batch:
            stamps = [pd.DatetimeIndex(times[:horizon]).as_unit(stamps[0].unit) for times in batch["step_times"]]
        frame = pd.DataFrame({"ticker": np.repeat(batch["ticker"], horizon)})
        frame["origin"] = pd.DatetimeIndex(batch["origin"]).repeat(horizon)
        frame["step"] = np.tile(np.arange(1, horizon + 1), B)
        frame["timestamp"] = stamps[0].append(stamps[1:])
        return frame

    # --- the proof

    def audit(
        self,
        bars: Bars,
        seed: int = 0,
        *,
        market: Bars | None = None,
        cuts: int | Literal["all"] | None = None,
        strict: bool = False,
    ) -> dict[str, Any]:
        """Prefix invariance of every feature of this processor, and the canaries; see `audit_features`."""
        extractor = self.feature_extractor
        return audit_features(
            bars,
            seed=seed,
            cuts=cuts,
            compute=extractor.raw_features,
            market=bars if market is None and extractor.reads_market else market,
            kind=self.kind,
            past_covariates=extractor.past_covariates,
            known_covariates=extractor.known_covariates,
            strict=strict,
        )


TsfLlmProcessor.register_for_auto_class()

__all__ = ["TsfLlmProcessor"]

"""The windows that are explained, and what the model says of them when a part of what it reads is changed.

Design choices:
* What is explained is the first forecast of a model: one step ahead, or the only one that the original's weights know;
  of a head any step that is asked for.
* The loss is the CRPS of the exact law, so no sampling noise hides a small effect; of a single number it is the
  absolute error.
* Dates are drawn, not windows: all tickers of a date are read together, as an interval over dates needs them.

Shapes: n windows, T bars of each, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature

from ...bars_tsf_llm import Kind
from ...feature_extraction_tsf_llm import EncodedSeries
from ...pipeline_tsf_llm import SERIES_INPUTS, TsfLlmPipeline
from ..baselines.naive import naive_scale
from ..distributions import Piecewise, Quantiles, Samples
from ..walk_forward import pick_origins

WINDOWS_AT_ONCE = 256
Exact = Piecewise | Quantiles | Samples  # a law that is known, of a single number both samples
TREND_BARS = 20


@dataclass(frozen=True)
class Probe:
    """Windows with their outcomes. Losses are in percent of price, of a plain series in units known at the origin."""

    pipe: TsfLlmPipeline
    batch: BatchFeature
    outcome: np.ndarray  # [n] cumulative log return, or difference in units of `unit`
    unit: np.ndarray  # [n]
    sigma: np.ndarray  # [n] volatility known at the origin
    trend: np.ndarray  # [n] return over the last `TREND_BARS` bars, NaN where it is unknown
    requests: list[tuple[EncodedSeries, np.ndarray]]
    horizon: int

    @classmethod
    def of(
        cls,
        pipe: TsfLlmPipeline,
        series: Sequence[EncodedSeries],
        *,
        start: Any = None,
        end: Any = None,
        most: int,
        seed: int = 0,
        step: int = 1,
    ) -> "Probe":
        """Windows of at most `most` dates of [start, end], drawn by the seed, and their outcomes `step` bars ahead.

        Raises:
            ValueError: a model of classes, no outcome in the period, or a step that the model does not answer at once.
        """
        if not pipe.model.can_generate() and pipe.model.config.prediction_type == "classification":
            raise ValueError(
                "a classification model has no return to score: explain a causal LM, quantile or regression model"
            )
        last = 1 if pipe.model.can_generate() else pipe.model.config.prediction_length
        kind, reach = pipe.processor.kind, pipe.processor.feature_extractor.reach
        if not 1 <= step <= (1 if reach else last):
            raise ValueError(
                f"step={step}: of this model step 1 is explained" + (f", or one up to {last}" * (last > 1))
            )
        horizon = reach or step
        origins = pick_origins(series, start, end, horizon, 1)
        times = np.unique(np.concatenate([one.timestamp[rows] for one, rows in zip(series, origins, strict=True)]))
        drawn = np.random.default_rng(seed).permutation(times)[:most]
        kept = [(one, rows[np.isin(one.timestamp[rows], drawn)]) for one, rows in zip(series, origins, strict=True)]
        kept = [(one, rows) for one, rows in kept if len(rows)]
        unit = np.concatenate([_unit(one, rows, kind) for one, rows in kept])
        ahead = [kind.change(one.ahead(rows, horizon)[:, -1], one.close[rows]) for one, rows in kept]
        before = [kind.change(one.close[rows], one.close[np.maximum(rows - TREND_BARS, 0)]) for one, rows in kept]
        sigma = np.concatenate([one.sigma[rows] for one, rows in kept])
        outcome = np.concatenate(ahead) / unit
        return cls(pipe, pipe.processor.batch(kept), outcome, unit, sigma, np.concatenate(before), kept, horizon)

    def at_last_bars(self, series: Sequence[EncodedSeries]) -> "Probe":
        """The same of the last bar of each ticker that can be forecast from, whose outcome is not known yet."""
        kept = [(one, rows[-1:]) for one in series if len(rows := one.origins())]
        unit = np.concatenate([_unit(one, rows, self.pipe.processor.kind) for one, rows in kept])
        return replace(self, batch=self.pipe.processor.batch(kept), unit=unit, outcome=np.full(len(unit), np.nan))

    def encoded_as(self, series: Sequence[EncodedSeries]) -> "Probe":
        """The same windows of the same bars, encoded in another way."""
        by_name = {one.ticker: one for one in series}
        return replace(
            self, batch=self.pipe.processor.batch([(by_name[one.ticker], rows) for one, rows in self.requests])
        )

    @property
    def dates(self) -> np.ndarray:
        """Of the origins, `[n]`."""
        return np.array(self.batch["origin"], dtype="datetime64[ns]")

    @property
    def loss_name(self) -> str:
        return "crps" if self.pipe.samples_paths else "absolute_error"

    def law(
        self,
        past_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **changed: torch.Tensor,
    ) -> Exact:
        """The forecasts, of other inputs where they are given; bars that a mask hides leave the others' places alone.

        Hidden bars would otherwise make earlier ones look nearer than they are.
        """
        given = {"past_values": past_values, "attention_mask": attention_mask, **changed}
        inputs = {name: self.batch[name] if given.get(name) is None else given[name] for name in self.inputs}
        parts = [
            self._forward({name: value[i : i + WINDOWS_AT_ONCE] for name, value in inputs.items()}, i)
            for i in range(0, len(inputs["attention_mask"]), WINDOWS_AT_ONCE)
        ]
        answer = np.concatenate(parts)
        if self.pipe.model.can_generate():
            return Piecewise.like(self.pipe.processor.horizon_law(answer, self.batch, 1)).divided(self.unit)
        answer = self.pipe.processor.log_returns(answer, self.batch)[:, self.horizon - 1] / self._per_row(answer)
        if self.pipe.samples_paths:
            return Quantiles(answer, np.asarray(self.pipe.model.config.quantiles))
        return Samples(np.repeat(answer[:, None], 2, axis=1))

    def loss(self, *changed: torch.Tensor | None, **others: torch.Tensor) -> np.ndarray:
        """Of each forecast, `[n]`; arguments as those of `law`."""
        return self.law(*changed, **others).crps(self.outcome)

    @property
    def inputs(self) -> list[str]:
        """Names of what the model reads."""
        own = ("input_ids",) if self.pipe.model.can_generate() else SERIES_INPUTS
        return ["past_values", "attention_mask", *(name for name in own if name in self.batch)]

    def _per_row(self, answer: np.ndarray) -> np.ndarray:
        return self.unit.reshape(-1, *[1] * (answer.ndim - 2))

    @torch.inference_mode()
    def _forward(self, inputs: dict[str, torch.Tensor], first: int) -> np.ndarray:
        """Probabilities of bins `[b,n_bins]`, or what a head says, of the windows from the `first` on."""
        model = self.pipe.model
        inputs = {name: value.to(model.device) for name, value in inputs.items()}
        if not model.config.patch_length:
            seen = self.batch["attention_mask"][first : first + WINDOWS_AT_ONCE]
            inputs["position_ids"] = (seen.cumsum(-1) - 1).clamp(min=0).to(model.device)
        if not model.can_generate():
            return model(**inputs).prediction.float().cpu().numpy().astype(float)
        out = model(**inputs, use_cache=False, logits_to_keep=1)
        return out.logits[:, 0].double()[:, : self.pipe.processor.tokenizer.n_bins].softmax(-1).cpu().numpy()


def _unit(one: EncodedSeries, rows: np.ndarray, kind: Kind) -> np.ndarray:
    """In which a loss is told, `[n]`: one percent, or the mean absolute change known at the origin."""
    return naive_scale(one.close, rows, 1, kind) if kind.unit_scores else np.full(len(rows), 0.01)

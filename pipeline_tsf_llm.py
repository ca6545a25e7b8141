"""The one inference path: a DataFrame of bars in, a DataFrame of price forecasts out.

Design choices:
* The command line, the evaluation and `pipeline("time-series-forecasting", ...)` all forecast through this class.
* Steps up to the model's last horizon have laws, exact, from one forward pass; nothing is sampled for them.
* Of paths the context is read once, for its laws too; its cache is then shared by all of them, see
  `decoding_tsf_llm`. They take the laws' values and keep their own ranks.
* Every path has its own uniform numbers, drawn from (seed, ticker, origin): a forecast can be reproduced, and does not
  depend on which other tickers share its batch. A batch with a `loading` mixes them with numbers of (seed, origin):
  paths k of all tickers are then one joint draw, and each ticker keeps its law.
* Uniform numbers are stratified: of K paths one falls into each K-th of every step (a Latin hypercube, McKay et al.
  1979), and paths that have come as far take numbers that lie apart (array-RQMC, L'Ecuyer, Lecot, Tuffin 2008). Each
  number is uniform whatever came before, so every path has the model's law; fewer paths say as much.

Shapes: B origins, K sampled paths, P steps, Q quantiles, V vocabulary.
"""

from .versions_tsf_llm import CACHE  # first: names below are missing where transformers is too old

# isort: split
import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoModelForTimeSeriesPrediction
from transformers.feature_extraction_utils import BatchFeature
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline
from transformers.utils import logging

from .bars_tsf_llm import day_end
from .calendars_tsf_llm import check_calendar
from .calibration_tsf_llm import CHOICES, Calibration, stored
from .columns_tsf_llm import as_frame
from .decoding_tsf_llm import can_share, going_on
from .emission_tsf_llm import BarPaths, bar_uniforms, bars_around
from .feature_extraction_tsf_llm import with_progress
from .laws_tsf_llm import PiecewiseLaw, every_step, with_laws
from .processing_tsf_llm import FORECAST_QUANTILES, TsfLlmProcessor, quantile_column

logger = logging.get_logger(__name__)
TASK = "time-series-forecasting"
ROWS_AT_ONCE = 2048  # paths decoded together: bounds memory, not results
LAWS_AT_ONCE = 256  # windows read together
SERIES_INPUTS = ("past_target", "season_values", "ahead_values", "static_ids", "zero_level")
MOST_STEPS = 100_000  # ahead
ALIASES = {"prediction_length": "horizon", "num_samples": "samples"}  # as Chronos and transformers call them -> ours
COLUMN_NAMES = ("id_column", "timestamp_column", "target_column")


class TsfLlmPipeline(Pipeline):
    """`pipe(bars, horizon=5)` -> one row per ticker and step, in price units.

    Args of a call:
        bars: DataFrame or `datasets.Dataset`: `timestamp, [ticker,] open, high, low, close, volume`, under these or
            other usual names (`columns_tsf_llm`), and the covariates that the model was trained on; or a list of them
            for a list of answers.
        horizon: steps ahead; by default the model's `prediction_length`. The original's weights know one horizon, two
            bars as published; steps before it lie on the straight line to it.
        samples: paths per ticker, for steps beyond the model's last horizon.
        strict: refuse bars of which one ticker cannot be forecast. By default it is skipped: a warning says why, and
            so does `skipped` in the `attrs` of the answer.
        seed: of the paths.
        calibration: `auto` (the default) uses the processor's own where `tsf-llm calibrate` kept one, `on` refuses
            where there is none for all steps, `off` leaves the model's law as it is.
        as_of: forecast as if nothing after this date were known; by default from the last bar.
        market: bars of an index or of a universe, for a model whose features read them; without it they are masked.
        calendar: exchange whose sessions date the steps, as "XNYS" or "24/7"; by default the processor's own.
        quantile_levels: which quantiles, between 0 and 1; by default 0.05, 0.1, 0.25, 0.5, 0.75, 0.9 and 0.95, in
            columns `q05` to `q95`.
        id_column, timestamp_column, target_column: what the bars call `ticker` (of a plain series `series_id`),
            `timestamp` and `close` (`value`). The answer calls the first two by the same names.
        prediction_length, num_samples: other names of `horizon` and `samples`, see `ALIASES`.

    All but the bars may be given to the constructor (`pipeline(..., horizon=5)`), for every call. Frames of a list are
    forecast one by one, whatever `batch_size` says: a frame with many tickers is the batch.

    Raises:
        ValueError: for bars that the processor refuses, or a horizon that the model cannot reach.
    """

    model: Any  # TsfLlmForCausalLM or TsfLlmForPrediction
    processor: TsfLlmProcessor
    _load_processor: Any = True
    _load_tokenizer: Any = False
    _load_feature_extractor: Any = False
    _load_image_processor: Any = False

    def __init__(self, model: Any, processor: TsfLlmProcessor, **kwargs: Any):
        super().__init__(model=model, processor=processor, **kwargs)
        expected, given = model.config.num_features, len(processor.feature_extractor.names)
        if expected != given:
            raise ValueError(
                f"the processor gives {given} features, the model wants {expected}: load both from one folder"
            )
        if model.can_generate() and model.config.vocab_size != processor.tokenizer.vocab_size:
            raise ValueError(
                f"the processor has {processor.tokenizer.vocab_size} tokens, the model {model.config.vocab_size}: "
                "load both from one folder"
            )
        if model.can_generate():
            for horizon in model.config.far_horizons:
                processor.tokenizer.edges_of(horizon)
        if model.config.processor_digest not in (None, processor.digest):
            raise ValueError(
                "the processor has other features or bins than that of the model's training: load both from one folder"
            )
        prediction_type = None if model.can_generate() else model.config.prediction_type
        processor.feature_extractor.check_head(prediction_type, model.config.prediction_length)
        told = processor.feature_extractor.series_fields()
        if (model.config.patch_length is not None) != bool(told) or any(
            getattr(model.config, name) != value for name, value in told.items()
        ):
            raise ValueError(
                "model and processor differ in what they know of the steps ahead: load both from one folder"
            )
        self.model.eval()

    def __call__(self, bars: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """transformers' own, for which a streamed `datasets` table would be a list of its rows."""
        if isinstance(bars, list | tuple) and not bars:
            raise ValueError("an empty list of bars: give a DataFrame, or a list of one or more")
        return super().__call__(as_frame(bars) if hasattr(bars, "to_pandas") else bars, *args, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        """Only what is given here: a call's arguments go over those of the constructor."""
        for alias, name in ALIASES.items():
            if alias in kwargs:
                if name in kwargs:
                    raise ValueError(f"{name} and {alias} are two names of one thing: give one of them")
                kwargs[name] = kwargs.pop(alias)
        forward_names = {"horizon", "samples", "seed", "calibration"}
        steps = [{"as_of", "market", "strict", "horizon"}, forward_names, {"quantile_levels", "calendar"}]
        if unknown := sorted(kwargs.keys() - set().union(*steps) - {*COLUMN_NAMES}):
            known = sorted(set().union(*steps) | {*COLUMN_NAMES})
            raise ValueError(f"unknown argument(s) {unknown}: use {', '.join(known)}")
        for name in ("horizon", "samples"):
            if kwargs.get(name) is not None and kwargs[name] < 1:
                raise ValueError(f"{name}={kwargs[name]}: must be 1 or more")
        check_calendar(kwargs.get("calendar"), needed=True)
        check_choice(kwargs.get("calibration", "auto"))
        levels = kwargs.get("quantile_levels", FORECAST_QUANTILES)
        if not len(levels) or not all(0 < level < 1 for level in levels) or len({*levels}) < len(levels):
            raise ValueError(
                f"quantile_levels={list(levels)}: give distinct levels between 0 and 1, as [0.1, 0.5, 0.9]"
            )
        preprocess, forward, postprocess = ({name: kwargs[name] for name in kwargs.keys() & step} for step in steps)
        columns = {name: kwargs[name] for name in COLUMN_NAMES if kwargs.get(name) is not None}
        return preprocess | columns, forward, postprocess | columns

    def preprocess(  # type: ignore[override]
        self,
        bars: pd.DataFrame,
        as_of: Any = None,
        market: Any = None,
        strict: bool = False,
        joint: bool = False,
        horizon: int | None = None,
        **columns: str,
    ) -> Any:
        options: dict[str, Any] = {"as_of": as_of, "market": market, "strict": strict, "joint": joint}
        batch = self.processor(self._renamed(bars, columns), **options, horizon=horizon)
        cutoff = self.model.config.trained_through
        if cutoff is not None and min(batch["origin"]) <= day_end(cutoff):
            logger.warning_once(
                f"Forecasts from {cutoff} or earlier are not out of sample: the model has seen prices up to then."
            )
        return {"batch": batch}

    def _forward(self, inputs: dict[str, Any], **settings: Any) -> dict[str, Any]:  # type: ignore[override]
        """`batch_size` collects frames in a list. They differ in tickers and bars: together they would need padding,
        which changes the last bits of an answer."""
        batch = inputs["batch"]
        if isinstance(batch, list):
            return {"answer": [self._answer(one, **settings) for one in batch]}
        return {"answer": self._answer(batch, **settings)}

    def _answer(
        self,
        batch: BatchFeature,
        horizon: int | None = None,
        samples: int = 256,
        seed: int = 0,
        calibration: str = "auto",
        laws: list[PiecewiseLaw] | None = None,
    ) -> dict[str, Any]:
        """`laws` are those of the horizon, where a caller that joins batches has them already."""
        horizon = horizon or self.reach
        calibrated = self.calibration(calibration, horizon)
        if not self.model.can_generate():
            return self._answer_of_head(batch, horizon, samples, calibrated)
        answer: dict[str, Any] = {"batch": batch}
        if horizon > self.law_reach:
            if self.law_reach:
                logger.warning_once(
                    f"This model names the law of steps up to {self.law_reach}: those beyond come from sampled paths."
                )
            self.check_size(len(batch["ticker"]), batch["past_values"].shape[1], horizon=horizon, samples=samples)
            paths, own_laws = self._sample(batch, horizon=horizon, samples=samples, seed=seed)
            answer["paths"], laws = paths if calibrated is None else calibrated(paths), laws or own_laws
        answer["laws"] = calibrated_laws(self.laws(batch, horizon) if laws is None else laws, calibrated)
        return answer

    def _answer_of_head(
        self, batch: BatchFeature, horizon: int, samples: int, calibrated: Calibration | None
    ) -> dict[str, Any]:
        """With `p_zero` `[B,P]` where the model gives zero a probability of its own."""
        if self.samples_paths:
            self.check_size(len(batch["ticker"]), batch["past_values"].shape[1], horizon=horizon, samples=samples)
        prediction, p_zero = self._head(batch, horizon)
        answer: dict[str, Any] = {"batch": batch} | ({} if p_zero is None else {"p_zero": p_zero})
        if not self.samples_paths:
            return answer | {"prediction": prediction}
        paths = self._spread_quantiles(prediction, batch, samples, p_zero)
        return answer | {"paths": paths if calibrated is None else calibrated(paths), "laws": []}

    def calibration(self, choice: str, horizon: int) -> Calibration | None:
        """What moves and widens the laws of the steps, if any; see `calibration` of a call.

        Raises:
            ValueError: an unknown choice, or `on` where none was kept or it has fewer steps.
        """
        check_choice(choice)
        usable = self.samples_paths and not self.has_own_zero and choice != "off"
        kept = stored(self.processor.calibration) if usable else None
        if choice == "on" and (kept is None or kept.steps < horizon):
            state = self.processor.calibration or {}
            why = f"it has {kept.steps} step(s), not {horizon}" if kept else state.get("reason", "this model has none")
            why = "this model gives zero a probability of its own" if self.has_own_zero else why
            raise ValueError(f"calibration=on, but {why}: choose auto or off, or run tsf-llm calibrate")
        return kept

    def check_size(self, rows: int, bars: int, *, horizon: int, samples: int, each: int = 24) -> None:
        """Raises ValueError, before anything is computed, for paths that this machine cannot hold.

        Paths take `each` bytes per step: a token, a uniform number and a return; those decoded together, a cache of
        their own tokens, scores and logits too. A context's cache is kept once, or copied: see `decoding_tsf_llm`.
        """
        if horizon > MOST_STEPS:
            raise ValueError(f"horizon={horizon:,}: more than {MOST_STEPS:,} steps ahead; ask for fewer")
        c, contexts = self.model.config, min(rows, max(1, ROWS_AT_ONCE // samples))
        wanted = each * rows * samples * horizon
        if self.model.can_generate():
            numbers = {"mla": c.kv_lora_rank + c.qk_rope_head_dim, "mha": 2 * c.num_attention_heads * c.v_head_dim}
            cache = numbers.get(c.attention_type, 2 * c.num_key_value_heads * c.v_head_dim) * c.num_hidden_layers
            scores = 4 * c.num_attention_heads * (bars + horizon)  # of one layer, on the way through the softmax
            own = cache * (horizon if can_share(self.model) else bars + horizon) + scores + 9 * c.vocab_size
            wanted += 4 * contexts * (cache * bars + samples * own)
        if wanted > (there := memory_of_this_machine()):
            raise ValueError(
                f"{samples:,} samples x {horizon:,} steps x {rows:,} series want {wanted / 1e9:,.0f} GB, this machine "
                f"has {there / 1e9:,.0f}: lower --samples or --horizon, or forecast fewer series at once"
            )

    def _renamed(self, bars: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
        """The bars with our names of their columns.

        Raises:
            ValueError: a column that is named is not there, or ours is there beside it.
        """
        kind = self.processor.feature_extractor.series_kind
        ours = dict(zip(COLUMN_NAMES, (kind.id, "timestamp", kind.value), strict=True))
        names = {given: ours[name] for name, given in columns.items() if given != ours[name]}
        bars = as_frame(bars)
        if not columns or not isinstance(bars, pd.DataFrame):
            return bars
        if missing := [name for name in columns.values() if name not in bars]:
            raise ValueError(f"column(s) {missing} missing from {list(bars.columns)}: name one of these")
        if taken := [name for name in names.values() if name in bars]:
            raise ValueError(
                f"the bars have {', '.join(names)} and {', '.join(taken)} too: drop or rename one of them"
            )
        return bars.rename(columns=names)

    def postprocess(  # type: ignore[override]
        self,
        outputs: dict[str, Any],
        quantile_levels: Sequence[float] = FORECAST_QUANTILES,
        id_column: str = "ticker",
        timestamp_column: str = "timestamp",
        target_column: str | None = None,
        calendar: str | None = None,
    ) -> pd.DataFrame:
        frame = self._frame(outputs["answer"], quantile_levels, calendar)
        return frame.rename(columns={"ticker": id_column, "timestamp": timestamp_column})

    def _frame(self, outputs: dict[str, Any], quantile_levels: Sequence[float], calendar: str | None) -> pd.DataFrame:
        frame = self._prices(outputs, quantile_levels, calendar)
        if "p_zero" in outputs:
            frame["p_zero"] = outputs["p_zero"].ravel()
        frame.attrs["skipped"] = outputs["batch"]["skipped"]
        return frame

    def _prices(self, outputs: dict[str, Any], quantile_levels: Sequence[float], calendar: str | None) -> pd.DataFrame:
        if "prediction" not in outputs:
            return self._of_laws_and_paths(outputs, quantile_levels, calendar)
        prediction = outputs["prediction"]
        paths = prediction[:, None] if prediction.ndim == 2 else np.zeros((len(prediction), 1, prediction.shape[1]))
        frame = self.processor.decode(paths, outputs["batch"], quantile_levels, calendar)
        frame[[quantile_column(level) for level in quantile_levels]] = np.nan  # one number is no distribution
        if prediction.ndim == 2:
            frame["p_up"] = np.nan
        else:
            frame["mean"], frame["p_up"] = np.nan, (prediction[..., 2] + prediction[..., 1] / 2).ravel()
        return frame

    def _of_laws_and_paths(
        self, outputs: dict[str, Any], quantile_levels: Sequence[float], calendar: str | None
    ) -> pd.DataFrame:
        """The steps that have a law from it, the others from paths."""
        laws, batch = outputs["laws"], outputs["batch"]
        if "paths" not in outputs:
            return self.processor.decode_laws(laws, batch, quantile_levels, calendar)
        frame = self.processor.decode(outputs["paths"], batch, quantile_levels, calendar)
        if laws:
            exact = self.processor.decode_laws(laws, batch, quantile_levels, calendar)
            near, columns = frame["step"] <= len(laws), list(exact.columns[4:])
            frame.loc[near, columns] = exact[columns].to_numpy()
        return frame

    @property
    def reach(self) -> int:
        """Most steps ahead of a head, and the usual number of a causal LM."""
        return self.processor.feature_extractor.reach or self.model.config.prediction_length

    @property
    def law_reach(self) -> int:
        """Steps ahead whose law is known without sampling; 0 for folders whose models name the next token alone."""
        return max(self.model.config.horizons or [0]) if self.model.can_generate() else 0

    @property
    def samples_paths(self) -> bool:
        """Whether the model gives a distribution (token paths or quantiles), not a single number or classes."""
        return self.model.can_generate() or self.model.config.prediction_type == "quantile"

    @property
    def has_own_zero(self) -> bool:
        """Whether zero has a probability of its own (`p_zero`), which no calibration would keep."""
        return not self.model.can_generate() and self.model.config.zero_inflated

    def sample(self, batch: Any, *, horizon: int, samples: int = 256, seed: int = 0) -> np.ndarray:
        """Cumulative log returns of sampled paths, float64 `[B,K,P]`; see `processor.batch` for many origins at once.

        The values of a step with a law are its quantiles at the levels k / (K + 1); see `with_laws`. So are those of a
        quantile model, but without the order of paths. With a `loading` in the batch, path k of one ticker goes with
        path k of the others of its origin."""
        return self._sample(batch, horizon=horizon, samples=samples, seed=seed)[0]

    def _sample(self, batch: Any, *, horizon: int, **options: int) -> tuple[np.ndarray, list[PiecewiseLaw]]:
        """What `sample` and `laws` give, from one reading of the context."""
        if not self.model.can_generate():
            quantiles, p_zero = self._head(batch, horizon)
            return self._spread_quantiles(quantiles, batch, options["samples"], p_zero), []
        size, reach = max(1, ROWS_AT_ONCE // options["samples"]), min(horizon, self.law_reach)
        tokens, uniforms, laws = [], [], []
        for rows in self._chunks(batch, size, "paths"):
            found, numbers, logits = self._tokens(rows, horizon=horizon, **options)
            tokens.append(found)
            uniforms.append(numbers)
            laws.append(every_step(self.named_laws(logits, rows), reach) if reach else [])
        paths = self.processor.path_returns(np.concatenate(tokens), batch)
        joined = [PiecewiseLaw.joined(step) for step in zip(*laws, strict=True)]
        return with_laws(paths, joined, np.concatenate(uniforms)), joined

    def sample_bars(self, batch: Any, *, horizon: int, samples: int = 256, seed: int = 0) -> BarPaths:
        """Whole bars along sampled paths, whose closes are those of `sample` to the bit.

        Raises:
            ValueError: the model has no head for bars.
        """
        self.check_emits_bars()
        return self.with_bars(self.sample(batch, horizon=horizon, samples=samples, seed=seed), batch, seed=seed)

    def with_bars(self, paths: np.ndarray, batch: Any, *, seed: int = 0) -> BarPaths:
        """Bars around closes: cumulative log returns `[B,K,P]` as `sample` gives them, calibrated or not.

        The model reads each path as the tokens that it is made of, or is nearest to. Opens, wicks and volumes have
        uniform numbers of their own; see `bar_uniforms`."""
        self.check_emits_bars()
        last_close, sigma, volume = (np.asarray(batch[key], float) for key in ("last_close", "scale", "mean_volume"))
        options = {"samples": paths.shape[1], "horizon": paths.shape[2], "seed": seed}
        drawn = {"z": np.diff(paths, prepend=0.0) / sigma[:, None, None]}
        drawn["uniforms"] = bar_uniforms(batch["ticker"], batch["origin"], **options)
        size = max(1, ROWS_AT_ONCE // paths.shape[1])
        parts = np.concatenate([self._parts(rows) for rows in self._chunks({**batch, **drawn}, size, "bars")])
        close = self.processor.kind.level(last_close[:, None, None], paths)
        return bars_around(close, parts, last_close=last_close, sigma=sigma, usual_volume=volume)

    @torch.inference_mode()
    def _parts(self, batch: Any) -> np.ndarray:
        """What the bars with returns `z` `[B,K,P]` are made of, `[B,K,P,5]`."""
        device, (B, K, P) = self.model.device, batch["z"].shape
        columns = {key: batch[key].to(device) for key in ("past_values", "input_ids", "attention_mask")}
        out = self.model.model(**columns, use_cache=P > 1)
        hidden = [out.last_hidden_state[:, -1].repeat_interleave(K, 0)]
        if P > 1:
            tokens = torch.from_numpy(self.processor.tokenizer.encode_returns(batch["z"][..., :-1])).flatten(0, 1)
            paths = going_on(self.model, out[CACHE], columns["attention_mask"], paths=K)
            hidden += [paths.hidden(step) for step in tokens.to(device).T]
        z, uniforms = (torch.from_numpy(batch[key]).flatten(0, 1).to(device) for key in ("z", "uniforms"))
        return self.model.bar_head.draw(torch.stack(hidden, dim=1), z, uniforms).unflatten(0, (B, K)).cpu().numpy()

    def check_emits_bars(self) -> None:
        """Raises ValueError for a model that knows closes alone."""
        if getattr(self.model, "bar_head", None) is None:
            raise ValueError(
                "this model has no head for open, high, low and volume (emits_bars in its config): ask for closes "
                "alone, or train a causal LM on market bars"
            )

    @staticmethod
    def _chunks(batch: Any, size: int, what: str) -> Iterator[BatchFeature]:
        """Rows of a batch, some at a time, with a progress bar where they take long."""
        columns = {key: value for key, value in batch.items() if key != "skipped"}
        for i in with_progress(range(0, len(batch["ticker"]), size), what, "batch"):
            yield BatchFeature({key: value[i : i + size] for key, value in columns.items()})

    def laws(self, batch: Any, horizon: int) -> list[PiecewiseLaw]:
        """The law of the cumulative log return (difference) to each step up to `horizon` or the model's last horizon.

        From one forward pass. Of a model of tokens alone that of the next bar; one that names no bins has none."""
        horizon, laws = min(horizon, max(self.law_reach, 1)), []
        if not self.model.can_generate():
            return []
        for rows in self._chunks(batch, LAWS_AT_ONCE, "laws"):
            laws.append(every_step(self._anchors(rows), horizon))
        return [PiecewiseLaw.joined(step) for step in zip(*laws, strict=True)]

    @torch.inference_mode()
    def _anchors(self, batch: Any) -> dict[int, PiecewiseLaw]:
        """The laws that the model names: of the next bar and of its horizons."""
        columns = {key: batch[key].to(self.model.device) for key in ("past_values", "input_ids", "attention_mask")}
        out = self.model(**columns, **_adapters_of(batch), use_cache=False, logits_to_keep=1)
        return self.named_laws(self.bin_logits(out), batch)

    def bin_logits(self, out: Any) -> torch.Tensor:
        """What an answer of the model says at its last position, `[B,1+H,bins]`: of the next bar and of H horizons."""
        nearest = out.logits[:, -1:, : self.processor.tokenizer.n_bins]
        return nearest if out.law_logits is None else torch.cat((nearest, out.law_logits[:, -1]), dim=1)

    def named_laws(self, logits: torch.Tensor, batch: Any) -> dict[int, PiecewiseLaw]:
        """The laws of the horizons that `bin_logits` speaks of; of the batch only `scale` is read."""
        horizons = (1, *self.model.config.far_horizons)
        parts = zip(horizons, logits.unbind(dim=1), strict=True)
        return {h: self.processor.horizon_law(self._shares(one), batch, h) for h, one in parts}

    @staticmethod
    def _shares(logits: torch.Tensor) -> np.ndarray:
        return logits.double().softmax(-1).cpu().numpy()

    def sample_tokens(self, batch: Any, *, horizon: int, samples: int = 256, seed: int = 0) -> np.ndarray:
        """Return tokens of sampled paths, int64 `[B,K,P]`; `sample` has them as log returns, in bounded memory.

        A path depends on the seed, its ticker and its origin, and on no other row.

        Raises:
            ValueError: the model's generation config would let it sample `<pad>` or `<bar>`, which are no returns.
        """
        return self._tokens(batch, horizon=horizon, samples=samples, seed=seed)[0]

    @torch.inference_mode()
    def _tokens(
        self, batch: Any, *, horizon: int, samples: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
        """Tokens and the uniform numbers that chose them, both `[B,K,P]`, and the `bin_logits` of the context."""
        uniforms = uniforms_of(batch, samples, horizon, seed).unflatten(0, (-1, samples)).to(self.model.device)
        sampler = InverseCdf(uniforms, self._suppressed(), self._values(), joint=batch.get("loading"))
        batch = BatchFeature(dict(batch)).to(self.model.device)  # the caller's batch stays where it is
        out = self.model(**batch, use_cache=horizon > 1, logits_to_keep=1)
        tokens = [sampler.pick(out.logits[:, -1].repeat_interleave(samples, 0))]
        if horizon > 1:
            adapters = _adapters_of(batch, samples)
            paths = going_on(self.model, out[CACHE], batch["attention_mask"], paths=samples, **adapters)
        for _ in range(1, horizon):
            tokens.append(sampler.pick(paths.logits(tokens[-1])))
        found = torch.stack(tokens, dim=1).unflatten(0, (-1, samples))
        return found.cpu().numpy(), torch.stack(sampler.taken, dim=-1).cpu().numpy(), self.bin_logits(out)

    def _values(self) -> torch.Tensor:
        """The return that each token stands for, `[V]`; 0 for those that are none."""
        tokenizer = self.processor.tokenizer
        values = torch.zeros(tokenizer.vocab_size, dtype=torch.float64)
        values[: tokenizer.n_bins] = torch.from_numpy(tokenizer.decode_returns(np.arange(tokenizer.n_bins)))
        return values.to(self.model.device)

    def _suppressed(self) -> list[int]:
        """Tokens that no path takes."""
        suppressed = self.model.generation_config.suppress_tokens or []
        special = [self.processor.tokenizer.pad_token_id, self.processor.tokenizer.bar_token_id]
        if not set(special) <= set(suppressed):
            raise ValueError(
                f"generation_config.suppress_tokens={suppressed} lets the model sample <pad> or <bar>, which are no "
                f"returns: put {special} there"
            )
        return suppressed

    def predict_head(self, batch: Any, horizon: int) -> np.ndarray:
        """The head's answer for `horizon` steps: cumulative log returns `[B,P]`, `[B,P,Q]`, or classes `[B,P,3]`."""
        return self._head(batch, horizon)[0]

    @torch.inference_mode()
    def _head(self, batch: Any, horizon: int) -> tuple[np.ndarray, np.ndarray | None]:
        """`predict_head`, and the probability of zero `[B,P]` where the model has one."""
        one_target = self.processor.feature_extractor.reach is not None
        if horizon > self.reach:
            raise ValueError(
                f"horizon={horizon}, but this model was trained for {self.reach} step(s): "
                "ask for fewer, or use a causal LM, which can go on"
            )
        if one_target and horizon < self.reach:
            raise ValueError(f"horizon={horizon}, but the original's weights know {self.reach} bars ahead alone")
        if self.model.config.patch_length is None:
            parts = [self._read(batch)]
        else:  # windows are long
            parts = [self._read(rows) for rows in self._chunks(batch, LAWS_AT_ONCE, "windows")]
        prediction = torch.cat([one.prediction[:, :horizon] for one in parts]).float().cpu().numpy().astype(float)
        logits = [one.zero_logits[:, :horizon] for one in parts if one.zero_logits is not None]
        p_zero = torch.cat(logits).double().sigmoid().cpu().numpy() if logits else None
        if self.model.config.prediction_type == "classification":
            return prediction, p_zero
        log_returns = self.processor.log_returns(prediction, batch)
        return log_returns * np.arange(1, horizon + 1) / horizon if one_target else log_returns, p_zero

    def _read(self, batch: Any) -> Any:
        names = [name for name in ("past_values", "attention_mask", *SERIES_INPUTS) if name in batch]
        return self.model(**{name: batch[name].to(self.model.device) for name in names}, **_adapters_of(batch))

    def _spread_quantiles(
        self, quantiles_BPQ: np.ndarray, batch: Any, samples: int, p_zero_BP: np.ndarray | None = None
    ) -> np.ndarray:
        """Quantiles `[B,P,Q]` -> `K` evenly spaced ones `[B,K,P]`, linear in the normal score and beyond its ends.

        Those of levels up to the probability of zero, where the model has one, are zero itself.
        At levels k / (K + 1), where the Weibull quantiles of `processor.decode` find the model's own again."""
        if quantiles_BPQ.shape[-1] == 1:
            return quantiles_BPQ.transpose(0, 2, 1).repeat(samples, axis=1)
        levels, wanted = (
            torch.special.ndtri(torch.tensor(p, dtype=torch.float64)).numpy()
            for p in (list(self.model.config.quantiles), np.arange(1, samples + 1) / (samples + 1))
        )
        left = np.clip(np.searchsorted(levels, wanted) - 1, 0, len(levels) - 2)
        right = left + 1
        weight = (wanted - levels[left]) / (levels[right] - levels[left])
        spread_BPK = quantiles_BPQ[..., left] * (1 - weight) + quantiles_BPQ[..., right] * weight
        if p_zero_BP is not None:
            is_zero = np.arange(1, samples + 1) / (samples + 1) <= p_zero_BP[..., None]
            last_close = np.asarray(batch["last_close"], dtype=float)
            spread_BPK = np.where(is_zero, -last_close[:, None, None], spread_BPK)
        return spread_BPK.transpose(0, 2, 1)


def calibrated_laws(laws: Sequence[PiecewiseLaw], calibration: Calibration | None) -> list[PiecewiseLaw]:
    """The laws of steps 1, 2, ... as a calibration moves them; those beyond its steps as they are."""
    moves = [] if calibration is None else zip(calibration.shift, calibration.spread, strict=True)
    return [
        law if move is None else law.moved(*move) for law, move in zip(laws, chain(moves, repeat(None)), strict=False)
    ]


def _adapters_of(batch: Any, samples: int = 1) -> dict[str, Any]:
    """Of a batch for a mixed model (`training.adapters.mixed`), the adapter of each row or path."""
    if "adapter_names" not in batch:
        return {}
    return {"adapter_names": [name for name in batch["adapter_names"] for _ in range(samples)]}


def check_choice(calibration: str) -> None:
    """Raises ValueError for what is no way to use a calibration."""
    if calibration not in CHOICES:
        raise ValueError(f"calibration={calibration!r}: choose {', '.join(CHOICES)}")


def memory_of_this_machine() -> float:
    """Bytes; where the system does not tell, no bound."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return float("inf")


class InverseCdf:
    """Sampling with numbers of our own, float64 `[B,K,P]` in [0, 1): the token at which the distribution passes them.

    From the second step on they are dealt out by how far the K paths have come, see `spread`; `values [V]` are the
    returns of tokens. Not so for rows that `joint [B]` marks, whose paths go with those of others."""

    def __init__(self, uniforms: torch.Tensor, suppress: Sequence[int], values: torch.Tensor, joint: Any = None):
        self.uniforms, self.suppress = uniforms, torch.tensor(suppress, device=uniforms.device)
        self.values, self.come = values, torch.zeros_like(uniforms[..., 0])
        lone = torch.ones(len(uniforms)) if joint is None else torch.as_tensor(joint) == 0
        self.lone = lone.bool().to(uniforms.device)[:, None]
        self.taken: list[torch.Tensor] = []  # the numbers of the steps so far, [B,K]

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Tokens of the next step `[B*K]` from logits `[B*K,V]`."""
        u = self.uniforms[..., len(self.taken)]
        self.taken.append(torch.where(self.lone, spread(u, self.come), u) if self.taken else u)
        logits = logits.double().index_fill(1, self.suppress, -torch.inf)
        cdf = logits.softmax(-1).cumsum(-1)
        u = self.taken[-1].reshape(-1, 1) * cdf[:, -1:]
        token = torch.searchsorted(cdf, u, right=True).squeeze(-1).clamp(max=cdf.shape[-1] - 1)
        self.come = self.come + self.values[token].view_as(self.come)
        return token


def spread(u_BK: torch.Tensor, come_BK: torch.Tensor) -> torch.Tensor:
    """The numbers of each row, dealt out by rank of what has come: neighbours take numbers that lie apart.

    They lie as multiples of the golden ratio, turned by a whole number that is the first one's: each K-th is as likely
    as any other, whatever has come."""
    K = u_BK.shape[1]
    golden = torch.arange(K, dtype=torch.float64, device=u_BK.device) * ((5**0.5 - 1) / 2) % 1
    place = golden.argsort().argsort()[come_BK.argsort(dim=1, stable=True).argsort(dim=1)]
    return u_BK.sort(dim=1).values.gather(1, (place + (u_BK[:, :1] * K).long()) % K)


def uniforms_of(batch: Any, samples: int, horizon: int, seed: int) -> torch.Tensor:
    """The `path_uniforms` of a batch."""
    loading = torch.as_tensor(batch["loading"]).cpu().numpy() if "loading" in batch else None
    return path_uniforms(batch["ticker"], batch["origin"], samples, horizon, seed, loading)


def path_uniforms(
    tickers: Sequence[str],
    origins: Sequence[pd.Timestamp],
    samples: int,
    horizon: int,
    seed: int,
    loading: np.ndarray | None = None,
) -> torch.Tensor:
    """Uniform numbers `[B*K,P]` in [0, 1), stratified over the K of a row and step.

    A row's numbers depend on the seed, its ticker and its origin alone, and the first steps not on the horizon. With a
    `loading` b [B] they have the ranks of Phi(b Z + sqrt(1 - b^2) e): e is the row's own as before, Z that of its
    origin."""
    names = (f"{ticker} {origin.isoformat()}" for ticker, origin in zip(tickers, origins, strict=True))
    entropy = [[seed, zlib.crc32(name.encode())] for name in names]
    own = [stratified(*_draws(one, samples, horizon)) for one in entropy]
    if loading is not None and np.any(loading):
        common = {
            origin: stratified(*_draws([seed, zlib.crc32(origin.isoformat().encode()), 1], samples, horizon))
            for origin in {*origins}
        }
        for i, (origin, b) in enumerate(zip(origins, loading, strict=True)):
            if b != 0:
                _, within = _draws([*entropy[i], 2], samples, horizon)
                own[i] = stratified(_mixed(common[origin], own[i], float(b)), within)
    return torch.cat(own)


def _draws(entropy: list[int], samples: int, horizon: int) -> torch.Tensor:
    """Two independent numbers of each path and step, `[2,K,P]`; those of a step do not depend on later ones."""
    return torch.from_numpy(np.random.default_rng(entropy).random((horizon, 2, samples)).T.swapaxes(0, 1).copy())


def stratified(order: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    """Numbers `[K,P]` in [0, 1), ranked as `order`, one in each K-th, at the place `within` it."""
    rank = order.argsort(dim=0, stable=True).argsort(dim=0)
    return ((rank + within) / len(order)).clamp(max=1 - 2**-53)  # rounded up, it would lie past the last token


def _mixed(common: torch.Tensor, own: torch.Tensor, loading: float) -> torch.Tensor:
    """Uniform numbers whose normal scores correlate with those of `common` by the loading."""
    scores = loading * torch.special.ndtri(common) + (1 - loading**2) ** 0.5 * torch.special.ndtri(own)
    return torch.special.ndtr(scores).clamp(max=1 - 2**-53)  # rounded up, it would lie past the last token


if TASK not in PIPELINE_REGISTRY.get_supported_tasks():  # then `pipeline` takes a model and a processor as objects too
    MODELS: Any = (AutoModelForCausalLM, AutoModelForTimeSeriesPrediction)
    PIPELINE_REGISTRY.register_pipeline(TASK, TsfLlmPipeline, pt_model=MODELS)

__all__ = ["TsfLlmPipeline"]

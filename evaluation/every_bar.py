"""Every bar an origin: what a model says of several horizons, all from one window, and baselines on the same outcomes.

Design choices:
* A window ends at its origin: the laws are those that `forecast` gives, calibration included. For large models several
  origins may share a window (`per_window`): the first of them then looks back over fewer bars, by as many as there are
  origins. It is as many times faster, and changes skill by hundredths of a point.
* Each horizon is scored from all origins whose outcome it knows; a window that several horizons ask for is read once.
* Outcomes of neighbours overlap, so whoever tests for significance counts `horizon` dates as dependent.
* Baselines see prices alone and are kept on disk (`baselines.run`): the next model, or context, finds them there.

Shapes: n forecasts of one horizon, series by series.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers.feature_extraction_utils import BatchFeature

from ..bars_tsf_llm import OHLCV
from ..feature_extraction_tsf_llm import EncodedSeries
from ..laws_tsf_llm import every_step
from ..pipeline_tsf_llm import TsfLlmPipeline
from .baselines.catalogue import choose
from .baselines.naive import VOLATILITY_WINDOW
from .baselines.panel import Panel
from .baselines.run import run
from .dense import window_logits
from .distributions import Law, Moved, Piecewise, Scored
from .walk_forward import ORIGINS_AT_ONCE, pick_origins, step_laws


@dataclass(frozen=True)
class Outcomes:
    """What came `horizon` bars after each origin."""

    horizon: int
    rows: list[np.ndarray]  # origins of each series
    ticker: np.ndarray  # [n]
    origin: np.ndarray  # [n] datetime64
    due: np.ndarray  # [n] datetime64
    realised: np.ndarray  # [n] cumulative log returns

    @classmethod
    def of(cls, series: Sequence[EncodedSeries], start: Any, end: Any, horizon: int) -> "Outcomes":
        """From every bar of [start, end].

        Raises:
            ValueError: no outcome is known.
        """
        rows = pick_origins(series, start, end, horizon, 1, max(VOLATILITY_WINDOW, horizon))
        pairs = list(zip(series, rows, strict=True))
        return cls(
            horizon=horizon,
            rows=rows,
            ticker=np.concatenate([np.repeat(one.ticker, len(at)) for one, at in pairs]),
            origin=np.concatenate([one.timestamp[at] for one, at in pairs]),
            due=np.concatenate([one.timestamp[at + horizon] for one, at in pairs]),
            realised=np.concatenate([OHLCV.change(one.close[at + horizon], one.close[at]) for one, at in pairs]),
        )


def check_prices(pipe: TsfLlmPipeline) -> None:
    """Raises ValueError for a model of plain series, or one without distributions: there is no law of a return."""
    if pipe.processor.kind is not OHLCV or not pipe.samples_paths:
        raise ValueError("a model of plain series, single numbers or classes has no law of a return: name another one")


def baselines(
    names: Sequence[str],
    series: Sequence[EncodedSeries],
    outcomes: Outcomes,
    *,
    seed: int = 0,
    num_proc: int = 1,
    progress: bool = True,
) -> tuple[dict[str, Scored], dict[str, str]]:
    """Of each the n forecasts; and what failed, by name."""
    kept = [(one, rows) for one, rows in zip(series, outcomes.rows, strict=True) if len(rows)]
    panel = Panel([one for one, _ in kept], [rows for _, rows in kept], seed=seed)
    options: dict[str, Any] = {"num_proc": num_proc, "progress": progress}
    unit = np.ones(len(outcomes.realised))
    found, failed = run(choose(names), panel, [outcomes.horizon], outcomes.realised[:, None], unit, **options)
    return {name: by_step[outcomes.horizon] for name, by_step in found.items()}, failed


def forecasts(
    pipe: TsfLlmPipeline,
    series: Sequence[EncodedSeries],
    asked: Sequence[Outcomes],
    *,
    samples: int = 256,
    seed: int = 0,
    calibration: str = "auto",
    per_window: int = 1,
    told: str = "forecasts",
    progress: bool = True,
) -> list[Scored]:
    """The model's n forecasts of each of the `asked`, `per_window` origins to a window; `told` names the progress bar.

    Raises:
        ValueError: as `check_prices`, for a calibration that is not there, and for more origins to a window than half
            of its bars, or beyond the model's laws.
    """
    check_prices(pipe)
    farthest = max(one.horizon for one in asked)
    if per_window > 1:
        _check_shared(pipe, farthest, per_window)
    calibrated = pipe.calibration(calibration, farthest)
    parts: list[list[Scored]] = [[] for _ in asked]
    chunks = list(_chunks(series, asked, ORIGINS_AT_ONCE * per_window))
    total, disable = sum(len(rows) for _, rows, _ in chunks), None if progress else True
    bar = tqdm(total=total, desc=told, unit="origin", leave=False, disable=disable)
    for one, rows, wanted in chunks:
        if per_window > 1:
            laws = _shared_laws(pipe, one, rows, farthest, per_window)
        else:
            laws, _ = step_laws(pipe, pipe.processor.batch([(one, rows)]), farthest, samples, seed)
        for outcomes, part, mine in zip(asked, parts, wanted, strict=True):
            p, at = outcomes.horizon - 1, np.where(mine, rows + outcomes.horizon, rows)
            law = laws[p]
            if calibrated is not None and p < calibrated.steps:
                law = Moved.about_median(law, calibrated.shift[p], calibrated.spread[p])
            part.append(Scored.of(law, OHLCV.change(one.close[at], one.close[rows])).take(mine))
        bar.update(len(rows))
    bar.close()
    return [Scored.joined(part) for part in parts]


def _chunks(
    series: Sequence[EncodedSeries], asked: Sequence[Outcomes], size: int
) -> Iterator[tuple[EncodedSeries, np.ndarray, list[np.ndarray]]]:
    """Origins that any horizon asks for, some at a time, and which of them each horizon asks for."""
    for i, one in enumerate(series):
        rows = np.unique(np.concatenate([outcomes.rows[i] for outcomes in asked]))
        for chunk in np.split(rows, range(size, len(rows), size)):
            if len(chunk):
                yield one, chunk, [np.isin(chunk, outcomes.rows[i]) for outcomes in asked]


def _check_shared(pipe: TsfLlmPipeline, horizon: int, per_window: int) -> None:
    if per_window > (most := pipe.processor.feature_extractor.context_length // 2):
        raise ValueError(f"{per_window} origins to a window: {most} at most, half of the bars of this model's context")
    if horizon > pipe.law_reach or not pipe.model.can_generate():
        raise ValueError(
            f"this model has no law of {horizon} steps: only laws can share a window, give one origin each"
        )


def _shared_laws(
    pipe: TsfLlmPipeline, one: EncodedSeries, rows: np.ndarray, horizon: int, per_window: int
) -> list[Law]:
    """The laws of each step from windows that end `per_window` bars apart, the last of them at the last origin."""
    logits = window_logits(pipe.model, pipe.processor, one, rows, per_window)
    scale = BatchFeature({"scale": (one.sigma if one.calm is None else one.calm)[rows]})
    return [Piecewise.like(law) for law in every_step(pipe.named_laws(logits, scale), horizon)]

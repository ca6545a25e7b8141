"""Every bar an origin: what a model says of several horizons, all from one window, and baselines on the same outcomes.

Design choices:
* A window ends at its origin: the laws are those that `forecast` gives, calibration included.
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

from ..bars_tsf_llm import OHLCV
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline
from .baselines.catalogue import choose
from .baselines.naive import VOLATILITY_WINDOW
from .baselines.panel import Panel
from .baselines.run import run
from .distributions import Moved, Scored
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
    options = {"num_proc": num_proc, "progress": progress}
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
    told: str = "forecasts",
    progress: bool = True,
) -> list[Scored]:
    """The model's n forecasts of each of the `asked`; `told` names the progress bar.

    Raises:
        ValueError: as `check_prices`, and for a calibration that is not there.
    """
    check_prices(pipe)
    farthest = max(one.horizon for one in asked)
    calibrated = pipe.calibration(calibration, farthest)
    parts: list[list[Scored]] = [[] for _ in asked]
    chunks = list(_chunks(series, asked))
    bar = tqdm(total=sum(len(rows) for _, rows, _ in chunks), desc=told, unit="origin", leave=False)
    bar.disable = not progress
    for one, rows, wanted in chunks:
        laws = step_laws(pipe, pipe.processor.batch([(one, rows)]), farthest, samples, seed)
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
    series: Sequence[EncodedSeries], asked: Sequence[Outcomes]
) -> Iterator[tuple[EncodedSeries, np.ndarray, list[np.ndarray]]]:
    """Origins that any horizon asks for, some at a time, and which of them each horizon asks for."""
    for i, one in enumerate(series):
        rows = np.unique(np.concatenate([outcomes.rows[i] for outcomes in asked]))
        for chunk in np.split(rows, range(ORIGINS_AT_ONCE, len(rows), ORIGINS_AT_ONCE)):
            if len(chunk):
                yield one, chunk, [np.isin(chunk, outcomes.rows[i]) for outcomes in asked]

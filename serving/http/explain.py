"""`/v1/explain`: what forecasts of these bars rest on, by `evaluation.explanation`, in seconds.

Design choices:
* The model's size bounds the windows: `WINDOWS` of them take some seconds of one core. Groups of features are
  permuted, not each feature by itself.
* One explanation at a time; who comes meanwhile is told to come again. One whose client has gone is finished.
"""

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from ...evaluation.explanation.explain import explanation
from .answers import rounded
from .bodies import StrictRoute, Tables
from .engine import Engine
from .errors import Refusal
from .notes import NOTES
from .tables import sent_tables

SMALL = 1_000_000  # parameters
WINDOWS = {True: 48, False: 16}  # of small models and of others
FEWEST_DATES = 8
MOST_BARS = 20_000


class ExplainRequest(Tables):
    """Bars of prices, or of a plain series, whose forecasts are explained."""

    seed: int = Field(0, ge=0, lt=2**32, description="Of the dates that are drawn, and of permutations.")


def routes(engine: Engine) -> APIRouter:
    """The router of explanations."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["explain"])
    alone = asyncio.Lock()

    async def explained(asked: ExplainRequest) -> dict[str, Any]:
        async with alone:
            return await engine.in_long_thread(found, engine, asked)

    @router.post("/explain")
    async def explain(asked: ExplainRequest) -> dict[str, Any]:
        """What the model's forecasts of the next bar rest on: groups of features, past bars, experts, the market.

        On some earlier dates of these bars, by how much the loss rises without each; see docs/explain.md. It says what
        the model reads, not what moves prices. `percent_ci95` is null where dates are too few."""
        if alone.locked():
            raise Refusal(429, "busy", "another explanation is made: try again in some seconds", {"Retry-After": "5"})
        return await asyncio.shield(asyncio.create_task(explained(asked)))

    return router


def found(engine: Engine, asked: ExplainRequest) -> dict[str, Any]:
    """The explanation as JSON.

    Raises:
        ValueError: too many bars or tickers, or what `explanation` refuses.
    """
    pipe, tables, notes = engine.pipe, sent_tables(asked, engine.pipe.processor), list[str]()
    bars, market = tables.pop("bars"), tables.pop("market")
    if len(bars) > MOST_BARS:
        raise ValueError(f"{len(bars):,} bars: an explanation takes {MOST_BARS:,} at most; send the last ones")
    windows = WINDOWS[pipe.model.num_parameters() < SMALL]
    with NOTES.listening(notes):
        panel = pipe.processor.feature_extractor.check_known(pipe._renamed(bars, tables), strict=asked.strict)
        if (count := len(panel)) > (most := windows // FEWEST_DATES):
            raise ValueError(f"{count:,} tickers: this model explains {most} at once; send fewer")
        options: dict[str, Any] = {
            "market": engine.market if market is None else market,
            "strict": asked.strict,
            "seed": asked.seed,
        }
        dates = max(FEWEST_DATES, windows // max(count, 1))
        result = explanation(pipe, panel, most=dates, repeats=1, features=False, **options)
    del result["features"]
    return {"model": engine.settings.name, **plain(result), "notes": notes}


def plain(value: Any) -> Any:
    """Numbers to as many digits as answers have, null for what is undefined.

    >>> plain({"a": [1.0 / 3, float("nan"), float("inf")], "b": 2})
    {'a': [0.33333333, None, None], 'b': 2}
    """
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return rounded(value) if isinstance(value, float) else value

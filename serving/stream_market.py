"""The market beside a stream: what features read of a universe and of an implied-volatility index, bar by bar.

Design choices:
* It keeps what a market's state is made of, not its bars: moments by time, and the last close of each of its tickers.
* A time is closed once its bars were given: all tickers of a universe come in one update, later ones are refused. So
  what a symbol read of a time never changes afterwards.
* A market does not change; `extended` returns the longer one. Its memory is bounded by `keep` times.
"""

from typing import Any, Self

import numpy as np
import pandas as pd

from ..bars_tsf_llm import Bars, CheckedBars
from ..feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from ..market_tsf_llm import MarketMoments, implied_index

LAST = ["timestamp", "high", "low", "close"]


class StreamedMarket:
    """A market that grows.

    Args:
        extractor: of the model whose features read it.
        keep: times that it remembers.
    """

    def __init__(self, extractor: TsfLlmFeatureExtractor, keep: int):
        self.extractor, self.keep = extractor, keep
        self.moments = self._no_moments()
        self.last: dict[str, pd.DataFrame] = {}  # of each ticker of the universe its last bar, one row

    def _no_moments(self) -> MarketMoments:
        return MarketMoments(as_before=self.extractor.fitted_with_market is True)

    def state(self) -> pd.DataFrame:
        """As `market_tsf_llm.market_state`."""
        return self.moments.state()

    def extended(self, bars: Bars, *, strict: bool = False) -> tuple[Self, dict[str, str]]:
        """This market with further bars of its tickers, or of new ones; and which were skipped, with reasons.

        Raises:
            ValueError: no feature reads a market; or for bars that are no bars, or none of which is new: of all
                tickers or, if `strict`, of one.
        """
        if not self.extractor.reads_market:
            raise ValueError("market=: no feature of this model reads it; leave it out")
        tickers = self.extractor.checked_market(bars)
        tickers = CheckedBars(tickers, strict=strict)
        for name, frame in list(tickers.items()):
            if (closed := self._closed(name)) is not None and frame["timestamp"].iloc[0] <= closed:
                tickers.skip(
                    name,
                    f"market, {name}: its bar of {frame['timestamp'].iloc[0]} is not later than {closed}, up to which "
                    "the market is known: give all bars of a time in one update",
                )
        tickers.settle()
        return self._with(tickers), dict(tickers.skipped)

    def _closed(self, name: str) -> pd.Timestamp | None:
        """The time up to which bars of this name were given."""
        if self._is_implied(name):
            known = self.moments.implied.get(name)
            return None if known is None else known["timestamp"].iloc[-1]
        return self.moments.table.index[-1] if len(self.moments.table) else None

    def _is_implied(self, name: str) -> bool:
        return not self.moments.as_before and implied_index(name) is not None

    def _with(self, tickers: CheckedBars) -> Self:
        fresh, longer = self._no_moments(), type(self)(self.extractor, self.keep)
        longer.last = dict(self.last)
        for name, frame in tickers.items():
            known = [self.last[name]] if name in self.last else []
            frame = frame.loc[frame["close"].notna(), LAST]
            fresh.add(name, pd.concat([*known, frame], ignore_index=True) if known else frame)
            if len(frame) and not self._is_implied(name):
                longer.last[name] = frame.tail(1).reset_index(drop=True)
        old, new = self.moments.table, fresh.table
        later = new if not len(old) else new[new.index > old.index[-1]]
        longer.moments.table = (pd.concat([old, later]) if len(old) else later).tail(self.keep)
        longer.moments.implied = dict(self.moments.implied)
        for name, frame in fresh.implied.items():
            known = [self.moments.implied[name]] if name in self.moments.implied else []
            longer.moments.implied[name] = pd.concat([*known, frame], ignore_index=True).tail(self.keep)
        return longer

    # --- as numbers and names, to be saved

    def arrays(self) -> dict[str, np.ndarray]:
        table, last = self.moments.table, list(self.last.values())
        arrays = {"market.times": table.index.to_numpy(), "market.moments": table.to_numpy()}
        if last:
            rows = pd.concat(last)
            arrays |= {"market.last.times": rows["timestamp"].to_numpy(), "market.last": rows[LAST[1:]].to_numpy()}
        for i, frame in enumerate(self.moments.implied.values()):
            arrays[f"market.implied.{i}.times"] = frame["timestamp"].to_numpy()
            arrays[f"market.implied.{i}"] = frame["close"].to_numpy()
        return {name: _numbers(values) for name, values in arrays.items()}

    def names(self) -> dict[str, Any]:
        return {"tickers": list(self.last), "implied": list(self.moments.implied)}

    def restored(self, arrays: dict[str, np.ndarray], names: dict[str, Any]) -> Self:
        """The market that `arrays` and `names` tell of."""
        market = type(self)(self.extractor, self.keep)
        table = pd.DataFrame(arrays["market.moments"], columns=market.moments.table.columns)
        market.moments.table = table.set_index(pd.DatetimeIndex(_times(arrays["market.times"]), name="timestamp"))
        for i, name in enumerate(names["tickers"]):
            row = dict(zip(LAST[1:], arrays["market.last"][i], strict=True))
            market.last[name] = pd.DataFrame({"timestamp": _times(arrays["market.last.times"][i : i + 1]), **row})
        for i, name in enumerate(names["implied"]):
            columns = {
                "timestamp": _times(arrays[f"market.implied.{i}.times"]),
                "close": arrays[f"market.implied.{i}"],
            }
            market.moments.implied[name] = pd.DataFrame(columns)
        return market


def _numbers(values: np.ndarray) -> np.ndarray:
    return values.astype("datetime64[ns]").view(np.int64) if values.dtype.kind == "M" else np.array(values)


def _times(numbers: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(numbers).view("datetime64[ns]")

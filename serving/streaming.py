"""Forecasts that move on bar by bar: one cached step of the model for each new bar, batched over symbols.

Design choices:
* What a stream knows of a symbol is bounded: the bars that features remember, what attention caches of the last
  `context_length` of them, the laws at the newest one. A bar costs the same however many came before.
* A bar is checked by the rules of a file of bars before anything is computed, and nothing is written before all is
  computed; what fails after that is taken back. A bar that is refused leaves the state as it was, to the byte.
* One bad bar does not stop the others: it is named in `attrs["skipped"]`, as by the pipeline.
* The forecast of a symbol depends on no other symbol, nor on which of them share an update.
* Rows come from the model's laws, exact; nothing is sampled.
* A state is saved as tensors and JSON, and opens beside the model alone that made it.

`stream_bars` keeps the bars, `stream_model` has the step of the model, `stream_market` the market beside them.

Shapes: n symbols of an update, F features.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from ..bars_tsf_llm import BarArrays, Bars, CheckedBars, split_tickers
from ..calendars_tsf_llm import bar_spacing, check_calendar
from ..calibration_tsf_llm import AdaptiveSpread
from ..columns_tsf_llm import given_bars
from ..common.files import claim, remove, remove_empty, replace_file, write_json
from ..common.reading import read_json
from ..jumps_tsf_llm import JUMP, jump_report
from ..laws_tsf_llm import PiecewiseLaw, every_step
from ..pipeline_tsf_llm import TsfLlmPipeline, calibrated_laws
from ..processing_tsf_llm import FORECAST_QUANTILES
from ..training.models import digest
from .stream_bars import Tail
from .stream_market import StreamedMarket
from .stream_model import LOGITS, State, reader_of, write

logger = logging.get_logger(__name__)
STATE, TENSORS = "stream.json", ("stream-a.safetensors", "stream-b.safetensors")
FILES = (STATE, *TENSORS)
WRITER = "StreamingForecaster.save"
VERSION = 1  # of what is saved
LEVELS = (0.1, 0.5, 0.9)  # of the interval that an adaptive spread follows: its usual coverage of 80 %


class StreamingForecaster:
    """Starts from the bars of one or many symbols; each `update` returns forecasts from the bars that it brings.

    >>> stream = StreamingForecaster(pipe, bars, horizon=5)  # doctest: +SKIP
    >>> rows = stream.update(one_more_bar_of_each_symbol)  # doctest: +SKIP
    >>> stream.save("state")  # doctest: +SKIP
    >>> stream = StreamingForecaster.load("state", pipe)  # doctest: +SKIP

    Args:
        pipe: of a causal model of market bars with laws; others are refused.
        bars: the history, as the pipeline takes it. Bars that are missing at its end are left out.
        market: bars of an index, a universe, an implied-volatility index, for a model whose features read them.
        horizon: steps ahead, at most the last one that the model has a law of; by default as the pipeline's.
        calibration, quantile_levels, calendar: as those of the pipeline.
        adaptive: whether each symbol's laws are widened or narrowed by how often its own bars fell into the central
            80 % of the laws for them: an `AdaptiveSpread` per symbol, of the usual rate.
        strict: refuse all bars where those of one symbol cannot be forecast from.

    Raises:
        ValueError: for bars that the pipeline refuses, or a model or horizon that cannot be streamed.
    """

    skipped: dict[str, str]  # of the history, with reasons
    _market: StreamedMarket | None
    _skipped_of_market: dict[str, str]

    def __init__(
        self,
        pipe: TsfLlmPipeline,
        bars: Bars,
        *,
        market: Bars | None = None,
        horizon: int | None = None,
        calibration: str = "auto",
        quantile_levels: Sequence[float] = FORECAST_QUANTILES,
        calendar: str | None = None,
        adaptive: bool = False,
        strict: bool = False,
    ):
        self._set_up(
            pipe,
            horizon=pipe.reach if horizon is None else horizon,
            calibration=calibration,
            quantile_levels=list(quantile_levels),
            calendar=check_calendar(calendar, needed=True),
            adaptive=adaptive,
        )
        if market is not None:
            self._market, self._skipped_of_market = self._no_market().extended(market, strict=strict)
        self.skipped = self.add(bars, strict=strict).attrs["skipped"]

    def _set_up(self, pipe: TsfLlmPipeline, **settings: Any) -> None:
        """A stream of no symbols."""
        self.pipe, self.settings = pipe, settings
        self._reader, self._extractor = reader_of(pipe), pipe.processor.feature_extractor
        self._keep = self._extractor.memory + 1
        horizon, reach = settings["horizon"], pipe.law_reach
        if not isinstance(horizon, int) or not 1 <= horizon <= reach:
            raise ValueError(
                f"horizon={horizon}: a stream forecasts 1 to {reach} steps, whose laws this model knows; for more "
                "forecast with pipe(bars), which samples paths"
            )
        pipe._sanitize_parameters(quantile_levels=settings["quantile_levels"])
        self._calibration = pipe.calibration(settings["calibration"], horizon)
        self._state: State = {}
        self._tails: dict[str, Tail] = {}  # the last bars of each symbol, in the order of the state's rows
        self._market, self._skipped_of_market, self.skipped = None, {}, {}

    def _no_market(self) -> StreamedMarket:
        return StreamedMarket(self._extractor, 2 * self._keep)

    @property
    def symbols(self) -> list[str]:
        return list(self._tails)

    @property
    def last_times(self) -> dict[str, pd.Timestamp]:
        """Of the newest bar of each symbol."""
        return {name: pd.Timestamp(tail.last) for name, tail in self._tails.items()}

    # --- symbols come, go and are asked for

    def add(self, bars: Bars, *, strict: bool = False) -> pd.DataFrame:
        """Takes in further symbols with their history; returns their forecasts, which are those of `pipe(bars)`.

        Raises:
            ValueError: a symbol is streamed already; or as the pipeline.
        """
        tickers = self._extractor.check_known(bars, strict=strict)
        tickers = tickers.like(tickers)
        for name in [one for one in tickers if one in self._tails]:
            tickers.skip(name, f"{name}: is streamed already; update it, or drop it first")
        state = None if self._market is None else self._market.state()
        batch = self.pipe.preprocess(tickers.settle(), market=state, strict=strict)["batch"]
        new = self._reader.begin(batch)
        for name, kind in (("scale", torch.float64), ("last_close", torch.float64)):
            new[name] = torch.as_tensor(batch[name]).to(kind)
        new["spread"] = torch.ones(len(batch["ticker"]), dtype=torch.float64)
        self._state = {name: torch.cat((self._state[name], one)) for name, one in new.items()} if self._state else new
        columns = self._columns()
        for name, origin in zip(batch["ticker"], batch["origin"], strict=True):
            frame = tickers[name]
            frame = frame[frame["timestamp"] <= origin].tail(self._keep)
            self._tails[name] = Tail.of(columns, frame["timestamp"].to_numpy(), frame[columns].to_numpy(float).T)
        frame = self.forecast(batch["ticker"])
        frame.attrs["skipped"] = self._skipped_of_market | dict(batch["skipped"])
        return frame

    def drop(self, symbols: Sequence[str]) -> None:
        """Forgets these symbols.

        Raises:
            ValueError: one is not streamed, or none would be left.
        """
        gone = set(self._names(symbols))
        kept = [row for row, name in enumerate(self._tails) if name not in gone]
        if not kept:
            raise ValueError("no symbol would be left: start another stream instead")
        self._state = {name: values[kept] for name, values in self._state.items()}
        self._tails = {name: tail for name, tail in self._tails.items() if name not in gone}

    def _names(self, symbols: Sequence[str]) -> list[str]:
        symbols = [symbols] if isinstance(symbols, str) else list(symbols)
        if unknown := [name for name in symbols if name not in self._tails]:
            raise ValueError(f"{unknown[0]} is not streamed: add its history first")
        return symbols

    def forecast(self, symbols: Sequence[str] | None = None) -> pd.DataFrame:
        """The rows of these symbols, by default of all, from their newest bars: the columns of the pipeline.

        Raises:
            ValueError: one is not streamed, or none is named.
        """
        names = self.symbols if symbols is None else self._names(symbols)
        if not names:
            raise ValueError("no symbol is named: name those to forecast, or leave them out for all")
        rows = self._rows(names)
        laws = self._laws(rows, self.settings["horizon"])
        if self.settings["adaptive"]:
            laws = [law.moved(0.0, self._state["spread"][rows].numpy()[:, None]) for law in laws]
        tails = [self._tails[name] for name in names]
        batch: Any = {
            "ticker": names,
            "origin": np.array([tail.last for tail in tails]),
            "bar_times": [tail.bars.timestamp for tail in tails],
            "last_close": self._state["last_close"][rows].numpy(),
        }
        frame = self.pipe.processor.decode_laws(
            laws, batch, self.settings["quantile_levels"], self.settings["calendar"]
        )
        frame.attrs["skipped"] = {}
        return frame

    def _rows(self, names: Sequence[str]) -> torch.Tensor:
        places = {name: row for row, name in enumerate(self._tails)}
        return torch.tensor([places[name] for name in names], dtype=torch.long)

    def _laws(self, rows: torch.Tensor, horizon: int) -> list[PiecewiseLaw]:
        """Calibrated, and of no adaptive spread."""
        anchors = self.pipe.named_laws(self._state[LOGITS][rows], {"scale": self._state["scale"][rows]})
        return calibrated_laws(every_step(anchors, horizon), self._calibration)

    # --- one more bar

    def update(
        self, bars: pd.DataFrame | Mapping[str, Any], *, market: Bars | None = None, strict: bool = False
    ) -> pd.DataFrame:
        """Takes one new bar of some or all symbols, and the market's bars up to it; returns the forecasts from it.

        Args:
            bars: a frame with a row per symbol; of a single one also a dict.
            market: its new bars, all of a time in one update. Without them its last ones count until they are stale.
            strict: refuse all bars where one is bad. By default the others are taken: a warning says why, and so does
                `skipped` in the `attrs` of the answer.

        Raises:
            ValueError: no bar is good, or, if `strict`, one is bad: late, repeated, of another frequency, of a symbol
                that is not streamed, or without an honest reading. The state is then as it was.
        """
        tickers = self._new_bars(bars, strict=strict)
        later, skipped = self._market, dict[str, str]()
        if market is not None:
            later, skipped = (self._market or self._no_market()).extended(market, strict=strict)
        tails = {name: self._with_bar(name, bar) for name, bar in tickers.items()}
        longer = tickers.like({name: tail.bars for name, tail in tails.items()})
        encoded = self._extractor.encode_newest(longer, None if later is None else later.state())
        names, rows = [one.ticker for one in encoded], self._rows([one.ticker for one in encoded])
        longer.settle()
        features = torch.from_numpy(np.stack([one.features[-1] for one in encoded]))
        writes = self._reader.step(self._state, rows.to(self.pipe.model.device), features)
        calm = [one.sigma if one.calm is None else one.calm for one in encoded]
        numbers = {"scale": [one[-1] for one in calm], "last_close": [one.close[-1] for one in encoded]}
        if self.settings["adaptive"]:
            numbers["spread"] = self._spreads(rows, numbers["last_close"])
        writes += [(name, (rows,), torch.tensor(new, dtype=torch.float64)) for name, new in numbers.items()]
        before = [(name, place, self._state[name][place]) for name, place, _ in writes], self._tails, self._market
        write(self._state, writes)
        self._tails, self._market = self._tails | {name: tails[name] for name in names}, later
        try:
            frame = self.forecast(names)
        except Exception:  # as of bars whose next ones lie past the last time there is
            write(self._state, before[0])
            self._tails, self._market = before[1:]
            raise
        frame.attrs["skipped"] = skipped | dict(longer.skipped)
        return frame

    def _new_bars(self, bars: pd.DataFrame | Mapping[str, Any], *, strict: bool) -> CheckedBars:
        """The good ones, `BarArrays` of one row each."""
        kind = self._extractor.series_kind
        frame = pd.DataFrame([bars]) if isinstance(bars, Mapping) else bars
        if not isinstance(frame, pd.DataFrame):
            raise ValueError(f"a new bar is a row of a DataFrame or a dict, not {type(bars).__name__}")
        covariates = self._extractor.covariates
        frame = self._extractor.with_unknown_covariates(given_bars(frame, kind, covariates))
        if kind.id not in frame:
            if len(self._tails) > 1:
                raise ValueError(f"the bars have no column {kind.id!r}: say of which symbol each one is")
            frame = frame.assign(**{kind.id: self.symbols[0]})
        tickers = split_tickers(frame, kind, covariates, strict=strict, made=lambda bars: bars)
        tickers = tickers.like(tickers)
        for name, bar in list(tickers.items()):
            if (wrong := self._wrong(name, bar)) is not None:
                tickers.skip(name, f"{name}, {pd.Timestamp(bar.timestamp[-1])}: {wrong}")
        return tickers.settle()

    def _wrong(self, name: str, bar: BarArrays) -> str | None:
        """Why a bar cannot be the next one of its symbol."""
        if name not in self._tails:
            return "is not streamed; add its history first"
        if len(bar) > 1:
            return f"{len(bar)} bars in one update; give one after the other"
        last, now = self._tails[name].last, bar.timestamp[0]
        if np.isnan(bar[self._extractor.series_kind.value][0]):
            return "open, high, low or close is missing; leave a bar out that is not known"
        if now == last:
            return "this bar is known already; a stream takes each once"
        if now < last:
            return (
                f"comes too late, after that of {pd.Timestamp(last)}; give bars in order, or drop and add the symbol"
            )
        step, usual = pd.Timedelta(now - last), self._extractor.bar_seconds or 0.0
        every, times = pd.Timedelta(seconds=usual), self._tails[name].bars.timestamp
        if step < 0.5 * every and step < np.diff(times).min():
            return f"comes {step} after the last bar; the model reads one every {every}"
        if step >= 2 * every and bar_spacing(np.append(times[-21:], now)) >= 2 * usual:
            return f"bars have become rare; the model reads one every {every}"
        return None

    def _with_bar(self, name: str, bar: BarArrays) -> Tail:
        """The last bars of a symbol with a new one; a warning tells of a jump that may be a split."""
        value = self._extractor.series_kind.value
        before, longer = self._tails[name].bars[value], self._tails[name].with_bar(bar, self._keep)
        last = before[-1] if not np.isnan(before[-1]) else before[~np.isnan(before)][-1]
        if abs(np.log(bar[value][0] / last)) > np.log1p(JUMP) and (
            report := jump_report(longer.bars.frame(), value, since=len(longer) - 1)
        ):
            logger.warning(f"{name}: {report}")
        return longer

    def _spreads(self, rows: torch.Tensor, closes: Sequence[float]) -> list[float]:
        """The adaptive spreads after these outcomes of the laws for them."""
        low, middle, high = self._laws(rows, 1)[0].quantile(LEVELS).T
        outcomes = self.pipe.processor.kind.change(np.array(closes), self._state["last_close"][rows].numpy())
        spreads = [AdaptiveSpread(spread=one) for one in self._state["spread"][rows].tolist()]
        moves = zip(spreads, low, middle, high, outcomes, strict=True)
        return [one.update([a], [b], [c], [outcome]) for one, a, b, c, outcome in moves]

    # --- saved and loaded

    def save(self, folder: str | Path) -> None:
        """Writes the state: `stream.json` names the tensors beside it, so that both are of one state or of the last.

        Raises:
            ValueError: the folder holds files of these names that were not written by this.
        """
        folder = Path(folder)
        claim(folder, FILES, by=WRITER)
        before = read_json(folder / STATE).get("tensors") if (folder / STATE).is_file() else None
        name = TENSORS[before == TENSORS[0]]
        replace_file(folder / name, lambda path: save_file(self._tensors(), path))
        told = {
            "version": VERSION,
            "made_by": self._made_by,
            "tensors": name,
            "settings": self.settings,
            "symbols": self.symbols,
            "market": None if self._market is None else self._market.names(),
        }
        write_json(told, folder / STATE)
        for other in {*TENSORS} - {name}:
            (folder / other).unlink(missing_ok=True)

    @staticmethod
    def delete(folder: str | Path) -> None:
        """Removes what `save` wrote there, the folder too if nothing else is in it."""
        folder = Path(folder)
        remove(folder, FILES, by=WRITER)  # the first of them is what makes it a stream
        remove_empty(folder)

    @cached_property
    def _made_by(self) -> str:
        """Of all that the state's numbers depend on: weights, features with their scalers, bins."""
        processor = self.pipe.processor
        parts = [digest(self.pipe.model), processor.digest, processor.feature_extractor.to_json_string()]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def _tensors(self) -> State:
        tails = [tail.bars for tail in self._tails.values()]
        arrays = {
            "tails.length": np.array([len(tail) for tail in tails]),
            "tails.times": np.concatenate([tail.timestamp.view(np.int64) for tail in tails]),
            "tails": np.concatenate([tail.values.T for tail in tails]),
            **({} if self._market is None else self._market.arrays()),
        }
        tensors = self._state | {name: torch.from_numpy(values) for name, values in arrays.items()}
        return {name: values.cpu().contiguous() for name, values in tensors.items()}

    def _columns(self) -> list[str]:
        return [*self._extractor.series_kind.columns, *self._extractor.covariates]

    @classmethod
    def load(cls, folder: str | Path, pipe: TsfLlmPipeline) -> Self:
        """The stream that was saved: its next updates give the same bits.

        Raises:
            FileNotFoundError: there is no saved stream.
            ValueError: another model made it, or it is not whole.
        """
        told = read_json(Path(folder) / STATE)
        stream = cls.__new__(cls)
        broken = f"{folder} holds no whole stream ({{}}): start one from bars, or copy it again"
        if told.get("version") != VERSION or told.get("tensors") not in TENSORS:
            raise ValueError(broken.format(f"{STATE} is of another version, or none"))
        try:
            stream._set_up(pipe, **told["settings"])
        except (TypeError, KeyError) as error:
            raise ValueError(broken.format(f"settings: {error}")) from error
        if told.get("made_by") != stream._made_by:
            raise ValueError(f"{folder} was saved with another model: load it with that one, or start from bars")
        try:
            stream._restore(load_file(Path(folder) / told["tensors"]), told["symbols"], told["market"])
        except (OSError, LookupError, RuntimeError, ValueError, SafetensorError) as error:
            raise ValueError(broken.format(" ".join(str(error).split()))) from error
        return stream

    def _restore(self, tensors: State, symbols: list[str], market: dict[str, Any] | None) -> None:
        arrays = {name: tensors.pop(name).numpy() for name in list(tensors) if name.startswith(("tails", "market"))}
        ends = np.cumsum(arrays["tails.length"])
        times, values = arrays["tails.times"].view("datetime64[ns]"), arrays["tails"]
        for name, end, length in zip(symbols, ends, arrays["tails.length"], strict=True):
            self._tails[name] = Tail.of(self._columns(), times[end - length : end], values[end - length : end].T)
        kept = ("scale", "last_close", "spread")  # where the rows of a forecast are computed
        device = self.pipe.model.device
        self._state = {name: one if name in kept else one.to(device) for name, one in tensors.items()}
        if market is not None:
            self._market = self._no_market().restored(arrays, market)

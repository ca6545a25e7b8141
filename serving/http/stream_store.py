"""The streams of a folder: each saved whole before its answer leaves, the last used of them in memory.

Design choices:
* A stream is a folder of its own, `streams/ID`. What a manifest does not call ours is neither replaced nor removed.
* What was answered is on disk: after `kill -9` a stream goes on from its last answer, or from the one that was being
  sent. Files are not synced one by one, so a power cut may cost the last seconds.
* An update is taken whole or not at all. One that fails leaves memory, and the state on disk is read again.
* Everything runs in the one thread that runs the model; a lock keeps other servers out of the folder.
"""

import re
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from ...columns_tsf_llm import given_bars
from ...pipeline_tsf_llm import TsfLlmPipeline
from ..streaming import STATE, StreamingForecaster
from .errors import Refusal

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"  # of a stream and its folder; small letters, as some disks know no others
MOST = 1000  # streams of a folder
MOST_SYMBOLS = 256  # of a stream
MOST_NEW = 4096  # bars of one update
IN_MEMORY = 1024  # symbols of the streams that are held in memory


class Streams:
    """Streams by name. `folder` None takes a temporary one, which goes with the server.

    Raises:
        ValueError: another server has the folder.
    """

    def __init__(self, pipe: TsfLlmPipeline, folder: Path | None):
        self._temporary = tempfile.TemporaryDirectory(prefix="tsf_llm_") if folder is None else None
        self.pipe, self.folder = pipe, Path(self._temporary.name if self._temporary else str(folder)) / "streams"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / ".lock", blocking=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"--state {folder}: another server keeps its streams there; name another folder"
            ) from None
        found = [path.parent.name for path in self.folder.glob(f"*/{STATE}")]
        self._names = {name for name in found if re.fullmatch(NAME, name)}
        self._loaded: OrderedDict[str, StreamingForecaster] = OrderedDict()  # the last used last

    def __len__(self) -> int:
        return len(self._names)

    def create(self, name: str, tables: dict[str, Any], **options: Any) -> tuple[StreamingForecaster, pd.DataFrame]:
        """A new stream, and its first forecasts. `tables` are `bars`, a `market`, and what the columns are called.

        Raises:
            Refusal: there is one of this name, or there are too many.
            ValueError: as `StreamingForecaster`.
        """
        if not re.fullmatch(NAME, name):
            raise ValueError(f"a stream is called by small letters, digits, - and _: not {name[:64]!r}")
        if name in self._names:
            raise Refusal(409, "exists", f"there is a stream {name}: update it, or delete it first")
        if len(self._names) >= MOST:
            raise Refusal(429, "too_many_streams", f"there are {MOST:,} streams, the most: delete one first")
        bars, market = self._named(tables)
        if (count := bars[self._key].nunique() if self._key in bars else 1) > MOST_SYMBOLS:
            raise ValueError(f"{count:,} symbols: a stream has {MOST_SYMBOLS} at most; make several")
        stream = StreamingForecaster(self.pipe, bars, market=market, **options)
        with self._or_unloaded(name):
            stream.save(self.folder / name)
        self._names.add(name)
        self._hold(name, stream)
        frame = stream.forecast()
        frame.attrs["skipped"] = stream.skipped
        return stream, frame

    def get(self, name: str) -> StreamingForecaster:
        """The stream, read from disk where it is not in memory.

        Raises:
            Refusal: there is none, or it was saved by another model.
        """
        if name not in self._names:
            raise Refusal(404, "not_found", f"there is no stream {name}: create it first, with its history")
        if name not in self._loaded:
            try:
                self._hold(name, StreamingForecaster.load(self.folder / name, self.pipe))
            except ValueError as error:
                why = str(error).rpartition(": ")[0].replace(str(self.folder / name), f"stream {name}")
                raise Refusal(409, "unreadable", f"{why}: delete it, and make it anew") from error
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def update(
        self, name: str, tables: dict[str, Any], *, strict: bool = False
    ) -> tuple[StreamingForecaster, pd.DataFrame]:
        """Takes new bars, and saves; returns the forecasts of the symbols that they are of.

        Raises:
            Refusal: there is no such stream, or it could not be saved.
            ValueError: as `StreamingForecaster.update`; no bar of this call is taken then.
        """
        stream, skipped, taken = self.get(name), dict[str, str](), dict[str, None]()
        bars, market = self._named(tables)
        if len(bars) > MOST_NEW:
            raise ValueError(f"{len(bars):,} bars in one update: send {MOST_NEW:,} at most, or start a new stream")
        with self._or_unloaded(name):
            for part in self._one_by_one(stream, bars):
                part = part[~part[self._key].isin([*skipped])]
                if len(part):
                    frame = stream.update(part, market=market, strict=strict)
                    market = None
                    skipped |= frame.attrs["skipped"]
                    taken |= dict.fromkeys(frame["ticker"])
            stream.save(self.folder / name)
        frame = stream.forecast([*taken])
        frame.attrs["skipped"] = skipped
        return stream, frame

    def delete(self, name: str) -> None:
        """Raises Refusal where there is none."""
        if name not in self._names:
            raise Refusal(404, "not_found", f"there is no stream {name}")
        StreamingForecaster.delete(self.folder / name)
        self._names.discard(name)
        self._loaded.pop(name, None)

    # --- memory

    def _hold(self, name: str, stream: StreamingForecaster) -> None:
        self._loaded[name] = stream
        while len(self._loaded) > 1 and sum(len(one.symbols) for one in self._loaded.values()) > IN_MEMORY:
            self._loaded.popitem(last=False)

    @contextmanager
    def _or_unloaded(self, name: str) -> Iterator[None]:
        """Memory never holds a state that is not on disk."""
        try:
            yield
        except BaseException as error:
            self._loaded.pop(name, None)
            if isinstance(error, OSError):
                why = error.strerror or type(error).__name__
                raise Refusal(
                    507, "not_saved", f"the state could not be saved, so nothing was taken: {why}"
                ) from error
            raise

    # --- bars

    @property
    def _key(self) -> str:
        return self.pipe.processor.kind.id

    def _named(self, tables: dict[str, Any]) -> tuple[Any, Any]:
        """Bars with our names of columns, and the market."""
        columns = {name: value for name, value in tables.items() if name not in ("bars", "market")}
        bars, extractor = self.pipe._renamed(tables["bars"], columns), self.pipe.processor.feature_extractor
        return given_bars(bars, extractor.series_kind, extractor.covariates), tables.get("market")

    def _one_by_one(self, stream: StreamingForecaster, bars: pd.DataFrame) -> list[pd.DataFrame]:
        """The first bar of each symbol, then the second of each."""
        if self._key not in bars:
            if len(stream.symbols) > 1:
                raise ValueError(f"the bars have no column {self._key!r}: say of which symbol each one is")
            bars = bars.assign(**{self._key: stream.symbols[0]})
        number = bars.groupby(bars[self._key].astype(str)).cumcount()
        return [part for _, part in bars.groupby(number)]

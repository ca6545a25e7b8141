"""Preference pairs read, checked against the model that they are to tune, and split by date.

Pairs are dated. Those whose outcome lies behind the training fence never train, and are counted.

Shapes: N pairs, T bars, F features, P steps.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value
from datasets import Sequence as ListOf
from transformers import TrainingArguments
from transformers.utils import logging

from ..bars_tsf_llm import kind_of
from ..common.parser import option
from ..common.reading import read_json, shapes_of
from ..data_prep.windows import Split, fence
from ..modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from ..processing_tsf_llm import TsfLlmProcessor
from ..training.data import TrainingData
from .pairs import PairArguments, UtilityArguments, build

logger = logging.get_logger(__name__)
NEEDED = ("ticker", "origin", "past_values", "attention_mask", "chosen_ids", "rejected_ids")
READ_AT_ONCE = 256
HELD_OUT = 0.1  # of pairs without pairs of validation dates


@dataclass(frozen=True)
class Reader:
    """What pairs must fit: the features, the tokens or numbers, and the steps of a model.

    Pairs come out with `past_values [T,F]`, `attention_mask [T]`, and `chosen` and `rejected` `[P]`: return tokens for
    a causal LM, returns over sigma for a regression head. `ticker` and `origin` are there if the source has them.
    """

    model: TsfLlmForCausalLM | TsfLlmForPrediction
    processor: TsfLlmProcessor
    cache: Path  # where `datasets` keeps the table that it maps into memory

    @property
    def numbers(self) -> bool:
        return not self.model.can_generate()

    def read(self, source: str | Path) -> Dataset:
        """Pairs of `build_preferences` (its folder or `.parquet`), or of the original's layout (`.jsonl`).

        Raises:
            FileNotFoundError: no such source.
            ValueError: another format, or pairs that do not fit the model.
        """
        path = Path(source)
        if path.is_dir():
            self._check_folder(path)
            path = path / "preferences.parquet"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: name a folder or .parquet of build_preferences, or a .jsonl"
            )
        with shapes_of(path, "build the pairs again"):
            pairs = self._read_jsonl(path) if path.suffix == ".jsonl" else self._read_parquet(path)
            return self._without_ties(pairs, path)

    def _check_folder(self, folder: Path) -> None:
        if not (folder / "preferences.json").is_file():
            raise FileNotFoundError(f"{folder} holds no finished pairs (no preferences.json): build them again")
        info = read_json(folder / "preferences.json")
        names, n_bins = self.processor.feature_extractor.names, self.processor.tokenizer.n_bins
        if info.get("features") != names:
            raise ValueError(
                f"{folder} was built for other features than the model's: build its pairs with this model"
            )
        if info.get("n_bins") != n_bins:
            raise ValueError(
                f"{folder} has return tokens of {info.get('n_bins')} bins, the model {n_bins}: build it again"
            )

    def _read_parquet(self, path: Path) -> Dataset:
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is no parquet file: name one of build_preferences, or a .jsonl") from error
        missing = [name for name in NEEDED if name not in file.schema_arrow.names]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}: pairs are written by build_preferences")
        first = 0
        for chunk in file.iter_batches(READ_AT_ONCE, columns=list(NEEDED)):
            self._check_chunk(chunk, path, first)
            first += len(chunk)
        if not first:
            raise ValueError(f"{path} holds no pairs: build them again")
        pairs = Dataset.from_parquet(str(path), cache_dir=str(self.cache), columns=list(NEEDED))
        pairs = pairs.rename_columns({"chosen_ids": "chosen", "rejected_ids": "rejected"})
        return pairs.map(self._decoded, features=_features(float), desc="returns of tokens") if self.numbers else pairs

    def _read_jsonl(self, path: Path) -> Dataset:
        with path.open(encoding="utf-8") as file:
            rows = [self._parsed(line, f"{path}, line {i}") for i, line in enumerate(file, 1) if line.strip()]
        if not rows:
            raise ValueError(f"{path} holds no pairs: one JSON object per line, with prompt, chosen and rejected")
        if len({len(row["chosen"]) for row in rows}) > 1:
            raise ValueError(f"{path} has paths of different lengths: all pairs need the same number of steps")
        kind = float if self.numbers else int
        return Dataset.from_list(rows, features=Features({k: v for k, v in _features(kind).items() if k in rows[0]}))

    def _parsed(self, line: str, where: str) -> dict[str, Any]:
        try:
            pair = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is no JSON ({error.msg}): it may be cut off") from error
        missing = [name for name in ("prompt", "chosen", "rejected") if not isinstance(pair, dict) or name not in pair]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        prompt = pair["prompt"]
        if not isinstance(prompt, list) or len(prompt) != 1 or not isinstance(prompt[0], list) or not prompt[0]:
            raise ValueError(f"{where}: prompt must be one window, a list [1][T][F]")
        row = {"past_values": prompt[0], "attention_mask": [1] * len(prompt[0])}
        for name in ("chosen", "rejected"):
            values = _numbers(pair[name], f"{where}, {name}", ndim=1)
            row[name] = (values if self.numbers else self.processor.tokenizer.encode_returns(values)).tolist()
        self._check(row, where)
        return row

    def _check_chunk(self, chunk: pa.RecordBatch, path: Path, first: int) -> None:
        """Many pairs of a table at once, without a Python object per number."""

        def refuse(rows: np.ndarray, what: str) -> None:
            if len(rows):
                raise ValueError(f"{path}, row {first + int(rows[0])}: {what}")

        bars, n_bins = chunk["past_values"], self.processor.tokenizer.n_bins
        length, mask_length, chosen, rejected = (
            _lengths(chunk[name]) for name in ("past_values", "attention_mask", "chosen_ids", "rejected_ids")
        )
        wrong = (length == 0) | (length != mask_length)
        refuse(np.flatnonzero(wrong), "past_values and attention_mask must have one entry per bar")
        wanted, of_row = self.model.config.num_features, np.repeat(np.arange(len(chunk)), length)
        refuse(of_row[_lengths(bars.flatten()) != wanted], f"not all bars have the model's {wanted} features")
        values = np.asarray(bars.flatten().flatten(), dtype=float)
        refuse(np.repeat(of_row, wanted)[~np.isfinite(values)], "past_values are not finite")
        observed = np.bincount(of_row, weights=np.asarray(chunk["attention_mask"].flatten()), minlength=len(chunk))
        refuse(np.flatnonzero(observed == 0), "attention_mask hides every bar")
        refuse(np.flatnonzero((chosen != rejected) | (chosen == 0)), "chosen and rejected must have equal lengths")
        refuse(np.flatnonzero(chosen != self._steps(chosen[0])), "its paths have another number of steps")
        for name in ("chosen_ids", "rejected_ids"):
            ids = np.asarray(chunk[name].flatten())
            outside = f"tokens outside the model's {n_bins} return bins; build the pairs with it"
            refuse(np.repeat(np.arange(len(chunk)), chosen)[(ids < 0) | (ids >= n_bins)], f"{name}: {outside}")

    def _check(self, row: dict[str, Any], where: str) -> None:
        """One pair of numbers or, for a causal LM, of their tokens."""
        values = _numbers(row["past_values"], f"{where}, prompt", ndim=2)
        wanted = self.model.config.num_features
        if values.shape[1] != wanted:
            raise ValueError(f"{where} has {values.shape[1]} features, the model {wanted}: build it with this model")
        chosen, rejected = len(row["chosen"]), len(row["rejected"])
        if chosen != rejected or not chosen:
            raise ValueError(f"{where} has {chosen} chosen and {rejected} rejected steps: they must be equal")
        if chosen != self._steps(chosen):
            raise ValueError(f"{where} has {chosen} steps, the head {self._steps(chosen)}: they must be equal")

    def _steps(self, given: int) -> int:
        """The number of steps that paths must have: any for a causal LM, which can go on."""
        return self.model.config.prediction_length if self.numbers else int(given)

    def _decoded(self, pair: dict[str, Any]) -> dict[str, Any]:
        decode = self.processor.tokenizer.decode_returns
        return {**pair, **{name: decode(np.array(pair[name])).tolist() for name in ("chosen", "rejected")}}

    @staticmethod
    def _without_ties(pairs: Dataset, path: Path) -> Dataset:
        chosen, rejected = (np.array(pairs[name][:]) for name in ("chosen", "rejected"))
        different = np.flatnonzero((chosen != rejected).any(axis=1))
        if not len(different):
            raise ValueError(f"{path}: chosen equals rejected in every pair, so there is nothing to prefer")
        return pairs if len(different) == len(pairs) else pairs.select(different)


def _lengths(lists: pa.Array) -> np.ndarray:
    """Of each list; 0 for a null."""
    return np.asarray(pc.list_value_length(lists).fill_null(0), dtype=int)


def _numbers(values: Any, where: str, ndim: int) -> np.ndarray:
    """A finite array of a nested list."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} is ragged or no list of numbers: every row needs the same length") from error
    if array.ndim != ndim or not np.isfinite(array).all():
        raise ValueError(f"{where} must be finite numbers in {ndim} dimension(s), not of shape {list(array.shape)}")
    return array


def _features(step: type) -> Features:
    steps = ListOf(Value("float64" if step is float else "int64"))
    return Features(
        {
            "ticker": Value("string"),
            "origin": Value("timestamp[ns]"),
            "past_values": ListOf(ListOf(Value("float32"))),
            "attention_mask": ListOf(Value("int64")),
            "chosen": steps,
            "rejected": steps,
        }
    )


# --- splitting them by date ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitPairs:
    """Pairs to train on, later ones to choose by, and what became of the others."""

    train: Dataset
    valid: Dataset
    counts: dict[str, int]
    dated: bool


def split_pairs(pairs: Dataset, bars: pd.DataFrame, split: Split, horizon: int) -> SplitPairs:
    """Train on outcomes up to the training fence; choose by pairs of the validation dates, an embargo behind it.

    Without pairs of validation dates the last tenth of the training dates is held out; of undated pairs the last
    tenth of the file.

    Raises:
        ValueError: a ticker without bars, or no pair left.
    """
    if "origin" not in pairs.column_names:
        cut = min(len(pairs) - 1, int(np.ceil((1 - HELD_OUT) * len(pairs))))
        train, valid = np.arange(cut), np.arange(cut, len(pairs))
        return _parts(pairs, train, valid, {"embargo": 0, "after_fence": 0}, dated=False)
    tickers, origins = np.array(pairs["ticker"][:]), pd.DatetimeIndex(pairs["origin"][:]).to_numpy("datetime64[ns]")
    outcomes = outcome_times(tickers, origins, bars, horizon)
    fence, later = split.train_through.to_datetime64(), split.valid_through.to_datetime64()
    inside = outcomes <= fence  # NaT, an outcome that is not in the data, is not
    behind = origins >= embargo_end(bars, split.train_through, horizon).to_datetime64()
    valid_mask = behind & (outcomes <= later)
    train, valid = np.flatnonzero(inside), np.flatnonzero(valid_mask)
    counts = {"embargo": int((~inside & ~behind).sum()), "after_fence": int((behind & ~valid_mask).sum())}
    if not len(train):
        raise ValueError(
            f"no pair's outcome lies by the training fence, {split.train_through}: later pairs must not train; "
            "move train_through or build earlier pairs"
        )
    if not len(valid):
        cut = np.sort(origins[train])[int((1 - HELD_OUT) * len(train))]
        earlier, valid = outcomes[train] < cut, train[origins[train] >= cut]
        counts["embargo"] += int((~earlier).sum()) - len(valid)
        train = train[earlier]
    return _parts(pairs, train, valid, counts, dated=True)


def _parts(pairs: Dataset, train: np.ndarray, valid: np.ndarray, counts: dict[str, int], dated: bool) -> SplitPairs:
    if not len(train) or not len(valid):
        raise ValueError(f"{len(pairs)} pair(s) leave {len(train)} to train and {len(valid)} to hold out: give more")
    return SplitPairs(pairs.select(train), pairs.select(valid), counts, dated)


def outcome_times(tickers: np.ndarray, origins: np.ndarray, bars: pd.DataFrame, horizon: int) -> np.ndarray:
    """Time of the `horizon`-th bar after each origin, datetime64 `[N]`; NaT where the data ends before.

    Raises ValueError for a ticker without bars."""
    outcomes = np.full(len(origins), np.datetime64("NaT"), dtype="datetime64[ns]")
    times = {str(name): np.sort(frame.to_numpy()) for name, frame in bars.groupby(kind_of(bars).id)["timestamp"]}
    for ticker in np.unique(tickers):
        if str(ticker) not in times:
            raise ValueError(
                f"the data has no bars of {ticker}, so the dates of its pairs cannot be checked: add them"
            )
        rows, own = np.flatnonzero(tickers == ticker), times[str(ticker)].astype("datetime64[ns]")
        ends = np.searchsorted(own, origins[rows], side="right") - 1 + horizon
        known = ends < len(own)
        outcomes[rows[known]] = own[ends[known]]
    return outcomes


def embargo_end(bars: pd.DataFrame, fence: pd.Timestamp, horizon: int) -> pd.Timestamp:
    """The first origin whose labels lie more than `horizon` bar times behind a fence.

    Raises ValueError if the data ends before."""
    times = np.sort(bars["timestamp"].unique())
    times = times[times > fence.to_datetime64()]
    if len(times) <= horizon:
        raise ValueError(
            f"fewer than {horizon + 1} bar times lie behind {fence}: move the fence or shorten the horizon"
        )
    return pd.Timestamp(times[horizon - 1])


# --- given or built ------------------------------------------------------------------------------------------------


@dataclass
class PreferenceArguments(UtilityArguments):
    """Which pairs."""

    _argument_group_name = "preferences"

    preferences: str | None = option(
        None, "folder or .parquet of build_preferences, or a .jsonl; by default built from the base model"
    )
    utility: str = option(PairArguments.utility, "built pairs: crps, pnl or drawdown")
    pair_stride: int | None = option(None, "built pairs: bars between training origins; by default the horizon")
    min_margin: float = option(PairArguments.min_margin, "built pairs: least utility apart")

    def settings(self, **more: Any) -> PairArguments:
        return super().settings(utility=self.utility, min_margin=self.min_margin, **more)


def read_or_build(
    data: TrainingData, model: Any, preference_args: PreferenceArguments, training_args: TrainingArguments
) -> tuple[SplitPairs, Dataset | None]:
    """Pairs to train on and to choose by; and pairs of the dates behind both, for the report, if paths are sampled."""
    given, split = preference_args.preferences, data.split
    reader = Reader(model, data.processor, Path(training_args.output_dir) / "preferences" / "cache")
    if not model.can_generate():
        if given is None:
            raise ValueError("a regression head samples no paths: give preferences, a .jsonl or those of a causal LM")
        return _given(reader, data, given), None
    if given is None:
        options = (data, model, preference_args, training_args)
        stride = preference_args.pair_stride or data.args.horizon
        train = built(*options, name="train", last=split.train_through, stride=stride)
        start = str(embargo_end(data.bars, split.train_through, data.args.horizon))
        valid = built(*options, name="valid", last=split.valid_through, start=start)
        pairs = SplitPairs(train, valid, {}, dated=True)
    else:
        pairs = _given(reader, data, given)
    return pairs, test_pairs(data, model, preference_args, training_args)


def built(
    data: TrainingData, model: Any, args: UtilityArguments, training_args: Any, *, name: str, last: Any, **more: Any
) -> Dataset:
    """Pairs of the model itself with outcomes up to a date, kept in `preferences/NAME`."""
    folder, horizon = Path(training_args.output_dir) / "preferences", data.args.horizon
    usual = {"horizon": horizon, "stride": horizon, "seed": training_args.seed, "through": fence(last)}
    source = build(data, model, folder / name, args.settings(**usual | more), progress=not training_args.disable_tqdm)
    return Reader(model, data.processor, folder / "cache").read(source)


def test_pairs(data: TrainingData, model: Any, args: UtilityArguments, training_args: Any) -> Dataset:
    """Pairs of the model itself on the dates after validation."""
    start = str(data.split.valid_through + pd.Timedelta(1, "ns"))
    return built(data, model, args, training_args, name="test", last=data.bars["timestamp"].max(), start=start)


def _given(reader: Reader, data: TrainingData, source: str) -> SplitPairs:
    pairs = reader.read(source)
    split = split_pairs(pairs, data.bars, data.split, len(pairs[0]["chosen"]))
    if sum(split.counts.values()):
        logger.warning(
            f"{source}: {split.counts['after_fence']} pair(s) lie behind the dates of training and validation, "
            f"{split.counts['embargo']} within the embargo between these two; they are left out"
        )
    if not split.dated:
        logger.warning(f"{source} has no dates: whether its pairs lie before the dates of the report is up to you")
    return split

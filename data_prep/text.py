r"""Dated texts (news, filings, posts) beside prices: causal features per bar, through a frozen encoder of your choice.

    python -m tsf_llm.data_prep.text --data prices.csv --texts news.csv --encoder FOLDER_OR_NAME \
        --through 2018-12-31 --out joined.parquet

`joined.parquet` has the prices with columns `text_*` beside. To train on it:

    python -m tsf_llm.train_scripts.sft --data joined.parquet --past_covariates 'text_*' --output_dir outputs/text

Design choices:
- A text counts for the first bar that closes after it was published, and for no earlier one. Nothing else decides:
  later texts change no earlier number by a bit.
- When daily bars close is not guessed. Without `close_time` a text of day d counts from the first bar after d; with
  it, one before the close counts for the bar of its day. A time stamp at midnight is a date: its text may have come
  at any hour, so it counts from the day that follows. Bars within a day are taken at their stamps.
- The encoder stays as it is. Its vectors are reduced by principal components of the texts through the fence.
- A bar without texts has no mean text: NaN here, zero and masked in the processor. Before the first text of the
  collection the number of texts is unknown as well.
- A text's vector depends on that text alone: batches have fixed shapes, chosen by the text's own length.

Shapes: N texts, D numbers of the encoder, K kept ones, L tokens, B texts of a batch.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from ..bars_tsf_llm import OHLCV, day_end, kind_of, split_tickers
from ..cells_tsf_llm import Unclear, clocks, stripped
from ..columns_tsf_llm import ALIASES, find_columns, listed
from ..common.errors import one_line_errors
from ..common.files import check_apart, has_keys, write_json, write_parquet
from ..common.parser import Parser, option
from .sources import read_data
from .tables import open_table

NAMES = {
    "timestamp": ("published", "publishedat", "createdat", *ALIASES["timestamp"]),
    "ticker": ALIASES["ticker"],
    "text": ("text", "headline", "title", "content", "body", "sentence", "tweet"),
}
REMEDIES = {
    "timestamp": "write 2024-01-31 or 2024-01-31 15:30",
    "ticker": "name the ticker that the text is about",
    "text": "drop the row or give its text",
}
DAY = pd.Timedelta(days=1)
LAST = pd.Timedelta(1, "ns")
FIRST_REACH = pd.Timedelta(days=7)  # the first bar has none before it: texts of these days are its own
FORGOTTEN = 0.01  # weight of all texts so far below which a trailing mean is unknown
MAX_TOKENS = 128
PORTION = 8192  # texts between two writes of the cache


@dataclass
class TextArguments:
    """What is read, how it is encoded, what is written."""

    data: str = option(help="price file or folder, 'sample', or a plain series")
    texts: str = option(help="CSV or parquet: timestamp, ticker, text")
    encoder: str = option(help="folder or name of a text encoder")
    out: str = option(help="parquet file to write, and its .projection.json")
    through: str | None = option(None, "last date of the texts that the projection is fitted on")
    projection: str | None = option(None, "a .projection.json to use again, in place of --through")
    covariates: list[str] = option([], "columns of the data to keep, as earnings or macro_*")
    size: int = option(8, "numbers kept of a vector")
    sentiment: str | None = option(None, "folder or name of a classifier with labels positive and negative")
    close_time: str | None = option(None, "close of daily bars, as 16:00; without it texts count from the next day")
    zone: str = option("UTC", "time zone of the bars' dates, as America/New_York")
    half_life: float = option(5.0, "bars, of the trailing means")
    as_series: bool = option(False, "write log closes for bars: a plain series")
    cache: str | None = option(None, "parquet file of vectors to keep and use again")
    batch_size: int = option(32, "texts encoded together")
    device: str = option("cpu", "cpu or cuda")

    def __post_init__(self) -> None:
        if (self.through is None) == (self.projection is None):
            raise ValueError("give --through to fit a projection, or --projection to use one again; one of the two")


# --- texts in ------------------------------------------------------------------------------------------------------


def read_texts(path: str | Path) -> pd.DataFrame:
    """CSV or parquet -> `timestamp, ticker, text`; times in UTC without zone, dates as midnights.

    Raises:
        ValueError: names the file, the row and the remedy; so does FileNotFoundError for a path that does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a CSV or parquet file with timestamp, ticker, text.")
    raw = open_table(path)
    column = find_columns(raw, NAMES)
    if missing := [name for name in NAMES if name not in column]:
        raise ValueError(f"{path} has no column for {', '.join(missing)}; found: {listed(raw)}. Rename its columns.")
    try:
        texts = pd.DataFrame({"timestamp": publication_times(raw[column["timestamp"]])})
    except Unclear as error:
        raise ValueError(f"{path}: {error}; write dates as 2024-01-31.") from error
    for name in ("ticker", "text"):
        texts[name] = stripped(raw[column[name]])
    for name, remedy in REMEDIES.items():
        bad = np.flatnonzero(texts[name].isna() | texts[name].astype(str).eq(""))
        if bad.size:
            held = raw[column[name]].iloc[bad[0]]
            raise ValueError(f"{path}, row {bad[0] + 1}: column '{column[name]}' holds '{held}'; {remedy}.")
    return texts


def publication_times(column: pd.Series) -> pd.Series:
    """Times in UTC without zone, NaT for what is no date; a midnight of any zone is a date and stays one.

    >>> publication_times(pd.Series(["2024-01-31T00:00:00+09:00", "2024-01-31T09:30:00+09:00"])).astype(str).tolist()
    ['2024-01-31 00:00:00', '2024-01-31 00:30:00']
    """
    local, utc = clocks(column)
    stamps = utc.where(local != local.dt.normalize(), local)
    return stamps.astype("datetime64[ns]")


# --- vectors -------------------------------------------------------------------------------------------------------


def encode_texts(
    texts: Sequence[str], encoder: str | Path, cache: str | Path | None = None, **options: Any
) -> np.ndarray:
    """Mean of the encoder's last hidden states over each text's tokens, float32 `[N,D]`.

    `encoder` is a folder or name that AutoModel and AutoTokenizer load. `cache` is a parquet file of vectors by hash
    of encoder and text; `options` are those of `_run`.
    """

    def mean_state(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        states_BLD = model(**inputs).last_hidden_state
        mask_BL1 = inputs["attention_mask"][..., None].to(states_BLD.dtype)
        return (states_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)

    return _run(texts, AutoModel, str(encoder), mean_state, cache, **options)


def score_sentiment(
    texts: Sequence[str], classifier: str | Path, cache: str | Path | None = None, **options: Any
) -> np.ndarray:
    """P(positive) - P(negative) of a text classifier (as `train_scripts/sentiment.py` saves), float64 `[N]`.

    Raises:
        ValueError: its labels are not named so.
    """

    def score(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        label = {str(name).lower(): i for i, name in model.config.id2label.items()}
        if not {"positive", "negative"} <= label.keys():
            raise ValueError(f"{classifier} has labels {sorted(label)}: positive and negative must be among them")
        chances = model(**inputs).logits.softmax(-1)
        return chances[:, [int(label["positive"])]] - chances[:, [int(label["negative"])]]

    scores = _run(texts, AutoModelForSequenceClassification, str(classifier), score, cache, **options)
    return scores[:, 0].astype(float)


def _run(
    texts: Sequence[str],
    model_class: Any,
    name: str,
    compute: Callable[[Any, dict[str, torch.Tensor]], torch.Tensor],
    cache: str | Path | None,
    *,
    batch_size: int = 32,
    max_tokens: int = MAX_TOKENS,
    device: str = "cpu",
    progress: bool = False,
) -> np.ndarray:
    """What `compute` makes of each text, float32 `[N,D]`; each distinct text once, and never what the cache knows."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = model_class.from_pretrained(name, dtype=torch.float32).to(device).eval()
    max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))
    mark = _fingerprint(model, tokenizer, max_tokens)
    keys = [hashlib.blake2b(mark + text.encode(), digest_size=16).hexdigest() for text in texts]
    known = _read_cache(cache)
    todo = sorted({key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items())
    with tqdm(total=len(todo), desc=Path(name).name, unit="text", disable=not progress) as bar:
        for start in range(0, len(todo), PORTION):
            part = todo[start : start + PORTION]
            for rows, inputs in _batches([text for _, text in part], tokenizer, batch_size, max_tokens):
                with torch.inference_mode():
                    vectors = compute(model, {k: v.to(device) for k, v in inputs.items()}).float().cpu().numpy()
                known |= {part[row][0]: vector for row, vector in zip(rows, vectors, strict=False)}
                bar.update(len(rows))
            if cache is not None:
                write_parquet(pd.DataFrame({"key": list(known), "vector": list(known.values())}), cache)
    return np.stack([known[key] for key in keys]) if keys else np.zeros((0, 0), np.float32)


def _batches(texts: list[str], tokenizer: Any, batch_size: int, max_tokens: int) -> Any:
    """(rows, inputs) of always `batch_size` texts of one padded length, a power of two; the last is filled up."""
    tokens = [tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"] for text in texts]
    lengths = np.array([min(max(8, 1 << (len(one) - 1).bit_length()), max_tokens) for one in tokens])
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            filled = [*chosen, *[chosen[0]] * (batch_size - len(chosen))]
            batch = {"input_ids": [tokens[row] for row in filled]}
            yield chosen, dict(tokenizer.pad(batch, padding="max_length", max_length=int(length), return_tensors="pt"))


def _fingerprint(model: Any, tokenizer: Any, max_tokens: int) -> bytes:
    """Of the weights, the vocabulary and the cut: a cache may then serve any number of encoders."""
    digest = hashlib.blake2b(str(max_tokens).encode())
    digest.update(json.dumps([type(model).__name__, sorted(tokenizer.get_vocab().items())]).encode())
    for key, weight in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _read_cache(path: str | Path | None) -> dict[str, np.ndarray]:
    if path is None or not Path(path).exists():
        return {}
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError):  # pyarrow's errors are among these
        frame = pd.DataFrame()
    if list(frame.columns) != ["key", "vector"]:
        raise ValueError(f"{path} is no cache of text vectors: name another file, or delete it")
    return dict(zip(frame["key"], frame["vector"], strict=True))


@dataclass(frozen=True)
class Projection:
    """`[N,D]` -> `[N,K]`: principal components of the distinct texts through a fence."""

    center: np.ndarray  # [D]
    components: np.ndarray  # [K,D]
    through: str | None

    @classmethod
    def fit(cls, texts: pd.DataFrame, vectors_ND: np.ndarray, size: int, through: Any = None) -> "Projection":
        """From texts published through the fence; by default from all of them.

        Raises:
            ValueError: fewer distinct texts, or numbers of the encoder, than components.
        """
        published = publication_times(texts["timestamp"])
        inside = (published <= day_end(through)).to_numpy() if through is not None else np.full(len(texts), True)
        known = pd.DataFrame({"text": texts["text"].to_numpy(), "row": np.arange(len(texts))})[inside]
        rows = known.drop_duplicates("text").sort_values("text")["row"].to_numpy()
        if not 0 < size <= min(len(rows) - 1, vectors_ND.shape[1]):
            raise ValueError(
                f"size={size}: {len(rows)} distinct texts through {through} and {vectors_ND.shape[1]} numbers of the "
                "encoder allow fewer components; choose a smaller size, a later fence or more texts"
            )
        chosen = vectors_ND[rows].astype(float)
        center = chosen.mean(axis=0)
        covariance = (chosen - center).T @ (chosen - center) / len(rows)
        components = np.linalg.svd(covariance, hermitian=True)[2][:size]
        largest = np.abs(components).argmax(axis=1)
        components *= np.sign(components[np.arange(size), largest])[:, None]  # else the sign is the library's choice
        return cls(center, np.ascontiguousarray(components), None if through is None else str(through))

    def __call__(self, vectors_ND: np.ndarray) -> np.ndarray:
        # Not `@`: BLAS orders its sums by the number of rows, which later texts would change; einsum by layout.
        centred = np.ascontiguousarray(vectors_ND - self.center, dtype=float)
        return np.einsum("nd,kd->nk", centred, self.components)

    def save(self, path: str | Path) -> None:
        lists = {"center": self.center.tolist(), "components": self.components.tolist()}
        write_json({"through": self.through, **lists}, path)

    @classmethod
    def load(cls, path: str | Path) -> "Projection":
        state = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(np.array(state["center"]), np.array(state["components"]), state["through"])


# --- features ------------------------------------------------------------------------------------------------------


def text_features(
    bars: pd.DataFrame,
    texts: pd.DataFrame,
    vectors_NK: np.ndarray,
    sentiment: np.ndarray | None = None,
    *,
    close_time: str | None = None,
    zone: str = "UTC",
    half_life: float = 5.0,
) -> pd.DataFrame:
    """One row per bar: `timestamp, ticker` (or `series_id`), `text_count`, `text_0`.., `text_0_trailing`..

    Args:
        bars: with their column of names; daily (midnights) or within a day (UTC).
        texts: `timestamp, ticker, text`, in any order; exact repeats count once. Times without zone are UTC.
        vectors_NK: the texts' projected vectors.
        sentiment: the texts' scores, for `text_sentiment` and `text_sentiment_trailing`.
        close_time: of daily bars, as "16:00" in `zone`; "24:00" where the bar is the whole day. A session that ends
            early needs the earlier time. Without it a text counts from the first bar after its day.
        zone: time zone of the bars' dates and of `close_time`, as "America/New_York".
        half_life: bars after which a text has half its weight in the trailing means.

    Raises:
        ValueError: a bad argument, bars that the processor refuses, or no text of any of their tickers.
    """
    kind = kind_of(bars)
    if kind.id not in bars:
        raise ValueError(f"the bars have no column '{kind.id}': texts are matched by it, so add it")
    if half_life <= 0:
        raise ValueError(f"half_life={half_life}: must be positive, e.g. 5 bars")
    if not len(texts) == len(vectors_NK) == len(texts if sentiment is None else sentiment):
        raise ValueError(f"{len(texts)} texts, {len(vectors_NK)} vectors: one row each, and one score, is needed")
    frames = split_tickers(bars, kind)
    times = pd.concat([frame["timestamp"] for frame in frames.values()])
    is_daily = bool((times == times.dt.normalize()).all())
    if close_time is not None and not is_daily:
        raise ValueError(f"close_time={close_time!r}: these bars are not daily, their stamps say when; leave it out")
    names = [f"text_{i}" for i in range(vectors_NK.shape[1])] + (["text_sentiment"] if sentiment is not None else [])
    values = vectors_NK if sentiment is None else np.column_stack((vectors_NK, sentiment))
    published = publication_times(texts["timestamp"])
    table = texts[["ticker", "text"]].astype({"ticker": str}).assign(published=published, row=np.arange(len(texts)))
    table["known"] = _known_from(published, close_time, zone, is_daily)
    table = table.sort_values(["known", "published", "text", "row"]).drop_duplicates(["published", "ticker", "text"])
    if not table["ticker"].isin(frames.keys()).any():
        raise ValueError(f"no text is about {', '.join(list(frames)[:8])}: check the ticker column of the texts")
    by_ticker = dict(list(table.groupby("ticker")))
    parts = []
    for ticker, frame in frames.items():
        own = by_ticker.get(ticker, table.iloc[:0])
        closes = _closes(frame["timestamp"], close_time, zone, is_daily)
        part = _per_bar(closes, own["known"].to_numpy(), values[own["row"]], names, half_life)
        part.loc[closes <= table["known"].iloc[0], "text_count"] = np.nan
        part.insert(0, "timestamp", frame["timestamp"])
        part.insert(1, kind.id, ticker)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _known_from(published: pd.Series, close_time: str | None, zone: str, is_daily: bool) -> np.ndarray:
    """The instant (UTC) after which a text is surely public, `[N]`: the end of its day where no better is known."""
    local = _converted(published, "UTC", zone)
    of_utc = published == published.dt.normalize()
    day = published.where(of_utc, local.dt.normalize())
    is_date = of_utc | (local == local.dt.normalize())
    whole_day = is_date | (is_daily and close_time is None)
    return published.where(~whole_day, _converted(day + DAY - LAST, zone, "UTC")).to_numpy()


def _closes(stamps: pd.Series, close_time: str | None, zone: str, is_daily: bool) -> np.ndarray:
    """The instant (UTC) before which a bar's texts must be public, `[N]`: midnight for a day without a known close."""
    if not is_daily:
        return stamps.to_numpy()
    after = pd.Timedelta(0)
    if close_time is not None:
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d|24:00", close_time):
            raise ValueError(f"close_time={close_time!r}: write hours and minutes, as 16:00")
        after = pd.Timedelta(f"{close_time}:00")
    return _converted(stamps + after, zone, "UTC", earlier=True).to_numpy()


def _converted(times: pd.Series, source: str, target: str, *, earlier: bool = False) -> pd.Series:
    """Wall-clock times of one zone in another; an hour that exists twice or never is taken late, or early."""
    doubtful = {"ambiguous": np.full(len(times), earlier), "nonexistent": f"shift_{'back' if earlier else 'for'}ward"}
    try:
        return times.dt.tz_localize(source, **doubtful).dt.tz_convert(target).dt.tz_localize(None)
    except (ZoneInfoNotFoundError, KeyError) as error:
        raise ValueError(f"zone={error}: unknown; write it as America/New_York") from error


def _per_bar(
    closes: np.ndarray, known: np.ndarray, values_NK: np.ndarray, names: list[str], half_life: float
) -> pd.DataFrame:
    """Numbers, means and trailing means of one ticker's texts, sorted by `known`, at its bars."""
    bar = np.searchsorted(closes, known, side="right")  # the first bar that closes later
    inside = (bar < len(closes)) & ((bar > 0) | (known > closes[0] - FIRST_REACH))
    bar, values_NK = bar[inside], values_NK[inside]
    count = np.zeros(len(closes))
    total = np.zeros((len(closes), len(names)))
    np.add.at(count, bar, 1.0)
    np.add.at(total, bar, values_NK)
    weight, sums = count.copy(), total.copy()
    for t in range(1, len(closes)):
        weight[t] += weight[t - 1] * 0.5 ** (1 / half_life)
        sums[t] += sums[t - 1] * 0.5 ** (1 / half_life)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(count[:, None] > 0, total / count[:, None], np.nan)
        trailing = np.where(weight[:, None] > FORGOTTEN, sums / weight[:, None], np.nan)
    columns = ["text_count", *names, *(f"{name}_trailing" for name in names)]
    return pd.DataFrame(np.column_stack((count, means, trailing)), columns=columns)


def join_texts(data: pd.DataFrame, features: pd.DataFrame, covariates: Sequence[str] = ()) -> pd.DataFrame:
    """The bars (or values of plain series) and the named columns of `data`, one row each, with the `text_*` beside."""
    kind = kind_of(data)
    if twice := sorted(set(covariates) & set(features)):
        raise ValueError(f"the data has column(s) {twice} already: leave them out of the covariates, or rename them")
    parts = [
        frame[["timestamp"]].assign(**{kind.id: name}, **frame.drop(columns="timestamp"))
        for name, frame in split_tickers(data, kind, covariates).items()
    ]
    return pd.concat(parts, ignore_index=True).merge(
        features, on=["timestamp", kind.id], how="left", validate="one_to_one"
    )


def as_series(joined: pd.DataFrame) -> pd.DataFrame:
    """`timestamp, series_id, value, ...`: the log closes of joined bars as a plain series, all else as it was."""
    value = np.log(joined["close"])
    others = joined.drop(columns=["timestamp", "ticker", *OHLCV.columns])
    return joined[["timestamp"]].assign(series_id=joined["ticker"], value=value, **others)


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    with one_line_errors("text"):
        [args] = Parser((TextArguments,), prog="text", description=__doc__).parse_args_and_config(arguments)
        out, fitted = Path(args.out), Path(args.out).with_suffix(".projection.json")
        for path in filter(None, (out, args.cache)):
            check_apart(path, args.data, args.texts, args.projection)
        if not args.projection and fitted.exists() and not has_keys(fitted, ("through", "center", "components")):
            raise ValueError(f"{fitted} is no projection and stands where one goes: choose another --out")
        data, texts = read_data(args.data, covariates=args.covariates), read_texts(args.texts)
        if args.as_series and kind_of(data) is not OHLCV:
            raise ValueError(f"{args.data} is a plain series already: leave --as-series out")
        shared = {"cache": args.cache, "batch_size": args.batch_size, "device": args.device, "progress": True}
        vectors = encode_texts(texts["text"].tolist(), args.encoder, **shared)
        if args.projection:
            projection = Projection.load(args.projection)
        else:
            projection = Projection.fit(texts, vectors, args.size, args.through)
            projection.save(fitted)
        scores = score_sentiment(texts["text"].tolist(), args.sentiment, **shared) if args.sentiment else None
        when = {"close_time": args.close_time, "zone": args.zone, "half_life": args.half_life}
        features = text_features(data, texts, projection(vectors), scores, **when)
        kept = [name for name in data if name not in ("timestamp", kind_of(data).id, *kind_of(data).columns)]
        joined = join_texts(data, features, kept)
        joined = as_series(joined) if args.as_series else joined
        write_parquet(joined, out)
    return joined


if __name__ == "__main__":
    main()

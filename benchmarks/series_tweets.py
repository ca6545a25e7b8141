"""`series`, tweets: the sign of the next day's return from dated tweets, from prices, from both. StockNet's test.

Design choices:
* The strict join is that of `data_prep/text.py`: a tweet counts at the first close after it was written, 16:00 in New
  York or 13:00 on short days, and informs the return from that close to the next. StockNet's own join takes the
  tweets of all calendar days before the outcome's, those after the close included: they are younger than the price
  that the return is measured from. The join a day later is wrong on purpose, and shows what a leak is worth.
* All inputs and joins answer the same samples: outcomes by StockNet's rule, where a tweet came within five bars.
* Samples of a date share the market. Every interval is a block bootstrap over dates.
* What is chosen is chosen on the development dates; the test dates are scored once per row.

Shapes: n samples, F inputs, T dates, N tickers.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from ..bars_tsf_llm import day_end
from ..common.tables import Columns, Table, number
from ..data_prep.text import Projection, encode_texts, text_features
from ..evaluation.backtest import Prices, buy_and_hold, random_entries, trade
from ..evaluation.classes import matthews_with_interval
from ..evaluation.performance import performance, sharpe_difference
from ..evaluation.positions import Outlook, sign
from ..evaluation.significance import Figure, date_means, finding, mean_interval, paired_difference, verdict
from .series_encoder import WORDS, cache_of, made_up_encoder, minilm
from .series_frame import Context, Found, Measure, Row, Section

DOWN, UP = -0.005, 0.0055  # StockNet's thresholds; outcomes between them are no sample
FENCES = ("2015-07-31", "2015-09-30", "2015-12-31")  # last outcomes of training, development and test
PARTS = ("train", "dev", "test")
CLOSE, EARLY_CLOSE, ZONE = "16:00", "13:00", "America/New_York"
EARLY = ("2014-07-03", "2014-11-28", "2014-12-24", "2015-11-27", "2015-12-24")  # days that closed at 13:00
INPUTS = {
    "prices": ["prices"],
    "words": ["words"],
    "words and prices": ["words", "prices"],
    "MiniLM": ["minilm"],
    "MiniLM and prices": ["minilm", "prices"],
}
COMMONEST, LAST = "the commoner class of training", "the sign of the last return"
PRICES, OURS = "prices, logistic", "words, logistic"
TEXT = (OURS, "MiniLM, logistic", "words and prices, logistic", "MiniLM and prices, logistic")
ENCODER = "all-MiniLM-L6-v2"
FEWEST = 5  # tweets that a word must stand in to be counted
RECENT = 5  # bars within which a tweet must have come
PER_DAY = 2  # tweets of a ticker and day that are read: the encoder is most of the cost
SIZE, HALF_LIFE = 16, 2.0  # components kept of a vector; bars
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C
TREES = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 8,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.5,
    "bagging_freq": 1,
    "deterministic": True,
    "num_threads": 1,
    "verbosity": -1,
}
ROUNDS, PATIENCE = 300, 30
MARK = 0.582  # accuracy that StockNet's authors report
COST_BP = 10.0
DRAWS = 200  # of random entries
CUTS = 12  # closes at which the joins are cut


@dataclass(frozen=True)
class Join:
    """How tweets meet returns. `lead` is how many bars the inputs' row lies behind the close that returns start at."""

    name: str
    by_date: bool  # by the calendar day that the collection files a tweet under, not by its stamp
    lead: int


STRICT = Join("strict join", by_date=False, lead=0)
PUBLISHED = Join("StockNet's join", by_date=True, lead=1)
LEAKY = Join("join a day late (wrong on purpose)", by_date=False, lead=1)


@dataclass(frozen=True)
class Samples:
    """One row per ticker and close, in order of dates; `label` is 1 up, 0 down, -1 between or unknown."""

    rows: pd.DataFrame  # as `Collection.rows`
    inputs: Mapping[str, np.ndarray]  # [n,F] of each source

    def of(self, part: str) -> np.ndarray:
        """Which rows are samples of this part, `[n]`."""
        return ((self.rows["part"] == part) & (self.rows["label"] >= 0) & self.rows["recent"]).to_numpy()

    @property
    def table(self) -> np.ndarray:
        return np.column_stack([*self.inputs.values()])


@dataclass(frozen=True)
class Collection:
    """Tweets and bars, and vectors of the tweets."""

    bars: pd.DataFrame  # timestamp, ticker, adjusted prices, volume
    tweets: pd.DataFrame  # timestamp (UTC), date, ticker, text, next_ret; in order of time
    encoder: str
    cache: Path | None

    @classmethod
    def read(cls, context: Context, folder: Path) -> "Collection":
        """StockNet's tweets and prices, or made-up ones."""
        if context.data is None:
            return cls(*made_up(), made_up_encoder(folder), None)
        tweets = pd.read_parquet(context.file("stocknet_tweets.parquet")).rename(columns={"created_at": "timestamp"})
        tweets = tweets.sort_values(["timestamp", "ticker", "text"], kind="stable", ignore_index=True)
        prices = pd.read_parquet(context.file("stocknet_prices.parquet"))
        prices = prices[prices["ticker"].isin(tweets["ticker"]) & (prices["date"] <= FENCES[2])]
        return cls(adjusted(prices), tweets, ENCODER, cache_of(context))

    @cached_property
    def words(self) -> np.ndarray:
        """Components of the weighted counts of words, fitted on tweets through the training fence, `[tweets,SIZE]`."""
        known = (self.tweets["timestamp"] <= day_end(FENCES[0])).to_numpy()
        counter = TfidfVectorizer(token_pattern=r"\S+", min_df=FEWEST, sublinear_tf=True)
        counter.fit(self.tweets["text"][known])
        counted = counter.transform(self.tweets["text"])
        return TruncatedSVD(SIZE, random_state=0).fit(counted[known]).transform(counted)

    @cached_property
    def minilm(self) -> np.ndarray:
        """Projected vectors of the encoder, fitted likewise, of the tweets that are `first`, `[tweets,SIZE]`."""
        first = self.tweets[self.first]
        raw = encode_texts(first["text"].tolist(), minilm() if self.encoder == ENCODER else self.encoder, self.cache)
        vectors = np.zeros((len(self.tweets), SIZE))
        vectors[self.first] = Projection.fit(first, raw, SIZE, FENCES[0])(raw)
        return vectors

    @cached_property
    def first(self) -> np.ndarray:
        """The first `PER_DAY` tweets of a ticker and day, `[tweets]`: later ones of that day change nothing."""
        return (self.tweets.groupby(["ticker", "date"]).cumcount() < PER_DAY).to_numpy()

    @cached_property
    def recent(self) -> np.ndarray:
        """Whether a tweet came within the last bars, by the strict join, `[n]`."""
        counts = self.features(STRICT, np.zeros((len(self.tweets), 1)))["text_count"]
        return counts.groupby(self.bars["ticker"].to_numpy()).rolling(RECENT, min_periods=1).sum().to_numpy() > 0

    def features(self, join: Join, vectors: np.ndarray, keep: np.ndarray | None = None) -> pd.DataFrame:
        """`text_features` by this join, of the tweets that are kept."""
        keep = np.full(len(self.tweets), True) if keep is None else keep
        tweets, vectors = self.tweets[keep], vectors[keep]
        when: dict[str, Any] = {"half_life": HALF_LIFE}
        if join.by_date:
            tweets = tweets.assign(timestamp=tweets["date"])
        else:
            tweets = tweets.assign(timestamp=after_early_closes(tweets["timestamp"]))
            when |= {"close_time": CLOSE, "zone": ZONE}
        found = text_features(self.bars, tweets, vectors, **when)
        assert (found[["timestamp", "ticker"]] == self.bars[["timestamp", "ticker"]]).to_numpy().all()
        return found

    def text_inputs(self, source: str, join: Join, keep: np.ndarray | None = None) -> np.ndarray:
        """What the tweets tell at each close by this join, `[n,F]`: numbers, mean vectors, trailing ones."""
        read = self.first if source == "minilm" else np.full(len(self.tweets), True)
        table = self.features(join, getattr(self, source), read if keep is None else read & keep)
        table["text_count"] = np.log1p(table["text_count"])
        values = table.drop(columns=["timestamp", "ticker"]).groupby(self.bars["ticker"].to_numpy()).shift(-join.lead)
        return np.nan_to_num(values.to_numpy(float))

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Every close and its outcome: date, ticker, ret, outcome_date, label, part, recent."""
        by_ticker = self.bars.groupby("ticker", sort=False)
        ahead = by_ticker["close"].shift(-1) / self.bars["close"] - 1
        rows = pd.DataFrame(
            {"date": self.bars["timestamp"], "ticker": self.bars["ticker"], "ret": ahead}
            | {"outcome_date": by_ticker["timestamp"].shift(-1), "label": labels(ahead)}
        )
        fences = pd.to_datetime(pd.Series(FENCES)).to_numpy()
        part = np.array([*PARTS, "later"])[np.searchsorted(fences, rows["outcome_date"].to_numpy())]
        rows["part"] = np.where(rows["outcome_date"].isna(), "later", part)
        return rows.assign(recent=self.recent & rows["ret"].notna())

    def samples(self, join: Join, sources: Sequence[str]) -> Samples:
        """All closes, with the inputs of these sources."""
        inputs = {
            name: price_inputs(self.bars) if name == "prices" else self.text_inputs(name, join) for name in sources
        }
        return Samples(self.rows, inputs)


def adjusted(prices: pd.DataFrame) -> pd.DataFrame:
    """Bars with all prices on the scale of the adjusted close, sorted by ticker and date."""
    prices = prices.sort_values(["ticker", "date"], ignore_index=True)
    factor = prices["adj_close"] / prices["close"]
    scaled = {name: prices[name] * factor for name in ("open", "high", "low", "close")}
    return pd.DataFrame(
        {"timestamp": prices["date"], "ticker": prices["ticker"], **scaled, "volume": prices["volume"]}
    )


def labels(returns: pd.Series) -> np.ndarray:
    """
    >>> labels(pd.Series([0.0055, 0.0056, -0.005, -0.0049, None])).tolist()
    [-1, 1, 0, -1, -1]
    """
    return np.select([returns > UP, returns <= DOWN], [1, 0], -1)


def after_early_closes(stamps: pd.Series) -> pd.Series:
    """UTC stamps, those behind the close of a short day moved to 16:00 in New York, where the next bar begins."""
    local = stamps.dt.tz_localize("UTC").dt.tz_convert(ZONE)
    day = local.dt.tz_localize(None).dt.normalize()
    clock = local.dt.tz_localize(None) - day
    late = day.isin(pd.to_datetime(list(EARLY))) & (clock >= f"{EARLY_CLOSE}:00") & (clock < f"{CLOSE}:00")
    closes = (day + pd.Timedelta(f"{CLOSE}:00")).dt.tz_localize(ZONE).dt.tz_convert("UTC").dt.tz_localize(None)
    return stamps.where(~late, closes.astype(stamps.dtype))


def price_inputs(bars: pd.DataFrame) -> np.ndarray:
    """What prices tell at each close, `[n,F]`: own and the market's last returns, trend, range, volatility, volume."""
    by_ticker = bars.groupby("ticker", sort=False)
    last = by_ticker["close"].pct_change()
    market = last.groupby(bars["timestamp"]).transform("mean")
    own = last.groupby(bars["ticker"], sort=False)

    def trailing(values: pd.Series, window: int, how: str) -> pd.Series:
        rolled = values.groupby(bars["ticker"].to_numpy(), sort=False).rolling(window, min_periods=window)
        return getattr(rolled, how)().droplevel(0).reindex(values.index)

    columns = [own.shift(lag) for lag in range(RECENT)]
    columns += [market, market.groupby(bars["ticker"], sort=False).shift(1), trailing(market, RECENT, "mean")]
    columns += [trailing(last, window, how) for window, how in ((5, "mean"), (20, "mean"), (20, "std"))]
    columns += [bars["high"] / bars["low"] - 1, bars["close"] / bars["open"] - 1]
    columns.append(np.log(bars["volume"].clip(lower=1) / trailing(bars["volume"], 20, "mean").clip(lower=1)))
    return np.nan_to_num(np.column_stack(columns))


# --- models --------------------------------------------------------------------------------------------------------


def logistic(samples: Samples) -> np.ndarray:
    """P(up) of every row `[n]`, the penalty chosen by the development dates' log loss."""
    table = samples.table
    train, dev, label = samples.of("train"), samples.of("dev"), samples.rows["label"].to_numpy()
    table = StandardScaler().fit(table[train]).transform(table)
    models = [LogisticRegression(C=one, max_iter=1000).fit(table[train], label[train]) for one in PENALTIES]
    best = min(models, key=lambda model: log_loss(label[dev], model.predict_proba(table[dev])[:, 1]))
    return best.predict_proba(table)[:, 1]


def trees(samples: Samples, seed: int) -> np.ndarray:
    """P(up) of every row `[n]` by LightGBM, which stops where the development dates' log loss is least."""
    import lightgbm as lgb

    table, label = samples.table, samples.rows["label"].to_numpy()
    train, dev = samples.of("train"), samples.of("dev")
    parameters = {**TREES, "min_data_in_leaf": min(200, train.sum() // 20), "seed": seed}
    data = lgb.Dataset(table[train], label[train], params=parameters)
    check = lgb.Dataset(table[dev], label[dev], reference=data, params=parameters)
    stop = lgb.early_stopping(PATIENCE, verbose=False)
    model = lgb.train(parameters, data, ROUNDS, valid_sets=[check], callbacks=[stop])
    return np.asarray(model.predict(table, num_iteration=model.best_iteration))


def commonest(samples: Samples) -> np.ndarray:
    """The commoner class of training, for sure."""
    return np.full(len(samples.rows), float(samples.rows["label"][samples.of("train")].mean() > 0.5))


def last_return(samples: Samples) -> np.ndarray:
    """Up where the last return was."""
    return (samples.inputs["prices"][:, 0] > 0).astype(float)


# --- scores --------------------------------------------------------------------------------------------------------


def found(samples: Samples, p_up: np.ndarray, extra: Mapping[str, Any] | None = None) -> Found:
    """Accuracy and MCC of the test samples. Losses are per date, and their mean is the accuracy of all samples."""
    test = samples.of("test")
    actual, dates = samples.rows["label"].to_numpy()[test], samples.rows["outcome_date"].to_numpy()[test]
    called = (p_up[test] > 0.5).astype(int)
    hits = (called == actual).astype(float)
    mcc, mcc_ends = matthews_with_interval(actual, called, dates, horizon=1)
    told = {
        "n": len(hits),
        "dates": len(np.unique(dates)),
        "share_up": float(actual.mean()),
        "accuracy_ci95": mean_interval(hits, dates, horizon=1),
        "mcc_ci95": mcc_ends,
        "naive_half_width": float(1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / len(hits))),
        **(extra or {}),
    }
    by_date = date_means(hits, dates).tolist()
    return Found({"accuracy": float(hits.mean()), "mcc": mcc}, {"accuracy": by_date}, extra=told)


def strategy(collection: Collection, p_up: np.ndarray, *, cost_bp: float = COST_BP) -> dict[str, Any]:
    """What trading on P(up) would have earned over the test dates, with and without costs, beside holding all.

    Every close with a recent tweet is traded, the small moves too that are no samples: who trades does not know them.
    Decided at the close, filled at the next open (`evaluation/backtest.py`)."""
    rows = collection.rows
    asked = (rows["part"] == "test") & rows["recent"]
    known = pd.DataFrame({"date": rows["date"], "ticker": rows["ticker"], "p": p_up})[asked]
    first, last = rows["date"][rows["part"] == "test"].min(), pd.Timestamp(FENCES[2])
    bars = collection.bars[collection.bars["timestamp"].between(first, last)]
    prices = Prices.of({str(name): one for name, one in bars.groupby("ticker")})
    decided = np.arange(len(prices.times) - 1)
    table = known.pivot(index="date", columns="ticker", values="p")
    p_DN = table.reindex(index=prices.times[decided], columns=prices.tickers).to_numpy(float)
    held, hold = sign(Outlook(p_up=p_DN)), buy_and_hold(prices, decided)
    options: dict[str, Any] = {"last": len(prices.times) - 1}
    accounts = trade(prices, decided, np.stack([held, held, hold]), np.array([cost_bp, 0.0, cost_bp]), **options)
    names = {"net": 0, "gross": 1, "hold": 2}
    told = {name: performance(accounts, at) for name, at in names.items()}
    chance = trade(prices, decided, random_entries(held, DRAWS, 0), cost_bp, **options).equity[:, -1] - 1
    returns = accounts.returns
    difference, ends = sharpe_difference(returns[0], returns[2], accounts.times[1:])
    year = np.sqrt(252)
    return {
        **{
            f"{name}_{key}": one[key]
            for name, one in told.items()
            for key in ("total_return", "sharpe", "sharpe_ci95")
        },
        "daily_net_ci95": mean_interval(returns[0], accounts.times[1:], horizon=1),
        "daily_net": float(returns[0].mean()),
        "sharpe_over_hold": None if difference is None else difference * year,
        "sharpe_over_hold_ci95": None if ends is None else [end * year for end in ends],
        "share_of_random_below": float((chance < accounts.equity[0, -1] - 1).mean()),
        "cost_bp": cost_bp,
        "days": len(decided),
    }


# --- audit ---------------------------------------------------------------------------------------------------------


def audit(collection: Collection, join: Join, cuts: int) -> dict[str, int]:
    """How many rows at some closes change when the tweets from that close on are taken away; none may.

    A row is a ticker at a close of the development and test dates. The close is that of the bar which its return is
    measured from, as an instant, whatever the join takes it to be."""
    rows, whole = collection.rows, collection.text_inputs("words", join)
    days = np.unique(rows["date"][rows["part"].isin(PARTS[1:])].to_numpy())
    told = {"rows": 0, "changed": 0}
    for day in days[np.linspace(0, len(days) - 1, min(cuts, len(days))).round().astype(int)]:
        clock = EARLY_CLOSE if str(day)[:10] in EARLY else CLOSE
        close = pd.Timestamp(f"{str(day)[:10]} {clock}", tz=ZONE).tz_convert("UTC").tz_localize(None)
        cut = collection.text_inputs("words", join, (collection.tweets["timestamp"] < close).to_numpy())
        here = (rows["date"] == day).to_numpy()
        told["changed"] += int((whole[here] != cut[here]).any(axis=1).sum())
        told["rows"] += int(here.sum())
    return told


def facts(collection: Collection) -> dict[str, Any]:
    """What was found out about the collection itself: its stamps, its returns, the outcomes that tweets share."""
    tweets, bars = collection.tweets, collection.bars
    ret = bars.groupby("ticker", sort=False)["close"].pct_change()
    days = pd.DataFrame({"day": bars["timestamp"], "ticker": bars["ticker"], "ret": ret}).sort_values("day")
    dated = tweets[["date", "ticker", "timestamp", "next_ret", "text"]].sort_values("date", kind="stable")
    joined = pd.merge_asof(
        dated, days, left_on="date", right_on="day", by="ticker", direction="forward", allow_exact_matches=False
    )
    known = joined.dropna(subset=["ret", "next_ret"])
    local = tweets["timestamp"].dt.tz_localize("UTC").dt.tz_convert(ZONE).dt.tz_localize(None)
    trading = pd.MultiIndex.from_frame(tweets[["date", "ticker"]]).isin(
        pd.MultiIndex.from_frame(bars[["timestamp", "ticker"]])
    )
    after = local >= tweets["date"] + pd.Timedelta(f"{CLOSE}:00")
    outcomes = joined.dropna(subset="day").groupby(["ticker", "day"])
    return {
        "tweets": len(tweets),
        "next_ret_equal": float((np.abs(known["ret"] - known["next_ret"]) < 1e-9).mean()),
        "after_close": float((after & trading).mean()),
        "no_trading_day": float((~trading).mean()),
        "outcomes": outcomes.ngroups,
        "tweets_per_outcome": float(outcomes.size().mean()),
        "outcomes_of_several_days": float((outcomes["date"].nunique() > 1).mean()),
        "same_words": float(dated.duplicated(["ticker", "text"], keep=False).mean()),
        "busiest": {
            zone: {season: busiest(stamps[stamps.dt.month.isin(months)]) for season, months in SEASONS.items()}
            for zone, stamps in (("UTC", tweets["timestamp"]), (ZONE, local))
        },
        "by_tweet": by_tweet(collection, joined),
    }


SEASONS = {"December to February": (12, 1, 2), "May to August": (5, 6, 7, 8)}


def busiest(stamps: pd.Series) -> str:
    """The half hour with the most of them."""
    half = stamps.dt.floor("30min")
    return str(half.dt.strftime("%H:%M").value_counts().idxmax()) if len(stamps) else "-"


def by_tweet(collection: Collection, joined: pd.DataFrame) -> dict[str, float]:
    """Accuracy per tweet of its nearest neighbour, of a split at random and of one by date.

    Tweets of a ticker and day share their outcome, so that a split at random asks for what training has been told."""
    place = collection.tweets.sort_values("date", kind="stable").index.to_numpy()
    label = labels(joined["next_ret"])
    rows = np.flatnonzero((label >= 0) & (joined["day"] <= FENCES[0]).to_numpy())
    later = np.flatnonzero((label >= 0) & joined["day"].between(FENCES[0], FENCES[1], inclusive="right").to_numpy())
    vectors = collection.words[place]
    drawn = np.random.default_rng(0).permutation(rows)
    fifth = len(drawn) // 5
    splits = {"random": (drawn[fifth:], drawn[:fifth]), "by_date": (rows, later)}
    answers = {}
    for name, (train, test) in splits.items():
        model = KNeighborsClassifier(1).fit(vectors[train], label[train])
        answers[name] = float((model.predict(vectors[test]) == label[test]).mean())
    return answers


# --- made-up data --------------------------------------------------------------------------------------------------


FILLERS = [*WORDS[6:], *map(str, range(SIZE))]


def made_up(tickers: int = 4, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars over StockNet's dates, and tweets of which the cue tells the next day's return, most of the time."""
    rng = np.random.default_rng(seed)
    days = pd.bdate_range("2015-01-02", FENCES[2])
    bars, tweets = [], []
    for name in [f"T{i}" for i in range(tickers)]:
        ret = rng.normal(0, 0.02, len(days))
        close = 50 * np.cumprod(1 + ret)
        flat = {"open": close * (1 + rng.normal(0, 0.001, len(days))), "high": close * 1.01, "low": close * 0.99}
        bars.append(pd.DataFrame({"timestamp": days, "ticker": name, **flat, "close": close, "volume": 1e6}))
        for day, told in zip(days[:-1], ret[1:], strict=True):
            cue = "rises" if (told > 0) == (rng.random() < 0.8) else "falls"
            text = " ".join([*rng.choice(FILLERS, 3), cue])
            stamp = day + pd.Timedelta(minutes=int(rng.integers(14 * 60, 20 * 60)))  # before the close, in any season
            tweets.append((stamp, day, name, text, told))
    names = ["timestamp", "date", "ticker", "text", "next_ret"]
    return pd.concat(bars, ignore_index=True), pd.DataFrame(tweets, columns=names)


def run(context: Context) -> Iterator[Row | None]:
    """The rows, those that need the encoder last; the collection is read when one needs it."""
    with tempfile.TemporaryDirectory() as name:
        kept: dict[str, Any] = {}

        def collection() -> Collection:
            if "" not in kept:
                kept[""] = Collection.read(context, Path(name))
            return kept[""]

        def samples(join: Join, sources: Sequence[str]) -> Samples:
            if (key := f"{join.name} {sources}") not in kept:
                kept[key] = collection().samples(join, sources)
            return kept[key]

        def plain(forecast: Callable[[Samples], np.ndarray]) -> Found:
            return found(samples(STRICT, ["prices"]), forecast(samples(STRICT, ["prices"])))

        def linear(join: Join, sources: Sequence[str]) -> Found:
            chosen = samples(join, sources)
            p_up = logistic(chosen)
            extra: dict[str, Any] = {"audit": audit(collection(), join, cuts)} if sources == ["words"] else {}
            if join is STRICT:
                extra["strategy"] = strategy(collection(), p_up)
                extra |= {"facts": facts(collection())} if sources == ["words"] else {}
            return found(chosen, p_up, extra)

        def boosted(sources: Sequence[str], seed: int) -> Found:
            return found(samples(STRICT, sources), trees(samples(STRICT, sources), seed))

        cuts = 3 if context.quick else CUTS
        settings = {"fences": FENCES, "size": SIZE, "half_life": HALF_LIFE, "recent": RECENT}
        task = STRICT.name
        yield context.row(COMMONEST, task, partial(plain, commonest), **settings)
        yield context.row(LAST, task, partial(plain, last_return), **settings)
        for join in (STRICT, PUBLISHED, LEAKY):
            yield context.row(OURS, join.name, partial(linear, join, ["words"]), **settings)
        for told, sources in INPUTS.items():
            own = settings | ({"per_day": PER_DAY} if "minilm" in sources else {})
            if sources != ["words"]:
                yield context.row(f"{told}, logistic", task, partial(linear, STRICT, sources), **own)
            for seed in context.seeds:
                yield context.row(f"{told}, LightGBM", task, partial(boosted, sources, seed), seed=seed, **own)


# --- words ---------------------------------------------------------------------------------------------------------


def more(rows: Sequence[Row]) -> str:
    """Intervals, verdict, joins, audit, and the strategy, in words that the numbers choose."""
    of = {(row.task, row.model): row.found for row in rows if row.seed in (None, 0)}
    strict = {model: one for (task, model), one in of.items() if task == STRICT.name}
    if not {COMMONEST, OURS} <= strict.keys():
        return ""
    parts = [intervals(of), answer(rows, strict), joins(of), "\n".join(audited(of)), trading(strict)]
    return "\n\n".join(part for part in parts if part)


def ends(interval: Sequence[float] | None, form: str = ".3f") -> str:
    return "-" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def intervals(of: Mapping[tuple[str, str], Found]) -> str:
    """A table of both scores with their intervals; of seeds, that of the first."""
    told = [{"join": task, "model": model, "found": one} for (task, model), one in of.items()]
    columns: Columns = {
        "inputs, model": lambda row: row["model"],
        "join": lambda row: row["join"],
        "accuracy, 95 %": lambda row: ends(row["found"].extra["accuracy_ci95"]),
        "MCC, 95 %": lambda row: ends(row["found"].extra["mcc_ci95"], "+.3f"),
    }
    return Table.of(told, columns).markdown()


def answer(rows: Sequence[Row], strict: Mapping[str, Found]) -> str:
    """What text is worth on its own, and beside prices."""
    first, extra = strict[COMMONEST], strict[OURS].extra
    lines = [
        f"{extra['n']} test samples on {extra['dates']} dates, {extra['share_up']:.1%} of them up. Samples of a date "
        f"move together: the interval over dates is {width(strict[OURS]):.1f} times as wide as that of as many "
        "independent ones.",
        "",
    ]
    pairs = [(name, COMMONEST) for name in (PRICES, *TEXT)] + [(name, PRICES) for name in TEXT[2:]]
    for name, other in pairs:
        if name in strict and other in strict:
            beside = first if other == COMMONEST else strict[other]
            lines.append(f"* {name}: {beaten(strict[name], beside, other)}.")
    edge = [name for name in TEXT if name in strict and better(strict[name], first)]
    lines.append("")
    lines.append(
        f"**Verdict: {' and '.join(edge)} beat the commoner class on the test quarter.**"
        if edge
        else "**Verdict: no edge. Neither text alone nor text beside prices is better than always saying the commoner "
        f"class.** {published(first)}"
    )
    return "\n".join(lines)


def published(one: Found) -> str:
    """How the published mark lies to what the commoner class scores."""
    low, high = one.extra["accuracy_ci95"] or (0.0, 1.0)
    inside = low <= MARK <= high
    told = (
        f"The published {MARK:.1%} lies {'within' if inside else 'outside'} the interval of that class on these dates"
    )
    return f"{told}, {low:.1%} to {high:.1%}{': a quarter is too short to tell it from chance' if inside else ''}."


def width(one: Found) -> float:
    """Of the interval over dates, beside that of as many independent samples."""
    low, high = one.extra["accuracy_ci95"] or (0.0, 0.0)
    return (high - low) / 2 / one.extra["naive_half_width"]


def paired(one: Found, other: Found) -> dict[str, Any]:
    losses = [np.array(each.losses["accuracy"]) for each in (one, other)]
    return paired_difference(*losses, np.arange(len(losses[0])), 1)


ACCURACY = Figure("accuracy", "+.3f", more_is_better=True)


def beaten(one: Found, other: Found, name: str) -> str:
    return verdict(paired(one, other), name, ACCURACY)


def better(one: Found, other: Found) -> bool:
    return finding(paired(one, other), ACCURACY) == "better"


def joins(of: Mapping[tuple[str, str], Found]) -> str:
    """What the other joins would have reported."""
    lines = []
    for join in (PUBLISHED, LEAKY):
        if (one := of.get((join.name, OURS))) is not None:
            strict = of[STRICT.name, OURS]
            gain = (one.scores["accuracy"] or 0) - (strict.scores["accuracy"] or 0)
            lines.append(
                f"* {join.name}: {one.scores['accuracy']:.3f}, {gain:+.3f} beside the strict join: "
                f"{beaten(one, strict, 'the strict join')}."
            )
    return "\n".join(["What other joins report for text alone:", "", *lines]) if lines else ""


def audited(of: Mapping[tuple[str, str], Found]) -> Iterator[str]:
    """The leak audit, join by join, and what is known of the collection."""
    yield "Audit: tweets from a close on are taken away; rows of that close may not change."
    yield ""
    for (task, _), one in of.items():
        if told := one.extra.get("audit"):
            word = "clean" if told["changed"] == 0 else "LEAK"
            yield f"* {task}: {told['changed']} of {told['rows']} rows change: {word}."
    facts_told = of[STRICT.name, OURS].extra["facts"]
    stamps = "; ".join(
        f"in {zone} {', '.join(f'{hour} ({season})' for season, hour in each.items())}"
        for zone, each in facts_told["busiest"].items()
    )
    yield (
        f"* `created_at` is UTC: the busiest half hour on the clock is {stamps}. Only in New York's time does it stay "
        "at the opening of the market in winter and summer."
        if len(set(facts_told["busiest"][ZONE].values())) == 1 < len(set(facts_told["busiest"]["UTC"].values()))
        else f"* `created_at`: the busiest half hour is {stamps}; the zone is not clear from it."
    )
    yield (
        f"* `next_ret` equals the return of the first trading day after `date` over the close before it for "
        f"{facts_told['next_ret_equal']:.2%} of the tweets. {facts_told['after_close']:.1%} of all tweets are filed "
        "under a trading day and written after its close, where that return has begun."
    )
    share = facts_told["by_tweet"]
    yield (
        f"* Outcomes overlap: {facts_told['tweets']:,} tweets share {facts_told['outcomes']:,} outcomes, "
        f"{facts_told['tweets_per_outcome']:.1f} each; {facts_told['outcomes_of_several_days']:.0%} of these belong "
        f"to tweets of several days (week-ends, holidays), and {facts_told['same_words']:.0%} of the tweets repeat "
        f"another's words. A split of tweets at random would report {share['random']:.1%} for the nearest neighbour, "
        f"a split by date {share['by_date']:.1%}. Here a ticker's day is one sample, and splits are by date."
    )


def trading(strict: Mapping[str, Found]) -> str:
    """The strategies over the test quarter."""
    told = [{"model": name, **one.extra["strategy"]} for name, one in strict.items() if "strategy" in one.extra]
    columns: Columns = {
        "signs of": lambda row: row["model"],
        "net": lambda row: number(row["net_total_return"], "+.1%"),
        "gross": lambda row: number(row["gross_total_return"], "+.1%"),
        "Sharpe, net": lambda row: number(row["net_sharpe"], "+.2f"),
        "95 %": lambda row: ends(row["net_sharpe_ci95"], "+.2f"),
        "over holding, 95 %": lambda row: ends(row["sharpe_over_hold_ci95"], "+.2f"),
        "above random entries": lambda row: number(row["share_of_random_below"], ".0%"),
    }
    one = told[0]
    edge = [row["model"] for row in told if row["sharpe_over_hold_ci95"] and row["sharpe_over_hold_ci95"][0] > 0]
    words = (
        f"A strategy: long where a rise is likelier, short where a fall is, equal shares; decided at each close of "
        f"the test quarter, filled at the next open, {one['cost_bp']:.0f} basis points of what is traded, "
        f"{one['days']} days. Holding all tickers made {one['hold_total_return']:+.1%} (Sharpe "
        f"{one['hold_sharpe']:+.2f})."
    )
    verdict_told = (
        f"Better than holding: {', '.join(edge)}; one quarter is little to go by."
        if edge
        else "**No edge: no Sharpe ratio is above that of holding with its whole interval.**"
    )
    return "\n\n".join([words, Table.of(told, columns).markdown(), verdict_told])


TWEETS = Section(
    title="Tweets: the sign of the next day's return",
    about=f"""
StockNet's collection (Xu and Cohen 2018): tweets about some 50 US stocks, 2014 and 2015. Outcomes above
{UP:.2%} are up, of {DOWN:.1%} and below down; those between are no samples, as there, though nobody knows at the
close which they will be. Training ends {FENCES[0]}, development {FENCES[1]}, test {FENCES[2]}, by the date of the
outcome. A ticker's close is one sample where a tweet came within {RECENT} bars. Text: {SIZE}
components, fitted on training tweets, of weighted counts of words, or of the vectors of MiniLM (of the first {PER_DAY}
tweets of a ticker and day, for its cost); their means over the tweets of the bar and trailing, and the number of
tweets. Prices: {RECENT} last returns, the market's, trend, range, volatility, volume.
Published: 58.2 % (StockNet), reproductions 52 to 57 %.
The test dates were scored once, with settings from the development dates.
""",
    files={
        "stocknet_tweets.parquet": "columns ticker, date, created_at, text, next_ret; StockNet, MIT (tweets are their "
        "authors')",
        "stocknet_prices.parquet": "columns date, ticker, open, high, low, close, adj_close, volume; StockNet, MIT",
    },
    measures=(
        Measure("accuracy", "accuracy", more_is_better=True),
        Measure("mcc", "MCC", "+.3f", more_is_better=True),
    ),
    run=run,
    ours=OURS,
    more=more,
)

"""How a quick start goes about plain series: what it looks at, how far ahead, and with which settings.

Design choices:
* All of it follows from the `Survey`; what a user has given stays as it was given. What is estimated (seasons, the
  share of zeros) is that of the training rows; bounds are a fact of the whole file, as if the user had declared them.
* The series form answers all steps at once (`--head quantile`); `--head causal_lm` samples paths, as for prices.
* Zero is a floor where it is the least value, and has a probability of its own where a tenth of the values are zero.
  That no value was ever below zero says little else: a temperature of summer is no floor.
* Bounds keep a quick start one, whatever the file: the usual series and the chosen one, evenly taken, and of long ones
  the last rows; as many forecasts are scored as tell the model from a naive one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ..bars_tsf_llm import MIN_BARS, UNIVARIATE, Kind
from ..data_prep.resample import Gaps
from ..data_prep.survey import NO_VALUE, Survey, choose_horizon, survey
from ..data_prep.windows import fence
from ..evaluation.baselines.catalogue import choose
from ..training.starting_model import CONFIGS

ID, VALUE = UNIVARIATE.id, UNIVARIATE.value
MOST_ROWS, MOST_SERIES = 60_000, 200
ROWS_OF_ONE = 20_000  # the last of a series
MANY = 12  # series, from which on no volatility model is fitted to each
OF_ZEROS = ("croston", "tsb")
SCORED_DATES, SCORED = 20, 600  # dates that forecasts are scored on, if there are as many; forecasts, about at most
MANY_ZEROS = 0.1
LONGEST, LONG, SHORTEST = 336, 192, 16  # rows that the model reads; LONG: in patches that are twice as long
STEPS, MOST_EPOCHS = 1500, 300  # of the training of a small file
CHECKED, PATIENCE = 40, 10  # steps between validations where epochs are not half as long; how many may be in vain
CONFIG = CONFIGS / "quickstart_series.yaml"


@dataclass(frozen=True)
class Plan:
    """What a quick start does with these rows.

    Args:
        bars: those that are looked at.
        horizon: rows ahead.
        options: of the training, over those of its `config`.
        scored: of how many series forecasts are scored, `stride` rows apart.
        zeros: whether many values are zero.
        told: settings in words.
    """

    bars: pd.DataFrame
    horizon: int
    config: str
    options: dict[str, Any]
    scored: int
    stride: int
    zeros: bool
    told: dict[str, str]

    def baselines(self, kind: Kind, season: int | None) -> list[str]:
        """Names of those that suit, and that take no longer than a quick start has."""
        names = [one.name for one in choose("standard", kind, season)]
        if self.scored > MANY:
            names.remove("garch_t")
        return [*names, *(OF_ZEROS if self.zeros else ())]


def plan_series(bars: pd.DataFrame, found: Survey, series: str, *, horizon: int | None, head: str) -> Plan:
    """The plan for `timestamp, series_id, value`; `series` is the one that is drawn.

    Raises:
        ValueError: too few rows for a horizon of one, or for the one that is given.
    """
    part = part_of(of_usual_step(bars, found.seconds), series)
    known = part.groupby(ID, sort=False)[VALUE].agg(["count", "min", "max"])
    if not (known["max"] > known["min"]).any():
        raise ValueError(
            f"no series changes its value ({series} is always {known.loc[series, 'max']:g}): nothing to learn, "
            "choose another column with --value"
        )
    times = np.unique(part["timestamp"].to_numpy())
    rows = min(len(times), int(known["count"].max()))
    usual = min(choose_horizon(found), max(1, rows // 12))
    given, (horizon, valid, test) = horizon, _parts(rows, len(times), [horizon] if horizon else range(usual, 0, -1))
    train = rows - test - valid
    fences = {"train_through": times[-test - valid - 1], "valid_through": times[-test - 1]}
    options: dict[str, Any] = {name: fence(pd.Timestamp(time)) for name, time in fences.items()}
    learned = survey(part[part["timestamp"] <= fences["train_through"]])
    told = {"horizon": f"{horizon} rows" + ("" if given else ", as is usual for such a step and length")}
    config = "quickstart.yaml"
    if head == "quantile":
        config = CONFIG.name
        series = int((known["count"] > MIN_BARS).sum())
        options |= series_options(found, learned, horizon=horizon, train=train, series=series)
        told |= _in_words(options)
    stride = max(1, min(horizon, (test - horizon) // SCORED_DATES))
    scored = max(1, min(len(known), SCORED * stride // max(1, test - horizon)))
    options["head"] = head
    return Plan(part, horizon, config, options, scored, stride, learned.zeros >= MANY_ZEROS, told)


def _parts(rows: int, times: int, horizons: Sequence[int]) -> tuple[int, int, int]:
    """The first of the horizons that so many rows allow, and how many of all times are validated and tested on.

    Raises:
        ValueError: they allow none.
    """
    needed = 0
    for horizon in horizons:
        valid, least = max(times // 10, 2 * horizon), max(times // 10, horizon)
        for test in (max(least, min(3 * horizon + 5, times // 4)), least):  # enough for a verdict, or just one
            needed = MIN_BARS + 2 * horizon + 2 + test + valid - rows
            if needed <= 0:
                return horizon, valid, test
    raise ValueError(
        f"{rows:,} rows are too few to learn {horizons[-1]} step(s) ahead, to validate and to test: {needed:,} more "
        f"are needed{', or a shorter --horizon' if horizons[-1] > 1 else ''}"
    )


def of_usual_step(bars: pd.DataFrame, seconds: float) -> pd.DataFrame:
    """The series of about this step, as the processor takes them; all where a file tells none."""
    gaps = Gaps.of(bars)
    usual = (gaps.usual > seconds / 2) & (gaps.usual < 2 * seconds)
    return bars if usual.all() or not usual.any() else bars[bars[ID].isin(np.array(gaps.names, dtype=object)[usual])]


def part_of(bars: pd.DataFrame, series: str, most: int = MOST_SERIES) -> pd.DataFrame:
    """Whole series, the one that is named and others evenly over the file, up to `most` and `MOST_ROWS`; of those that
    are longer than `ROWS_OF_ONE` their last rows."""
    counts = bars[ID].value_counts(sort=False).clip(upper=ROWS_OF_ONE)
    if series not in counts:
        raise ValueError(f"{series}: its rows come at another step than those of most: --resample brings all to one")
    others = counts.index[counts.index != series]
    room = max(0, min(most - 1, int((MOST_ROWS - counts[series]) / max(counts.mean(), 1))))
    places = np.unique(np.linspace(0, len(others) - 1, min(room, len(others))).astype(int)) if len(others) else []
    kept = bars[bars[ID].isin([series, *others[places]])]
    return kept.groupby(ID, sort=False).tail(ROWS_OF_ONE).reset_index(drop=True)


def first_series(bars: pd.DataFrame) -> str:
    """The first of the usual step and length that goes on to the end and is not of one value; else the first.

    Raises:
        ValueError: no value is known at all.
    """
    bars = of_usual_step(bars, Gaps.of(bars).usual_of_all)
    told = bars.dropna(subset=VALUE).groupby(ID, sort=False)
    found = told.agg(rows=(VALUE, "size"), low=(VALUE, "min"), high=(VALUE, "max"), last=("timestamp", "max"))
    if not len(found):
        raise ValueError(NO_VALUE)
    late = found["last"] >= found["last"].quantile(0.5)
    good = found[late & (found["high"] > found["low"]) & (found["rows"] >= found["rows"].median())]
    return str((good if len(good) else found).index[0])


def series_options(found: Survey, learned: Survey, *, horizon: int, train: int, series: int) -> dict[str, Any]:
    """What goes over `CONFIG` for a model in series form: `found` are all rows that may be looked at, `learned` those
    that are learned from, `train` of each of so many series."""
    return {**_series_form(found, learned, horizon, train), **_steps(train, horizon, series)}


def _series_form(found: Survey, learned: Survey, horizon: int, train: int) -> dict[str, Any]:
    """Context, floor, whole numbers and zeros of a model in series form, by what was `found` in the file and in the
    part that is `learned` from."""
    season = learned.seasons[0]["rows"] if learned.seasons else 1
    context = max(SHORTEST, min(LONGEST, max(2 * season, 3 * horizon, 2 * SHORTEST), train // 3))
    fields = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["model_config"]
    length = 2 * fields["patch_length"] if context >= LONG else min(fields["patch_length"], context // 8)
    fields["patch_length"], context = length, context // length * length
    floor = found.nonnegative and found.zeros > 0
    fields["zero_inflated"] = floor and learned.zeros >= MANY_ZEROS
    return {"context_length": context, "nonnegative": floor, "integer": found.integer, "model_config": fields}


def _steps(train: int, horizon: int, series: int) -> dict[str, Any]:
    """Batches and epochs by the number of windows, so that few are seen often."""
    windows = max(1, series * (train - MIN_BARS - horizon))
    batch = 64 if windows > 64 * STEPS // 10 else 16
    epochs = int(np.clip(np.ceil(STEPS * batch / windows), 10, MOST_EPOCHS))
    options: dict[str, Any] = {"per_device_train_batch_size": batch, "num_train_epochs": epochs}
    if 2 * windows >= CHECKED * batch:
        return options | {"early_stopping_patience": max(2, epochs // 6)}
    for what in ("eval", "save"):
        options |= {f"{what}_strategy": "steps", f"{what}_steps": CHECKED}
    return options | {"early_stopping_patience": PATIENCE}


def _in_words(options: dict[str, Any]) -> dict[str, str]:
    outcomes = ["no forecast below zero"] * options["nonnegative"] + ["whole numbers"] * options["integer"]
    outcomes += ["zero with its own probability"] * options["model_config"]["zero_inflated"]
    reads = f"{options['context_length']} rows, patches of {options['model_config']['patch_length']}"
    return {"reads": reads, "outcomes": ", ".join(outcomes) or "any number"}

"""The page of all features, written from the table itself.

    python -m tsf_llm.publishing.feature_page docs/features.md

It is written again after a change of `indicators_tsf_llm.py`; a test compares the two.
"""

import sys
from pathlib import Path

from ..common.errors import one_line_errors
from ..common.files import write_text
from ..common.tables import Table
from ..indicators_tsf_llm import FEATURES, SELECTABLE_GROUPS, Feature

HEAD = """\
# Features

Written by `python -m tsf_llm.publishing.feature_page docs/features.md` from the table in `indicators_tsf_llm.py`.

The {default} default features are what a processor uses unless told otherwise. The other {selectable} come in groups
that are chosen by name, beside default ones or alone:

```python
TsfLlmFeatureExtractor(feature_groups=["returns", "volatility", "regime", "market"])
```

```bash
python -m tsf_llm.train_scripts.sft --feature_groups returns volatility regime market
```

Every feature at a bar is made of that bar and earlier ones, and is free of the units of price and volume.
`tsf-llm audit` shows on your own bars that none of them reads a later one.

* **Window** is how many observed bars must come before the first value. Until then, and wherever a formula has no
  answer (no volume, no range), the feature is unknown: zero after scaling.
* In formulas `x[-n]` is x n bars ago and `ta.f(n)` is
  [pandas-ta-classic](https://pypi.org/project/pandas-ta-classic/)'s `f` of length n; the rest is plain arithmetic. The
  position of close in a channel is (close - lower) / (upper - lower). `body` and `range` are the features of that
  name; u, d and c are the logs of high, low and close over open.
* The estimators are those of Garman and Klass (1980), Rogers and Satchell (1991) and Yang and Zhang (2000).
* Prices of the last bars themselves (the original's `close_lag_k` and the like) are no features: the model sees those
  bars, and their scale-free form is the group `returns`.

## Reversals

A pivot is a low below the 5 bars before and after it (`up`), or a high above them (`down`). It is known 5 bars later,
when the last of these has closed; its points stand from that bar on for 5 more, and are zero otherwise.

| part | points | all of them for |
|---|---|---|
| divergence | 4 | a lower low than the pivot before (at most 63 bars), with RSI(14) 20 higher, MACD 1 ATR, %K 40 |
| volume | 4 | 4 times the usual volume (20 bars) in one of the 5 bars around the pivot |
| strength | 3 | 2 standard deviations ahead of the market since the pivot |
| level | 3 | a pivot at the lowest low (highest high) of the 63 bars before it; none from 1 ATR away |

Less gives points in proportion, so that no rounding error decides. The score is their sum of 14. What is unknown, the
strength where no market is given, is no evidence.

## The market

The group `market` needs the bars of an index or of a universe: `processor(bars, market=market)`, and the same for
`fit`, for the pipeline and, as `--market FILE`, on the command line. A bar sees the market's last row at or before its
own time, so other holidays do no harm. Time stamps are taken at their word: a market that closes later on the same
date must be stamped with the next one. Without a market the group is unknown.

## Columns beside prices

Texts or other columns of the bars are the group `covariates`: `past_covariates=["text_*"]` gives a feature
`past:text_0` per column, `known_covariates=["earnings_day"]` gives `known:earnings_day` and, up to seven bars ahead,
`known:earnings_day+1` and so on. They are taken row by row as they are, and come after the features of the table. See
[data.md](data.md#columns-beside-prices).

## Table
"""


def row_of(feature: Feature) -> tuple[str, ...]:
    default = "" if feature.group in SELECTABLE_GROUPS else "yes"
    return f"`{feature.name}`", feature.group, default, str(feature.lookback), feature.formula.replace("|", "\\|")


def page() -> str:
    """The whole page, as Markdown."""
    rows = [row_of(feature) for feature in FEATURES.values()]
    selectable = sum(feature.group in SELECTABLE_GROUPS for feature in FEATURES.values())
    table = Table(("feature", "group", "default", "window", "formula"), rows).markdown()
    return HEAD.format(default=len(rows) - selectable, selectable=selectable) + f"\n{table}\n"


def main(target: str) -> None:
    write_text(page(), Path(target))
    print(f"{len(FEATURES)} features written to {target}")


if __name__ == "__main__":
    with one_line_errors("feature_page"):
        if len(sys.argv) != 2:
            raise ValueError("name one file to write: python -m tsf_llm.publishing.feature_page docs/features.md")
        main(sys.argv[1])

"""The baselines by name and by group.

A baseline is a function of a `Panel` and of steps ahead; it gives a forecast of the cumulative log return (the
difference, of a plain series) to each step. To add one: write the function, and a line here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...bars_tsf_llm import OHLCV, Kind
from ..distributions import Forecast
from . import boosting, classical, har, intermittent, lagged_boosting, naive, networks, volatility
from .panel import Panel

NEVER, YEARLY, ONCE = "running statistics", "refitted yearly", "trained once"


@dataclass(frozen=True)
class Baseline:
    """One row of a table."""

    name: str
    forecast: Callable[[Panel, Sequence[int]], Mapping[int, Forecast]]
    refit: str = YEARLY
    learned: bool = False  # reads the processor's features and sigma; others see prices alone
    pooled: bool = False  # fitted on all series at once; others are asked for one series at a time
    prices_only: bool = False  # needs open, high and low
    plain_only: bool = False  # of values that are no prices
    seasonal: bool = False  # needs a season
    package: str | None = None  # beyond the usual ones
    groups: tuple[str, ...] = field(default=("all",))  # the smallest that has it, and those around it

    def suits(self, kind: Kind, season: int | None) -> bool:
        """Whether it has anything to say of such series."""
        return self.lacks(kind, season) is None

    def lacks(self, kind: Kind, season: int | None) -> str | None:
        """What such series would have to be or have, in words; None where they suit."""
        if self.prices_only and kind is not OHLCV:
            return "prices with open, high and low"
        if self.seasonal and season is None:
            return "a plain series with a season"
        return "a plain series" if self.plain_only and kind is OHLCV else None


FAST, STANDARD = ("fast", "standard", "all"), ("standard", "all")
CATALOGUE = [
    Baseline("random_walk", naive.random_walk, NEVER, groups=FAST),
    Baseline("drift", naive.drift, NEVER, groups=FAST),
    Baseline("historical_volatility_20", naive.historical_volatility, NEVER, groups=FAST),
    Baseline("seasonal_naive", naive.seasonal_naive, NEVER, seasonal=True, groups=FAST),
    Baseline("ewma", volatility.ewma, groups=STANDARD),
    Baseline("garch_t", volatility.garch_t, groups=STANDARD),
    Baseline("gjr_garch_t", volatility.gjr_garch_t),
    Baseline("har_range_own", har.har_range_own, pooled=True, prices_only=True),
    Baseline("har_range", har.har_range, pooled=True, prices_only=True, groups=STANDARD),
    Baseline("lightgbm", boosting.lightgbm, learned=True, pooled=True, package="lightgbm"),
    Baseline("auto_ets", classical.auto_ets, learned=True, package="statsforecast"),
    Baseline("auto_theta", classical.auto_theta, learned=True, package="statsforecast"),
    Baseline("auto_arima", classical.auto_arima, learned=True, package="statsforecast"),
    Baseline("dlinear", networks.dlinear, ONCE, learned=True, pooled=True, plain_only=True),
    Baseline("patchtst", networks.patchtst, ONCE, learned=True, pooled=True, plain_only=True, package="transformers"),
    Baseline("croston", intermittent.croston, plain_only=True),
    Baseline("tsb", intermittent.tsb, plain_only=True),
    Baseline("lightgbm_lags", lagged_boosting.lightgbm_lags, pooled=True, plain_only=True, package="lightgbm"),
    Baseline("lstm", networks.lstm, ONCE, learned=True, pooled=True, plain_only=True),
]


def choose(names: str | Sequence[str], kind: Kind = OHLCV, season: int | None = None) -> list[Baseline]:
    """Those of a group (`fast`, `standard`, `all`) that suit such series, or those named, commas between.

    Raises:
        ValueError: an unknown name, or one that does not suit the series.
    """
    if isinstance(names, str) and names in FAST:
        return [one for one in CATALOGUE if names in one.groups and one.suits(kind, season)]
    by_name = {one.name: one for one in CATALOGUE}
    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) else [*names]
    if unknown := [name for name in wanted if name not in by_name]:
        raise ValueError(f"--baselines {', '.join(unknown)}: choose fast, standard, all or from {', '.join(by_name)}")
    chosen = [by_name[name] for name in dict.fromkeys(wanted)]
    for one in chosen:
        if what := one.lacks(kind, season):
            raise ValueError(f"--baselines {one.name}: needs {what}; leave it out")
    return chosen

"""An evaluation of three horizons as `evaluate` writes it, with figures that nobody measured."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

BASELINES = ("random_walk", "drift", "historical_volatility_20", "ewma", "garch_t", "har_range")
FACTORS = dict(zip(("model", *BASELINES), (0.981, 1.04, 1.05, 1.01, 1.001, 1.0, 0.989), strict=True))


def row(model: str, horizon: int) -> dict[str, Any]:
    crps = 0.0105 * FACTORS[model] * horizon**0.5
    calls = model in ("model", "drift")
    return {
        "model": model,
        "horizon": horizon,
        "n": 6634,
        "num_dates": 107,
        "crps": crps,
        "crps_ci95": [0.9 * crps, 1.1 * crps],
        "mae": 1.4 * crps,
        "rmse": 2 * crps,
        "mase": None if model == "drift" else 1.02,
        "coverage_50": 0.48,
        "coverage_80": 0.79,
        "coverage_90": 0.905,
        "direction_accuracy": 0.531 if calls else None,
        "direction_ci95": [0.502, 0.561] if calls else None,
        "direction_base_rate": 0.545,
        "pit_ks": 0.021,
        "qlike": 0.41 if model != "drift" else None,
        "rank_ic": 0.03 if calls else None,
        "rps": None,
        "in_mcs": model in ("model", "har_range"),
    }


def one_horizon(horizon: int) -> dict[str, Any]:
    against = {}
    for name in BASELINES:
        relative = FACTORS["model"] / FACTORS[name] - 1
        ends = [relative - 0.012, relative + 0.012]
        words = f"(CRPS {100 * relative:+.1f} %, 95 % CI [{100 * ends[0]:+.1f} %, {100 * ends[1]:+.1f} %])"
        finding = "better than" if ends[1] < 0 else "no edge over"
        against[name] = {
            "difference": 0.01 * relative,
            "ci95": [0.01 * end for end in ends],
            "relative": relative,
            "relative_ci95": ends,
            "dm_p": 0.181 if name == "har_range" else 0.004,
            "verdict": f"{finding} {name} {words}",
        }
    rng = np.random.default_rng(horizon)

    def crps_of(names: Any) -> dict[str, dict[str, float]]:
        return {
            name: {model: 0.01 * factor * (1 + 0.01 * rng.standard_normal()) for model, factor in FACTORS.items()}
            for name in names
        }

    return {
        "n": 6634,
        "stride": horizon,
        "strongest": "har_range",
        "verdict": "no edge over har_range (CRPS -0.8 %, DM p = 0.181); better than garch_t (CRPS -1.9 %)",
        "verdicts": against,
        "groups": {
            "year": crps_of(["2019", "2020", "2021"]),
            "volatility": crps_of(["low", "middle", "high"]),
            "period": crps_of(["2020-02-20 to 2020-05-31", "the rest"]),
            "ticker": crps_of([f"TICK{i}" for i in range(20)]),
        },
    }


def results(horizons: tuple[int, ...] = (1, 5, 20)) -> dict[str, Any]:
    by_horizon = {str(horizon): one_horizon(horizon) for horizon in horizons}
    return {
        "rows": [row(model, horizon) for horizon in horizons for model in FACTORS],
        "horizon": horizons[0],
        "horizons": by_horizon,
        **by_horizon[str(horizons[0])],
        "failed": {"gjr_garch_t": "no convergence for 3 of 62 tickers"},
        "refits": {"drift": "running statistics", "garch_t": "refitted yearly", "har_range": "refitted yearly"},
        "start": "2019-03-04",
        "end": "2021-04-09",
        "tickers": [f"TICK{i}" for i in range(62)],
        "skipped": {"IPO": "IPO: 10 observed bars, 20 are needed"},
        "samples": 256,
        "seed": 0,
        "trained_through": "2019-02-28",
        "out_of_sample": True,
        "made_by": "evaluate",
        "version": "0.1.0",
        "commit": "abc1234",
        "calibration": {
            "before": {"coverage_50": 0.44, "coverage_80": 0.74, "coverage_90": 0.86},
            "after": {"coverage_50": 0.49, "coverage_80": 0.79, "coverage_90": 0.89},
        },
    }


def walk(num_dates: int = 107) -> Any:
    """What the page asks of a `WalkForward`."""
    origin = np.repeat(pd.bdate_range("2019-03-04", periods=num_dates, freq="5B").to_numpy(), 3)
    rng = np.random.default_rng(0)
    losses = {name: 0.01 * factor * (1 + 0.05 * rng.standard_normal(len(origin))) for name, factor in FACTORS.items()}
    return SimpleNamespace(
        origin=origin, crps=lambda name="model": losses[name], pit=lambda: rng.beta(1.1, 1.1, len(origin))
    )

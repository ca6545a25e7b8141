"""What forecasts are worth to somebody who trades on them, and whether tuning made them better.

Design choices:
* A forecast's position is the mean of what its paths say to hold: share of paths that end above minus share that end
  below, in [-1, 1]. It is held from the origin to the last step; profit and costs are those of `build_preferences`.
* Before and after are forecasts of the same outcomes, so their differences are paired: what makes a day hard for both
  cancels. Pairs of preferences are compared in the same way.
* Utility is the figure that is easiest to fool: whoever is always long earns in a rising market and knows nothing. So
  it stands beside "always long" and "hold nothing", and a rise that costs CRPS is a warning.

Shapes: n forecasts or pairs, K sampled paths.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from .significance import CRPS, GAIN, compare, mean_interval
from .walk_forward import WalkForward

COVERAGE = (0.1, 0.9)  # ends of the central 80 percent


def trading_cost(traded: np.ndarray, cost_bp: float | np.ndarray) -> np.ndarray:
    """What it costs to trade that much, in its own unit.

    >>> float(trading_cost(np.array(2.0), cost_bp=10))
    0.002
    """
    return traded * cost_bp / 1e4


def profit(position_BK: np.ndarray, realised_BP: np.ndarray, cost_bp: float) -> np.ndarray:
    """position * (exp(y[P]) - 1) - cost * turnover, `[B,K]`, per unit of capital; getting in and out turns over 2.

    >>> profit(np.array([[1.0, -1.0, 0.0]]), np.log([[0.9, 1.1]]), cost_bp=10).round(6).tolist()
    [[0.098, -0.102, 0.0]]
    >>> profit(np.array([[0.5]]), np.log([[1.1]]), cost_bp=10).round(6).tolist()
    [[0.049]]
    """
    return position_BK * np.expm1(realised_BP[:, -1:]) - trading_cost(2 * np.abs(position_BK), cost_bp)


def forecast_utility(result: WalkForward, cost_bp: float) -> np.ndarray:
    """Net profit of the model's positions, `[n]`: means over its paths of the sign of their last value."""
    positions_n1 = result.steps[-1]["model"].sign[:, None]
    return profit(positions_n1, result.realised, cost_bp)[:, 0]


def forecast_values(result: WalkForward, cost_bp: float | None) -> dict[str, np.ndarray | None]:
    """`crps` and `utility` of each forecast, `[n]`; no utility without costs, for what nobody holds."""
    return {"crps": result.crps(), "utility": None if cost_bp is None else forecast_utility(result, cost_bp)}


def pair_values(log_probs_n2: np.ndarray) -> dict[str, np.ndarray]:
    """`pair_accuracy` and `margin` of each pair, `[n]`, from the log-probabilities of its chosen and rejected path.

    margin = log p(chosen) - log p(rejected) in nats; accuracy is 1 where it is positive, half where it is zero.

    >>> pair_values(np.array([[-1.0, -2.5]]))["margin"].tolist()
    [1.5]
    """
    margin_n = log_probs_n2[:, 0] - log_probs_n2[:, 1]
    return {"pair_accuracy": (np.sign(margin_n) + 1) / 2, "margin": margin_n}


def summary(
    values: dict[str, np.ndarray | None], dates: np.ndarray, *, horizon: int, seed: int = 0
) -> dict[str, float | list[float] | None]:
    """Mean of each, and its block-bootstrap interval under `*_ci95`; None for what there is none of."""
    row: dict[str, Any] = {}
    for name, values_n in values.items():
        row[name] = None if values_n is None else float(values_n.mean())
        row[f"{name}_ci95"] = None if values_n is None else mean_interval(values_n, dates, horizon=horizon, seed=seed)
    return row


def forecast_rows(result: WalkForward, cost_bp: float | None, seed: int = 0) -> dict[str, dict[str, Any]]:
    """`result.rows` by name; that of the model with the interval of its coverage and with its utility."""
    rows = result.by_name(seed)
    forecast, realised = result.steps[-1]["model"], result.realised[:, -1]
    low, high = forecast.quantile(COVERAGE).T
    inside = None if rows["model"]["coverage_80"] is None else ((low <= realised) & (realised <= high)).astype(float)
    more = {"coverage_80": inside, "utility": forecast_values(result, cost_bp)["utility"]}
    rows["model"] |= summary(more, result.origin, horizon=result.overlap, seed=seed)
    return rows


def without_baselines(result: WalkForward) -> WalkForward:
    """The model's forecasts alone, which are scored sooner."""
    return replace(result, steps=[{"model": forecasts["model"]} for forecasts in result.steps])


def holders(result: WalkForward, cost_bp: float) -> dict[str, np.ndarray]:
    """Net profits of who forecasts nothing, `[n]` each."""
    positions = {"always_long": 1.0, "always_short": -1.0, "nothing": 0.0}
    profits_nK = profit(np.array([[*positions.values()]]), result.realised, cost_bp)
    return dict(zip(positions, profits_nK.T, strict=True))


def differences(
    before: dict[str, np.ndarray | None],
    after: dict[str, np.ndarray | None],
    dates: np.ndarray,
    *,
    horizon: int,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Paired differences after - before of every figure, each with its interval and a verdict in words."""
    answers: dict[str, dict[str, Any]] = {}
    for name, old_n in before.items():
        if old_n is not None and (new_n := after[name]) is not None:
            figure = CRPS if name == "crps" else GAIN
            answers[name] = compare(new_n, old_n, dates, "before", horizon=horizon, seed=seed, figure=figure)
    return answers


def warning(difference: dict[str, dict[str, Any]]) -> str | None:
    """What to say where utility rose while the forecasts got worse."""
    if "utility" not in difference or any(difference[name]["difference"] <= 0 for name in ("utility", "crps")):
        return None
    return (
        "utility rises while CRPS gets worse: the model may have learned to take sides, not to forecast. "
        f"Utility: {difference['utility']['verdict']}. CRPS: {difference['crps']['verdict']}."
    )

"""What tuning by pairs or by reward changed: forecasts and pairs of dates never trained on, before and after."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from ..evaluation import profit as utility
from ..evaluation.significance import GAIN, compare
from ..evaluation.walk_forward import WalkForward
from ..training.data import TrainingData
from .trainers import Noise, PreferenceCollator, log_probs


@dataclass(frozen=True)
class Judge:
    """Forecasts and pairs on which models are compared."""

    data: TrainingData
    pairs: Dataset
    noise: Noise | None
    cost_bp: float | None  # None for a series that nobody holds
    seed: int

    def __call__(self, model: Any) -> tuple[WalkForward, np.ndarray]:
        """The model's forecasts of the dates after validation, and how it scores each pair, `[N,2]`."""
        collate = PreferenceCollator(self.data.processor.tokenizer.bar_token_id, numbers=self.noise is not None)
        forecasts = self.data.walk_forward(model, seed=self.seed)
        return forecasts, log_probs(model, self.pairs, collate, self.noise)

    @property
    def pair_dates(self) -> np.ndarray:
        """Origins of the pairs; of undated ones their order stands for time."""
        if "origin" not in self.pairs.column_names:
            return np.arange(len(self.pairs))
        return pd.DatetimeIndex(self.pairs["origin"][:]).to_numpy()

    def report(self, before: tuple[WalkForward, np.ndarray], after: tuple[WalkForward, np.ndarray]) -> dict[str, Any]:
        """`before` and `after`, their paired differences, the baselines, and what it all says."""
        (first, scores_before), (last, scores_after) = before, after
        when, of_pairs = ({"horizon": dates, "seed": self.seed} for dates in (last.overlap, self.data.args.horizon))
        pairs = [utility.pair_values(scores) for scores in (scores_before, scores_after)]
        values = [utility.forecast_values(forecasts, self.cost_bp) for forecasts in (first, last)]
        old = utility.forecast_rows(utility.without_baselines(first), self.cost_bp, self.seed)["model"]
        rows = utility.forecast_rows(last, self.cost_bp, self.seed)
        new = rows.pop("model")
        for row, own in zip((old, new), pairs, strict=True):
            row |= utility.summary(own, self.pair_dates, **of_pairs)
        difference = utility.differences(*values, last.origin, **when)
        difference |= utility.differences(*pairs, self.pair_dates, **of_pairs)
        verdicts: dict[str, str] = last.words(self.seed)
        if values[1]["utility"] is not None:
            assert self.cost_bp is not None
            for name, held in utility.holders(last, self.cost_bp).items():
                words = (last.origin, name.replace("_", " "))
                found = compare(values[1]["utility"], held, *words, figure=GAIN, **when)
                verdicts[f"utility_against_{name}"] = found["verdict"]
                rows[name] = utility.summary({"utility": held}, last.origin, **when)
        return {
            "before": old,
            "after": new,
            "difference": difference,
            "verdicts": verdicts,
            "baselines": rows,
            "warning": utility.warning(difference),
        }


def print_findings(report: dict[str, Any]) -> None:
    """What was found, a line each, and the warning."""
    for name, one in report["difference"].items():
        figures = [report[part][name] for part in ("before", "after")]
        print(f"{name}: {figures[0]:.5g} -> {figures[1]:.5g}; {one['verdict']}")
    if "utility_against_nothing" in report["verdicts"]:
        print(f"utility after costs: {report['verdicts']['utility_against_nothing']}")
    if report["warning"]:
        print(f"warning: {report['warning']}")

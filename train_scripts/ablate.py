r"""What the front end is worth: trains the base model, + MSCNN, + T2T and + both alike, and compares their forecasts.

On the embedded prices, in about four minutes on two cores:
    python -m tsf_llm.train_scripts.ablate --config train_scripts/configs/ablation.yaml --output_dir outputs/ablation

On your own prices, with more seeds:
    python -m tsf_llm.train_scripts.ablate --config train_scripts/configs/ablation.yaml --data prices.parquet \
        --seeds 0 1 2 3 --output_dir outputs/ablation

Every variant gets the same windows, steps and seeds; early stopping is off. Scored is the CRPS of the cumulative
return at the last step, walking forward over the dates after validation, mean over the seeds for each origin. The
intervals are about these dates: how far seeds differ is told by `crps_by_seed`. The base is a row like the others,
and `verdict` says in words whether a variant differs from it.

The output folder holds `ablation.json` and, for each variant and seed, what `sft` leaves.
"""

import copy
import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.files import check_apart, check_free, claim, write_json
from ..common.parser import option, parse_for, run
from ..common.provenance import provenance
from ..evaluation.significance import compare, mean_interval
from ..evaluation.walk_forward import WalkForward
from ..training.arguments import DataArguments, ModelArguments, SftArguments
from ..training.data import TrainingData
from ..training.models import load_model
from ..training.supervised import train

VARIANTS: dict[str, dict[str, bool]] = {
    "base": {},
    "+mscnn": {"use_mscnn": True},
    "+t2t": {"use_t2t": True},
    "+both": {"use_mscnn": True, "use_t2t": True},
}


@dataclass
class AblationArguments:
    """How often everything is repeated."""

    _argument_group_name = "ablation"

    seeds: list[int] = option([0, 1], "one training of each variant per seed")


def main(
    data_args: DataArguments, model_args: ModelArguments, training_args: SftArguments, ablation_args: AblationArguments
) -> dict[str, Any]:
    """Trains, scores, compares and saves; returns what `ablation.json` holds."""
    if model_args.model_name_or_path is not None:
        raise ValueError("an ablation trains new models: leave model_name_or_path out and describe model_config")
    if data_args.report_samples == 0:
        raise ValueError("report_samples=0: variants are compared on sampled paths, give 2 or more")
    if len(set(ablation_args.seeds)) < 2:
        raise ValueError(f"seeds={ablation_args.seeds}: give two or more, one run alone proves nothing")
    folder = Path(str(training_args.output_dir))
    check_apart(folder, data_args.data, data_args.market)
    check_free(folder, ["ablation.json"], by="ablate", told_by=("ablation.json", "seeds", "rows"))
    runs = {
        name: [train_and_score(data_args, model_args, training_args, name, seed) for seed in ablation_args.seeds]
        for name in VARIANTS
    }
    losses = {name: np.mean([run["losses"] for run in of_variant], axis=0) for name, of_variant in runs.items()}
    result = runs["base"][0]["result"]
    report = {
        **provenance("ablate"),
        "data": runs["base"][0]["report"]["data"],
        "head": model_args.head,
        "horizon": data_args.horizon,
        "seeds": ablation_args.seeds,
        "origins": len(result.origin),
        "dates": [str(pd.Timestamp(end).date()) for end in (result.origin.min(), result.origin.max())],
        "rows": [row(name, runs[name], losses, result) for name in VARIANTS],
    }
    claim(folder, ["ablation.json"], by="ablate")
    write_json(report, folder / "ablation.json")
    print(table(report["rows"]))
    return report


def train_and_score(
    data_args: DataArguments, model_args: ModelArguments, training_args: SftArguments, name: str, seed: int
) -> dict[str, Any]:
    """One training, and its CRPS at every test origin."""
    folder = Path(str(training_args.output_dir)) / name.removeprefix("+") / f"seed-{seed}"
    own_training = copy.copy(training_args)
    own_training.output_dir, own_training.seed, own_training.early_stopping_patience = str(folder), seed, 0
    fields = {**dict(model_args.model_config or {}), **VARIANTS[name]}
    report = train(
        dataclasses.replace(data_args, report_samples=0),
        dataclasses.replace(model_args, model_config=fields),
        own_training,
    )
    result = TrainingData.read(data_args, str(folder)).walk_forward(load_model(folder), seed=seed)
    return {"report": report, "result": result, "losses": result.crps()}


def row(name: str, runs: list[dict[str, Any]], losses: dict[str, np.ndarray], result: WalkForward) -> dict[str, Any]:
    """One variant: its CRPS, and the difference to the base on the same origins."""
    reports = [run["report"] for run in runs]
    answer = {
        "model": name,
        "parameters": reports[0]["parameters"],
        "steps": reports[0]["steps"],
        "seconds": round(sum(report["seconds"] for report in reports), 1),
        "valid_loss_by_seed": [report["valid_loss"] for report in reports],
        "crps_by_seed": [float(run["losses"].mean()) for run in runs],
        "crps": float(losses[name].mean()),
        "crps_ci95": mean_interval(losses[name], result.origin, horizon=result.overlap),
    }
    if name == "base":
        return {**answer, "verdict": None}
    return {**answer, **compare(losses[name], losses["base"], result.origin, "base", horizon=result.overlap)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text.

    >>> print(table([{"model": "base", "parameters": 7, "crps": 0.02, "crps_ci95": None, "verdict": None}]))
    model     parameters      CRPS  95 % interval       against base
    base               7   0.02000  too few dates
    """
    lines = [f"{'model':8}  {'parameters':>10}  {'CRPS':>8}  {'95 % interval':18}  against base"]
    for one in rows:
        low_high = "[{:.5f}, {:.5f}]".format(*one["crps_ci95"]) if one["crps_ci95"] else "too few dates"
        text = f"{one['model']:8}  {one['parameters']:>10,}  {one['crps']:8.5f}  {low_high:18}  {one['verdict'] or ''}"
        lines.append(text.rstrip())
    return "\n".join(lines)


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)

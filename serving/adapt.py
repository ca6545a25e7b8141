"""Fits a model to one ticker: trains an adapter, and keeps it only if it forecasts better on the validation dates.

Design choices:
* The criterion is the mean paired difference of the CRPS on the validation dates. It is a choice, not a proof: the
  same dates stop the training. So `report.json` says whether the interval excludes zero, and gives the scores on
  later dates, which chose nothing.
* A killed run goes on where it was, if it is started in the same way; a finished one leaves no checkpoint behind.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console

from ..common.files import check_apart, claim, remove, write_json
from ..common.parser import Parser
from ..evaluation.walk_forward import WalkForward
from ..training.adapters import (
    BY,
    LoraArguments,
    adapter_name,
    check_adapter,
    facts,
    for_ticker,
    merged,
    naming,
    save_adapter,
    scores,
    train_adapter,
    validation,
    with_own_scalers,
)
from ..training.arguments import DataArguments, SftArguments
from ..training.data import TrainingData
from ..training.models import ADAPTER_CONFIG, Model, load_model, public_name
from ..training.starting_model import CONFIGS, BaseArguments
from .loading import find_model, is_adapter

REPORT = "report.json"
NEGLIGIBLE = 1e-6  # of the mean CRPS: less is rounding error


def adapt(
    model: str, *, ticker: str, out: Path | None = None, config: Path | None = None, options: dict[str, Any]
) -> tuple[dict[str, Any], Path]:
    """Trains, compares, keeps or drops; returns what `report.json` holds, and the folder that it lies in.

    `options` are arguments of `lora.py` by name and go over those of the YAML file `config`; None leaves one out.
    `out` is by default `adapters/TICKER` in the model's folder, or here for a model of the Hub.

    Raises:
        ValueError: for a ticker or data that cannot be used, or if `out` holds an adapter already.
    """
    started = time.perf_counter()
    name = find_model(model)
    if is_adapter(name):
        raise ValueError(f"{model} is an adapter: name the model that it belongs to")
    is_local = Path(name).is_dir()
    out = out or (Path(name) if is_local else Path()) / "adapters" / adapter_name(ticker)
    if (out / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{out} holds an adapter already: remove it, or choose another --out")
    check_apart(out, options.get("data"), options.get("market"))
    check_adapter(out)
    transformers.utils.logging.disable_progress_bar()  # of loading and saving; training keeps its own
    base, work = load_model(name), out.with_name(f".{out.name}.checkpoints")
    options = {**options, "horizon": options.get("horizon") or base.config.prediction_length}
    options |= {"model_name_or_path": name, "output_dir": work, "resume_from_checkpoint": "true"}
    parser = Parser((DataArguments, BaseArguments, LoraArguments, SftArguments))
    data_args, _, lora_args, training_args = parser.read(config or CONFIGS / "lora.yaml", **options)
    if data_args.report_samples < 2:
        raise ValueError(f"report_samples={data_args.report_samples}: the choice needs sampled paths, 2 or more")

    seed = training_args.seed
    with naming(ticker):
        data = for_ticker(TrainingData.read(data_args, name, base.config), ticker).with_fences_of(base.config)
        own = with_own_scalers(data, ticker) if data_args.per_ticker else data
        about = facts(base, own, lora_args, training_args, ticker=ticker)
        before = _forecasts(data, base, seed)
        try:
            adapted, training = train_adapter(base, own, lora_args, training_args, about=about, work=work)
        except KeyboardInterrupt as stop:
            raise type(stop)("the same command goes on from the last checkpoint") from stop
    after = _forecasts(own, merged(adapted), seed)

    valid, test = (scores(*pair, seed) for pair in zip(before, after, strict=True))
    kept = (valid["relative"] or 0.0) < -NEGLIGIBLE
    report = {
        **about,
        "made_by": "adapt",
        "base_model": public_name(name),
        **training,
        "kept": kept,
        "reason": f"on the validation dates the mean CRPS is {'lower' if kept else 'not lower'} with the adapter",
        "validation": {**valid, "interval_excludes_zero": _excludes_zero(valid)},
        **test,
        "baselines": {name: row for name, row in after[1].by_name(seed).items() if name != "model"},
        "interval_excludes_zero": _excludes_zero(test),
        "seconds": round(time.perf_counter() - started, 1),
    }
    remove(out, [REPORT], by=BY)  # of an earlier run; the folder is replaced as a whole
    if kept:
        link = str(Path(name).resolve()) if is_local else name
        save_adapter(adapted, own.processor, out, {**about, "training": training}, base_model=link)
    claim(out, [REPORT, "runs"], by=BY)
    write_json(report, out / REPORT)
    if (work / "runs").is_dir():  # what report_to=tensorboard wrote
        shutil.move(work / "runs", out / "runs")
    shutil.rmtree(work)
    return report, out


def print_adapted(report: dict[str, Any], out: Path) -> None:
    """The choice, what it rests on, and the scores that it did not use."""
    console = Console(highlight=False, soft_wrap=True)
    fences = f"trained through {report['train_through']}, validated through {report['valid_through']}"
    console.print(f"{report['ticker']}: {report['adapter_parameters']:,} weights on a frozen base, {fences}")
    for part, of_part in (("validation", report["validation"]), ("test", report)):
        crps = [f"{of_part[side]['crps']:.5f}" for side in ("before", "after")]
        note = "" if part == "validation" else " (not used for the choice)"
        console.print(f"{part:10} {of_part['after']['n']} forecasts, CRPS {crps[0]} without, {crps[1]} with{note}:")
        console.print(f"{'':10} {of_part['verdict']}")
    if report["out_of_sample"] is None:
        console.print("Whether this is out of sample is unknown: the base does not say which dates it has seen.")
    elif not report["out_of_sample"]:
        seen = report["trained_through"]
        console.print(f"Not out of sample: the base has seen prices through {seen}.", style="bold red")
    if report["kept"]:
        proof = "" if report["validation"]["interval_excludes_zero"] else ", though it may be chance"
        console.print(f"Kept: better on average on the validation dates{proof}. Forecast with --model {out}")
    else:
        console.print("Not kept: no better on average on the validation dates. The base goes on alone.")


def _forecasts(data: TrainingData, model: Model, seed: int) -> tuple[WalkForward, WalkForward]:
    """On the validation dates, and on those after them."""
    return validation(data, model, seed=seed), data.walk_forward(model, seed=seed)


def _excludes_zero(difference: dict[str, Any]) -> bool | None:
    """None where there are too few dates for an interval."""
    interval = difference["ci95"]
    return None if interval is None else bool(interval[0] > 0 or interval[1] < 0)

r"""Preference tuning with trl's `DPOTrainer`: of two price paths after the same bars, make the better one more likely.

A small run on the embedded prices: it trains a model, samples pairs from its training dates, tunes and compares:
    python -m tsf_llm.train_scripts.dpo --config train_scripts/configs/debug_dpo.yaml --output_dir outputs/debug_dpo

Your model, with pairs that the script builds itself, ranked by profit after costs; low-rank updates alone:
    python -m tsf_llm.train_scripts.dpo --config train_scripts/configs/dpo.yaml --model_name_or_path outputs/27m \
        --data prices.parquet --utility pnl --cost_bp 5 --lora_r 8 --output_dir outputs/dpo

Pairs of your own: a folder or .parquet of `build_preferences`, or lines of prompt, chosen and rejected:
    python -m tsf_llm.train_scripts.dpo --config train_scripts/configs/dpo.yaml --model_name_or_path outputs/27m \
        --data prices.parquet --preferences preferences --loss_type ipo --output_dir outputs/ipo

A regression head, whose numbers become a density (see `preferences/trainers.py`):
    python -m tsf_llm.train_scripts.dpo --model_name_or_path outputs/regression --data prices.parquet \
        --preferences pairs.jsonl --output_dir outputs/regression_dpo

The reference is a frozen copy of the base model; the base model itself with its adapter off (`--lora_r`); or numbers
computed beforehand (`--precompute_ref_log_probs`). The output folder holds the tuned model with its processor, with
`--lora_r` merged and the adapter alone in `adapter/`; the pairs in `preferences/`; and `report.json`.
"""

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import set_seed

from ..bars_tsf_llm import OHLCV
from ..common.files import write_json
from ..common.parser import parse_for, run
from ..common.provenance import provenance
from ..evaluation.plots import loss_curve
from ..modeling_tsf_llm import TsfLlmForCausalLM
from ..preferences.reader import PreferenceArguments, SplitPairs, read_or_build
from ..preferences.report import Judge, print_findings
from ..preferences.trainers import DpoArguments, Noise, fit_noise, make_trainer
from ..training.arguments import DataArguments
from ..training.checkpoints import check_folder
from ..training.data import TrainingData
from ..training.models import Model, head_of, load_model, public_name
from ..training.starting_model import BaseArguments, base_model
from ..training.trainer import train_and_save


def main(
    data_args: DataArguments,
    base_args: BaseArguments,
    preference_args: PreferenceArguments,
    training_args: DpoArguments,
) -> dict[str, Any]:
    """Reads or builds pairs, tunes, compares and saves; returns what `report.json` holds."""
    started = time.perf_counter()
    set_seed(training_args.seed)
    check_folder(training_args.output_dir, data_args.data, data_args.market)
    base = base_model(base_args, data_args, training_args.output_dir, seed=training_args.seed)
    model = tunable(load_model(base), base)
    data = TrainingData.read(data_args, base, model.config).with_fences_of(model.config)
    with training_args.main_process_first(local=False, desc="preference pairs"):
        pairs, test = read_or_build(data, model, preference_args, training_args)
    noise = None if model.can_generate() else fit_noise(data, model, pairs)
    held = data.processor.feature_extractor.series_kind is OHLCV
    cost_bp = preference_args.cost_bp if held else None
    judge = Judge(data, pairs.valid if test is None else test, noise, cost_bp, training_args.seed)
    before = judge(model)
    data.mark(model)
    report: dict[str, Any] = {
        **provenance("dpo"),
        "base_model": public_name(base),
        "head": head_of(model),
        "parameters": model.num_parameters(),
        **data.provenance(model.config),
        **how(training_args, noise),
        "pairs": describe(pairs, test, preference_args),
    }
    trainer = make_trainer(model, data, pairs, training_args, noise)
    report["trained_parameters"] = trainer.get_num_trainable_parameters()
    history, report["valid_loss"] = train_and_save(trainer, training_args)
    trainer.accelerator.wait_for_everyone()  # for the folder, which the main process writes
    report["valid_reward_accuracy"] = trainer.state.log_history[-1]["eval_rewards/accuracies"]
    report |= judge.report(before, judge(type(model).from_pretrained(training_args.output_dir).to(model.device)))
    report |= {"seed": training_args.seed, "steps": trainer.state.global_step}
    report["seconds"] = round(time.perf_counter() - started, 1)
    if trainer.is_world_process_zero():
        write_json(report, Path(training_args.output_dir) / "report.json")
        loss_curve(history, Path(training_args.output_dir) / "loss.png")
        print_findings(report)
    return report


def tunable(model: Model, name: str) -> Model:
    """The model, a causal LM without laws of far horizons, which no pair of paths tunes.

    Raises ValueError for a head that gives neither paths nor one number per step."""
    if not model.can_generate() and model.config.prediction_type != "regression":
        raise ValueError(
            f"{name} has a {model.config.prediction_type} head: pairs tune a causal LM or a regression head"
        )
    return model.tokens_only() if isinstance(model, TsfLlmForCausalLM) else model


def how(training_args: DpoArguments, noise: Noise | None) -> dict[str, Any]:
    """The lines of the report about the loss."""
    full = "frozen copy" if not training_args.lora_r else "adapter off"
    return {
        "loss_type": training_args.loss_type,
        "beta": training_args.beta,
        "reference": "precomputed" if training_args.precompute_ref_log_probs else full,
        "lora_r": training_args.lora_r,
        "noise": None if noise is None else asdict(noise),
    }


def describe(pairs: SplitPairs, test: Dataset | None, preference_args: PreferenceArguments) -> dict[str, Any]:
    """The lines of the report about pairs."""
    given = preference_args.preferences
    return {
        "source": "built from the base model" if given is None else Path(given).name,
        "utility": preference_args.utility,
        "cost_bp": preference_args.cost_bp,
        "train": len(pairs.train),
        "valid": len(pairs.valid),
        "test": None if test is None else len(test),
        "judged_by": "held-out pairs" if test is None else "pairs of the base model on the dates after validation",
        "left_out": pairs.counts,
        "dated": pairs.dated,
    }


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)

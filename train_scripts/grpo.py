r"""Tuning by reward with trl's `GRPOTrainer`: sample paths from past days, and make those more likely that paid.

A small run on the embedded prices, from a model that is trained first:
    python -m tsf_llm.train_scripts.grpo --config train_scripts/configs/debug_grpo.yaml --output_dir outputs/debug_grpo

Your model, low-rank updates alone, held near where it started:
    python -m tsf_llm.train_scripts.grpo --model_name_or_path outputs/27m --data prices.parquet --horizon 5 \
        --reward pnl --cost_bp 5 --lora_r 8 --beta 0.04 --output_dir outputs/grpo

The report is that of `dpo.py`: forecasts and pairs of dates never trained on, and what they earned.
`preferences/rewards.py` has the design choices.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from ..bars_tsf_llm import OHLCV
from ..common.files import write_json
from ..common.parser import parse_for, run
from ..common.provenance import provenance
from ..preferences.reader import test_pairs
from ..preferences.report import Judge, print_findings
from ..preferences.rewards import GrpoArguments, RewardArguments, make_trainer, past_origins
from ..training.arguments import DataArguments
from ..training.checkpoints import check_folder, save_whole
from ..training.data import TrainingData
from ..training.models import load_causal_lm, public_name
from ..training.starting_model import BaseArguments, base_model
from ..training.trainer import resumable


def main(
    data_args: DataArguments, base_args: BaseArguments, reward_args: RewardArguments, training_args: GrpoArguments
) -> dict[str, Any]:
    """Samples, rewards and tunes, compares and saves; returns what `report.json` holds."""
    started = time.perf_counter()
    set_seed(training_args.seed)
    check_folder(training_args.output_dir, data_args.data, data_args.market)
    base = base_model(base_args, data_args, training_args.output_dir, seed=training_args.seed)
    model = load_causal_lm(base, "a reward needs").tokens_only()  # rewards tune paths alone
    data = TrainingData.read(data_args, base, model.config).with_fences_of(model.config)
    held = data.processor.feature_extractor.series_kind is OHLCV
    if not held and reward_args.reward != "crps":
        raise ValueError(f"reward={reward_args.reward}: nobody holds a position in a plain series; use crps")
    with training_args.main_process_first(local=False, desc="pairs of the report"):
        test = test_pairs(data, model, reward_args, training_args)
    judge = Judge(data, test, None, reward_args.cost_bp if held else None, training_args.seed)
    before = judge(model)
    origins = past_origins(data)
    data.mark(model)
    report: dict[str, Any] = {
        **provenance("grpo"),
        "base_model": public_name(base),
        "head": "causal_lm",
        "parameters": model.num_parameters(),
        **data.provenance(model.config),
        "reward": reward_args.reward,
        "cost_bp": reward_args.cost_bp,
        "beta": training_args.beta,
        "lora_r": training_args.lora_r,
        "origins": len(origins),
        "paths_per_origin": training_args.num_generations,
        "pairs": {"test": len(test)},
    }
    trainer = make_trainer(model, data, origins, reward_args, training_args)
    report["trained_parameters"] = trainer.get_num_trainable_parameters()
    with resumable(trainer, training_args) as checkpoint:
        trainer.train(resume_from_checkpoint=checkpoint)
        save_whole(trainer)
        trainer.accelerator.wait_for_everyone()  # for the folder, which the main process writes
    report |= judge.report(before, judge(type(model).from_pretrained(training_args.output_dir).to(model.device)))
    report["rewards"] = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    report |= {"seed": training_args.seed, "steps": trainer.state.global_step}
    report["seconds"] = round(time.perf_counter() - started, 1)
    if trainer.is_world_process_zero():
        write_json(report, Path(training_args.output_dir) / "report.json")
        print_findings(report)
    return report


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)

"""Tuning by reward: past days to sample from, what a path earns there, and trl's `GRPOTrainer` for prompts of bars.

Design choices:
* The reward of a path is its utility as in `pairs.py`. By default it trades: the sign of the path's last
  value is held to the end, minus costs. Group Relative Policy Optimization (Shao et al. 2024) compares the paths of an
  origin with each other.
* Origins are of the training dates alone, their outcomes inside the fence, every `stride` bars. Windows with a missing
  bar or too little history are left out: trl pads prompts, not bars.
* trl knows prompts of text. Here a prompt is one `<bar>` per bar, and the bars travel beside it.

Shapes: B origins of a batch, G paths of each, T bars, F features, P steps.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from ..common.parser import option
from ..evaluation.walk_forward import pick_origins
from ..processing_tsf_llm import TsfLlmProcessor
from ..publishing.upload import HubCallback
from ..training.callbacks import FiniteCallback
from ..training.data import TrainingData
from .pairs import PairArguments, UtilityArguments, utilities
from .trainers import SteadyTrainer, TuningArguments, low_rank, steady


@dataclass
class RewardArguments(UtilityArguments):
    """What a path earns."""

    _argument_group_name = "reward"

    reward: str = option("pnl", "utility of a path: pnl, drawdown or crps")

    def settings(self, **more: Any) -> PairArguments:
        return super().settings(utility=self.reward, **more)


@dataclass
class GrpoArguments(TuningArguments, GRPOConfig):
    """trl's GRPOConfig with defaults for price paths."""

    output_dir: str | None = option("outputs/grpo", "where the model and report.json go")
    per_device_train_batch_size: int = option(64, "paths per step and device")
    num_generations: int | None = option(8, "paths per origin, compared with each other")

    def __post_init__(self) -> None:
        if self.num_generations is not None and self.num_generations < 2:
            raise ValueError(f"num_generations={self.num_generations}: paths are compared, give 2 or more")
        super().__post_init__()
        if self.beta < 0 or (self.beta and not self.lora_r):
            raise ValueError(f"beta={self.beta}: the reference is the model with its adapter off; give lora_r, or 0")


def past_origins(data: TrainingData) -> Dataset:
    """Whole windows of the training dates with what came after them: `past_values`, `realised [P]`, `sigma`.

    Raises ValueError if there is none."""
    extractor, horizon = data.processor.feature_extractor, data.args.horizon
    series = data.known_by(data.split.train_through)
    first, last = data.bars["timestamp"].min(), data.split.train_through
    rows_of = pick_origins(series, first, last, horizon, data.args.stride, extractor.context_length)
    columns: dict[str, list[np.ndarray]] = {"past_values": [], "realised": [], "sigma": []}
    for one, rows in zip(series, rows_of, strict=True):
        windows = data.processor.windows(one, rows)
        whole = windows["attention_mask"].all(axis=1)
        realised = data.processor.kind.change(one.ahead(rows, horizon), one.close[rows, None])
        for name, values in zip(columns, (windows["past_values"], realised, one.sigma[rows]), strict=True):
            columns[name].append(values[whole])
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    if not len(arrays["sigma"]):
        raise ValueError(
            f"no window of {extractor.context_length} bars, none missing, lies before {last}: give more history"
        )
    prompt = " ".join(["<bar>"] * extractor.context_length)
    return Dataset.from_dict({"prompt": [prompt] * len(arrays["sigma"]), **arrays})


def path_reward(processor: TsfLlmProcessor, settings: PairArguments) -> Any:
    """trl's reward function: the utility of each sampled path, in hindsight. A path with a special token gets none."""

    def reward(completion_ids: list[list[int]], realised: list[Any], sigma: list[float], **kwargs: Any) -> list[Any]:
        scale, outcome = np.asarray(sigma, dtype=float), np.asarray(realised, dtype=float)
        steps = processor.tokenizer.decode_returns(np.asarray(completion_ids))
        paths = np.cumsum(steps, axis=1) * scale[:, None]
        values = utilities(settings, paths_BKP=paths[:, None], realised_BP=outcome, sigma_B=scale)[:, 0]
        broken = np.isnan(paths).any(axis=1)
        return [None if bad else float(value) for bad, value in zip(broken, values, strict=True)]

    return reward


class TsfLlmGRPOTrainer(SteadyTrainer, GRPOTrainer):
    """trl's `GRPOTrainer` for prompts of bars: wherever it calls the model, the bars of its rows are handed along."""

    def __init__(self, *args: Any, processor: TsfLlmProcessor, **kwargs: Any):
        self.processor = processor
        self._windows: torch.Tensor | None = None  # [B*G,T,F], of the rows that are sampled or scored now
        super().__init__(*args, processing_class=processor.tokenizer, **kwargs)
        self.eos_token_ids, self.generation_config.eos_token_id = [], None  # a path ends with its last step

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.processor.save_pretrained(output_dir or self.args.output_dir)  # trl holds the tokenizer alone

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self._windows = inputs["past_values"]
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _generate_and_score_completions(self, inputs):
        windows = np.stack([np.asarray(row["past_values"], dtype=np.float32) for row in inputs])
        self._windows = torch.from_numpy(windows).to(self.accelerator.device)
        if self.model.training:
            steady(self.model)
        output = super()._generate_and_score_completions(inputs)
        output["past_values"] = self._windows  # trl shuffles and splits it with the rest
        return output

    def _tokenize_prompts(self, prompts):
        assert self._windows is not None
        rows, length = self._windows.shape[:2]
        return [[self.processor.tokenizer.bar_token_id] * length] * rows, None, {"past_values": self._windows}

    def _get_per_token_logps_and_entropies(self, model, *args: Any, **kwargs: Any):
        """trl may call the model several times, for some rows each, in order."""
        assert self._windows is not None
        inner = self.accelerator.unwrap_model(model)
        inner = inner.get_base_model() if is_peft_model(inner) else inner
        waiting = iter(self._windows)

        def hand_along(module: Any, positional: Any, named: dict[str, Any]) -> Any:
            rows = len(named["input_ids"])
            return positional, {**named, "past_values": torch.stack([next(waiting) for _ in range(rows)])}

        hook = inner.register_forward_pre_hook(hand_along, with_kwargs=True)
        try:
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        finally:
            hook.remove()


def make_trainer(
    model: Any, data: TrainingData, origins: Dataset, reward_args: RewardArguments, training_args: GrpoArguments
) -> TsfLlmGRPOTrainer:
    """trl's trainer; a path is as long as the horizon and holds no special token."""
    training_args.max_completion_length = data.args.horizon
    suppressed = model.generation_config.suppress_tokens
    training_args.generation_kwargs = {**(training_args.generation_kwargs or {}), "suppress_tokens": suppressed}
    return TsfLlmGRPOTrainer(
        model=model,
        reward_funcs=[path_reward(data.processor, reward_args.settings())],
        args=training_args,
        train_dataset=origins,
        processor=data.processor,
        peft_config=low_rank(model, training_args.lora_r, training_args.lora_alpha),
        callbacks=[FiniteCallback(), HubCallback()],
    )

"""What trl lacks to tune by pairs of price paths: a collator, a density for a regression head, and two small trainers.

Design choices:
* A causal LM scores a path as a language model scores a completion: the sum of its tokens' log-probabilities after the
  bars. trl does that as it is; only its preparation of text is left out.
* A regression head gives one number per step and no probability. It gets one from a stated noise model: the return of
  each step is Student-t about the head's, with degrees of freedom and scale that fit the base model's residuals on the
  training dates and then stay. The log-density of a path stands where its log-probability would.
* While a policy is tuned, it runs as it does when it forecasts and as its reference does: no dropout in attention or
  anywhere else, no hidden patches, stored batch statistics. Otherwise the two would differ before the first step.
* The losses that balance experts and train a front end are left out: a loss is then the preference loss and nothing
  else. The routers start balanced, and few pairs move them little.

Shapes: N pairs, B pairs of a batch, T bars, F features, P steps; chosen rows of a batch come first, [2B].
"""

import copy
import functools
import types
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, PeftModel
from scipy import stats
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, Trainer
from transformers.modeling_layers import GradientCheckpointingLayer
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from ..common.files import write_json
from ..common.inference import evaluating
from ..common.parser import option
from ..modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from ..publishing.upload import HubCallback
from ..training.adapters import LoraArguments, lora_config
from ..training.arguments import Defaults
from ..training.callbacks import FiniteCallback, show_one_bar
from ..training.data import TrainingData
from ..training.models import ADAPTER_FACTS, Model
from .reader import SplitPairs

FEWEST_DF, MOST_DF = 2.1, 100.0  # a variance exists; beyond, Student-t is normal


def low_rank(model: Model, r: int, alpha: float) -> LoraConfig | None:
    """Updates of attention, the shared expert and the routed experts; the router stays as it is. None for rank 0."""
    if not r:
        return None
    linear = {name.split(".")[-1] for name, part in model.model.layers.named_modules() if isinstance(part, nn.Linear)}
    args = LoraArguments(r=r, lora_alpha=alpha, lora_dropout=0.0, target_modules=sorted(linear), target_experts=True)
    return replace(lora_config(model, args), task_type=None)  # trl calls the model by itself


# --- batches and scores --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreferenceCollator:
    """Pairs -> the batch that trl's `DPOTrainer` expects, with the bars beside it.

    `input_ids`, `attention_mask`, `completion_mask` `[2B,T+P]` and `past_values [2B,T,F]`; windows of different
    lengths are padded on the left. For a regression head the tokens are zeros and `steps [2B,P]` are the returns.
    """

    bar_token_id: int
    numbers: bool = False

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        def padded(name: str, dtype: Any) -> torch.Tensor:
            rows = [torch.from_numpy(np.asarray(pair[name], dtype)) for pair in (*pairs, *pairs)]
            return pad_sequence(rows, batch_first=True, padding_side="left")

        past_values, mask = padded("past_values", np.float32), padded("attention_mask", np.int64)
        steps = torch.from_numpy(np.array([pair[name] for name in ("chosen", "rejected") for pair in pairs]))  # [2B,P]
        known = torch.ones(steps.shape, dtype=torch.int64)
        tokens = torch.zeros_like(known) if self.numbers else steps.long()
        batch = {
            "input_ids": torch.cat((torch.full_like(mask, self.bar_token_id), tokens), dim=1),
            "attention_mask": torch.cat((mask, known), dim=1),
            "completion_mask": torch.cat((torch.zeros_like(mask), known), dim=1),
            "past_values": past_values,
        }
        if self.numbers:
            batch["steps"] = steps.float()
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in pairs[0]:
                batch[name] = torch.tensor([pair[name] for pair in pairs], dtype=torch.float32)
        return batch


@dataclass(frozen=True)
class Noise:
    """Student-t noise about a regression head's return of each step, in units of sigma; the steps independent."""

    df: float
    scale: float

    @classmethod
    def fit(cls, residuals: np.ndarray) -> "Noise":
        """Maximum likelihood about zero; raises ValueError for residuals that are all zero, or none."""
        residuals = residuals[np.isfinite(residuals)]
        if not len(residuals) or np.ptp(residuals) == 0:
            raise ValueError("the base model leaves no residuals to fit the noise to: give more pairs or windows")
        df, _, scale = stats.t.fit(residuals, floc=0.0)
        return cls(float(np.clip(df, FEWEST_DF, MOST_DF)), float(scale))

    def log_density(self, prediction_BP: torch.Tensor, steps_BP: torch.Tensor) -> torch.Tensor:
        """log p of each step's return, `[B,P]`; the head's numbers are cumulative."""
        return torch.distributions.StudentT(self.df, per_step(prediction_BP), self.scale).log_prob(steps_BP)


def per_step(cumulative_BP: torch.Tensor) -> torch.Tensor:
    """Returns of each step.

    >>> per_step(torch.tensor([[1.0, 3.0]])).tolist()
    [[1.0, 2.0]]
    """
    return torch.diff(cumulative_BP, dim=1, prepend=torch.zeros_like(cumulative_BP[:, :1]))


@torch.inference_mode()
def log_probs(
    model: TsfLlmForCausalLM | TsfLlmForPrediction,
    pairs: Dataset,
    collate: PreferenceCollator,
    noise: Noise | None = None,
    batch_size: int = 128,
) -> np.ndarray:
    """Log-probabilities, or log-densities under `noise`, of chosen and rejected paths, float64 `[N,2]`."""
    parts = []
    with evaluating(model):
        for start in range(0, len(pairs), batch_size):
            rows = [pairs[i] for i in range(start, min(start + batch_size, len(pairs)))]
            batch = {name: values.to(model.device) for name, values in collate(rows).items()}
            parts.append(_score(model, batch, noise).view(2, -1).T.double().cpu().numpy())
    return np.concatenate(parts)


def _score(model: Any, batch: dict[str, torch.Tensor], noise: Noise | None) -> torch.Tensor:
    """Log-probability of each row, `[2B]`."""
    T = batch["past_values"].shape[1]
    if noise is not None:
        mask = batch["attention_mask"][:, :T]
        prediction = model(past_values=batch["past_values"], attention_mask=mask).prediction
        return noise.log_density(prediction, batch["steps"]).sum(-1)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "past_values")}
    tokens = batch["input_ids"][:, T:]
    logits = model(**inputs, logits_to_keep=tokens.shape[1] + 1, use_cache=False).logits[:, :-1]
    return logits.float().log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1).sum(-1)


# --- trainers ------------------------------------------------------------------------------------------------------


def steady(model: torch.nn.Module) -> None:
    """Every layer as in forecasting; only the model as a whole, and what saves memory by it, knows that it trains."""
    for module in model.modules():
        if module is not model and not isinstance(module, GradientCheckpointingLayer):
            module.training = False


def reference_copy(model: Any) -> Any:
    """The model as it is now, frozen."""
    return copy.deepcopy(model).eval().requires_grad_(False)


class SteadyTrainer(Trainer):
    """What the trainers of trl share here: how the model runs, what is shown, and what is saved."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        show_one_bar(self)

    def create_model_card(self, *args, **kwargs) -> None:
        """None: trl's speaks of text and chats."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Checkpoints as transformers saves them. The end of a run with low-rank updates is the merged model, which
        `from_pretrained` loads, and the updates alone in `adapter/`."""
        model = self.accelerator.unwrap_model(self.model)
        if _internal_call or not isinstance(model, PeftModel):
            super().save_model(output_dir, _internal_call)
            return
        folder = Path(output_dir or self.args.output_dir)
        super().save_model(str(folder / "adapter"))
        if self.args.should_save:
            (folder / "adapter" / "training_args.bin").unlink(missing_ok=True)  # a pickle
            write_json({"laws": False}, folder / "adapter" / ADAPTER_FACTS)  # the base's speak of other paths
            copy.deepcopy(model).merge_and_unload().save_pretrained(folder)
            self.processing_class.save_pretrained(folder)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.model.training:
            steady(self.model)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class TsfLlmDPOTrainer(SteadyTrainer, DPOTrainer):
    """trl's `DPOTrainer` for pairs of `Reader` and batches of `PreferenceCollator`."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        return dataset  # nothing to put into a chat template or to tokenize


class RegressionDPOTrainer(TsfLlmDPOTrainer):
    """The same for a regression head: the log-density under `noise` stands where the log-probability would."""

    def __init__(self, *args: Any, noise: Noise, **kwargs: Any):
        self.noise = noise
        model = kwargs["model"]
        model.generation_config = GenerationConfig()  # trl notes the padding token there
        super().__init__(*args, **kwargs)
        for one in (self.model, self.ref_model):
            if one is not None:
                self._score_numbers(one)

    def compute_ref_log_probs(self, model, inputs):
        self._score_numbers(model)  # already while trl's own constructor runs, if references are precomputed
        return super().compute_ref_log_probs(model, inputs)

    def _score_numbers(self, model: Any) -> None:
        """Puts our scoring where trl has put the one for tokens."""
        inner = self.accelerator.unwrap_model(model)
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        inner.forward = types.MethodType(_density_forward(self.noise), inner)


def _density_forward(noise: Noise) -> Any:
    """A `forward` that answers `fused_lm_head=True`, trl's question for log-probabilities, with log-densities."""

    @functools.wraps(TsfLlmForPrediction.forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return type(self).forward(self, *args, **kwargs)
        steps, past_values, labels = kwargs["steps"], kwargs["past_values"], kwargs["labels"]
        T = past_values.shape[1]
        mask = kwargs["attention_mask"][:, :T]
        prediction = type(self).forward(self, past_values=past_values, attention_mask=mask).prediction
        mean = per_step(prediction.detach())

        def placed(values: torch.Tensor) -> torch.Tensor:  # position t speaks of what comes at t + 1
            return F.pad(values, (T - 1, 0))

        return FusedCausalLMOutput(
            log_probs=placed(noise.log_density(prediction, steps)),
            entropy=placed(torch.zeros_like(steps)),  # fixed noise: the same for all
            mean_logits=placed(mean),  # trl logs it as logits/chosen
            is_top1=placed(mean.sign() == steps.sign()),  # and the share of right directions as mean_token_accuracy
            label_mask=labels[:, 1:] != -100,
        )

    return forward


LOSSES = ("sigmoid", "ipo", "hinge")
NOISE_WINDOWS = 4096  # training windows whose residuals the noise is fitted to


@dataclass
class TuningArguments(Defaults):
    """What DPO and GRPO have in common."""

    lora_r: int = option(0, "rank of low-rank updates; 0 tunes all weights")
    lora_alpha: float = option(16, "the updates count lora_alpha / lora_r times")
    num_train_epochs: float = option(1, "passes over the pairs, or over the origins")
    learning_rate: float = option(1e-5, "peak learning rate of AdamW")
    gradient_checkpointing: bool | None = option(None, "old name of activation_checkpointing: save memory, spend time")
    bf16: bool | None = option(False, "bfloat16 autocast")
    router_aux_loss_coef: float | None = option(
        0.0, "weight of trl's load-balancing loss; 0 leaves preference or reward alone"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_r < 0:
            raise ValueError(f"lora_r={self.lora_r}: must be 0, for all weights, or more")


@dataclass
class DpoArguments(TuningArguments, DPOConfig):
    """trl's DPOConfig with defaults for price paths."""

    output_dir: str | None = option("outputs/dpo", "where the model and report.json go")
    per_device_train_batch_size: int = option(32, "pairs per step and device")
    per_device_eval_batch_size: int = option(64, "pairs per validation step and device")
    warmup_steps: float = option(0.1, "steps of warm-up, or their share if below 1")
    eval_strategy: str = option("epoch", "when to validate")
    save_strategy: str = option("epoch", "when to save a checkpoint")
    load_best_model_at_end: bool = option(True, "keep the weights of the best loss on held-out pairs")
    prediction_loss_only: bool = option(True, "validation needs no predictions")
    max_length: int | None = option(None, "windows are not cut")

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.loss_type if name not in LOSSES]:
            raise ValueError(f"loss_type={', '.join(unknown)}: choose of {', '.join(LOSSES)}")
        if self.beta <= 0:
            raise ValueError(f"beta={self.beta}: must be above 0")


def fit_noise(data: TrainingData, model: TsfLlmForPrediction, pairs: SplitPairs) -> Noise:
    """Fitted to the base model's residuals per step on training windows.

    The original's weights have inputs and targets of their own, of which there are no windows: theirs are residuals of
    the chosen paths of training pairs."""
    if data.processor.feature_extractor.reach is not None:
        collate = PreferenceCollator(data.processor.tokenizer.bar_token_id, numbers=True)
        rows = np.arange(min(len(pairs.train), NOISE_WINDOWS))
        parts = (collate([pairs.train[int(i)] for i in some]) for some in np.split(rows, rows[256::256]))
        chosen = ({name: values.chunk(2)[0] for name, values in part.items()} for part in parts)
        batches: Any = ((part, part["steps"].cumsum(dim=1)) for part in chosen)
    else:
        windows, _ = data.windows("regression")
        rows = np.linspace(0, len(windows) - 1, min(len(windows), NOISE_WINDOWS)).astype(int)
        parts = (windows.__getitems__(some) for some in np.split(rows, rows[256::256]))
        batches = ((part, part["labels"]) for part in parts)
    residuals = []
    with torch.inference_mode():
        for batch, outcome in batches:
            T = batch["past_values"].shape[1]
            inputs = {"past_values": batch["past_values"], "attention_mask": batch["attention_mask"][:, :T]}
            answer = model(**{name: values.to(model.device) for name, values in inputs.items()})
            residuals.append(per_step(outcome - answer.prediction.cpu()).numpy().ravel())
    return Noise.fit(np.concatenate(residuals))


def make_trainer(
    model: Any, data: TrainingData, pairs: SplitPairs, training_args: DpoArguments, noise: Noise | None = None
) -> TsfLlmDPOTrainer:
    """trl's trainer. Without a reference it would load one from the model's folder, whatever the weights here are."""
    own_reference = not training_args.lora_r and not training_args.precompute_ref_log_probs
    options: dict[str, Any] = {
        "model": model,
        "ref_model": reference_copy(model) if own_reference else None,
        "args": training_args,
        "train_dataset": pairs.train,
        "eval_dataset": pairs.valid,
        "data_collator": PreferenceCollator(data.processor.tokenizer.bar_token_id, numbers=noise is not None),
        "processing_class": data.processor,
        "peft_config": low_rank(model, training_args.lora_r, training_args.lora_alpha),
        "callbacks": [FiniteCallback(), HubCallback()],
    }
    return TsfLlmDPOTrainer(**options) if noise is None else RegressionDPOTrainer(**options, noise=noise)

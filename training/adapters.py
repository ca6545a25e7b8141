"""Low-rank adapters (LoRA, Hu et al. 2021), one per ticker, on a base whose weights stay as they are.

Design choices:
* peft makes, saves and loads them; an adapter folder is what peft and transformers expect.
* By default every Linear layer of the decoder gets one, the projection of the bars and the head included: adapters of
  Linear layers can be mixed within one batch. The routed experts are stacked tensors: `target_experts` reaches them
  too, but peft cannot mix such adapters. Routers and norms stay frozen.
* The return bins are the base's, or its tokens would change their meaning. So are the scalers, or the frozen layers
  would read other units than they were trained on; `per_ticker` adds scalers of this ticker beside the common ones.
  Whichever it is, the folder holds the processor that forecasts need.
* `adapter.json` beside the weights says whose adapter it is, of which base (by a digest of its weights), and up to
  which date it has seen prices.
* Every ticker starts from the same seed: its adapter does not depend on which others are trained.
"""

import copy
import dataclasses
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import set_seed

from ..bars_tsf_llm import kind_of
from ..common.files import WRITTEN, adopt, check_ours, has_keys, replace_folder, write_json, write_text
from ..common.parser import option
from ..common.provenance import provenance
from ..common.reading import read_json
from ..configuration_tsf_llm import TsfLlmConfig
from ..data_prep.prepare import is_prepared
from ..data_prep.sources import read_data
from ..evaluation.walk_forward import WalkForward, pool
from ..modeling_tsf_llm import TsfLlmBatchNorm
from ..processing_tsf_llm import TsfLlmProcessor
from ..publishing.cards import adapter_card
from ..publishing.upload import adapter_facts
from .arguments import DataArguments, SftArguments
from .data import TrainingData
from .models import ADAPTER_CONFIG, ADAPTER_FACTS, Model, digest, head_of
from .trainer import make_trainer, train_and_save

SETTINGS = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "weight_decay", "seed")
BY = "adapters"
ADAPTER_OUTPUTS = (  # of a folder with an adapter
    *(ADAPTER_CONFIG, ADAPTER_FACTS, "adapter_model.safetensors", "README.md", "report.json", "runs"),
    *("processor_config.json", "tokenizer_config.json", "*_tsf_llm.py"),
)
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@dataclass
class LoraArguments:
    """The adapters."""

    _argument_group_name = "lora"

    r: int = option(8, "rank")
    lora_alpha: float = option(16, "an update counts lora_alpha / r times")
    lora_dropout: float = option(0.05, "dropout ahead of an adapter, if no expert has one")
    target_modules: list[str] | None = option(None, "only Linear layers of these names, as q_proj kv_b_proj lm_head")
    target_experts: bool = option(False, "adapt the routed experts too; such adapters cannot be mixed in one batch")
    together: str | None = option(None, "one adapter of this name for all tickers, as for the items of a new store")

    def __post_init__(self) -> None:
        if self.r < 1 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                f"r={self.r}, lora_alpha={self.lora_alpha}, lora_dropout={self.lora_dropout}: give a rank of 1 or "
                "more, an alpha above 0 and a dropout from 0 to below 1"
            )


# --- one ticker ----------------------------------------------------------------------------------------------------


def adapter_name(ticker: str) -> str:
    """A ticker as the name of its adapter and folder: torch allows no dot in a name, file systems no slash.

    >>> adapter_name("BRK.B"), adapter_name("BTC/USD")
    ('BRK-B', 'BTC-USD')
    """
    return re.sub(r"[^\w^=-]", "-", ticker)


def for_ticker(data: TrainingData, ticker: str) -> TrainingData:
    """The bars of one ticker, between the same fences. What its features read of the market stays the whole market.

    Raises ValueError if there is no such ticker."""
    id_column = kind_of(data.bars).id
    known = list(data.bars[id_column].unique())
    if ticker not in known:
        listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        if ticker in data.skipped:
            raise ValueError(data.skipped[ticker])
        raise ValueError(f"no ticker {ticker!r} with bars enough in {data.args.data}; it holds {listed}")
    bars = data.bars[data.bars[id_column] == ticker].reset_index(drop=True)
    return dataclasses.replace(data, bars=bars, series=[series for series in data.series if series.ticker == ticker])


def for_tickers(data: TrainingData, tickers: Sequence[str]) -> TrainingData:
    """As `for_ticker`, of several together."""
    parts = [for_ticker(data, ticker) for ticker in tickers]
    bars = pd.concat([part.bars for part in parts], ignore_index=True)
    return dataclasses.replace(data, bars=bars, series=[one for part in parts for one in part.series])


@contextmanager
def naming(ticker: str) -> Iterator[None]:
    """Within, an error that speaks of no ticker says which it was."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if ticker in str(error) else f"{ticker}: {error}") from error


def with_own_scalers(data: TrainingData, ticker: str) -> TrainingData:
    """The base's processor plus scalers of this ticker, fitted on its training dates."""
    processor = copy.deepcopy(data.processor)
    processor.feature_extractor.fit_ticker(ticker, data.bars, data.split.train_through, market=data.market)
    series = processor.encode(data.bars, market=data.market)
    return dataclasses.replace(data, processor=processor, series=series)


def lora_config(model: Model, args: LoraArguments) -> LoraConfig:
    """Which parts of this model get an adapter; raises ValueError for a target that the model does not have."""
    linear = {
        name.split(".")[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "front_end" not in name
    }
    if model.config.tie_word_embeddings:
        linear.discard("lm_head")  # it is the embedding too, which an adapter of the head alone would part from it
    unknown = sorted(set(args.target_modules or ()) - linear)
    if unknown:
        raise ValueError(
            f"target_modules={unknown}: no Linear layer of the model is named so; choose from {sorted(linear)}"
        )
    return LoraConfig(
        task_type="CAUSAL_LM" if model.can_generate() else None,
        r=args.r,
        lora_alpha=args.lora_alpha,
        lora_dropout=0.0 if args.target_experts else args.lora_dropout,  # peft has none for stacked tensors
        target_modules=sorted(args.target_modules or linear),
        target_parameters=list(EXPERTS) if args.target_experts else None,
        exclude_modules=r".*front_end\..*" if model.config.use_mscnn or model.config.use_t2t else None,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Within, two warnings of peft that speak of no mistake of the user are kept to itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")  # of checkpoints
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # the name it asks for
        yield


def attach(base: Model, folder: str | Path, name: str = "default") -> PeftModel:
    """The base with the adapter of a folder or Hub name inside; raises ValueError if it does not fit."""
    base.dates_itself = True  # `read_facts` dates the adapter
    try:
        with quiet():
            return PeftModel.from_pretrained(base, str(folder), adapter_name=name).eval()
    except RuntimeError as error:
        raise ValueError(f"{folder} does not fit the base: {str(error).splitlines()[-1].strip()}") from error


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Within, BatchNorm's running statistics stay as they are: no gradient guards them, and no adapter saves them."""
    norms = [module for module in model.modules() if isinstance(module, TsfLlmBatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def resumes(training_args: SftArguments) -> bool:
    """Whether to go on where an earlier run was.

    Raises ValueError for the name of one checkpoint, where every ticker has its own."""
    chosen = str(training_args.resume_from_checkpoint).lower()
    if chosen not in ("none", "false", "true", "last"):
        raise ValueError(f"resume_from_checkpoint={chosen}: each ticker has checkpoints of its own; give true")
    return chosen in ("true", "last")


def train_adapter(
    base: Model,
    data: TrainingData,
    lora_args: LoraArguments,
    training_args: SftArguments,
    *,
    about: dict[str, Any],
    work: Path,
) -> tuple[PeftModel, dict[str, Any]]:
    """The base with a trained adapter inside, and what the report says of its training.

    `data` is of one ticker. Checkpoints and logs go to `work`; when resuming, those of a run with the same facts
    `about` it are continued. `PeftModel.unload` gives the base back.

    Raises:
        ValueError: if the ticker has too few bars for a window on either side of the first fence.
    """
    training_args = copy.copy(training_args)
    training_args.output_dir = str(work)
    with training_args.main_process_first():
        if not (resumes(training_args) and same_run(work, about)):
            if work.exists():
                if not read_facts(work):
                    raise ValueError(f"{work} holds no checkpoints of an adapter, which go there: move it away")
                shutil.rmtree(work)
            write_json(about, work / ADAPTER_FACTS)
    set_seed(training_args.seed)
    train, valid = data.windows(head_of(base), seed=training_args.seed)
    config = lora_config(base, lora_args)
    base.dates_itself = base.base_model.dates_itself = True  # it stays as it is; `about` dates the adapter
    with quiet(), frozen(base):
        model = get_peft_model(base, config)
        trainer = make_trainer(model, data.processor, train=train, valid=valid, training_args=training_args)
        _, valid_loss = train_and_save(trainer, training_args)
    model.eval()
    return model, {
        "windows": {"train": len(train), "valid": len(valid)},
        "adapter_parameters": sum(one.numel() for name, one in model.named_parameters() if "lora_" in name),
        "steps": trainer.state.global_step,
        "valid_loss": valid_loss,
    }


def merged(model: PeftModel) -> Model:
    """A plain model of the same answers to score or serve: it decodes on the latent cache, many times as fast."""
    return copy.deepcopy(model).merge_and_unload()


# --- folders -------------------------------------------------------------------------------------------------------


def marked(config: TsfLlmConfig, data: TrainingData) -> TsfLlmConfig:
    """A copy that says what base and adapters together have seen; the base stays the base."""
    config = copy.deepcopy(config)
    data.mark_config(config)
    return config


def facts(
    base: Model, data: TrainingData, lora_args: LoraArguments, training_args: SftArguments, *, ticker: str
) -> dict[str, Any]:
    """What `adapter.json` says. `trained_through` is the later date of base and adapter."""
    return {
        **provenance("lora"),
        "ticker": ticker,
        "base_digest": digest(base),
        **data.provenance(marked(base.config, data)),
        "horizon": data.args.horizon,
        "stride": data.args.stride,
        "per_ticker": data.args.per_ticker,
        "lora": {name: value for name, value in dataclasses.asdict(lora_args).items() if name != "together"},
        **{name: getattr(training_args, name) for name in SETTINGS},
    }


def read_facts(folder: Path) -> dict[str, Any]:
    """Of the adapter in a folder; empty if there are none."""
    path = folder / ADAPTER_FACTS
    return read_json(path) if path.is_file() else {}


def same_run(folder: Path, about: dict[str, Any]) -> bool:
    """Whether the adapter in a folder, finished or not, comes from the same base, data and settings."""
    known = read_facts(folder)
    return all(known.get(name) == about[name] for name in about.keys() - provenance("lora").keys())


def save_adapter(
    model: PeftModel, processor: TsfLlmProcessor, folder: Path, about: dict[str, Any], *, base_model: str
) -> None:
    """Adapter, processor, `adapter.json` and a card; the folder appears whole or not at all."""
    model.peft_config["default"].base_model_name_or_path = base_model

    def write(unfinished: Path) -> None:
        model.save_pretrained(unfinished, save_embedding_layers=False)
        processor.save_pretrained(unfinished)
        write_json(about, unfinished / ADAPTER_FACTS)
        card = adapter_card(adapter_facts(unfinished, folder.name), None, base=base_model)
        write_text(card, unfinished / "README.md")

    check_adapter(folder)
    replace_folder(folder, write, by=BY)


def check_adapter(folder: Path) -> None:
    """Raises ValueError if in the place of an adapter lies a file that no training of adapters wrote."""
    files = (folder / name for name in (ADAPTER_FACTS, "report.json"))
    if not (folder / WRITTEN).is_file() and any(has_keys(path, ("ticker", "base_digest")) for path in files):
        adopt(folder, ADAPTER_OUTPUTS, by=BY)
    check_ours(folder, by=BY)


# --- scores --------------------------------------------------------------------------------------------------------


def validation(data: TrainingData, model: Model, *, seed: int = 0) -> WalkForward:
    """Forecasts on the validation dates. No outcome lies behind the fence, where the test begins."""
    inside = dataclasses.replace(data, series=data.known_by(data.split.valid_through))
    start = data.split.train_through + pd.Timedelta(1, "ns")
    return inside.walk_forward(model, seed=seed, start=start, end=data.split.valid_through)


def mixed(base: Model, folders: Sequence[str | Path]) -> PeftModel:
    """The base with several adapters, each called as its folder: `model(**batch, adapter_names=[...])` mixes them.

    `__base__` among the names means none. Use `adapter_name` for names of tickers.

    Raises:
        ValueError: for adapters of fused experts, which cannot be mixed, or two of one name.
    """
    names = [Path(folder).name for folder in folders]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"adapters {names}: give one or more, each of another name")
    configs = [LoraConfig.from_pretrained(str(folder)) for folder in folders]
    fused = [name for name, config in zip(names, configs, strict=True) if config.target_parameters]
    if fused:
        raise ValueError(
            f"{', '.join(fused)}: trained with target_experts, and adapters of fused experts cannot be mixed in one "
            "batch; load each by itself, or train it without"
        )
    model = attach(base, folders[0], names[0])
    with quiet():
        for name, folder in zip(names[1:], folders[1:], strict=True):
            model.load_adapter(str(folder), adapter_name=name)
    return model.eval()


RESERVED = ("base", "checkpoints")  # what else lies in the output folder


@dataclass(frozen=True)
class TickerRun:
    """One ticker: its part of the report, and its test forecasts by the base and with the adapter, if asked for."""

    report: dict[str, Any]
    before: WalkForward | None
    after: WalkForward | None


def check_tickers(data_args: DataArguments) -> None:
    """Refuses an unknown ticker before a base is trained for nothing; a prepared folder is asked later."""
    if data_args.tickers and not is_prepared(data_args.data):
        covariates = [*data_args.past_covariates, *data_args.known_covariates]
        read_data(data_args.data, data_args.tickers, columns=data_args.columns, covariates=covariates)


def folders_of(tickers: list[str], folder: Path) -> dict[str, Path]:
    """Where each ticker's adapter goes.

    Raises ValueError if two tickers, or a ticker and something else, want one folder."""
    names = [adapter_name(ticker) for ticker in tickers]
    taken = [name for name in names if names.count(name) > 1 or name in RESERVED]
    if taken:
        raise ValueError(
            f"tickers {tickers}: folder {taken[0]} is wanted twice; train these in separate output folders"
        )
    return {ticker: folder / name for ticker, name in zip(tickers, names, strict=True)}


def run_ticker(
    base: Model,
    data: TrainingData,
    lora_args: LoraArguments,
    training_args: SftArguments,
    *,
    ticker: str,
    folder: Path,
    link: str,
) -> TickerRun:
    """Scores the base, trains an adapter (or takes the finished one when resuming), scores it, saves it.

    Raises ValueError if the ticker has too few bars, naming it."""
    seed, scored = training_args.seed, data.args.report_samples > 0
    with naming(ticker):
        own = with_own_scalers(data, ticker) if data.args.per_ticker else data
        before = data.walk_forward(base, seed=seed) if scored else None
        about = facts(base, own, lora_args, training_args, ticker=ticker)
        if resumes(training_args) and same_run(folder, about):
            model, training = attach(base, folder), read_facts(folder)["training"]
        else:
            work = folder.parent / "checkpoints" / folder.name
            model, training = train_adapter(base, own, lora_args, training_args, about=about, work=work)
            if training_args.should_save:
                save_adapter(model, own.processor, folder, {**about, "training": training}, base_model=link)
    after = own.walk_forward(merged(model), seed=seed) if scored else None
    model.unload()  # the base is the base again
    return TickerRun({"folder": folder.name, **training, **scores(before, after, seed)}, before, after)


def scores(before: WalkForward | None, after: WalkForward | None, seed: int) -> dict[str, Any]:
    """The model's rows without and with the adapter, and their paired difference."""
    if before is None or after is None:
        return {"before": {}, "after": {}}
    rows = {"before": before.by_name(seed)["model"], "after": after.by_name(seed)["model"]}
    return {**rows, **after.against(before, "the base", seed)}


def pooled_scores(runs: list[TickerRun], seed: int) -> dict[str, Any]:
    """All tickers together, beside the baselines."""
    befores = [run.before for run in runs if run.before is not None]
    afters = [run.after for run in runs if run.after is not None]
    if not befores:
        return scores(None, None, seed)
    before, after = pool(befores), pool(afters)
    baselines = {name: row for name, row in after.by_name(seed).items() if name != "model"}
    return {**scores(before, after, seed), "baselines": baselines, "verdicts": after.words(seed)}

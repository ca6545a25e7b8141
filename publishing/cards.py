"""The cards of published models, adapters and datasets: what the Hub reads in their metadata, and people below it.

Design choices:
* Numbers come from files alone: `results.json` of `tsf-llm evaluate`, `report.json` of a training script, or
  `compression.json` for the copies of `compress`. Without any the card says that no scores were measured.
* Scores stand beside those of the baselines and their verdicts, "no edge" included. Only scores of dates that the
  weights have not seen go into the metadata, where the Hub would rank them.
* What a card says of the model is read from its own config and processor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCardData

from ..bars_tsf_llm import KINDS, OHLCV, Kind
from ..common.tables import Columns, Table, number, with_interval
from ..data_prep.augment import AUGMENTATIONS
from ..evaluation.report import BEFORE, ORIGINAL, OURS, Report, forecast_columns, table_of
from ..quantization_tsf_llm import METHOD as INT8

TASK = "time-series-forecasting"
TAGS = ["tsf-llm", "time-series", "forecasting"]
PREDICTION_HEADS = {
    "regression": "one number per step",
    "quantile": "quantiles per step",
    "classification": "down, flat or up per step",
}
METRICS = {  # key in the files: (metric of the Hub's metadata, name)
    "crps": ("crps", "CRPS"),
    "mae": ("mae", "MAE"),
    "rmse": ("rmse", "RMSE"),
    "mase": ("mase", "MASE"),
    "coverage_80": ("coverage_80", "Coverage of the 80 % interval"),
    "direction_accuracy": ("accuracy", "Direction accuracy"),
    "rank_ic": ("rank_ic", "Rank information coefficient"),
    "accuracy": ("accuracy", "Accuracy"),  # this and the rest are of classes
    "log_loss": ("log_loss", "Log loss"),
    "brier": ("brier_score", "Brier score"),
    "macro_f1": ("f1", "Macro F1"),
}
DISCLAIMER = """\
Forecasts are no investment advice. Past prices say little about future ones, an edge on past dates can vanish, and
whoever trades on a forecast does so at their own risk."""
INSTALL = 'pip install "transformers>=5.20" torch pandas pandas-ta-classic'


# --- what the files say --------------------------------------------------------------------------------------------

WHOLE = {"evaluate": ("horizon", "stride", "samples", "seed"), "copy": ("horizon", "samples", "seed")}
OF_TRAINING = ("horizon", "seed")  # settings for the metadata; those of other reports are above
BESIDE = {
    "teacher": "its teacher",
    "student_alone": "the same, trained without the teacher",
    ORIGINAL: "the original",
}
PAIRS = {"pair_accuracy": "pairs ranked rightly", "margin": "margin"}
PROFIT = "utility"
BEFORE_THAT = "; before that: "


@dataclass(frozen=True)
class Scores:
    """The scores of one file, in the order in which they are shown."""

    path: Path
    report: Report  # with `model`
    whose: str  # "this model" or "this adapter"
    about: str  # which forecasts, in words
    plots: list[Path]

    @property
    def file(self) -> Path | None:
        """To publish beside the card; None for one that is of other adapters or copies too."""
        return None if self.report.made_by in ("adapter", "copy") else self.path

    @property
    def name(self) -> str:
        """In the repository, whatever the file is called here."""
        names = {"evaluate": "results.json", "copy": self.path.name}
        return names.get(self.report.made_by, "report.json")

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        before = "its base" if self.whose == "this adapter" else "before this training"
        names = {OURS: self.whose, BEFORE: before, **BESIDE}
        return {names.get(name, name): row for name, row in self.report.rows.items()}

    @property
    def settings(self) -> dict[str, Any]:
        known = {**self.report.facts, **self.report.rows[OURS]}
        return {name: known.get(name) for name in WHOLE.get(self.report.made_by, OF_TRAINING)}


def read_scores(
    path: Path, *, trained_through: str | None, ticker: str | None = None, copy: str | None = None
) -> Scores | None:
    """What the file has measured; None if nothing. `ticker` is that of an adapter, `copy` one that `compress` made.

    Raises:
        ValueError: no such file, or one that speaks of other weights.
    """
    report: Report | None = Report.read(path)
    of = report.facts.get("trained_through", trained_through)
    if of != trained_through:
        raise ValueError(
            f"{path} is about weights that were trained through {of}, but these were through "
            f"{trained_through}: evaluate this model"
        )
    if report.made_by in ("lora", "compress"):
        report = report.parts.get(str(ticker or copy))
    if report is None or OURS not in report.rows:
        return None
    pictures = {"evaluate": ("scores.png", "pit.png"), "copy": ()}.get(report.made_by, () if ticker else ("loss.png",))
    return Scores(
        path=path,
        report=report,
        whose="this adapter" if ticker else "this model",
        about=_about(report, ticker or ""),
        plots=_existing(path.parent, *pictures),
    )


def _about(report: Report, whose: str) -> str:
    facts, row = report.facts, report.rows[OURS]
    if report.made_by == "evaluate":
        period = f"{facts['start']} to {facts['end']}"
        return f"{row['n']} forecasts of {_listed(facts['tickers'])}, {facts['horizon']} bars ahead, from {period}"
    horizon = row.get("horizon", facts.get("horizon"))
    count = f"{row['n']} forecasts" if "n" in row else "Forecasts"
    count += f" of {whose}" if whose else ""
    count += f" from {row['num_dates']} dates" if "num_dates" in row else ""
    steps = f", {horizon} bars ahead" if horizon else ""
    data = "" if whose else (facts.get("data") or "").split(BEFORE_THAT)[0]  # a continued model names the old data too
    through = facts.get("valid_through") or "validation"
    return f"{count}{steps}, on the dates after {through}{f' of {data!r}' if data else ''}"


def _existing(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- models --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What a model or an adapter is, from its own files."""

    repo_id: str
    revision: str | None  # the tag that the card names
    config: dict[str, Any]  # config.json; of an adapter adapter.json and adapter_config.json
    features: dict[str, Any]  # the feature extractor's part of processor_config.json
    parameters: int
    datasets: list[str]
    report: Report | None  # on how it was made, if a file says so
    base: str | None = None  # the model on the Hub that it was made from

    @property
    def is_int8(self) -> bool:
        return (self.config.get("quantization_config") or {}).get("quant_method") == INT8

    @property
    def kind(self) -> Kind:
        return KINDS.get(self.features.get("kind", ""), OHLCV)

    @property
    def auto_class(self) -> str:
        is_head = self.config.get("architectures") == ["TsfLlmForPrediction"]
        return "AutoModelForTimeSeriesPrediction" if is_head else "AutoModelForCausalLM"


def model_card(facts: Facts, scores: Scores | None) -> str:
    """Metadata and text of a model's README.md."""
    data = ModelCardData(
        license="mit",
        library_name="transformers",
        pipeline_tag=TASK,
        tags=TAGS,
        datasets=facts.datasets or None,
        **_made_from(facts),
        **_measured(facts, scores),
    )
    lines = [
        f"# {facts.repo_id.split('/')[-1]}\n",
        f"A TSF-LLM forecaster of {_series(facts)}: {facts.parameters:,} parameters, {_head(facts)}.\n",
        _table(_model_rows(facts)),
        "\n## How to load it\n",
        *(["Its weights are 8-bit whole numbers, for CPUs.\n"] if facts.is_int8 else []),
        *_loading(facts),
        *_scores_section(facts, scores),
        *_limits(facts),
    ]
    return _card(data.to_yaml(), lines)


def adapter_card(facts: Facts, scores: Scores | None, *, base: str) -> str:
    """Metadata and text of an adapter's README.md.

    `base` is the model that it belongs to: of the Hub or, until that is pushed, a folder, whose path is left out.
    """
    on_hub, ticker = not Path(base).is_absolute(), facts.config.get("ticker")
    named = f"[{base}](https://huggingface.co/{base})" if on_hub else f"`{Path(base).name}`"
    data = ModelCardData(
        license="mit",
        library_name="peft",
        pipeline_tag=TASK,
        base_model=base if on_hub else None,
        tags=[*TAGS, "lora"],
        datasets=facts.datasets or None,
        **_measured(facts, scores),
    )
    lines = [
        f"# {facts.repo_id.split('/')[-1]}\n",
        f"A low-rank adapter of {named} of {facts.parameters:,} parameters"
        f"{f', for forecasts of {ticker}' if ticker else ''}.\n",
        _table(_adapter_rows(facts)),
        "\n## How to load it\n",
        *(_adapter_loading(facts, base) if on_hub else [_forecast_command(facts)]),
        *(_scores_section(facts, scores) if on_hub else []),  # a run of adapters scores them in its own report
        *_limits(facts),
    ]
    return _card(data.to_yaml(), lines)


def _card(metadata: str, lines: Sequence[str]) -> str:
    return f"---\n{metadata}\n---\n\n" + "\n".join(lines).rstrip() + "\n"


def _table(rows: Mapping[str, Any]) -> str:
    return Table(("", ""), [[name, str(value)] for name, value in rows.items() if value is not None]).markdown()


def _series(facts: Facts) -> str:
    return "market bars" if facts.kind is OHLCV else "plain series"


def _head(facts: Facts) -> str:
    if facts.auto_class == "AutoModelForCausalLM":
        return "a causal language model over return tokens, which samples price paths"
    kind = facts.config["prediction_type"]
    return f"a {kind} head ({PREDICTION_HEADS[kind]}), {facts.config['prediction_length']} steps at once"


def _model_rows(facts: Facts) -> dict[str, Any]:
    config, features, report = facts.config, facts.features, facts.report
    told = report.facts if report else {}
    return {
        "made from": facts.base and f"[{facts.base}](https://huggingface.co/{facts.base})",
        "made by training": report and _method(report),
        "trained on": config.get("trained_on") or "not recorded",
        "trained through": config.get("trained_through") or "not recorded",
        "training fence": told.get("train_through"),
        "validation fence": told.get("valid_through"),
        "scalers and bins fitted through": features.get("fitted_through") or "not fitted",
        "features": f"{config['num_features']}, {features.get('scaling', '')} scaling",
        "looks back": f"{features.get('context_length')} bars",
        "spacing of bars": _spacing(features.get("bar_seconds")),
        "augmentation": _augmentation(told),
        "compression": report and _compression(report),
        "made by": _version(told),
    }


def _method(report: Report) -> str | None:
    """How it was trained, where it is not from scratch."""
    facts = report.facts
    if report.made_by == "dpo":
        pairs, losses = facts["pairs"], ", ".join(facts["loss_type"])
        by = f", chosen by {pairs['utility']}" if pairs.get("utility") else ""
        return f"DPO ({losses}, beta {facts['beta']:g}) on {pairs['train']:,} preference pairs{by}"
    if report.made_by == "grpo":
        paths = f"{facts['paths_per_origin']} paths from each of {facts['origins']:,} origins"
        return f"GRPO (reward {facts['reward']}, beta {facts['beta']:g}) on {paths}"
    if report.made_by == "distill":
        size = report.rows["teacher"].get("parameters") if "teacher" in report.rows else None
        teacher = f"a teacher of {size:,} parameters" if size else "a teacher"
        return f"distillation of {teacher}, temperature {facts['temperature']:g}, alpha {facts['alpha']:g}"
    if told := facts.get("continual"):
        old, new = told["old_loss_before"], told["old_loss_after"]
        means = f"replay {told['replay']:g}, elastic weight consolidation {told['ewc']:g}"
        loss = f"loss on old dates kept back from replay {old:.4f} before, {new:.4f} after"
        return f"continued behind {told['old_through']}: {means}; {loss}"
    return None


def _compression(report: Report) -> str | None:
    """What `compress` did, by its row for this copy."""
    if report.made_by != "copy":
        return None
    row, original = report.rows[OURS], report.rows[ORIGINAL]
    parts = [f"`{row['model']}`: {row['bytes']:,} bytes of weights"]
    parts += [f"made from {original['parameters']:,} parameters in {original['bytes']:,} bytes"]
    parts += [f"{100 * row['int8_share']:.0f} % of the numbers int8"] if row["int8_share"] else []
    parts += [f"{100 * row['zero_share']:.0f} % of the numbers zero"] if row["model"].startswith("prune") else []
    return ", ".join(parts)


def _adapter_rows(facts: Facts) -> dict[str, Any]:
    about, layers = facts.config, facts.config.get("target_modules") or []
    layers = [layers] if isinstance(layers, str) else sorted(layers)  # one pattern, or names
    return {
        "trained on": about.get("data") or "not recorded",
        "trained through, base and adapter": about.get("trained_through") or "not recorded",
        "training fence": about.get("train_through"),
        "validation fence": about.get("valid_through"),
        "scalers": "of this ticker" if about.get("per_ticker") else "of the base",
        "rank": about.get("r"),
        "layers": ", ".join(f"`{name}`" for name in layers) or None,
        "made by": _version(about),
    }


def _augmentation(facts: dict[str, Any]) -> str | None:
    if "augment" not in facts:
        return None
    return ", ".join(f"{name} {strength:g}" for name, strength in facts["augment"].items()) or "none"


def _version(made_by: dict[str, Any]) -> str:
    version, commit = made_by.get("version"), made_by.get("commit")
    return f"tsf-llm {version}" + (f", commit `{commit}`" if commit else "") if version else "not recorded"


def _spacing(seconds: float | None) -> str | None:
    names = {60: "1 minute", 300: "5 minutes", 3600: "1 hour", 86_400: "1 day", 604_800: "1 week"}
    return None if seconds is None else names.get(int(seconds), f"{seconds:g} seconds")


def _columns(facts: Facts) -> str:
    covariates = [*facts.features.get("past_covariates", ()), *facts.features.get("known_covariates", ())]
    if facts.kind is OHLCV:
        prices = ["timestamp, open, high, low, close, volume", *covariates]
        return ", ".join(prices) + "; ticker, if there are several"
    return ", ".join(["timestamp", "value", *covariates]) + "; series_id, if there are several"


def _loading(facts: Facts) -> list[str]:
    pinned = f'revision="{facts.revision}", ' if facts.revision else ""
    horizon = facts.config["prediction_length"]
    return [
        "The code lies in this repository, so `trust_remote_code=True` is needed; read it first, and pin `revision`",
        f"to a tag or a commit. `{INSTALL}` is all it takes.\n",
        "```python",
        "from transformers import pipeline\n",
        f'forecaster = pipeline("{TASK}", model="{facts.repo_id}", {pinned}trust_remote_code=True)',
        f"forecast = forecaster(bars, horizon={horizon})  # bars: a DataFrame of {_columns(facts)}",
        "```\n",
        "Model and processor by themselves:\n",
        "```python",
        f"from transformers import {facts.auto_class}, AutoProcessor\n",
        f'model = {facts.auto_class}.from_pretrained("{facts.repo_id}", {pinned}trust_remote_code=True)',
        f'processor = AutoProcessor.from_pretrained("{facts.repo_id}", {pinned}trust_remote_code=True)',
        *_call(facts),
        "```",
    ]


def _call(facts: Facts) -> list[str]:
    """A head takes the numbers alone; a causal LM the tokens too."""
    if facts.auto_class == "AutoModelForCausalLM":
        return ["outputs = model(**processor(bars))  # logits of the next return token"]
    inputs = 'past_values=batch["past_values"], attention_mask=batch["attention_mask"]'
    return ["batch = processor(bars)", f"outputs = model({inputs})  # .prediction"]


def _made_from(facts: Facts) -> dict[str, Any]:
    """Metadata on the base; how they are related only where the Hub has a word for it."""
    if facts.base is None:
        return {}
    if facts.is_int8:
        return {"base_model": facts.base, "base_model_relation": "quantized"}
    is_other_model = facts.report is not None and facts.report.made_by in ("distill", "copy")
    return {"base_model": facts.base, **({} if is_other_model else {"base_model_relation": "finetune"})}


def _forecast_command(facts: Facts) -> str:
    horizon = facts.config.get("horizon", "STEPS")
    command = f"tsf-llm forecast --model FOLDER --data prices.csv --horizon {horizon} --out forecast.csv"
    return f"`FOLDER` being where it lies:\n\n    {command}"


def _adapter_loading(facts: Facts, base: str) -> list[str]:
    auto = facts.auto_class
    pinned = f', revision="{facts.revision}"' if facts.revision else ""
    source = facts.repo_id if facts.features else base
    own = pinned if facts.features else ""
    steps = f", horizon={facts.config['horizon']}" if "horizon" in facts.config else ""
    adapter = f'"{facts.repo_id}"'
    if facts.revision:  # pipeline would look for this revision in the base too
        adapter = f"snapshot_download({adapter}{pinned})"
    return [
        f"`{INSTALL} peft` is all it takes. Base and processor bring their code: read it first.\n",
        "```python",
        *(["from huggingface_hub import snapshot_download"] if facts.revision else []),
        "from peft import PeftModel",
        f"from transformers import {auto}, AutoProcessor, pipeline\n",
        f'base = {auto}.from_pretrained("{base}", trust_remote_code=True)',
        f'model = PeftModel.from_pretrained(base, "{facts.repo_id}"{pinned})',
        f'processor = AutoProcessor.from_pretrained("{source}"{own}, trust_remote_code=True)',
        f'forecaster = pipeline("{TASK}", model={adapter}, processor=processor, trust_remote_code=True)',
        f"forecast = forecaster(bars{steps})\n",
        *_call(facts),
        "```",
    ]


# --- scores and limits ---------------------------------------------------------------------------------------------


def _measured(facts: Facts, scores: Scores | None) -> dict[str, Any]:
    """The part of the metadata that the Hub ranks: of unseen dates, or nothing."""
    if scores is None or scores.report.facts.get("out_of_sample") is not True:
        return {}
    mine = scores.report.rows[OURS]
    found = {key: names for key, names in METRICS.items() if mine.get(key) is not None}
    if not found:
        return {}
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=facts.datasets[0] if len(facts.datasets) == 1 else "bars",
            dataset_name=scores.about,
            dataset_args=scores.settings,
            metric_type=metric,
            metric_name=name,
            metric_value=mine[key],
        )
        for key, (metric, name) in found.items()
    ]
    return {
        "model_name": facts.repo_id.split("/")[-1],
        "eval_results": results,
        "metrics": [metric for metric, _ in found.values()],
    }


def _scores_section(facts: Facts, scores: Scores | None) -> list[str]:
    if scores is None:
        return ["\n## Scores\n", "No scores were measured."]
    report, lines = scores.report, ["\n## Scores\n"]
    if report.facts.get("out_of_sample") is False:
        lines.append("**Not out of sample: the weights have seen prices of these dates.**\n")
    elif report.facts.get("out_of_sample") is None:
        lines.append("**Whether the weights have seen prices of these dates is not recorded.**\n")
    if warning := report.facts.get("warning") or report.facts.get("leak"):
        lines.append(f"**Warning: {warning}**\n")
    lines += [
        f"{scores.about}. From `{scores.name}`, measured with {_version(report.facts)}, beside other forecasts "
        "of the same outcomes:\n",
        *_table_of(scores, ("crps", "rmse"), forecast_columns(facts.kind)),
        *_table_of(scores, ("log_loss", "accuracy"), CLASS_COLUMNS),
    ]
    pairs = {name: words for name, words in report.verdicts.items() if name in PAIRS}
    profits = {name: words for name, words in report.verdicts.items() if name.startswith(PROFIT)}
    forecasts = [words for name, words in report.verdicts.items() if name not in {**pairs, **profits}]
    lines += _listed_verdicts("On the same outcomes, it is:", forecasts)
    if table := _table_of(scores, ("pair_accuracy",), PAIR_COLUMNS):
        lines += [
            "\n### Preference pairs\n",
            "Pairs of paths from the same dates: how often the better is likelier.\n",
        ]
        ranked = [f"{PAIRS[name]}: {words}" for name, words in pairs.items()]
        lines += [*table, *_listed_verdicts("Compared with before:", ranked)]
    if table := _table_of(scores, (PROFIT,), PROFIT_COLUMNS):
        cost = report.facts.get("cost_bp", (report.facts.get("pairs") or {}).get("cost_bp"))
        costs = "costs" if cost is None else f"costs of {cost:g} basis points per turnover"
        lines += ["\n### Utility\n", f"Mean profit of a position that follows a forecast, after {costs}.\n"]
        lines += [*table, *_listed_verdicts("By utility, it is:", [*profits.values()])]
    lines += [f"\n![{plot.stem}]({plot.name})" for plot in scores.plots]
    return lines


CLASS_COLUMNS: Columns = {
    "accuracy [95 % CI]": lambda row: with_interval(row, "accuracy", ".3f"),
    "log loss [95 % CI]": lambda row: with_interval(row, "log_loss", ".4f"),
    "Brier": lambda row: number(row.get("brier"), ".4f"),
    "macro F1": lambda row: number(row.get("macro_f1"), ".3f"),
    "recall of down, flat, up": lambda row: ", ".join(
        number(one["recall"], ".2f") for one in row.get("per_class", {}).values()
    ),
}
PAIR_COLUMNS: Columns = {
    "ranked rightly [95 % CI]": lambda row: with_interval(row, "pair_accuracy", ".3f"),
    "margin, nats [95 % CI]": lambda row: with_interval(row, "margin", ".3f"),
}
PROFIT_COLUMNS: Columns = {"utility [95 % CI]": lambda row: with_interval(row, "utility", ".5f")}


def _table_of(scores: Scores, keys: Sequence[str], columns: Columns) -> list[str]:
    """A table of the rows that have one of the figures; nothing if none has."""
    rows = {name: row for name, row in scores.rows.items() if any(row.get(key) is not None for key in keys)}
    return [table_of(rows, columns).markdown()] if rows else []


def _listed_verdicts(heading: str, verdicts: Sequence[str]) -> list[str]:
    return [f"\n{heading}\n", *(f"* {one}" for one in verdicts)] if verdicts else []


def _limits(facts: Facts) -> list[str]:
    cutoff = facts.config.get("trained_through")
    sees = "no news, orders or fundamentals" if facts.kind is OHLCV else "nothing but the given columns"
    spacing = _spacing(facts.features.get("bar_seconds"))
    return [
        "\n## Limits\n",
        f"* Forecasts of dates through {cutoff} are no test: the weights have seen them."
        if cutoff
        else "* Which dates the weights have seen is not recorded: no score of theirs is known to be a test.",
        f"* It sees what its processor makes of the series, and {sees}.",
        *([f"* Bars must be {spacing} apart, as in training; others are refused."] if spacing else []),
        "* Series unlike those it was trained on are a guess.",
        f"\n{DISCLAIMER}",
    ]


# --- datasets ------------------------------------------------------------------------------------------------------

SOURCE_UNKNOWN = "not stated. Ask whoever published this before you use or pass it on"


def prepared_card(folder: Path, repo_id: str, *, source: str | None, licence: str | None) -> str:
    """The card that `tsf-llm prepare` wrote, with what matters once it is on the Hub."""
    card = DatasetCard.load(folder / "README.md")
    card.data.license = licence
    page = card.text.replace('load_dataset("parquet", data_files="data/*.parquet", split="train")', _load(repo_id))
    names = "\n".join(f"| `{name}` | {what} |" for name, (what, _) in AUGMENTATIONS.items())
    lines = [
        page.strip(),
        "\n## Augmentation\n",
        "None: the rows are as observed. Training windows may be changed as they are read, with `--augment` and:\n",
        f"| name | what |\n| --- | --- |\n{names}",
        *_source(source, licence),
    ]
    return _card(card.data.to_yaml(), lines)


def preferences_card(info: dict[str, Any], repo_id: str, *, source: str | None, licence: str | None) -> str:
    """The card of preference pairs, from their `preferences.json`."""
    data = DatasetCardData(
        license=licence,
        pretty_name="Preference pairs of price paths",
        tags=[*TAGS, "preference", "dpo"],
        task_categories=[TASK],
        configs=[{"config_name": "default", "data_files": "preferences.parquet"}],
    )
    settings, counts = info["settings"], info["counts"]
    lines = [
        "# Preference pairs of price paths\n",
        f"{counts['pairs']:,} pairs from {counts['origins']:,} past bars of {len(info['pairs_by_ticker'])} series. Of "
        f"{settings['samples']} paths that a model sampled from a bar, `chosen_ids` is the best in hindsight and "
        f"`rejected_ids` the worst. {counts['ties']:,} ties and {counts['below_margin']:,} smaller margins are left "
        "out.\n",
        "```python",
        "from datasets import load_dataset",
        f"pairs = {_load(repo_id)}",
        "```\n",
        "Hindsight is for training alone: no outcome lies behind the fence.\n",
        _table(
            {
                "origins": f"{_day(info['first_origin'])} to {_day(info['last_origin'])}",
                "fence: last outcome": settings["through"],
                "processor fitted through": info["fitted_through"],
                "model trained through": info["trained_through"],
                "utility": f"`{settings['utility']}`",
                "steps of a path": settings["horizon"],
                "bars between origins": settings["stride"],
                "seed": settings["seed"],
                "features": len(info["features"]),
                "augmentation": "none",
            }
        ),
        *_source(source, licence),
    ]
    return _card(data.to_yaml(), lines)


def _day(moment: str) -> str:
    """Without a midnight."""
    return moment.removesuffix(" 00:00:00")


def _load(repo_id: str) -> str:
    return f'load_dataset("{repo_id}", split="train")'


def _source(source: str | None, licence: str | None) -> list[str]:
    return ["\n## Source and licence\n", f"Source: {source or SOURCE_UNKNOWN}.", f"\nLicence: {licence or 'unknown'}."]

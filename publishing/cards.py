"""The cards of published models, adapters and datasets: what the Hub reads in their metadata, and people below it.

Design choices:
* Numbers come from files alone: `results.json` of `tsf-llm evaluate`, `report.json` of a training script, or
  `compression.json` for the copies of `compress`. Without any the card says that no scores were measured.
* Scores stand beside those of the baselines and their verdicts, "no edge" included. Only scores of dates that the
  weights have not seen go into the metadata, where the Hub would rank them.
* What a card says of the model is read from its own config and processor.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCardData

from ..bars_tsf_llm import KINDS, OHLCV, Kind
from ..data_prep.augment import AUGMENTATIONS
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


@dataclass(frozen=True)
class Scores:
    """The scores of one file, in the order in which they are shown."""

    source: str  # results.json, report.json or compression.json
    file: Path | None  # to publish beside the card; None for one that is of other adapters or copies too
    rows: list[tuple[str, dict[str, Any]]]  # name and scores; ours is called "this model" or "this adapter"
    verdicts: list[str]  # on forecasts
    about: str  # which forecasts, in words
    settings: dict[str, Any]
    out_of_sample: bool | None
    made_by: dict[str, str | None]  # version and commit
    plots: list[Path]
    pair_verdicts: list[str] = field(default_factory=list)  # on preference pairs
    profit_verdicts: list[str] = field(default_factory=list)  # on what positions would have earned
    warning: str | None = None
    cost_bp: float | None = None  # of the profits


def read_scores(
    path: Path, *, trained_through: str | None, ticker: str | None = None, copy: str | None = None
) -> Scores | None:
    """What the file has measured; None if nothing. `ticker` is that of an adapter, `copy` one that `compress` made.

    Raises:
        ValueError: no such file, or one that speaks of other weights.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is no results.json of `tsf-llm evaluate`, nor a report.json: {error}") from error
    if not isinstance(content, dict) or not {"rows", "after"} & set(content):
        raise ValueError(f"{path} holds no scores: give a results.json of `tsf-llm evaluate`, or a report.json")
    if content.get("trained_through", trained_through) != trained_through:
        raise ValueError(
            f"{path} is about weights that were trained through {content['trained_through']}, but these were through "
            f"{trained_through}: evaluate this model"
        )
    if copy is not None:
        return _copy(content, path, copy)
    return (_report if "after" in content else _results)(content, path, ticker)


def _results(content: dict[str, Any], path: Path, ticker: str | None) -> Scores:
    mine = "this adapter" if ticker else "this model"
    rows = [(mine if row["model"] == "model" else row["model"], row) for row in content["rows"]]
    tickers = _listed(content["tickers"])
    period = f"{content['start']} to {content['end']}"
    return Scores(
        source="results.json",
        file=path,
        rows=rows,
        verdicts=[answer["verdict"] for answer in content["verdicts"].values()],
        about=f"{rows[0][1]['n']} forecasts of {tickers}, {content['horizon']} bars ahead, from {period}",
        settings={name: content[name] for name in ("horizon", "stride", "samples", "seed")},
        out_of_sample=content["out_of_sample"],
        made_by={name: content.get(name) for name in ("version", "commit")},
        plots=_existing(path.parent, "scores.png", "pit.png"),
    )


BESIDE = {"teacher": "its teacher", "student_alone": "the same, trained without the teacher"}
PAIRS = {"pair_accuracy": "pairs ranked rightly", "margin": "margin"}
PROFIT = "utility"
BEFORE_THAT = "; before that: "


def is_run_of_adapters(report: dict[str, Any]) -> bool:
    """A report with a part for each of several adapters, and none for the model beside them."""
    return isinstance(report.get("tickers"), dict)


def _report(content: dict[str, Any], path: Path, ticker: str | None) -> Scores | None:
    part = content["tickers"].get(ticker, {}) if is_run_of_adapters(content) else content
    if not part.get("after"):
        return None
    mine, before = ("this adapter", "its base") if ticker else ("this model", "before this training")
    rows = [(mine, part["after"]), *([(before, part["before"])] if part.get("before") else [])]
    distilled = [row for row in part.get("rows", ()) if row["model"] != "student"]  # which is "after"
    rows += [(BESIDE.get(row["model"], row["model"]), row) for row in distilled]
    rows += list((part.get("baselines") or {}).items())
    verdicts = _verdicts(part)
    after, data = part["after"], content.get("data")
    return Scores(
        source="report.json",
        file=None if is_run_of_adapters(content) else path,
        rows=rows,
        verdicts=[words for name, words in verdicts.items() if not name.startswith((*PAIRS, PROFIT))],
        about=_about(after, ticker or "", valid_through=content.get("valid_through"), data=None if ticker else data),
        settings={"horizon": after.get("horizon"), "seed": content.get("seed")},
        out_of_sample=content.get("out_of_sample"),
        made_by={name: content.get(name) for name in ("version", "commit")},
        plots=_existing(path.parent, "loss.png") if not ticker else [],
        pair_verdicts=[f"{PAIRS[name]}: {words}" for name, words in verdicts.items() if name in PAIRS],
        profit_verdicts=[words for name, words in verdicts.items() if name.startswith(PROFIT)],
        warning=part.get("warning") or content.get("leak"),
        cost_bp=content.get("cost_bp", (content.get("pairs") or {}).get("cost_bp")),
    )


def _verdicts(part: dict[str, Any]) -> dict[str, str]:
    """All of a report, in words: against what came before or taught it, then against the baselines."""
    told = {**(part.get("differences") or {}), **(part.get("verdicts") or {})}
    difference = part.get("difference")
    if isinstance(difference, dict):  # of several figures
        told = difference | told
    elif "verdict" in part:
        told = {"before": part["verdict"]} | told
    return {name: one["verdict"] if isinstance(one, dict) else one for name, one in told.items()}


def _about(row: dict[str, Any], whose: str, *, valid_through: str | None, data: str | None) -> str:
    count = f"{row['n']} forecasts" if "n" in row else "Forecasts"
    count += f" of {whose}" if whose else ""
    count += f" from {row['num_dates']} dates" if "num_dates" in row else ""
    steps = f", {row['horizon']} bars ahead" if "horizon" in row else ""
    data = data and data.split(BEFORE_THAT)[0]  # a continued model names the old data too
    return f"{count}{steps}, on the dates after {valid_through or 'validation'}{f' of {data!r}' if data else ''}"


def _copy(content: dict[str, Any], path: Path, name: str) -> Scores:
    """The row of one copy in `compression.json`, beside the original's."""
    rows = {row["model"]: row for row in content["rows"]}
    fence = content["valid_through"]
    return Scores(
        source=path.name,
        file=None,
        rows=[("this model", rows[name]), ("the original", rows["original"])],
        verdicts=[rows[name]["difference"]["verdict"]] if rows[name].get("difference") else [],
        about=_about({"horizon": content["horizon"]}, "", valid_through=fence, data=content.get("data")),
        settings={key: content[key] for key in ("horizon", "samples", "seed")},
        out_of_sample=content["out_of_sample"],
        made_by={key: content.get(key) for key in ("version", "commit")},
        plots=[],
    )


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
    report: dict[str, Any]  # report.json, or compression.json of a copy; {} if there is neither
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
        *_table(_model_rows(facts)),
        "\n## How to load it\n",
        *(["Its weights are 8-bit whole numbers, for CPUs.\n"] if facts.is_int8 else []),
        *_loading(facts),
        *_scores_section(facts, scores),
        *_limits(facts),
    ]
    return _card(data.to_yaml(), lines)


def adapter_card(facts: Facts, scores: Scores | None, *, base: str) -> str:
    """Metadata and text of an adapter's README.md; `base` is the model on the Hub that it belongs to."""
    data = ModelCardData(
        license="mit",
        library_name="peft",
        pipeline_tag=TASK,
        base_model=base,
        tags=[*TAGS, "lora"],
        datasets=facts.datasets or None,
        **_measured(facts, scores),
    )
    ticker = facts.config.get("ticker")
    lines = [
        f"# {facts.repo_id.split('/')[-1]}\n",
        f"A low-rank adapter of [{base}](https://huggingface.co/{base}) of {facts.parameters:,} parameters"
        f"{f', for forecasts of {ticker}' if ticker else ''}.\n",
        *_table(_adapter_rows(facts)),
        "\n## How to load it\n",
        f"`{INSTALL} peft` is all it takes. Base and processor bring their code: read it first.\n",
        *_adapter_loading(facts, base),
        *_scores_section(facts, scores),
        *_limits(facts),
    ]
    return _card(data.to_yaml(), lines)


def _card(metadata: str, lines: Sequence[str]) -> str:
    return f"---\n{metadata}\n---\n\n" + "\n".join(lines).rstrip() + "\n"


def _table(rows: dict[str, Any]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items() if value is not None)]


def _series(facts: Facts) -> str:
    return "market bars" if facts.kind is OHLCV else "plain series"


def _head(facts: Facts) -> str:
    if facts.auto_class == "AutoModelForCausalLM":
        return "a causal language model over return tokens, which samples price paths"
    kind = facts.config["prediction_type"]
    return f"a {kind} head ({PREDICTION_HEADS[kind]}), {facts.config['prediction_length']} steps at once"


def _model_rows(facts: Facts) -> dict[str, Any]:
    config, features, report = facts.config, facts.features, facts.report
    return {
        "made from": facts.base and f"[{facts.base}](https://huggingface.co/{facts.base})",
        "made by training": _method(report),
        "trained on": config.get("trained_on") or "not recorded",
        "trained through": config.get("trained_through") or "not recorded",
        "training fence": report.get("train_through"),
        "validation fence": report.get("valid_through"),
        "scalers and bins fitted through": features.get("fitted_through") or "not fitted",
        "features": f"{config['num_features']}, {features.get('scaling', '')} scaling",
        "looks back": f"{features.get('context_length')} bars",
        "spacing of bars": _spacing(features.get("bar_seconds")),
        "augmentation": _augmentation(report),
        "compression": _compression(facts),
        "made by": _version(report),
    }


def _method(report: dict[str, Any]) -> str | None:
    """How it was trained, where it is not from scratch."""
    if "loss_type" in report:
        pairs, losses = report["pairs"], ", ".join(report["loss_type"])
        by = f", chosen by {pairs['utility']}" if pairs.get("utility") else ""
        return f"DPO ({losses}, beta {report['beta']:g}) on {pairs['train']:,} preference pairs{by}"
    if "reward" in report:
        paths = f"{report['paths_per_origin']} paths from each of {report['origins']:,} origins"
        return f"GRPO (reward {report['reward']}, beta {report['beta']:g}) on {paths}"
    if "teacher" in report:
        [size] = [row["parameters"] for row in report["rows"] if row["model"] == "teacher"] or [None]
        teacher = f"a teacher of {size:,} parameters" if size else "a teacher"
        return f"distillation of {teacher}, temperature {report['temperature']:g}, alpha {report['alpha']:g}"
    if told := report.get("continual"):
        old, new = told["old_loss_before"], told["old_loss_after"]
        means = f"replay {told['replay']:g}, elastic weight consolidation {told['ewc']:g}"
        loss = f"loss on old dates kept back from replay {old:.4f} before, {new:.4f} after"
        return f"continued behind {told['old_through']}: {means}; {loss}"
    return None


def _compression(facts: Facts) -> str | None:
    """What `compress` did, by its row for this copy."""
    row = facts.report.get("copy")
    if row is None:
        return None
    original = facts.report["rows"][0]
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


def _augmentation(report: dict[str, Any]) -> str | None:
    if "augment" not in report:
        return None
    return ", ".join(f"{name} {strength:g}" for name, strength in report["augment"].items()) or "none"


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
    is_other_model = {"teacher", "copy"} & set(facts.report)
    return {"base_model": facts.base, **({} if is_other_model else {"base_model_relation": "finetune"})}


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
    if scores is None or scores.out_of_sample is not True:
        return {}
    mine = scores.rows[0][1]
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
    unit = "%" if facts.kind is OHLCV else facts.kind.score_unit
    lines = ["\n## Scores\n"]
    if scores.out_of_sample is False:
        lines.append("**Not out of sample: the weights have seen prices of these dates.**\n")
    elif scores.out_of_sample is None:
        lines.append("**Whether the weights have seen prices of these dates is not recorded.**\n")
    if scores.warning:
        lines.append(f"**Warning: {scores.warning}**\n")
    lines += [
        f"{scores.about}. From `{scores.source}`, measured with {_version(scores.made_by)}, beside other forecasts of "
        "the same outcomes:\n",
        *_table_of(scores, ("crps", "rmse"), _forecast_columns(facts.kind, unit)),
        *_table_of(scores, ("log_loss", "accuracy"), CLASS_COLUMNS),
    ]
    lines += _listed_verdicts("On the same outcomes, it is:", scores.verdicts)
    if pairs := _table_of(scores, ("pair_accuracy",), PAIR_COLUMNS):
        lines += [
            "\n### Preference pairs\n",
            "Pairs of paths from the same dates: how often the better is likelier.\n",
        ]
        lines += [*pairs, *_listed_verdicts("Compared with before:", scores.pair_verdicts)]
    if profits := _table_of(scores, ("utility",), PROFIT_COLUMNS):
        costs = "costs" if scores.cost_bp is None else f"costs of {scores.cost_bp:g} basis points per turnover"
        lines += ["\n### Utility\n", f"Mean profit of a position that follows a forecast, after {costs}.\n"]
        lines += [*profits, *_listed_verdicts("By utility, it is:", scores.profit_verdicts)]
    lines += [f"\n![{plot.stem}]({plot.name})" for plot in scores.plots]
    return lines


Columns = dict[str, Callable[[dict[str, Any]], str]]  # by heading


def _forecast_columns(kind: Kind, unit: str) -> Columns:
    return {
        f"CRPS, {unit}": lambda row: _number(row.get("crps"), ".3f", kind.score_factor),
        f"RMSE, {unit}": lambda row: _number(row.get("rmse"), ".3f", kind.score_factor),
        "MASE": lambda row: _number(row.get("mase"), ".3f"),
        "coverage 80": lambda row: _number(row.get("coverage_80"), ".2f"),
        "direction [95 % CI]": _direction,
        "base rate": lambda row: _number(row.get("direction_base_rate"), ".3f"),
    }


CLASS_COLUMNS: Columns = {
    "accuracy [95 % CI]": lambda row: _with_interval(row, "accuracy", ".3f"),
    "log loss [95 % CI]": lambda row: _with_interval(row, "log_loss", ".4f"),
    "Brier": lambda row: _number(row.get("brier"), ".4f"),
    "macro F1": lambda row: _number(row.get("macro_f1"), ".3f"),
    "recall of down, flat, up": lambda row: ", ".join(
        _number(one["recall"], ".2f") for one in row.get("per_class", {}).values()
    ),
}
PAIR_COLUMNS: Columns = {
    "ranked rightly [95 % CI]": lambda row: _with_interval(row, "pair_accuracy", ".3f"),
    "margin, nats [95 % CI]": lambda row: _with_interval(row, "margin", ".3f"),
}
PROFIT_COLUMNS: Columns = {"utility [95 % CI]": lambda row: _with_interval(row, "utility", ".5f")}


def _table_of(scores: Scores, keys: Sequence[str], columns: Columns) -> list[str]:
    """A table of the rows that have one of the figures; nothing if none has."""
    rows = [(name, row) for name, row in scores.rows if any(row.get(key) is not None for key in keys)]
    if not rows:
        return []
    cells = [[name, *(cell(row) for cell in columns.values())] for name, row in rows]
    return [f"| {' | '.join(one)} |" for one in [["", *columns], ["---"] * (len(columns) + 1), *cells]]


def _listed_verdicts(heading: str, verdicts: Sequence[str]) -> list[str]:
    return [f"\n{heading}\n", *(f"* {one}" for one in verdicts)] if verdicts else []


def _with_interval(row: dict[str, Any], key: str, form: str) -> str:
    interval = row.get(f"{key}_ci95")
    return _number(row.get(key), form) + (
        f" [{', '.join(_number(end, form) for end in interval)}]" if interval else ""
    )


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None else format(factor * value, form)


def _direction(row: dict[str, Any]) -> str:
    accuracy, interval = row.get("direction_accuracy"), row.get("direction_ci95")
    return _number(accuracy, ".3f") + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if accuracy and interval else "")


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
        *_table(
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

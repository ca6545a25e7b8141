"""The cards of published models, adapters and datasets: what the Hub reads in their metadata, and people below it.

Design choices:
* Numbers come from files alone: `results.json` of `tsf-llm evaluate`, or `report.json` of a training script. Without
  either the card says that no scores were measured.
* Scores stand beside those of the baselines and their verdicts, "no edge" included. Only scores of dates that the
  weights have not seen go into the metadata, where the Hub would rank them.
* What a card says of the model is read from its own config and processor.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCardData

from ..data_prep.augment import AUGMENTATIONS
from ..series_tsf_llm import KINDS, OHLCV, Kind

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
}
DISCLAIMER = """\
Forecasts are no investment advice. Past prices say little about future ones, an edge on past dates can vanish, and
whoever trades on a forecast does so at their own risk."""
INSTALL = 'pip install "transformers>=5.20" torch pandas pandas-ta-classic'


# --- what the files say --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """The scores of one file, in the order in which they are shown."""

    source: str  # results.json or report.json
    file: Path | None  # to publish beside the card; None for a report that is of other adapters too
    rows: list[tuple[str, dict[str, Any]]]  # name and scores; ours is called "this model" or "this adapter"
    verdicts: list[str]
    about: str  # which forecasts, in words
    settings: dict[str, Any]
    out_of_sample: bool | None
    made_by: dict[str, str | None]  # version and commit
    plots: list[Path]


def read_scores(path: Path, *, trained_through: str | None, ticker: str | None = None) -> Scores | None:
    """What `results.json` or `report.json` has measured; None if nothing. `ticker` is that of an adapter.

    Raises:
        ValueError: no such file, or one that speaks of other weights.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        read = _results if "rows" in content else _report
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is no results.json of `tsf-llm evaluate`, nor a report.json: {error}") from error
    if not isinstance(content, dict) or not {"rows", "after"} & set(content):
        raise ValueError(f"{path} holds no scores: give a results.json of `tsf-llm evaluate`, or a report.json")
    if content.get("trained_through", trained_through) != trained_through:
        raise ValueError(
            f"{path} is about weights that were trained through {content['trained_through']}, but these were through "
            f"{trained_through}: evaluate this model"
        )
    return read(content, path, ticker)


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


def is_run_of_adapters(report: dict[str, Any]) -> bool:
    """A report with a part for each of several adapters, and none for the model beside them."""
    return isinstance(report.get("tickers"), dict)


def _report(content: dict[str, Any], path: Path, ticker: str | None) -> Scores | None:
    part = content["tickers"].get(ticker, {}) if is_run_of_adapters(content) else content
    if not part.get("after"):
        return None
    mine, before = ("this adapter", "its base") if ticker else ("this model", "before this training")
    rows = [(mine, part["after"]), *([(before, part["before"])] if part.get("before") else [])]
    rows += list((part.get("baselines") or {}).items())
    told = [*(part.get("verdicts") or {}).values(), *([part] if ticker and "verdict" in part else [])]
    after = part["after"]
    count = f"{after['n']} forecasts" if "n" in after else "Forecasts"
    steps = f", {after['horizon']} bars ahead" if "horizon" in after else ""
    whose = f" of {ticker}" if ticker else ""
    return Scores(
        source="report.json",
        file=None if is_run_of_adapters(content) else path,
        rows=rows,
        verdicts=[one["verdict"] if isinstance(one, dict) else one for one in told],
        about=f"{count}{whose}{steps}, on the dates after {content.get('valid_through', 'validation')}",
        settings={"horizon": after.get("horizon"), "seed": content.get("seed")},
        out_of_sample=content.get("out_of_sample"),
        made_by={name: content.get(name) for name in ("version", "commit")},
        plots=_existing(path.parent, "loss.png") if not ticker else [],
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
    report: dict[str, Any]  # report.json, {} if there is none

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
        **_measured(facts, scores),
    )
    lines = [
        f"# {facts.repo_id.split('/')[-1]}\n",
        f"A TSF-LLM forecaster of {_series(facts)}: {facts.parameters:,} parameters, {_head(facts)}.\n",
        *_table(_model_rows(facts)),
        "\n## How to load it\n",
        "The code lies in this repository, so `trust_remote_code=True` is needed; read it first, and pin `revision`",
        f"to a tag or a commit. `{INSTALL}` is all it takes.\n",
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
        "trained on": config.get("trained_on") or "not recorded",
        "trained through": config.get("trained_through") or "not recorded",
        "training fence": report.get("train_through"),
        "validation fence": report.get("valid_through"),
        "scalers and bins fitted through": features.get("fitted_through") or "not fitted",
        "features": f"{config['num_features']}, {features.get('scaling', '')} scaling",
        "looks back": f"{features.get('context_length')} bars",
        "spacing of bars": _spacing(features.get("bar_seconds")),
        "augmentation": _augmentation(report),
        "made by": _version(report),
    }


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
        "batch = processor(bars)",
        "```",
    ]


def _adapter_loading(facts: Facts, base: str) -> list[str]:
    auto = facts.auto_class
    pinned = f', revision="{facts.revision}"' if facts.revision else ""
    source = facts.repo_id if facts.features else base
    own = pinned if facts.features else ""
    return [
        "```python",
        "from peft import PeftModel",
        f"from transformers import {auto}, AutoProcessor\n",
        f'base = {auto}.from_pretrained("{base}", trust_remote_code=True)',
        f'model = PeftModel.from_pretrained(base, "{facts.repo_id}"{pinned})',
        f'processor = AutoProcessor.from_pretrained("{source}"{own}, trust_remote_code=True)',
        "batch = processor(bars)",
        "```",
    ]


# --- scores and limits ---------------------------------------------------------------------------------------------


def _measured(facts: Facts, scores: Scores | None) -> dict[str, Any]:
    """The part of the metadata that the Hub ranks: of unseen dates, or nothing."""
    if scores is None or scores.out_of_sample is not True:
        return {}
    mine = scores.rows[0][1]
    found = {key: names for key, names in METRICS.items() if mine.get(key) is not None}
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
    lines += [
        f"{scores.about}. From `{scores.source}`, measured with {_version(scores.made_by)}, beside other forecasts of "
        "the same outcomes:\n",
        f"| | CRPS, {unit} | RMSE, {unit} | MASE | coverage 80 | direction [95 % CI] | base rate |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_score_row(name, row, facts.kind) for name, row in scores.rows),
    ]
    if scores.verdicts:
        lines += ["\nBy CRPS on the same outcomes, it is:\n", *(f"* {verdict}" for verdict in scores.verdicts)]
    lines += [f"\n![{plot.stem}]({plot.name})" for plot in scores.plots]
    return lines


def _score_row(name: str, row: dict[str, Any], kind: Kind) -> str:
    cells = [_number(row.get(key), ".3f", kind.score_factor) for key in ("crps", "rmse")]
    cells += [_number(row.get("mase"), ".3f"), _number(row.get("coverage_80"), ".2f"), _direction(row)]
    return f"| {' | '.join([name, *cells, _number(row.get('direction_base_rate'), '.3f')])} |"


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
                "origins": f"{info['first_origin']} to {info['last_origin']}",
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


def _load(repo_id: str) -> str:
    return f'load_dataset("{repo_id}", split="train")'


def _source(source: str | None, licence: str | None) -> list[str]:
    return ["\n## Source and licence\n", f"Source: {source or SOURCE_UNKNOWN}.", f"\nLicence: {licence or 'unknown'}."]

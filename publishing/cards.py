"""The cards of published models, adapters and datasets: what the Hub reads in their metadata, and people below it.

Design choices:
* Numbers come from files alone: `results.json` of `tsf-llm evaluate`, `report.json` of a training script, or
  `compression.json` for the copies of `compress`. Without any the card says that no scores were measured.
* Scores stand beside those of the baselines and their verdicts, "no edge" included. Only scores of dates that the
  weights have not seen go into the metadata, where the Hub would rank them.
* What a card says of the model is read from its own config and processor.
* The words are those of the templates beside this file, `*.md`; what they are told is collected here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData, RepoCard

from ..bars_tsf_llm import KINDS, OHLCV, Kind
from ..common.tables import Columns, number, with_interval
from ..data_prep.augment import AUGMENTATIONS
from ..evaluation.report import (
    BEFORE,
    ORIGINAL,
    OURS,
    Report,
    evaluation_columns,
    forecast_columns,
    headlines,
    table_of,
)
from ..quantization_tsf_llm import METHOD as INT8

TASK = "time-series-forecasting"
TAGS = ["tsf-llm", "time-series", "forecasting"]
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

# --- what the files say --------------------------------------------------------------------------------------------

WHOLE = {"evaluate": ("horizon", "stride", "samples", "seed"), "copy": ("horizon", "samples", "seed")}
OF_TRAINING = ("horizon", "seed")  # settings for the metadata; those of other reports are above
BESIDE = {"teacher": "its teacher", "student_alone": "the same, trained without the teacher", ORIGINAL: "the original"}
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
PAIRS = ("pair_accuracy", "margin")
BEFORE_THAT = "; before that: "
NAMED = 8  # tickers at most


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
        plots=[path.parent / name for name in pictures if (path.parent / name).is_file()],
    )


def _about(report: Report, whose: str) -> str:
    facts, row = report.facts, report.rows[OURS]
    if report.made_by == "evaluate":
        tickers, more = ", ".join(facts["tickers"][:NAMED]), len(facts["tickers"]) - NAMED
        period = f"{facts['horizon']} bars ahead, from {facts['start']} to {facts['end']}"
        return f"{row['n']} forecasts of {tickers}{f' and {more} more' if more > 0 else ''}, {period}"
    horizon = row.get("horizon", facts.get("horizon"))
    count = f"{row['n']} forecasts" if "n" in row else "Forecasts"
    count += f" of {whose}" if whose else ""
    count += f" from {row['num_dates']} dates" if "num_dates" in row else ""
    steps = f", {horizon} bars ahead" if horizon else ""
    data = "" if whose else (facts.get("data") or "").split(BEFORE_THAT)[0]  # a continued model names the old data too
    through = facts.get("valid_through") or "validation"
    return f"{count}{steps}, on the dates after {through}{f' of {data!r}' if data else ''}"


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
    def is_causal(self) -> bool:
        return self.config.get("architectures") != ["TsfLlmForPrediction"]


def model_card(facts: Facts, scores: Scores | None) -> str:
    """Metadata and text of a model's README.md."""
    related = {"base_model": facts.base}  # and how, where the Hub has a word for it
    if facts.is_int8:
        related["base_model_relation"] = "quantized"
    elif facts.report is None or facts.report.made_by not in ("distill", "copy"):
        related["base_model_relation"] = "finetune"
    data = ModelCardData(
        library_name="transformers", tags=TAGS, **(related if facts.base else {}), **_metadata(facts, scores)
    )
    return _model_page(data, facts, scores, is_on_hub=True)


def adapter_card(facts: Facts, scores: Scores | None, *, base: str) -> str:
    """Metadata and text of an adapter's README.md.

    `base` is the model that it belongs to: of the Hub or, until that is pushed, a folder, whose path is left out.
    """
    on_hub, layers = not Path(base).is_absolute(), facts.config.get("target_modules") or []
    data = ModelCardData(
        library_name="peft", base_model=base if on_hub else None, tags=[*TAGS, "lora"], **_metadata(facts, scores)
    )
    return _model_page(
        data,
        facts,
        scores,
        is_on_hub=on_hub,  # a run of adapters scores them in its own report
        base_name=base if on_hub else Path(base).name,
        layers=", ".join(f"`{name}`" for name in ([layers] if isinstance(layers, str) else sorted(layers))),
    )


def _model_page(data: ModelCardData, facts: Facts, scores: Scores | None, **told: Any) -> str:
    topics = _topics(scores, facts.kind) if scores else {}
    name = facts.repo_id.split("/")[-1]
    return _page(ModelCard, data, "model.md", name=name, task=TASK, facts=facts, scores=scores, **topics, **told)


def _page(card: type[RepoCard], data: CardData, template: str, **told: Any) -> str:
    return f"{card.from_template(data, template_path=str(Path(__file__).with_name(template)), **told)}\n"


def _metadata(facts: Facts, scores: Scores | None) -> dict[str, Any]:
    """What models and adapters share; with the scores that the Hub ranks, if they are of unseen dates."""
    shared = {"license": "mit", "pipeline_tag": TASK, "datasets": facts.datasets or None}
    if scores is None or scores.report.facts.get("out_of_sample") is not True:
        return shared
    report, mine = scores.report, scores.report.rows[OURS]
    found = {key: names for key, names in METRICS.items() if mine.get(key) is not None}
    if not found:
        return shared
    known = {**report.facts, **mine}
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=facts.datasets[0] if len(facts.datasets) == 1 else "bars",
            dataset_name=scores.about,
            dataset_args={name: known.get(name) for name in WHOLE.get(report.made_by, OF_TRAINING)},
            metric_type=metric,
            metric_name=name,
            metric_value=mine[key],
        )
        for key, (metric, name) in found.items()
    ]
    return {
        **shared,
        "model_name": facts.repo_id.split("/")[-1],
        "eval_results": results,
        "metrics": [metric for metric, _ in found.values()],
    }


def _topics(scores: Scores, kind: Kind) -> dict[str, Any]:
    """Tables of the rows that have one of the figures, and verdicts, by what they are about; the headlines."""
    report = scores.report
    evaluated = report.made_by == "evaluate"
    columns = {
        "forecasts": (("crps", "rmse"), evaluation_columns(report, kind) if evaluated else forecast_columns(kind)),
        "classes": (("log_loss", "accuracy"), CLASS_COLUMNS),
        "pairs": (("pair_accuracy",), PAIR_COLUMNS),
        "utility": (("utility",), PROFIT_COLUMNS),
    }
    tables: dict[str, str] = {}
    for topic, (keys, cells) in columns.items():
        rows = {name: row for name, row in scores.rows.items() if any(row.get(key) is not None for key in keys)}
        tables |= {topic: table_of(rows, cells).markdown()} if rows else {}
    verdicts: dict[str, dict[str, str]] = {}
    for name, words in report.verdicts.items():
        topic = "pairs" if name in PAIRS else "utility" if name.startswith("utility") else "forecasts"
        verdicts.setdefault(topic, {})[name] = words
    return {"tables": tables, "verdicts": verdicts, "headlines": headlines(report) if report.headline else []}


# --- datasets ------------------------------------------------------------------------------------------------------


def prepared_card(folder: Path, repo_id: str, *, source: str | None, licence: str | None) -> str:
    """The card that `tsf-llm prepare` wrote, with what matters once it is on the Hub."""
    card = DatasetCard.load(folder / "README.md")
    card.data.license = licence
    here, there = '"parquet", data_files="data/*.parquet"', f'"{repo_id}"'
    page = card.text.replace(f'load_dataset({here}, split="train")', f'load_dataset({there}, split="train")').strip()
    told = {"page": page, "augmentations": AUGMENTATIONS, "source": source, "licence": licence}
    return _page(DatasetCard, card.data, "prepared.md", **told)


def preferences_card(info: dict[str, Any], repo_id: str, *, source: str | None, licence: str | None) -> str:
    """The card of preference pairs, from their `preferences.json`."""
    data = DatasetCardData(
        license=licence,
        pretty_name="Preference pairs of price paths",
        tags=[*TAGS, "preference", "dpo"],
        task_categories=[TASK],
        configs=[{"config_name": "default", "data_files": "preferences.parquet"}],
    )
    return _page(DatasetCard, data, "preferences.md", info=info, repo_id=repo_id, source=source, licence=licence)

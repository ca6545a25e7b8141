"""The head of README.md: metadata for the Hub, and the shipped models with their scores, written from files alone.

    python -m tsf_llm.publishing.front_page .

It reads the two configs, the headers of the weights and `results.json` of `tsf_llm.benchmarks.skill`, and writes the
YAML at the head of README.md, and in README.md and README.zh.md what stands between <!-- shipped --> and
<!-- /shipped -->. The Hub ranks scores of unseen dates alone: others stay out of the YAML.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from ..common.errors import one_line_errors
from ..common.files import write_text
from ..common.pages import fill
from ..common.reading import plain_file, read_json, shapes_of, weight_files
from ..common.tables import Table, number
from .cards import TAGS, TASK
from .checkout import MINI
from .upload import count_parameters

MARKER = "shipped"
PAGES = {"README.md": "front.md", "README.zh.md": "front.zh.md"}  # and their words
RESULTS = "results.json"
LARGE = "27M"
AS_GOOD = 0.002  # of skill: differences of single seeds are as large
OF_MODELS = ("looks", "trained_through", "out_of_sample")  # in the results, by the name of the model
RANKED = ("universe", "unseen")  # context and tickers of the scores in the metadata
METRICS = {
    "crps": "CRPS of the cumulative log return",
    "skill": "share of CRPS saved against GARCH(1,1)-t",
    "coverage_80": "coverage of the 80 % interval",
}
SPACE = {  # what a Space of this repository reads there; its version of gradio is that of constraints.txt
    "title": "TSF-LLM",
    "emoji": "📈",
    "colorFrom": "blue",
    "colorTo": "gray",
    "sdk": "gradio",
    "sdk_version": "6.31.0",
    "python_version": "3.11",
    "app_file": "app.py",
    "pinned": False,
}
DATASETS = {  # of the training: name in the metadata -> what it is, and its licence
    "pooksoft-sp500-daily": "52 large US stocks, AlphaVantage daily adjusted, by Pooksoft (MIT)",
    "stocknet-prices": "15 more stocks, 2012 to 2017, by Yumo Xu (MIT)",
    "arch-sp500-nasdaq": "S&P 500 and Nasdaq indices, of the arch package (NCSA)",
    "cboe-vix-daily": "the VIX, CBOE via datasets/finance-vix (public domain, PDDL)",
}


def front_pages(root: Path, folders: dict[str, Path], results: dict[str, Any] | None) -> dict[str, str]:
    """Both READMEs of a checkout by name, as they are to be.

    `folders` are those of the `27M` and, if there is one, of `mini`; `results` are those of `read_results`.

    Raises:
        ValueError: no model lies there, or a page has no markers.
    """
    pages = {
        name: fill((root / name).read_text(encoding="utf-8"), shipped(folders, results, template), MARKER)
        for name, template in PAGES.items()
    }
    return pages | {"README.md": with_metadata(pages["README.md"], metadata(results))}


def write_front_pages(root: Path) -> None:
    """Both READMEs of a checkout, from what lies there.

    Raises:
        ValueError: as `front_pages` and `read_results`.
    """
    folders = {LARGE: root} | ({MINI: root / MINI} if (root / MINI).is_dir() else {})
    path = root / RESULTS
    results = read_results(path, folders) if path.is_file() else None
    for name, page in front_pages(root, folders, results).items():
        write_text(page, root / name)


def read_results(path: Path, folders: dict[str, Path]) -> dict[str, Any]:
    """What skill found, under our names of the models: it was asked of the large one first.

    Raises:
        ValueError: it speaks of other models.
    """
    results = read_json(path)
    with shapes_of(path, "run tsf_llm.benchmarks.skill again"):
        asked = list(results["looks"])
        if len(asked) != len(folders):
            raise ValueError(
                f"{path} is about {', '.join(asked)}: run it with --models for {' and '.join(folders)}, in this order"
            )
        ours = dict(zip(asked, folders, strict=True))
        for name, called in ours.items():
            then, now = results["trained_through"][name], _config(folders[called])["trained_through"]
            if then != now:
                raise ValueError(f"{path}: {name} was trained through {then}, {called} through {now}: run it again")
        rows = {
            key: [row | {"model": ours.get(row["model"], row["model"])} for row in results[key]]
            for key in ("rows", "joint")
        }
        named = {key: {ours[name]: results[key][name] for name in asked} for key in OF_MODELS}
        return {**results, **rows, **named}


def _config(folder: Path) -> dict[str, Any]:
    return read_json(plain_file(folder, "config.json"))


# --- the YAML ------------------------------------------------------------------------------------------------------


def metadata(results: dict[str, Any] | None) -> str:
    """YAML of the card, which is that of a Space too, without its lines of dashes."""
    data: dict[str, Any] = {"license": "mit", "library_name": "transformers", "pipeline_tag": TASK}
    data |= {"tags": [*TAGS, "finance", "stocks"], "datasets": list(DATASETS)}
    scores = list(_scores(results)) if results else []
    if scores:
        data |= {"model_name": "TSF-LLM 27M", "eval_results": scores}
    return str(ModelCardData(**data, **SPACE, metrics=list(METRICS)).to_yaml())


def _scores(results: dict[str, Any]) -> Iterable[EvalResult]:
    if results["out_of_sample"].get(LARGE) is not True:
        return
    start, end = results["period"]
    for row in results["rows"]:
        if row["model"] == LARGE and (row["context"], row["tickers"]) == RANKED:
            about = f"daily US stocks never trained on, {start} to {end}, {row['horizon']} bars ahead"
            for metric, name in METRICS.items():
                if row[metric] is not None:
                    yield EvalResult(
                        task_type=TASK,
                        dataset_type="bars",
                        dataset_config=f"{row['horizon']} ahead",
                        dataset_name=about,
                        metric_type=metric,
                        metric_name=name,
                        metric_value=round(row[metric], 5),
                    )


def with_metadata(page: str, yaml: str) -> str:
    """The page with this YAML at its head, in place of what was there."""
    if page.startswith("---\n"):
        page = page.partition("\n---\n")[2].lstrip("\n")
    return f"---\n{yaml.strip()}\n---\n\n{page}"


# --- the words -----------------------------------------------------------------------------------------------------


def shipped(folders: dict[str, Path], results: dict[str, Any] | None, template: str) -> str:
    """What lies at the root and in `mini/`, whether the small one is as good, and the scores of both, as Markdown."""
    words = Path(__file__).with_name(template).read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    models = {
        name: _config(folder) | {"parameters": count_parameters(weight_files(folder).values())}
        for name, folder in folders.items()
    }
    told = {"models": models, "results": results, "datasets": DATASETS.values(), "as_good": AS_GOOD}
    told |= {"gained": gained(results["rows"]), "table": table(results)} if results else {"gained": {}, "table": ""}
    return environment.from_string(words).render(**told).strip()


def gained(rows: list[dict[str, Any]]) -> dict[int, float]:
    """Skill of mini less that of the 27M by horizon, the mean over contexts and tickers; empty without mini.

    Mini is as good if at no horizon it is `AS_GOOD` lower."""
    skill = {(row["model"], row["context"], row["tickers"], row["horizon"]): row["skill"] for row in rows}
    found: dict[int, list[float]] = {}
    for (model, *rest), value in skill.items():
        other = skill.get((MINI, *rest))
        if model == LARGE and None not in (value, other):
            found.setdefault(rest[-1], []).append(other - value)
    return {horizon: sum(each) / len(each) for horizon, each in sorted(found.items())}


def table(results: dict[str, Any]) -> str:
    """A line per model, context and tickers: CRPS saved at each horizon with its p, and the coverage."""
    lines: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for row in results["rows"]:
        lines.setdefault((row["model"], row["context"] or "-", row["tickers"]), {})[row["horizon"]] = row
    horizons = list(dict.fromkeys(row["horizon"] for row in results["rows"]))
    heads = [f"h = {h}: CRPS saved, % (p)" for h in horizons]
    cells = []
    for key, by in lines.items():
        rows = [by[h] for h in horizons]
        saved = [f"{number(row['skill'], '.2f', 100)} ({number(row['dm_p'], '.3f')})" for row in rows]
        cells.append([*key, *saved, ", ".join(number(row["coverage_80"], ".3f") for row in rows)])
    return Table(["model", "context", "tickers", *heads, "coverage 80"], cells).markdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser("front_page", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root", type=Path, help="the checkout")
    with one_line_errors("front_page"):
        write_front_pages(parser.parse_args().root)

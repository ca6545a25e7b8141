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
PAGES = ("README.md", "README.zh.md")
RESULTS = "results.json"
LARGE = "27M"
AS_GOOD = 0.002  # of skill: differences of single seeds are as large
RANKED = ("universe", "unseen")  # context and tickers of the scores in the metadata
DATASETS = {  # of the training: name in the metadata -> what it is, and its licence
    "pooksoft-sp500-daily": "62 large US stocks, AlphaVantage daily adjusted, by Pooksoft (MIT)",
    "stocknet-prices": "53 US stocks, 2012 to 2017, by Yumo Xu (MIT)",
    "arch-sp500-nasdaq": "S&P 500 and Nasdaq indices, of the arch package (NCSA)",
    "cboe-vix-daily": "the VIX, CBOE via datasets/finance-vix (public domain, PDDL)",
    "quandl-wiki-prices": "the embedded sample, Quandl WIKI Prices (public domain)",
}


def write_front_pages(root: Path) -> None:
    """Both READMEs of a checkout.

    Raises:
        ValueError: no model lies there, the results are of other weights, or a page has no markers.
    """
    results = read_results(root)
    text = shipped(root, results)
    pages = {name: fill((root / name).read_text(encoding="utf-8"), text, MARKER) for name in PAGES}
    pages[PAGES[0]] = with_metadata(pages[PAGES[0]], metadata(results))
    for name, page in pages.items():
        write_text(page, root / name)


def read_results(root: Path) -> dict[str, Any] | None:
    """What `skill` found of the two models here, under the names `27M` and `mini`; None if it was not run.

    Raises:
        ValueError: it speaks of other models.
    """
    path = root / RESULTS
    if not path.is_file():
        return None
    results = read_json(path)
    with shapes_of(path, "run tsf_llm.benchmarks.skill again, with --models . mini"):
        asked = list(results["looks"])
        if len(asked) > 2:
            raise ValueError(f"{path} is about {', '.join(asked)}: run skill with --models . mini")
        ours = dict(zip(asked, (LARGE, MINI), strict=False))
        for name, place in zip(asked, (root, root / MINI), strict=False):
            now = _config(place)["trained_through"]
            if (then := results["trained_through"][name]) != now:
                raise ValueError(
                    f"{path}: {name} was trained through {then}, {place} through {now}: run skill again"
                )
        rows = [row | {"model": ours.get(row["model"], row["model"])} for row in results["rows"]]
        named = {key: {ours[name]: results[key][name] for name in asked} for key in ("looks", "out_of_sample")}
        return {**results, **named, "rows": rows}


def _config(folder: Path) -> dict[str, Any]:
    return read_json(plain_file(folder, "config.json"))


# --- the YAML ------------------------------------------------------------------------------------------------------


def metadata(results: dict[str, Any] | None) -> str:
    """YAML of the card, without its lines of dashes."""
    data: dict[str, Any] = {"license": "mit", "library_name": "transformers", "pipeline_tag": TASK}
    data |= {"tags": [*TAGS, "finance", "stocks"], "datasets": list(DATASETS)}
    scores = list(_scores(results)) if results else []
    if scores:
        data |= {"model_name": "TSF-LLM 27M", "eval_results": scores}
    return str(ModelCardData(**data, metrics=["crps", "coverage_80"]).to_yaml())


def _scores(results: dict[str, Any]) -> Iterable[EvalResult]:
    if results["out_of_sample"].get(LARGE) is not True:
        return
    start, end = results["period"]
    for row in results["rows"]:
        if row["model"] == LARGE and (row["context"], row["tickers"]) == RANKED:
            about = f"daily US stocks never trained on, {start} to {end}, {row['horizon']} bars ahead"
            for metric, key, name in (
                ("crps", "crps", "CRPS of the cumulative log return"),
                ("skill", "skill", "CRPS saved against GARCH(1,1)-t"),
                ("coverage_80", "coverage_80", "Coverage of the 80 % interval"),
            ):
                if row[key] is not None:
                    yield EvalResult(
                        task_type=TASK,
                        dataset_type="bars",
                        dataset_name=about,
                        metric_type=metric,
                        metric_name=name,
                        metric_value=round(row[key], 5),
                    )


def with_metadata(page: str, yaml: str) -> str:
    """The page with this YAML at its head, in place of what was there."""
    if page.startswith("---\n"):
        page = page.partition("\n---\n")[2].lstrip("\n")
    return f"---\n{yaml.strip()}\n---\n\n{page}"


# --- the words -----------------------------------------------------------------------------------------------------


def shipped(root: Path, results: dict[str, Any] | None) -> str:
    """What lies at the root and in `mini/`, whether the small one is as good, and the scores of both, as Markdown."""
    template = Path(__file__).with_name("front.md").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folders = {LARGE: root} | ({MINI: root / MINI} if (root / MINI / "config.json").is_file() else {})
    models = {
        name: _config(folder) | {"parameters": count_parameters(weight_files(folder).values())}
        for name, folder in folders.items()
    }
    told = {"models": models, "results": results, "datasets": DATASETS.values()}
    if results:
        told |= {"verdict": verdict(results["rows"]) if MINI in results["looks"] else "", "table": table(results)}
    return environment.from_string(template).render(**told).strip()


def verdict(rows: list[dict[str, Any]]) -> str:
    """Whether mini is as good: at no horizon does it save, on average over contexts and tickers, `AS_GOOD` less."""
    skill = {(row["model"], row["context"], row["tickers"], row["horizon"]): row["skill"] for row in rows}
    gained: dict[int, list[float]] = {}
    for (model, *rest), value in skill.items():
        other = skill.get((MINI, *rest))
        if model == LARGE and None not in (value, other):
            gained.setdefault(rest[-1], []).append(other - value)
    means = {horizon: sum(found) / len(found) for horizon, found in sorted(gained.items())}
    if not means:
        return ""
    points = ", ".join(f"{number(mean, '+.2f', 100)} points at h = {horizon}" for horizon, mean in means.items())
    good = "mini is as good as the 27M" if min(means.values()) > -AS_GOOD else "the 27M is better than mini"
    return f"{good} (mini less 27M in CRPS saved, mean of the rows below: {points})"


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
    parser = argparse.ArgumentParser(
        "front_page", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the checkout")
    with one_line_errors("front_page"):
        write_front_pages(parser.parse_args().root)

"""How much of the CRPS of GARCH-t several models save on dates and tickers that they never saw: every bar an origin.

examples:
    python -m tsf_llm.benchmarks.skill --models . mini --data us_daily.parquet --market vix_daily.csv.gz --json s.json
    python -m tsf_llm.benchmarks.skill --models a b --data us_daily.parquet --start 2015-01-02 --end 2015-12-30

Each model is asked in up to three contexts: `universe` (the tickers of the data and what `--market` names), `index`
(`--market` alone, as for a lone ticker) and `alone` (nothing). Each run is a look at these dates, and is counted in
`looks.jsonl` beside the model: choose a model on other dates, and look here once.

Design choices:
* Skill is 1 - CRPS / CRPS of garch_t, p that of Diebold and Mariano over dates, of which `horizon` in a row overlap.
* Without the crash, origins are left out from which any day up to the outcome lies in it.
* HAR is fitted on all tickers of the data, the unseen ones too: they are unseen by the models alone.
* What a context makes of the bars is shared by models with the same processor, and one pass serves all horizons.
"""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from ..bars_tsf_llm import day_end
from ..common.errors import one_line_errors
from ..common.files import write_json, write_text
from ..common.parser import Parser, option
from ..common.provenance import provenance
from ..common.tables import Table, number
from ..data_prep.sources import read_bars, read_market
from ..dependence_tsf_llm import loadings
from ..evaluation.distributions import Scored
from ..evaluation.every_bar import Outcomes, baselines, check_prices, forecasts
from ..evaluation.joint_ranking import joint_rps
from ..evaluation.looks import add_look, count_looks
from ..evaluation.scores import bands, newey_west_t, rank_correlations
from ..evaluation.significance import paired_difference
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..serving.loading import load_pipeline
from ..training.models import digest
from .results import Output, circumstances

BY = "skill"
REFERENCE, STRONG = "garch_t", "har_range"
BASELINES = (REFERENCE, "har_range_own", STRONG)
CONTEXTS = ("universe", "index", "alone")
UNSEEN = ["GILD", "HON", "UPS", "SO", "SLB", "TXN", "SBUX", "APD", "SPG", "MMM"]
QUICK_TICKERS = 12


@dataclass
class Arguments(Output):
    """Which models, on which dates and tickers."""

    models: list[str] = option([], "folders of models (needed)")
    data: str | None = option(None, "bars of the tickers (needed)")
    market: list[str] = option([], "bars of an index or an implied-volatility index, in one or more files")
    tickers: list[str] = option([], "some of the tickers of the data (default all)")
    unseen: list[str] = option(UNSEEN, "tickers that no model was trained on")
    contexts: list[str] = option([*CONTEXTS], "which of them")
    horizons: list[int] = option([1, 5, 20], "steps ahead")
    start: str = option("2019-01-02", "first origin")
    end: str = option("2021-04-20", "last origin")
    crash: list[str] = option(["2020-02-20", "2020-05-31"], "two dates, between which skill is also left out")
    markdown: Path | None = field(default=None, metadata={"metavar": "FILE", "help": "write the tables here"})
    per_window: int = option(1, "origins that share a window, for large models: faster, and all but the same laws")
    samples: int = option(256, "paths, of a horizon beyond the laws of a model")
    seed: int = option(0, "of paths, draws and bootstraps")
    num_proc: int = option(1, "processes that run baselines")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models or self.data is None:
            raise ValueError("--models and --data are needed: give folders of models, and bars")
        if absent := [one for one in self.models if not Path(one).is_dir()]:
            raise ValueError(f"--models {absent[0]}: no such folder; download the model, looks are counted beside it")
        if strange := {*self.contexts} - {*CONTEXTS}:
            raise ValueError(f"--contexts {sorted(strange)[0]}: choose from {', '.join(CONTEXTS)}")
        if self.per_window < 1:
            raise ValueError(f"--per_window {self.per_window}: give 1 or more")
        if not self.horizons or min(self.horizons) < 1:
            raise ValueError(f"--horizons {self.horizons}: give 1 or more steps")
        if len(self.crash) != 2 or pd.Timestamp(self.crash[0]) > pd.Timestamp(self.crash[1]):
            raise ValueError(f"--crash {' '.join(self.crash)}: give its first and its last day")
        if self.markdown is not None and (self.markdown.is_dir() or not self.markdown.absolute().parent.is_dir()):
            raise ValueError(f"--markdown {self.markdown}: give a file name in an existing folder")


@dataclass(frozen=True)
class Test:
    """One horizon: its outcomes, what baselines said of them, and parts of its forecasts as masks `[n]`."""

    outcomes: Outcomes
    baselines: dict[str, Scored]
    loading: np.ndarray  # of each ticker in joint draws, [n]
    parts: dict[str, np.ndarray]
    calm: np.ndarray  # outside of the crash


def run(args: Arguments) -> dict[str, Any]:
    """Rows, and where the figures come from.

    Raises:
        ValueError: a model without laws of returns, no origin, or a baseline that all are compared with failed.
    """
    pipes = {name: load_pipeline(name) for name in args.models}
    for pipe in pipes.values():
        check_prices(pipe)
        if torch.cuda.is_available():
            pipe.model.to("cuda")
    bars, market = _read(args)
    tests: list[Test] = []
    rows: list[dict[str, Any]] = []
    joint: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for context, names, series in _encoded(pipes, args.contexts, bars, market, left_out):
        if not tests:
            tests = _tests(args, series)
            rows = [row for test in tests for name in test.baselines for row in _rows(test, name, args.seed)]
        for name in names:
            options: dict[str, Any] = {"samples": args.samples, "seed": args.seed, "per_window": args.per_window}
            options["told"] = f"{name}, {context}"
            found = forecasts(pipes[name], series, [test.outcomes for test in tests], **options)
            about = {"model": name, "context": context}
            for test, ours in zip(tests, found, strict=True):
                rows += [about | row for row in _rows(test, ours, args.seed)]
                told = joint_rps(ours.quantiles, test.outcomes, test.loading, seed=args.seed)
                joint.append({**about, "horizon": test.outcomes.horizon, **told})
    if not tests:
        raise ValueError(f"no model answers in {', '.join(args.contexts)}: {'; '.join(left_out.values())}")
    return {"rows": rows, "joint": joint, "left_out": left_out, **_about(args, pipes, tests)}


def _read(args: Arguments) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Bars of the tickers, and those of the market, one table a file."""
    bars = read_bars(args.data or "", args.tickers or None)
    if args.quick:
        bars = bars[bars["ticker"].isin(bars["ticker"].unique()[:QUICK_TICKERS])]
    return bars, [read_market(one) for one in args.market]


def _encoded(
    pipes: Mapping[str, TsfLlmPipeline],
    contexts: Sequence[str],
    bars: pd.DataFrame,
    market: list[pd.DataFrame],
    left_out: dict[str, str],
) -> Iterator[tuple[str, list[str], list[EncodedSeries]]]:
    """Each context with the models whose processor makes the same of it, and what that is; the others' reasons."""
    markets: dict[str, list[pd.DataFrame]] = {"universe": [bars, *market], "index": market, "alone": []}
    alike: dict[str, list[str]] = {}
    for name, pipe in pipes.items():
        state = json.dumps(pipe.processor.feature_extractor.to_dict(), sort_keys=True, default=str)
        alike.setdefault(state, []).append(name)
    for names in alike.values():
        for context in contexts:
            if context == "index" and not market:
                continue
            try:
                series = pipes[names[0]].processor.encode(bars, market=markets[context] or None)
            except ValueError as error:
                if not str(error).startswith("market="):  # which its features do not read
                    raise
                left_out |= {f"{name}, {context}": str(error) for name in names}
                continue
            yield context, names, series


def _tests(args: Arguments, series: Sequence[EncodedSeries]) -> list[Test]:
    first, last = (pd.Timestamp(one) for one in args.crash)
    tests = []
    for horizon in dict.fromkeys(args.horizons):
        outcomes = Outcomes.of(series, args.start, args.end, horizon)
        found, failed = baselines(BASELINES, series, outcomes, seed=args.seed, num_proc=args.num_proc)
        if missing := [name for name in (REFERENCE, STRONG) if name not in found]:
            raise ValueError(f"{missing[0]}, which all are compared with, has no row: {failed[missing[0]]}")
        unseen = np.isin(outcomes.ticker, args.unseen)
        parts = {name: part for name, part in (("seen", ~unseen), ("unseen", unseen)) if part.any()}
        calm = (outcomes.due < first.to_datetime64()) | (outcomes.origin > day_end(last).to_datetime64())
        loading = loadings(list(zip(series, outcomes.rows, strict=True)))
        tests.append(Test(outcomes, found, loading, parts, calm))
    return tests


def _rows(test: Test, ours: Scored | str, seed: int) -> Iterator[dict[str, Any]]:
    """A model's row for each part, or that of the baseline of this name."""
    name = ours if isinstance(ours, str) else None
    law = test.baselines[ours] if isinstance(ours, str) else ours
    about = {} if name is None else {"model": name, "context": None}
    for part, mine in test.parts.items():
        yield about | {"tickers": part, "horizon": test.outcomes.horizon, **_figures(test, law, mine, name, seed)}


def _figures(test: Test, law: Scored, mine: np.ndarray, name: str | None, seed: int) -> dict[str, Any]:
    outcomes, h = test.outcomes, test.outcomes.horizon
    realised, dates = outcomes.realised[mine], outcomes.origin[mine]
    ranked = rank_correlations(law.point[mine], realised, dates)
    whole, calm = (_saved(test, law, part, REFERENCE, name, seed) for part in (mine, mine & test.calm))
    har = _saved(test, law, mine, STRONG, name, seed)
    told = bands(law.take(mine), realised)
    return {
        "skill": whole["skill"],
        "skill_ci95": whole["ci95"],
        "dm_p": whole["p"],
        "skill_without_crash": calm["skill"],
        "dm_p_without_crash": calm["p"],
        "vs_har": {"skill": har["skill"], "p": har["p"]},
        "crps": told["crps"],
        "coverage_80": told["coverage_80"],
        "rank_ic": float(ranked.mean()) if len(ranked) else None,
        "rank_ic_t": newey_west_t(ranked, horizon=h),
        "n": int(mine.sum()),
        "days": len(np.unique(dates)),
    }


def _saved(test: Test, law: Scored, mine: np.ndarray, beside: str, name: str | None, seed: int) -> dict[str, Any]:
    """The share of a baseline's CRPS that is saved, with interval and p; all None beside itself, or on no dates."""
    if name == beside or not mine.any():
        return {"skill": None, "ci95": None, "p": None}
    theirs, h = test.baselines[beside].losses[mine], test.outcomes.horizon
    found: dict[str, Any] = paired_difference(law.losses[mine], theirs, test.outcomes.origin[mine], h, seed=seed)
    interval = found["relative_ci95"] and [-bound for bound in reversed(found["relative_ci95"])]
    return {"skill": None if found["relative"] is None else -found["relative"], "ci95": interval, "p": found["dm_p"]}


def _about(args: Arguments, pipes: Mapping[str, TsfLlmPipeline], tests: Sequence[Test]) -> dict[str, Any]:
    """Dates, tickers and models, and the looks, this one among them."""
    origins = np.concatenate([test.outcomes.origin for test in tests])
    start, end = (pd.Timestamp(one) for one in (origins.min(), origins.max()))
    cutoffs = {name: pipe.model.config.trained_through for name, pipe in pipes.items()}
    command, looks = shlex.join([BY, *sys.argv[1:]]), {}
    for name, pipe in pipes.items():
        add_look(Path(name), digest(pipe.model), command, start=start, end=end)
        looks[name] = count_looks(Path(name), start=start, end=end)
    tickers = np.unique(np.concatenate([test.outcomes.ticker for test in tests])).tolist()
    return {
        "period": [str(start.date()), str(end.date())],
        "crash": args.crash,
        "tickers": tickers,
        "unseen": sorted({*args.unseen} & {*tickers}),
        "market": [Path(one).name for one in args.market],
        "looks": looks,
        "trained_through": cutoffs,
        "out_of_sample": {name: None if one is None else bool(start > day_end(one)) for name, one in cutoffs.items()},
        "per_window": args.per_window,
        "seed": args.seed,
        **circumstances("torch", "transformers", "arch"),
        **provenance(BY),
    }


def main_table(results: Mapping[str, Any]) -> Table:
    """A line per model, context and tickers; horizons beside each other."""
    horizons = list(dict.fromkeys(row["horizon"] for row in results["rows"]))
    lines: dict[tuple[str, ...], dict[int, str]] = {}
    for row in results["rows"]:
        cell = _percent(row["skill"], row["dm_p"])
        lines.setdefault((row["model"], row["context"] or "-", row["tickers"]), {})[row["horizon"]] = cell
    cells = [[*key, *(by[h] for h in horizons)] for key, by in lines.items()]
    return Table(["model", "context", "tickers", *(f"h = {h}" for h in horizons)], cells)


def detail_table(results: Mapping[str, Any]) -> Table:
    return Table.of(
        results["rows"],
        {
            "model": lambda row: row["model"],
            "context": lambda row: row["context"] or "-",
            "tickers": lambda row: row["tickers"],
            "h": lambda row: str(row["horizon"]),
            "no crash": lambda row: _percent(row["skill_without_crash"], row["dm_p_without_crash"]),
            f"over {STRONG}": lambda row: _percent(row["vs_har"]["skill"], row["vs_har"]["p"]),
            "in 80 %": lambda row: number(row["coverage_80"], ".3f"),
            "RankIC (t)": lambda row: f"{number(row['rank_ic'], '.3f')} ({number(row['rank_ic_t'], '.1f')})",
        },
    )


def joint_table(results: Mapping[str, Any]) -> Table:
    return Table.of(
        results["joint"],
        {
            "model": lambda row: row["model"],
            "context": lambda row: row["context"],
            "h": lambda row: str(row["horizon"]),
            "RPS, joint": lambda row: number(row["joint"], ".5f"),
            "independent": lambda row: number(row["independent"], ".5f"),
            "p": lambda row: number(row["dm_p"], ".3f"),
        },
    )


def note(results: Mapping[str, Any]) -> str:
    """What the tables are of, in words."""
    start, end = results["period"]
    seen = [name for name, one in results["out_of_sample"].items() if one is False]
    looks = ", ".join(f"{name} {count}" for name, count in results["looks"].items())
    return (
        f"{len(results['tickers'])} tickers ({len(results['unseen'])} unseen), every bar from {start} to {end} an "
        f"origin. Skill: CRPS saved against {REFERENCE}, in percent; in brackets p of Diebold and Mariano over dates. "
        f"Crash: {' to '.join(results['crash'])}. Looks at these dates so far: {looks}."
        + (f" NOT out of sample: {', '.join(seen)}." if seen else "")
        + (f" Left out: {'; '.join(results['left_out'])}." if results["left_out"] else "")
    )


def markdown(results: Mapping[str, Any]) -> str:
    tables = (make(results).markdown() for make in (main_table, detail_table, joint_table))
    return "\n\n".join([*tables, note(results)]) + "\n"


def _percent(skill: float | None, p: float | None = None) -> str:
    return number(skill, ".2f", 100) + ("" if p is None else f" ({number(p, '.3f')})")


@one_line_errors(BY)
def main(arguments: list[str] | None = None) -> int:
    (args,) = Parser(Arguments, prog=BY, description=__doc__).parse_args_and_config(arguments)
    results = run(args)
    console = Console()
    console.print(main_table(results).terminal(title="CRPS saved, %"))
    console.print(joint_table(results).terminal(title="quintiles of returns"))
    console.print(note(results), soft_wrap=True)
    if args.json is not None:
        write_json(results, args.json)
    if args.markdown is not None:
        write_text(markdown(results), args.markdown)
    return 0


if __name__ == "__main__":
    main()

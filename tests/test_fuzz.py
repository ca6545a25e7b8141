"""Seeded inputs of the kinds that people bring, and that somebody hostile would: files, folders, options, YAML.

Whatever it is, a command answers within seconds, or ends in one line with exit code 1 or 2: no traceback, no hang. Of
a price file every row is kept or reported, every ticker answered or named, and dates and closes that were read are
those that were written; else the file is refused.

`FUZZ_N=5000 FUZZ_SEED=7 pytest tests/test_fuzz.py` tries more of them. A failure names the seed and the case, which
`FUZZ_ONLY=123` runs alone. `KINDS` is the table of all kinds: a new one is a row there.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tsf_llm.common.errors import one_line_errors
from tsf_llm.data_prep.clean import clean_bars
from tsf_llm.data_prep.sources import read_bars, read_raw
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving import cli
from tsf_llm.train_scripts import ablate, build_preferences, compress, distill, dpo, grpo, lora, push, sentiment, sft

spec = importlib.util.spec_from_file_location("written_prices", Path(__file__).with_name("written_prices.py"))
written_prices = sys.modules["written_prices"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(written_prices)
PriceFile = written_prices.PriceFile

SAVED = Path(__file__).parent / "fixtures" / "saved"
SEED, COUNT = int(os.environ.get("FUZZ_SEED", "0")), int(os.environ.get("FUZZ_N", "500"))
ONLY = os.environ.get("FUZZ_ONLY")
SECONDS = 20  # of one case, on a busy machine


class Hang(BaseException):
    """A case took too long."""


@dataclass
class Case:
    """One input: where it lies, and the words of the command that reads it."""

    rng: np.random.Generator
    folder: Path
    source: Path  # the folders to break, read only
    said: str = ""  # what was done to the input

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]


@dataclass
class Answer:
    code: int
    out: str
    err: str


def ask(call: Callable[[], Any]) -> Answer:
    """Runs a command in this process.

    Raises AssertionError if it ends otherwise than commands do."""
    out, err = io.StringIO(), io.StringIO()
    code, broken = 0, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), alarm(SECONDS):
        try:
            call()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except Hang:
            broken = f"hangs: more than {SECONDS} seconds"
        except Exception:  # that is what is looked for
            broken = traceback.format_exc(limit=-4)
    assert not broken, broken
    assert code in (0, 1, 2), code
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return Answer(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tsf_llm(*words: Any) -> Answer:
    def call() -> None:
        before, sys.argv = sys.argv, ["tsf-llm", *map(str, words)]
        try:
            cli.main()
        finally:
            sys.argv = before

    return ask(call)


def script(module: Any, *words: Any, only_parse: bool = False) -> Answer:
    def call() -> None:
        with one_line_errors("script"):
            arguments = module.parse([str(word) for word in words])
            if not only_parse:
                module.main(*arguments)

    return ask(call)


# --- folders: a small one, spoiled ----------------------------------------------------------------------------------

VALUES = [None, True, False, 0, 1, -1, 3.5, 1e30, -1e300, float("nan"), float("inf"), 10**9, 10**18, 10**30]
VALUES += [
    "",
    "x",
    "../../etc/passwd",
    "\x1b[31m",
    "é" * 300,
    [],
    [None],
    [[]],
    [1, 2],
    ["x"],
    {},
    {"a": 1},
    {"a": {}},
]


def places(content: Any, at: tuple = ()) -> Iterator[tuple]:
    """The paths of all values of a JSON, but for few of a long list."""
    pairs = (
        content.items() if isinstance(content, dict) else enumerate(content[:3]) if isinstance(content, list) else ()
    )
    for key, value in pairs:
        yield (*at, key)
        yield from places(value, (*at, key))


def set_at(content: Any, place: tuple, value: Any) -> None:
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = value


def drop_at(content: Any, place: tuple) -> None:
    for key in place[:-1]:
        content = content[key]
    del content[place[-1]]


def spoil_value(case: Case, path: Path) -> str:
    """One value of a JSON file becomes another, or is gone."""
    content = json.loads(path.read_text())
    known = list(places(content))
    top = [place for place in known if len(place) == 1]
    for _ in range(case.pick(1, 1, 2)):
        place = (top if case.rng.random() < 0.5 else known)[0:]
        place = place[int(case.rng.integers(len(place)))]
        value = VALUES[int(case.rng.integers(len(VALUES)))]
        with contextlib.suppress(KeyError, IndexError, TypeError):
            if case.rng.random() < 0.25:
                drop_at(content, place)
                case.said += f" {path.name} without {place};"
            else:
                set_at(content, place, value)
                case.said += f" {path.name} {place} = {str(value)[:40]!r};"
    path.write_text(json.dumps(content))
    return case.said


TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[: len(raw) // 2],
    "list": lambda raw: b"[1, 2]",
    "text": lambda raw: b'"text"',
    "number": lambda raw: b"12",
    "null": lambda raw: b"null",
    "empty object": lambda raw: b"{}",
    "nested list": lambda raw: b"[" * 50_000,
    "nested object": lambda raw: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "NaN": lambda raw: b"NaN",
    "utf-16": lambda raw: raw.decode("latin-1").encode("utf-16"),
    "bom": lambda raw: b"\xef\xbb\xbf" + raw,
    "bytes": lambda raw: bytes(range(256)),
    "twice": lambda raw: raw.replace(b"{", b'{"model_type": "x", "model_type": 3,', 1),
    "huge": lambda raw: b'{"a": "' + b"x" * 3_000_000 + b'"}',
    "digits": lambda raw: b'{"format": ' + b"9" * 5000 + b"}",
    "listed": lambda raw: b"[" + raw + b"]",
}


def spoil_text(case: Case, path: Path) -> None:
    how = case.pick(*TEXTS)
    path.write_bytes(TEXTS[how](path.read_bytes()))
    case.said += f" {path.name} {how};"


def spoil_file(case: Case, path: Path) -> None:
    """Another thing in its place, or nothing."""
    how = case.pick("gone", "folder", "link to itself", "pickle", "pipe")
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "link to itself":
        path.symlink_to(path.name)
    elif how == "pickle":
        torch.save({"a": torch.zeros(2)}, path.with_suffix(".bin"))
    elif how == "pipe":
        os.mkfifo(path)
    case.said += f" {path.name} {how};"


def spoil_weights(case: Case, path: Path) -> None:
    raw, how = (
        path.read_bytes(),
        case.pick("cut", "header", "shape", "missing", "dtype", "nan", "more", "long", "index"),
    )
    case.said += f" {path.name} {how};"
    if how == "cut":
        return void(path.write_bytes(raw[: int(case.rng.integers(len(raw)))]))
    if how == "long":
        return void(path.write_bytes((2**60).to_bytes(8, "little") + raw[8:]))
    if how == "header":
        return void(path.write_bytes(raw[:8] + b"\xff{" + raw[10:]))
    if how == "index":
        names = case.pick({}, [], None, {"a": "/etc/passwd"}, {"a": "../x.safetensors"}, {"a": 3}, {"a": path.name})
        path.with_name(f"{path.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
        return void(path.unlink() if names != {"a": path.name} else None)
    tensors = load_file(path)
    name = case.pick(*sorted(tensors))
    if how == "shape":
        tensors[name] = np.zeros(case.pick((0,), (1,), (3, 3, 3, 3), (10_000,)), np.float32)
    elif how == "missing":
        del tensors[name]
    elif how == "dtype":
        tensors[name] = tensors[name].astype(case.pick(np.int64, np.float16, np.uint8, np.float64))
    elif how == "nan":
        tensors[name] = np.full_like(tensors[name], np.nan if tensors[name].dtype.kind == "f" else 0)
    else:
        tensors["another"] = np.zeros(5, np.float32)
    save_file(tensors, path, metadata={"format": "pt"})
    return None


def void(_: Any) -> None:
    """So that a branch can end in one line."""


def spoiled(case: Case, kind: str) -> Path:
    """A copy of one of the small folders with one or two things wrong."""
    folder = case.folder / kind
    shutil.copytree(case.source / kind, folder)
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".parquet", ".jsonl")
    )
    for path in case.rng.permutation(files)[: case.pick(1, 1, 1, 2)]:  # each once: a broken one cannot be read again
        if path.suffix == ".json":
            case.pick(spoil_value, spoil_value, spoil_value, spoil_text, spoil_file)(case, path)
        elif path.suffix == ".safetensors":
            case.pick(spoil_weights, spoil_weights, spoil_text, spoil_file)(case, path)
        else:
            case.pick(spoil_text, spoil_file)(case, path)
    return folder


def try_model(case: Case) -> None:
    folder = spoiled(case, case.pick("causal", "causal", "adapter", "int8", "head"))
    command = case.pick("forecast", "forecast", "forecast", "evaluate", "adapt", "push", "sft")
    case.said += f" {command}"
    data, out = case.source / "bars.csv", case.folder / "out"
    use_model(command, folder, data, out)


def use_model(command: str, folder: Path, data: Path, out: Path) -> None:
    if command == "forecast":
        answer = tsf_llm("forecast", "--model", folder, "--data", data, "--horizon", 2, "--out", out, "--samples", 4)
        assert (answer.code == 0) == out.exists(), answer.err
    elif command == "evaluate":
        period = ("--start", "2016-06-01", "--end", "2016-06-30", "--samples", 4)
        tsf_llm("evaluate", "--model", folder, "--data", data, "--horizon", 2, "--out", out, *period)
    elif command == "adapt":  # refused for its rank, but only after the model was opened
        options = ("--ticker", "AAA", "--rank", -1)
        tsf_llm("adapt", "--model", folder, "--data", data, "--out", out, *options)
    elif command == "push":
        script(push, "--model", folder, "--repo_id", "org/name", "--base", "org/base", "--dry_run")
    else:
        script(
            sft,
            "--model_name_or_path",
            folder,
            "--data",
            data,
            "--output_dir",
            out,
            "--horizon",
            2,
            "--max_steps",
            0,
            "--report_samples",
            0,
            only_parse=True,
        )


def try_dataset(case: Case) -> None:
    folder = spoiled(case, "prepared")
    if case.rng.random() < 0.5:
        case.said += " push"
        script(push, "--dataset", folder, "--repo_id", "org/name", "--dry_run")
    else:
        case.said += " prepare"
        tsf_llm("prepare", "--data", case.source / "bars.csv", "--out", folder, "--horizon", 2)


# --- price files: what is read is what was written -------------------------------------------------------------------


def try_prices(case: Case) -> None:
    file = written_prices.write_prices(case.rng, case.folder)
    case.said = f" {file.path.name} {file.said}"
    for reader in (read_strictly, read_and_clean):
        bars, refusal = refused(lambda reader=reader: reader(file))
        assert not (refusal and file.sure), f"{reader.__name__} refuses: {refusal}"
        if bars is not None:
            compare(file, bars, reader.__name__)
    if case.rng.random() < 0.1:
        forecast_all(case, file)


def refused(read: Callable[[], Any]) -> tuple[Any, str]:
    """What it reads, or why not: in one line."""
    try:
        with alarm(SECONDS):
            return read(), ""
    except (ValueError, OSError) as error:
        line = str(error)
        assert 0 < len(line) < 2000, f"no line: {line[:300]!r}"
        assert "\n" not in line, f"several lines: {line[:300]!r}"
        return None, line
    except Hang:
        raise AssertionError(f"hangs: more than {SECONDS} seconds") from None
    except Exception:
        raise AssertionError(traceback.format_exc(limit=-4)) from None


def read_strictly(file: Any) -> pd.DataFrame:
    bars = read_bars(file.path)
    skipped = bars.attrs["skipped"]
    assert not (skipped and file.sure), skipped
    skipped = [name.removesuffix(written_prices.COMPANY) for name in skipped]
    held = file.truth.loc[~file.truth["ticker"].isin(skipped), "ticker"]
    assert len(bars) == len(held) or file.spoiled, f"{len(held) - len(bars)} of {len(held)} rows are gone"
    return bars


def read_and_clean(file: Any) -> pd.DataFrame:
    bars, report = clean_bars(read_raw(file.path))
    assert report["rows_in"] == file.rows, f"{report['rows_in']} rows in, {file.rows} written"
    assert report["rows_in"] == report["bars"] + report["missing_bars"] + report["rows_dropped"]
    assert len(bars) == report["bars"] + report["missing_bars"]
    lost = file.truth["close"].notna().sum() - report["bars"]
    assert lost <= len(file.damaged), f"{lost} good bars are lost: {report['rules']}"
    return bars


def named_as_written(bars: pd.DataFrame) -> pd.DataFrame:
    """Where no column is of tickers, one of companies names them."""
    return bars.assign(ticker=bars["ticker"].str.removesuffix(written_prices.COMPANY))


def compare(file: Any, bars: pd.DataFrame, reader: str) -> None:
    """Every bar is one that was written, with its close; of spoiled rows a close may be missing, or zero."""
    known = file.truth.set_index(["ticker", "timestamp"])["close"]
    read = named_as_written(bars).set_index(["ticker", "timestamp"])["close"]
    damaged = pd.MultiIndex.from_tuples(file.damaged, names=known.index.names) if file.damaged else known.index[:0]
    strange = read.index.difference(known.index).difference(damaged)
    assert not len(strange), f"{reader}: {len(strange)} of {len(read)} bars were never written, as {strange[0]}"
    assert read.index.is_unique, f"{reader}: a bar comes twice"
    whole = read[~read.index.isin(damaged)]
    wrong = whole[~np.isclose(whole, known.loc[whole.index], rtol=1e-9, atol=0, equal_nan=True)]
    assert not len(wrong), f"{reader}: {len(wrong)} closes, as {wrong.index[0]}: {wrong.iloc[0]}"
    spoiled = read[read.index.isin(damaged)]
    right = np.isclose(spoiled, known.reindex(spoiled.index), rtol=1e-9, equal_nan=True)
    assert (right | spoiled.isna() | (spoiled == 0)).all(), f"{reader}: a spoiled row got a close"


def forecast_all(case: Case, file: Any) -> None:
    """Each ticker is answered, or named with the reason."""
    case.said += " forecast"
    out = case.folder / "out.csv"
    options = ("--horizon", 2, "--samples", 4, "--out", out)
    answer = tsf_llm("forecast", "--model", case.source / "causal", "--data", file.path, *options)
    assert answer.code in (0, 2), answer
    assert answer.code == 0 or answer.err.count("error:") == 1, answer.err
    if answer.code == 0:
        answered = pd.read_csv(out, dtype=str, keep_default_na=False)["ticker"].str.removeprefix("'").nunique()
        told = re.search(r", (\d+) skipped", answer.out)
        tickers = file.truth["ticker"].nunique()
        assert answered + int(told[1] if told else 0) == tickers, f"{answered} of {tickers}: {answer.out} {answer.err}"


# --- options and YAML -----------------------------------------------------------------------------------------------

DATES = ["2016-06-01", "2016-06-10 15:30", "2016-06-10T16", "20160610", "2016", "2016-06", "now", "01/02/2016", "0"]
DATES += ["2016-06-10T16:00Z", "2016-06-10T00:00:00+09:00", "1600-01-01", "9999-12-31", "2016-02-30", "1465516800"]
COUNTS = [0, 1, 2, 3, -1, 10**6, 10**12, 10**30, "1e3", "2.5", "", "nan", "inf", "two", "0x2", "1_0", " 2", "\u0662"]
WORDS = ["", " ", "x", "AAA", "aaa", "AAA,BBB", ",", "AAA,,BBB", "*", "--", "-1", "\x1b[31m", "é" * 300, "a\0b", "%s"]
OUTS = ["", ".", "a\0b", "x" * 300, "\x1b[31m", "out.csv/b.csv", "a.csv.zip", "-", "none/deeper/out.csv", "C:\\x.csv"]
PATHS = [*OUTS, "..", "/", "~nobody/x", "/dev/null", "/etc/passwd", "/proc/self/mem", "http://x/y.csv", "hf:"]
GOOD_OUTS = ["a.csv", "a.parquet", "none/a.csv", "é\n.csv", "a.CSV"]
CALENDARS = ["XNYS", "24/7", "XBOM", "xnys", "", "NOPE", "../x", "é", "24/5", "XNYS,XBOM", "us_futures", "x" * 300]
ORDERS = ["dmy", "mdy", "ymd", "point", "comma", "DMY", "", "dd/mm", "xyz"]
COMMANDS: dict[str, dict[str, list[Any]]] = {  # what may be asked of each beside --model, --data and --out
    "forecast": {"horizon": COUNTS, "samples": COUNTS, "as-of": DATES, "calendar": CALENDARS, "plot": OUTS},
    "evaluate": {"horizon": COUNTS, "samples": COUNTS, "start": DATES, "end": DATES, "stride": COUNTS},
    "clean": {"covariates": WORDS},
    "describe": {},
    "audit": {"cuts": ["1", "0", "-1", "x", ""], "features": PATHS, "past-covariates": WORDS},
    "prepare": {"groups": WORDS, "horizon": COUNTS, "bins": COUNTS, "scaling": WORDS, "train-through": DATES},
    "adapt": {"train-through": DATES, "valid-through": DATES, "config": PATHS},
    "convert": {"layout": WORDS, "num-heads": COUNTS},
}
SHARED: dict[str, list[Any]] = {"ticker": WORDS, "id": WORDS, "time": WORDS, "dates": ORDERS, "decimal": ORDERS}
MODELS = {"forecast", "evaluate", "audit", "adapt"}
GIVEN = {"horizon": 2, "samples": 4, "start": "2016-06-01", "end": "2016-06-30", "cuts": 1}


def try_options(case: Case) -> None:
    """Mostly valid options, with one or two that are not, or no more than odd."""
    command = case.pick("forecast", "forecast", "evaluate", *COMMANDS)
    known = COMMANDS[command]
    words: dict[str, Any] = {name: GIVEN[name] for name in known if name in GIVEN}
    choices = {**known, **({} if command == "convert" else SHARED)}
    out = case.folder / {"forecast": "out.csv", "clean": "out.parquet"}.get(command, "out")
    words |= {"data": case.source / "bars.csv", "out": out}
    words |= {"model": case.source / "causal"} if command in MODELS else {}
    words |= {"rank": -1, "ticker": "AAA"} if command == "adapt" else {}
    for name in case.rng.permutation([*choices, "data", "out", "model"]).tolist()[: case.pick(1, 1, 2, 3)]:
        if name in choices or name in words:
            words[name] = case.pick(*choices.get(name, [*OUTS, *GOOD_OUTS] if name == "out" else PATHS))
    if command == "adapt":
        words["rank"] = -1  # refused, but only after the rest was read
    if command == "prepare":
        words["context-length"] = 16
        words.setdefault("groups", "returns")
    if command == "audit":
        del words["out"]
    first = [words.pop("data"), words.pop("out")] if command == "convert" else []
    case.said = f" {command} {first} {words}"
    listed = [str(part) for name, value in words.items() for part in (f"--{name}", value)]
    with contextlib.chdir(case.folder):  # what is written to a bare name is written here
        answer = tsf_llm(command, *first, *listed)
    if answer.code == 2:
        told = [line for line in answer.err.splitlines() if "error" in line.lower()]
        assert told, f"refused without a word: {answer}"
        assert answer.err.isprintable() or "\x1b" not in answer.err, answer.err
    if command == "forecast" and answer.code == 0:
        assert (case.folder / words["out"]).is_file(), f"nothing written: {answer}"


YAMLS: list[Any] = [
    *(
        "",
        "[]",
        "1",
        "text",
        "null",
        "- a\n- b",
        "1: 2",
        "true: x",
        "2024-01-31: x",
        "null: 1",
        "? [a]\n: 1",
        "a: b: c",
    ),
    *("a: &x [*x]", "a: &x {b: *x}", "<<: {seed: 1}", "<<: 3", "seed: !!python/object/apply:os.system ['true']"),
    *("seed: !unknown 3", "seed: !!binary aGVsbG8=", "seed: !!set {a, b}", "%YAML 9.9\n---\nseed: 1", "\tseed: 1"),
    *(
        "seed: 1\nseed: 2",
        "--- {seed: 1}\n--- {seed: 2}",
        "seed: 'x",
        "[" * 5000,
        "{a: " * 5000,
        "a: " + "[" * 300 + "]" * 300,
    ),
    "\n".join([f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 1}]" for i in range(12)]),
    *(b"\xff\xfe\x00", b"seed: \x00", bytes(range(256)), "\ufeffseed: 1".encode(), "seed: 1".encode("utf-16")),
    *("seed: 1" + "0" * 5000, "x" * 100_000, "seed: " + "9" * 400, "output_dir: " + "a" * 100_000, "seed: 1e400"),
]
OF_YAML: list[Any] = [*VALUES, "2024-01-31", "1e-4", "true", "3.5", "-1", [1, "x", None], "a\nb", "&", "*", {"a": [1]}]
SCRIPTS = (sft, push, ablate, build_preferences, compress, distill, dpo, grpo, lora, sentiment)

REQUIRED: dict[Any, tuple[str, ...]] = {
    push: ("--repo_id", "org/name", "--model", "x", "--base", "x"),
    build_preferences: ("--model", "x", "--data", "x", "--out", "x"),
    compress: ("--model", "x", "--output_dir", "x"),
    sentiment: ("--data", "x", "--output_dir", "x"),
    sft: ("--output_dir", "x"),
    ablate: ("--output_dir", "x"),
}


def try_yaml(case: Case) -> None:
    """For the parser of one of the scripts: what it accepts has the types that the script declares."""
    module = case.pick(*SCRIPTS)
    path = case.folder / case.pick("a.yaml", "a.yaml", "a.yml", "é.yaml", "a b.txt")
    if case.rng.random() < 0.35:
        content = case.pick(*YAMLS)
    else:
        names = [one.name for kind in kinds_of(module) for one in fields(kind) if one.init]
        chosen = [case.pick(*names) for _ in range(case.pick(1, 1, 2, 3))]
        content = json.dumps({name: case.pick(*OF_YAML) for name in chosen})
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    case.said = f" {module.__name__.rsplit('.', 1)[-1]} {content[:300]!r}"
    required = REQUIRED.get(module, ("--model_name_or_path", "x", "--output_dir", "x"))
    found: list[Any] = []

    def read() -> None:
        with one_line_errors("script"):
            found.extend(module.parse(["--config", str(path), *required]))

    answer = ask(read)
    if answer.code == 2:
        assert len(answer.err.strip().splitlines()) == 1, answer.err
        assert "\x1b" not in answer.err, answer.err
    for one in found:
        kinds = get_type_hints(type(one))
        plain = {name: getattr(one, name) for name, kind in kinds.items() if kind in (bool, int, float, str)}
        wrong = {name: value for name, value in plain.items() if not isinstance(value, kinds[name] | int)}
        assert not wrong, f"{wrong} went through"


def kinds_of(module: Any) -> list[Any]:
    return [one for name, one in get_type_hints(module.main).items() if name != "return"]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small folder of each kind, and bars."""
    target = tmp_path_factory.mktemp("source")
    build_source(target)
    return target


def build_source(target: Path) -> None:
    shutil.copy(SAVED / "bars.csv", target / "bars.csv")
    processor = TsfLlmProcessor.from_pretrained(SAVED / "causal")
    causal = TsfLlmForCausalLM.from_pretrained(SAVED / "causal")
    head = TsfLlmForPrediction(causal.config.__class__(**{**causal.config.to_dict(), "prediction_type": "quantile"}))
    for name, model in {"causal": causal, "head": head}.items():
        model.save_pretrained(target / name)
        processor.save_pretrained(target / name)
    for name in ("adapter", "int8"):
        shutil.copytree(SAVED / name, target / name)
    adapter = target / "adapter" / "adapter_config.json"
    fields = json.loads(adapter.read_text()) | {"base_model_name_or_path": str(target / "causal")}
    adapter.write_text(json.dumps(fields))
    for path in target.rglob("outputs.safetensors"):
        path.unlink()
    with contextlib.redirect_stdout(io.StringIO()):
        prepared = ("--data", target / "bars.csv", "--out", target / "prepared", "--horizon", 2, "--bins", 32)
        answer = tsf_llm("prepare", *prepared, "--groups", "returns", "--context-length", 16)
    assert answer.code == 0, answer.err


KINDS: dict[str, tuple[Callable[[Case], None], float]] = {  # what tries them, and their share
    "price files": (try_prices, 0.3),
    "model folders": (try_model, 0.25),
    "datasets": (try_dataset, 0.07),
    "options": (try_options, 0.2),
    "YAML": (try_yaml, 0.18),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_is_answered_or_refused_in_one_line(source: Path, tmp_path: Path, kind: str) -> None:
    attempt, share = KINDS[kind]
    failures, started = [], time.monotonic()
    for i in [int(ONLY)] if ONLY else range(round(share * COUNT)):
        case = Case(np.random.default_rng([SEED, zlib.crc32(kind.encode()), i]), tmp_path / str(i), source)
        case.folder.mkdir()
        try:
            attempt(case)
        except AssertionError as error:
            failures.append(f"{kind}, seed {SEED}, case {i}:{case.said}\n{error}")
        shutil.rmtree(case.folder)
    spent = time.monotonic() - started
    assert not failures, f"{len(failures)} of {i + 1} in {spent:.0f} s:\n" + "\n".join(failures[:20])

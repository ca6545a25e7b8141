"""What is ours, what is not, and what every command does about it."""

import errno
import json
import os
import sys

import pandas as pd
import pytest

from tsf_llm.common.errors import one_line_errors
from tsf_llm.common.files import (
    adopt,
    check_apart,
    check_folder,
    check_ours,
    check_output,
    claim,
    has_keys,
    remove,
    replace_file,
    replace_folder,
    write_csv,
    write_table,
    write_tables,
    written,
)
from tsf_llm.serving import cli
from tsf_llm.train_scripts import ablate, sentiment, sft
from tsf_llm.training import checkpoints

ADDED = ".tsf_llm.json"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_what_was_claimed_is_removed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    claim(tmp_path, ["data/a", "b"], by="one")
    for name in ("data/a", "b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove(tmp_path, ["mine.txt", "b"], by="two")
    remove(tmp_path, ["mine.txt", "b"], by="one")
    assert set(contents(tmp_path)) == {
        (tmp_path / name).relative_to(tmp_path) for name in ("mine.txt", "data/a", ADDED)
    }
    assert written(tmp_path) == {"data/a": "one"}
    with pytest.raises(ValueError, match=r"data/a was written by one and stands where two writes: move it away"):
        claim(tmp_path, ["data/*"], by="two")
    with pytest.raises(ValueError, match=r"mine\.txt was not written by this package"):
        check_ours(tmp_path, by="one")


def test_a_link_is_a_file_of_somebody_else(tmp_path):
    (tmp_path / "report.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not written by this package"):
        claim(tmp_path, ["report.json"], by="one")


def test_a_manifest_speaks_of_its_own_folder(tmp_path):
    """Whoever got it from somewhere else loses nothing."""
    (tmp_path / "mine.txt").touch()
    adopt(tmp_path / "out", ["data/../../mine.txt", str(tmp_path / "mine.txt"), "a"], by="one")
    assert set(written(tmp_path / "out")) == {"a"}
    remove(tmp_path / "out", ["data/../../mine.txt", str(tmp_path / "mine.txt")], by="one")
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize("content", ['{"files": ', "[" * 50_000, '{"a":' * 50_000])
def test_a_torn_manifest_is_no_permission(tmp_path, content):
    (tmp_path / ADDED).write_text(content)
    assert not has_keys(tmp_path / ADDED, ["files"])
    with pytest.raises(ValueError, match="does not say which files are ours"):
        claim(tmp_path, ["report.json"], by="one")


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    def write(name):
        return lambda folder: (folder.mkdir(), (folder / name).touch())

    replace_folder(tmp_path / "out", write("a"), by="one")
    replace_folder(tmp_path / "out", write("b"), by="one")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b", ADDED}
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ValueError, match="mine was not written by this package"):
        replace_folder(tmp_path / "out", write("c"), by="one")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("out", "source"), [("a", "a"), ("a/b", "a"), ("a", "a/b"), ("link/b", "a"), ("a", "hf:link")]
)
def test_apart(tmp_path, monkeypatch, out, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match="which is read"):
        check_apart(out, None, ["sample", source])
    check_apart("c", source, "sample", "hf:org/name", "", "hf:")  # the empty text is not the folder one stands in


def test_a_file_may_be_read_from_where_named_files_are_written(tmp_path):
    source = tmp_path / "prices.csv"
    source.touch()
    check_apart(tmp_path, source)
    for out, whole in ((tmp_path, True), (source, False)):
        with pytest.raises(ValueError, match="which is read"):
            check_apart(out, source, whole=whole)


# Every command


@pytest.fixture
def run(monkeypatch, capsys):
    """The exit code, standard output and error of `tsf-llm`."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tsf-llm", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def prices(make_bars, tmp_path):
    path = tmp_path / "prices" / "prices.csv"
    path.parent.mkdir()
    make_bars(60).to_csv(path, index=False)
    return path


COMMANDS = {  # words, and a file that the command would write
    "describe": (("describe",), "describe.json"),
    "leak": (("leak",), "leak.png"),
    "quickstart": (("quickstart", "--dataset"), "results.json"),
    "prepare": (("prepare",), "README.md"),
}


def words(name, data, out):
    given, _ = COMMANDS[name]
    return [*given, *(() if "--dataset" in given else ("--data",)), data, "--out", out]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_leaves_alone_what_it_did_not_write(run, prices, tmp_path, name):
    foreign = tmp_path / "out" / COMMANDS[name][1]
    foreign.parent.mkdir()
    foreign.write_text("mine")
    before = contents(tmp_path)
    code, _, error = run(*words(name, prices, tmp_path / "out"))
    assert code == 2
    assert f"{foreign} was not written by this package" in error
    assert "move it away" in error
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("out", ["", "out"])
def test_a_command_writes_nothing_into_what_it_reads(run, prices, tmp_path, name, out):
    code, _, error = run(*words(name, prices.parent, prices.parent / out))
    assert code == 2
    assert "which is read" in error
    assert [path.name for path in prices.parent.iterdir()] == ["prices.csv"]


def test_describe_replaces_its_own(run, prices, tmp_path):
    """With a manifest, and by what it says, if there is none."""
    for _ in range(2):
        assert run("describe", "--data", prices, "--out", tmp_path / "out")[0] == 0
    (tmp_path / "out" / ADDED).unlink()
    assert run("describe", "--data", prices, "--out", tmp_path / "out")[0] == 0


@pytest.mark.parametrize("out", ["prices/prices.parquet", "prices/clean.parquet", "other/out.parquet"])
def test_clean(run, prices, tmp_path, out):
    """The file that was named is replaced, but not what is read; `cleaning.json` only if it is one."""
    pd.read_csv(prices, parse_dates=["timestamp"]).to_parquet(prices.with_suffix(".parquet"))
    prices.unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cleaning.json").write_text("mine")
    before = contents(tmp_path)
    assert run("clean", "--data", prices.parent, "--out", tmp_path / out)[0] == 2
    assert contents(tmp_path) == before
    for _ in range(2):
        assert run("clean", "--data", prices.parent, "--out", tmp_path / "new" / "out.parquet")[0] == 0


def test_forecast_does_not_replace_the_prices(run, prices):
    before = prices.read_bytes()
    code, _, error = run("forecast", "--model", "none/such", "--data", prices, "--horizon", 2, "--out", prices)
    assert code == 2
    assert "which is read" in error
    assert prices.read_bytes() == before


@pytest.mark.parametrize(
    "foreign", ["config.json", "model.safetensors", "report.json", "checkpoint-5/mine", "earlier/x"]
)
def test_trainings(prices, tmp_path, foreign, capsys):
    path = tmp_path / "out" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = contents(tmp_path)
    given = ["--data", str(prices), "--output_dir", str(tmp_path / "out")]
    for script, more in ((sft, []), (sentiment, ["--encoder", "org/none"])):
        with pytest.raises(SystemExit) as stop, one_line_errors("it"):
            script.main(*script.parse([*given, *more]))
        assert stop.value.code == 2
        assert "was not written by this package" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_trainings_lie_apart(prices, tmp_path):
    for script in (sft, ablate):
        with pytest.raises(ValueError, match="which is read"):
            script.main(*script.parse(["--data", str(prices.parent), "--output_dir", str(prices.parent / "out")]))
    assert [path.name for path in prices.parent.iterdir()] == ["prices.csv"]


def test_a_training_without_manifest_is_known_by_its_report(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="not written by this package"):
        checkpoints.check_folder(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"version": "1", "commit": None, "head": "causal_lm"}))
    checkpoints.check_folder(tmp_path)
    assert written(tmp_path)["model*.safetensors"] == "training"


def test_an_output_is_checked_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.csv").mkdir()
    for name, says in {
        "folder.csv": r"folder.csv is a folder, .* name one, as .*folder.csv/name.csv",
        "a.xlsx": r"a.xlsx must end in .csv or .parquet",
        "file/a.csv": r"file is a file, and a folder is to be written",
        "file/more/a.csv": r"file is a file, and a folder is to be written",
    }.items():
        with pytest.raises(ValueError, match=says):
            check_output(tmp_path / name, ".csv", ".parquet")
    check_output(tmp_path / "new" / "a.PARQUET", ".csv", ".parquet")
    with pytest.raises(ValueError, match="file is a file, and a folder"):
        check_folder(tmp_path / "file")


def test_a_table_is_written_as_its_name_says(tmp_path):
    frame = pd.DataFrame({"a": [1.5, 2.5]})
    write_table(frame, tmp_path / "a.csv")
    write_table(frame, tmp_path / "a.Parquet")
    assert (tmp_path / "a.csv").read_text() == "a\n1.5\n2.5\n"
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.Parquet"), frame)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_parts_make_the_table(tmp_path, name):
    table = pd.DataFrame(
        {"ticker": ["=A", "B", "C"], "x": [0.1, 2.0, 1 / 3], "t": pd.bdate_range("2024-01-02", periods=3)}
    )
    write_tables((table.iloc[[i]] for i in range(3)), tmp_path / name)
    write_table(table, tmp_path / f"b{name}")
    if name == "a.csv":
        assert (tmp_path / name).read_bytes() == (tmp_path / f"b{name}").read_bytes()
    else:
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / name), table)

    def torn():
        yield table
        raise ValueError("stopped")

    before = (tmp_path / name).read_bytes()
    with pytest.raises(ValueError, match="stopped"):
        write_tables(torn(), tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_no_text_of_a_csv_is_a_formula(tmp_path):
    names = ["=1+1", "+A", "-A", "@A", "\tA", "\rA", "AAPL", "CL=F", None]
    frame = pd.DataFrame({"ticker": names, "close": [-1.5] * 9, "=x": [1] * 9})
    write_csv(frame, tmp_path / "a.csv")
    back = pd.read_csv(tmp_path / "a.csv")
    assert back["ticker"].tolist()[:8] == ["'=1+1", "'+A", "'-A", "'@A", "'\\tA", "'\\rA", "AAPL", "CL=F"]
    assert list(back.columns) == ["ticker", "close", "'=x"]
    assert back["close"].tolist() == [-1.5] * 9


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_names_the_file(tmp_path, number):
    def write(unfinished):
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=r"a\.csv") as found:
        replace_file(tmp_path / "a.csv", write)
    assert found.value.errno == number
    assert list(tmp_path.iterdir()) == []

"""The one command: a quick run leaves rows and a page, a second one computes nothing; bad input is one clear line."""

import json

import pytest

from tsf_llm.benchmarks import series


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder of a quick run and its page."""
    folder = tmp_path_factory.mktemp("series")
    assert series.main(["--quick", "--out", str(folder / "rows"), "--page", str(folder / "page.md")]) == 0
    return folder


def test_a_quick_run_has_rows_of_every_section_and_a_page_that_says_so(quick):
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in (quick / "rows").glob("[!.]*.json")]
    assert {row["section"] for row in rows} == {*series.SECTIONS}
    text = (quick / "page.md").read_text(encoding="utf-8")
    assert "its figures mean nothing" in text
    assert all(f"\n## {section.title}\n" in text for section in series.SECTIONS.values())


def test_a_second_run_finds_every_row(quick, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in (quick / "rows").glob("[!.]*.json")}
    assert series.main(["--quick", "--out", str(quick / "rows")]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told
    assert all(line.endswith("(kept)") for line in told)
    assert {path.name: path.stat().st_mtime_ns for path in (quick / "rows").glob("[!.]*.json")} == before


def test_stored_computes_nothing(tmp_path):
    page = tmp_path / "page.md"
    assert series.main(["--quick", "--stored", "--out", str(tmp_path / "rows"), "--page", str(page)]) == 0
    assert "No row of it has been computed." in page.read_text(encoding="utf-8")
    assert not (tmp_path / "rows").exists()


def test_the_help_names_every_file_its_source_and_licence(capsys):
    with pytest.raises(SystemExit):
        series.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "ETTh1.csv.gz or ETTh1.csv (etth1): github.com/zhouhaoyi/ETDataset, ETT-small; CC BY-ND 4.0" in told


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--out", "o"], "--data is needed"),
        (["--data", "nowhere", "--out", "o"], "--data nowhere: there is no such folder"),
        (["--quick"], "--out is needed"),
        (["--quick", "--out", "o", "--only", "etth1,moon"], "--only moon: choose of etth1"),
        (["--quick", "--out", "o", "--seeds", "1", "1"], "--seeds 1 1"),
        (["--data", ".", "--out", "o", "--only", "etth1"], "o lies in ."),
    ],
)
def test_bad_input_is_one_line(arguments, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        series.main(arguments)
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_a_file_that_is_not_there_is_told_before_any_work(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit):
        series.main(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "o"), "--only", "etth1"])
    assert "no ETTh1.csv.gz or ETTh1.csv there" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()

"""The benchmark of speed measures what it says; how long anything takes is never asserted."""

import importlib.util
import json
import math

import pytest
import torch

from tsf_llm.benchmarks import contest, speed
from tsf_llm.benchmarks.peers import BOLT, DEEPSEEK, OURS
from tsf_llm.benchmarks.whole_way import PEER


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Results of a quick run and the folder that it wrote them into."""
    folder = tmp_path_factory.mktemp("speed")
    arguments = ["--quick", "--json", str(folder / "speed.json"), "--page", str(folder / "page.md")]
    assert speed.main(arguments) == 0
    return json.loads((folder / "speed.json").read_text(encoding="utf-8")), folder


def is_positive(number):
    return isinstance(number, int | float) and math.isfinite(number) and number > 0


def test_a_quick_run_writes_all_parts_and_nothing_else(quick):
    results, folder = quick
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {"speed.json", "page.md", "images/benchmarks_growth.png"}
    assert set(speed.PARTS) < set(results)
    assert results["versions"]["torch"] == torch.__version__
    assert results["machine"]["threads"] == 1
    assert results["settings"]["seed"] == 0


def test_every_contestant_has_its_measures(quick):
    found = quick[0]["contest"]
    assert set(found["contestants"]) | set(found["absent"]) == set(speed.QUICK)
    for name, one in found["contestants"].items():
        measures = contest.suited(name, speed.Field(model="mini", quick=True))
        assert {key for key in contest.MEASURES if key in one} == set(measures)
        assert all(is_positive(one[key][clock]) for key in measures for clock in ("cpu", "wall"))
        assert is_positive(one["parameters"])
        assert one["peak_mb"] > one["imports_mb"]
    assert is_positive(found["ratios"]["forward"][DEEPSEEK])
    assert is_positive(found["ratios"]["uncached"][DEEPSEEK])
    assert is_positive(found["ratios"]["paths over one path"][OURS])
    assert is_positive(found["gemm_gflops"]["float32"])


def test_the_surroundings_have_figures(quick):
    results, _ = quick
    assert is_positive(results["features"]["windows"]["2"]["cpu"])
    assert results["features"]["columns"][OURS] == 88
    assert (PEER in results["features"]) == (importlib.util.find_spec("pandas_ta_classic") is not None)
    assert is_positive(results["features"]["encoding"]["bars_per_cpu_second"])
    assert is_positive(results["stream"][0]["step"]["all"])
    assert is_positive(results["start"]["tsf-llm --help"]["wall"])
    curves = {name: [one["size"] for one in curve["points"]] for name, curve in results["growth"].items()}
    assert curves == {"context": [128], "history": [256], "series": [16], "paths": [1, 4]}


def test_one_table_has_everything(quick):
    results, _ = quick
    told = speed.table(results)
    assert list(told.headings) == ["CPU time", *results["contest"]["contestants"]]
    titles = [line[0] for line in told.cells]
    assert {"parameters, million", "one path, s", "last window of 2 tickers, ms each"} <= set(titles)
    assert all(len(line) == len(told.headings) for line in told.cells)
    assert speed.ratios(results).headings[1] == DEEPSEEK


def test_a_missing_peer_is_told(quick):
    results = json.loads(json.dumps(quick[0]))
    results["contest"]["absent"] = {BOLT: "pip install chronos-forecasting"}
    assert f"{BOLT} is absent: pip install chronos-forecasting." in speed.notes(results)


def test_parts_alone_are_shown(quick, capsys):
    results = {key: value for key, value in quick[0].items() if key not in ("contest", "growth")}
    speed.show(results, speed.Console())
    assert "bars encoded per second: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--parts", "weather"],
        ["--only", "DeepSeek-V3"],
        ["--only", "Abacus"],
        ["--threads", "0"],
        ["--rounds", "0"],
        ["--device", "abacus"],
        ["--json", "no/such/folder/speed.json"],
        ["--json", "."],
        ["--page", "page.txt"],
        ["--page", "page.md", "--parts", "start"],
        ["--unknown"],
        pytest.param(
            ["--device", "cuda"], marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
        ),
    ],
)
def test_bad_arguments_exit_2_with_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        speed.main(arguments)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert arguments[0] in printed.err or arguments[1] in printed.err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        speed.main(["--help"])
    assert stopped.value.code == 0
    assert "examples:" in capsys.readouterr().out

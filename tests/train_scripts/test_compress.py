"""compress.py: what each copy is, that what is on disk is what was measured, and how it refuses."""

import json
import subprocess
import sys

import pytest

from tsf_llm import quantization_tsf_llm as int8
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.train_scripts import compress

# --- the script ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(prices, command_line):
    """`run(model, output_dir, **options)` -> the report."""

    def call(model, output_dir, **options):
        usual = {"data": prices, "horizon": 2, "stride": 4, "report_samples": 8, "repeats": 1}
        return compress.main(
            *compress.parse(command_line(**{**usual, "model": model, "output_dir": output_dir, **options}))
        )

    return call


@pytest.fixture(scope="module")
def done(run, base_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compressed")
    page = folder / "page.md"
    page.write_text("Before\n<!-- mine -->\nold\n<!-- /mine -->\nAfter\n")
    return folder, run(base_folder, folder, sparsity=["0.5"], markdown=page, marker="mine")


def test_every_copy_is_measured_against_the_original(done, base_folder):
    folder, report = done
    assert json.loads((folder / "compression.json").read_text()) == json.loads(json.dumps(report))
    rows = {row["model"]: row for row in report["rows"]}
    assert list(rows) == ["original", "int8", "prune-0.5", "narrow-0.5", "export"]
    assert rows["original"]["bytes"] == (base_folder / "model.safetensors").stat().st_size
    assert rows["original"]["difference"] is None
    assert rows["original"]["distance"] == 0
    assert report["out_of_sample"] is True
    for name, row in rows.items():
        assert row["forward_ms"] > 0
        assert row["batch_ratio"] > 0
        if name != "export":
            assert row["forecast_ms"] > 0
    for name in ("int8", "prune-0.5", "narrow-0.5"):
        row = rows[name]
        assert row["difference"]["difference"] == pytest.approx(row["crps"] - rows["original"]["crps"], abs=1e-9)
        assert "the original" in row["difference"]["verdict"]
        assert row["distance"] > 0
    assert rows["int8"]["int8_share"] > 0.3 > 0 == rows["original"]["int8_share"]
    assert rows["prune-0.5"]["zero_share"] > 0.2 > rows["original"]["zero_share"]
    assert rows["prune-0.5"]["bytes"] == pytest.approx(rows["original"]["bytes"], rel=0.01)
    assert rows["prune-0.5"]["zipped_bytes"] < 0.9 * rows["original"]["zipped_bytes"]
    assert rows["narrow-0.5"]["parameters"] < rows["original"]["parameters"]
    assert rows["narrow-0.5"]["bytes"] < rows["original"]["bytes"]
    assert rows["export"]["max_error"] < 1e-4


def test_what_is_on_disk_opens_and_forecasts(done, base_folder, make_bars):
    """In another process, by the three lines of the docs; the int8 folder holds no pickle."""
    folder, _ = done
    bars = folder / "bars.csv"
    make_bars(200, ticker="NEW").to_csv(bars, index=False)
    code = (
        "import pandas as pd\n"
        "import tsf_llm.quantization_tsf_llm as int8\n"
        "from tsf_llm.serving.loading import load_pipeline\n"
        f"pipe = load_pipeline({str(folder / 'int8')!r})\n"
        "assert int8.is_int8(pipe.model)\n"
        f"print(pipe(pd.read_csv({str(bars)!r}, parse_dates=['timestamp']), horizon=2, samples=8).shape[0])"
    )
    done_ = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done_.returncode == 0, done_.stderr
    assert done_.stdout.split()[-1] == "2"
    assert {path.suffix for path in (folder / "int8").iterdir()} <= {".json", ".py", ".safetensors"}
    narrow = TsfLlmForCausalLM.from_pretrained(folder / "narrow-0.5")
    assert not int8.is_int8(narrow)
    assert narrow.config.trained_through == TsfLlmForCausalLM.from_pretrained(base_folder).config.trained_through
    assert TsfLlmProcessor.from_pretrained(folder / "prune-0.5").fitted_through is not None
    assert [path.name for path in folder.glob(".*")] == [".tsf_llm.json"]  # nothing unfinished is left


def test_the_table_goes_between_its_markers(done):
    folder, report = done
    page = (folder / "page.md").read_text()
    assert page.startswith("Before\n<!-- mine -->\n| model |")
    assert page.endswith("<!-- /mine -->\nAfter\n")
    assert "old" not in page
    for row in report["rows"]:
        assert f"| {row['model']} | {row['parameters']:,} |" in page
    assert f"int8 ({100 * report['rows'][1]['int8_share']:.0f} % of the weights are int8" in page
    assert report["rows"][1]["difference"]["verdict"] in page


@pytest.mark.parametrize(
    ("out_of_sample", "words"),
    [
        (True, "on dates after those that the model has seen, seed"),
        (False, "on dates some of which the model has seen, seed"),
        (None, "on dates of which it is unknown whether the model has seen them, seed"),
    ],
)
def test_the_caption_says_what_is_known_of_the_dates(done, out_of_sample, words):
    assert words in compress.conditions({**done[1], "out_of_sample": out_of_sample})


def test_a_head_is_asked_for_its_own_horizon(run, train, tmp_path):
    train(tmp_path / "head", num_train_epochs=1, head="classification")
    report = run(tmp_path / "head", tmp_path / "out", horizon=9, methods=["int8"])
    assert (report["head"], report["horizon"]) == ("classification", 2)
    assert [row["difference"] for row in report["rows"]] == [None, None]  # classes are timed and weighed, not scored
    assert report["rows"][1]["distance"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["int4"]}, "int4: choose from int8 prune narrow export"),
        ({"sparsity": ["1.0"]}, "between 0 and 1"),
        ({"repeats": 0}, "repeats=0"),
        ({"data": "nowhere.csv"}, "nowhere.csv"),
        ({"markdown": __file__, "marker": "none"}, "add both markers"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(run, base_folder, tmp_path, options, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        run(base_folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_model_is_not_overwritten_by_its_copy(run, done):
    folder, _ = done
    before = (folder / "narrow-0.5" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="would be overwritten"):
        run(folder / "narrow-0.5", folder, methods=["narrow"], sparsity=["0.5"])
    assert (folder / "narrow-0.5" / "model.safetensors").read_bytes() == before


def test_int8_is_not_compressed_again(run, done, tmp_path):
    with pytest.raises(ValueError, match="int8 already: start from its float32 weights"):
        run(done[0] / "int8", tmp_path / "out")

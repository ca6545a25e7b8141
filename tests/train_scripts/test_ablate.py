"""ablate.py: every variant trained alike, compared on the same origins, and told in words."""

import doctest
import json

import pytest
from transformers import AutoConfig

from tsf_llm.train_scripts import ablate

FRONT_END = {
    "mscnn_channels": 8,
    "t2t_patch_size": 4,
    "t2t_patch_overlap": 2,
    "t2t_hidden_size": 8,
    "t2t_num_heads": 2,
}
OPTIONS = {
    "context_length": 16,
    "horizon": 2,
    "stride": 2,
    "n_bins": 32,
    "report_samples": 8,
    "max_steps": 3,
    "save_strategy": "steps",
    "eval_strategy": "steps",
    "save_steps": 3,
    "eval_steps": 3,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def run(prices, small_model, command_line):
    """`run(output_dir, **options)` -> the report."""

    model = json.dumps({**json.loads(small_model), **FRONT_END})

    def call(output_dir, seeds=("0", "1"), **options):
        chosen = {**OPTIONS, "model_config": model, "data": prices, "output_dir": output_dir, **options}
        return ablate.main(*ablate.parse(command_line(**chosen, seeds=list(seeds))))

    return call


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    return folder, run(folder)


def test_every_variant_gets_the_same_budget(done):
    folder, report = done
    assert json.loads((folder / "ablation.json").read_text()) == json.loads(json.dumps(report))
    rows = {row["model"]: row for row in report["rows"]}
    assert list(rows) == ["base", "+mscnn", "+t2t", "+both"]
    assert {row["steps"] for row in rows.values()} == {3}
    sizes = [row["parameters"] for row in rows.values()]
    assert sizes[0] < min(sizes[1:])
    assert sizes[3] > max(sizes[:3])
    for name, (mscnn, t2t) in {"base": (0, 0), "mscnn": (1, 0), "t2t": (0, 1), "both": (1, 1)}.items():
        for seed in (0, 1):
            config = AutoConfig.from_pretrained(folder / name / f"seed-{seed}", trust_remote_code=True)
            assert (config.use_mscnn, config.use_t2t) == (mscnn, t2t)


def test_differences_are_paired_with_the_base(done):
    _, report = done
    base, *others = report["rows"]
    assert base["verdict"] is None
    assert len(set(base["crps_by_seed"])) == 2
    for row in report["rows"]:
        assert row["crps"] == pytest.approx(sum(row["crps_by_seed"]) / 2)
        assert row["crps_ci95"][0] < row["crps"] < row["crps_ci95"][1]
    for row in others:
        assert row["difference"] == pytest.approx(row["crps"] - base["crps"])
        assert row["verdict"].split(" base")[0] in ("better than", "worse than", "no edge over")


def test_front_end_loss_is_logged_on_its_own(done):
    folder, _ = done
    logs = {}
    for name in ("base", "both"):
        [checkpoint] = (folder / name / "seed-0").glob("checkpoint-*")
        history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
        logs[name] = [entry["eval_llmps_loss"] for entry in history if "eval_llmps_loss" in entry]
    assert logs["base"] == []
    assert len(logs["both"]) == 1
    assert logs["both"][0] > 0


def test_the_table_has_a_line_per_variant(done):
    lines = ablate.table(done[1]["rows"]).splitlines()
    assert len(lines) == 5
    assert all("base (CRPS" in line for line in lines[2:])


def test_examples_in_docstrings():
    assert doctest.testmod(ablate) == (0, 1)


def test_one_seed_or_an_old_model_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"seeds=\[3\].*two or more"):
        run(tmp_path, seeds=["3"])
    with pytest.raises(ValueError, match="trains new models"):
        run(tmp_path, model_name_or_path="somewhere")

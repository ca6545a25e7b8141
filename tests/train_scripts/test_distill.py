"""distill.py: the loss by hand, what the teacher does to the student, and how bad pairs are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.configuration_tsf_llm import TsfLlmConfig
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.train_scripts import distill
from tsf_llm.training.starting_model import CONFIGS

USUAL = {
    "horizon": 2,
    "stride": 4,
    "logging_steps": 1,
    "report_samples": 0,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 32,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def run(prices, small_model, command_line):
    """`run(output_dir, teacher, **options)` -> the report of a small distillation."""

    def call(output_dir, teacher, **options):
        chosen = {**USUAL, "model_config": small_model, "data": prices, "output_dir": output_dir, **options}
        return distill.main(*distill.parse(command_line(**chosen, model_name_or_path=teacher)))

    return call


@pytest.fixture(scope="module")
def teacher_folder(train, tmp_path_factory):
    """A teacher that has learned more than the student will in its few steps."""
    folder = tmp_path_factory.mktemp("teacher")
    train(folder, num_train_epochs=6, learning_rate=5e-3)
    return folder


@pytest.fixture(scope="module")
def quantile_folder(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantile")
    train(folder, num_train_epochs=1, head="quantile")
    return folder


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- the script ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(run, teacher_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    return folder, run(
        folder, teacher_folder, report_samples=16, stride=2, alpha=0.9, num_train_epochs=3, learning_rate=3e-3
    )


def test_the_report_tells_teacher_student_and_student_alone(done, teacher_folder):
    folder, report = done
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    rows = {row["model"]: row for row in report["rows"]}
    assert list(rows)[:3] == ["teacher", "student", "student_alone"]
    assert {"random_walk", "drift", "historical_volatility_20"} < set(rows)
    assert report["after"]["crps"] == rows["student"]["crps"] != report["before"]["crps"]
    assert rows["teacher"]["forward_ratio"] == rows["teacher"]["forecast_ratio"] == 1
    assert rows["student"]["bytes"] == (folder / "model.safetensors").stat().st_size
    assert rows["teacher"]["bytes"] == (teacher_folder / "model.safetensors").stat().st_size
    for name in ("teacher", "student_alone"):
        difference = report["differences"][name]
        expected = rows["student"]["crps"] - rows[name]["crps"]
        assert difference["difference"] == pytest.approx(expected, abs=1e-9)
        assert difference["ci95"][0] <= expected <= difference["ci95"][1]
        assert any(words in difference["verdict"] for words in ("better than", "worse than", "no edge over"))
    assert report["alone"]["steps"] == report["steps"] > 0


def test_the_student_comes_nearer_to_the_teacher_than_alone(done):
    rows = {row["model"]: row for row in done[1]["rows"]}
    assert rows["teacher"]["distance_to_teacher"] == 0
    assert rows["student"]["distance_to_teacher"] < 0.85 * rows["student_alone"]["distance_to_teacher"]


def test_the_folder_loads_with_the_teachers_processor(done, teacher_folder):
    folder, report = done
    model = TsfLlmForCausalLM.from_pretrained(folder)
    assert model.config.trained_through == report["trained_through"] == report["valid_through"]
    own, theirs = (TsfLlmProcessor.from_pretrained(one) for one in (folder, teacher_folder))
    assert own.tokenizer.bin_edges == theirs.tokenizer.bin_edges
    assert not list(folder.glob("*.bin"))
    TsfLlmForCausalLM.from_pretrained(folder / "alone")


def test_without_teacher_both_students_are_one(run, teacher_folder, tmp_path):
    run(tmp_path, teacher_folder, alpha=0.0)
    assert same(weights(tmp_path), weights(tmp_path / "alone"))


def test_the_student_forgets_no_date_of_its_teacher(run, teacher_folder, tmp_path):
    earlier = {"train_through": "2015-10-30", "valid_through": "2015-12-31"}
    report = run(tmp_path, teacher_folder, **earlier)
    seen = TsfLlmForCausalLM.from_pretrained(teacher_folder).config.trained_through
    assert report["trained_through"] == TsfLlmForCausalLM.from_pretrained(tmp_path).config.trained_through == seen
    assert report["out_of_sample"] is False
    assert TsfLlmForCausalLM.from_pretrained(tmp_path / "alone").config.trained_through == "2015-12-31"


def test_resumed_equals_uninterrupted(run, teacher_folder, tmp_path):
    options = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 3, "eval_steps": 3, "max_steps": 9}
    options |= {"train_alone": False, "save_total_limit": 9, "augment": "jitter=0.1"}
    run(tmp_path, teacher_folder, **options)
    whole = weights(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    run(tmp_path, teacher_folder, **options, resume_from_checkpoint=tmp_path / "checkpoint-3")
    assert same(weights(tmp_path), whole)


@pytest.mark.parametrize("head", ["quantile", "classification"])
def test_other_heads(run, train, quantile_folder, tmp_path, head):
    teacher = quantile_folder
    if head == "classification":
        teacher = tmp_path / "teacher"
        train(teacher, num_train_epochs=1, head=head)
    report = run(tmp_path / "out", teacher, report_samples=8)
    assert report["head"] == TsfLlmForPrediction.from_pretrained(tmp_path / "out").config.prediction_type == head
    score = "crps" if head == "quantile" else "accuracy"
    assert 0 <= report["after"][score] <= 1
    assert [row["model"] for row in report["rows"] if score in row][:3] == ["teacher", "student", "student_alone"]


def test_a_given_student_goes_on_from_its_own_weights(run, train, teacher_folder, tmp_path):
    train(tmp_path / "student", num_train_epochs=1)
    options = {"student_name_or_path": tmp_path / "student", "learning_rate": 1e-5}  # goes before model_config
    run(tmp_path / "out", teacher_folder, **options, max_steps=3, eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, train_alone=False)  # fmt: skip
    before, after = weights(tmp_path / "student"), weights(tmp_path / "out")
    assert not same(before, after)
    assert all((before[key] - after[key]).abs().max() < 1e-3 for key in before)


def test_a_teacher_is_trained_first_where_none_is_given(run, prices, small_model, tmp_path):
    config = tmp_path / "teacher.yaml"
    config.write_text(
        f"context_length: 16\nstride: 4\nn_bins: 32\nnum_train_epochs: 1\nmodel_config: {small_model}\n"
        "disable_tqdm: true\n"
    )
    report = run(tmp_path / "out", None, base_config=config, train_alone=False)
    assert report["teacher"] == "base"
    assert (tmp_path / "out" / "base" / "model.safetensors").is_file()
    assert [row["model"] for row in report["rows"]] == ["teacher", "student"]


def test_the_shipped_config_goes_from_27_to_5_million():
    config = CONFIGS / "distill.yaml"
    _, base_args, args, training_args = distill.parse(["--config", str(config)])
    assert base_args.base_config == "27m.yaml"
    assert (training_args.max_steps, training_args.probe_bf16) == (400, True)
    with torch.device("meta"):
        student = TsfLlmForCausalLM(TsfLlmConfig(num_features=64, **args.model_config))
    assert 4.5e6 < student.num_parameters() < 5.5e6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0}, ["temperature=0", "above 0"]),
        ({"temperature": "nan"}, ["temperature=nan"]),
        ({"alpha": 1.5}, ["alpha=1.5", "[0, 1]"]),
        ({"model_config": None}, ["model_config", "student_name_or_path"]),
        ({"model_config": '{"vocab_size": 9}'}, ["vocab_size", "teacher"]),
        ({"model_config": '{"hidden_sise": 9}'}, ["hidden_sise", "TsfLlmConfig"]),
        ({"class_weights": "balanced"}, ["class_weights=balanced"]),
    ],
)
def test_bad_input_is_refused_with_a_remedy(run, teacher_folder, tmp_path, options, words):
    with pytest.raises(ValueError, match=words[0].replace("[", r"\[")) as refused:
        run(tmp_path / "out", teacher_folder, **options)
    assert all(word in str(refused.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_unlike_pairs_are_refused(run, train, teacher_folder, quantile_folder, tmp_path):
    train(tmp_path / "bins", num_train_epochs=1, n_bins=40)
    for teacher, student, words in (
        (teacher_folder, quantile_folder, "quantile model, the teacher a causal_lm"),
        (teacher_folder, tmp_path / "bins", "vocab_size 42 against 34"),
    ):
        with pytest.raises(ValueError, match=words):
            run(tmp_path / "out", teacher, model_config=None, student_name_or_path=student)
    with pytest.raises(ValueError, match=r"is the model .* itself"):
        run(teacher_folder, teacher_folder)
    with pytest.raises(ValueError, match="add --horizon 2"):
        run(tmp_path / "out", quantile_folder, horizon=3)

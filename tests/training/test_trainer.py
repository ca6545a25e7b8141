"""trainer.py: what is decayed, what accumulates to the same, what is logged, and in which precision."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import TrainerCallback

from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.train_scripts import sft
from tsf_llm.training.continual import Anchor
from tsf_llm.training.data import TrainingData
from tsf_llm.training.supervised import load_or_make_model
from tsf_llm.training.trainer import TsfLlmTrainer, expert_counts, make_trainer, reweighted

FRONT_END = {
    "use_mscnn": True,
    "use_t2t": True,
    "mscnn_channels": 8,
    "t2t_hidden_size": 16,
    "t2t_patch_size": 4,
    "t2t_patch_overlap": 2,
}


def log_of(folder):
    [*_, last] = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((last / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize("norm", ["rmsnorm", "batch_norm", "dynamic_tanh"])
def test_matrices_are_decayed_and_vectors_are_not(tiny_model, tmp_path, norm):
    model = tiny_model(TsfLlmForPrediction, norm_type=norm, q_lora_rank=4, **FRONT_END)
    without = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = TsfLlmTrainer(model, sft.SftArguments(output_dir=str(tmp_path), weight_decay=0.3, **without))
    groups = trainer.create_optimizer().param_groups
    decayed = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    wrong = [name for name, p in model.named_parameters() if decayed[id(p)] != (0.3 if p.ndim > 1 else 0.0)]
    assert wrong == []
    assert "model.front_end.gate" in dict(model.named_parameters())  # the one that names do not tell


def test_a_model_of_tokens_alone_is_validated_by_its_labels(tiny_model, tmp_path):
    model = tiny_model(TsfLlmForCausalLM).tokens_only()
    without = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = TsfLlmTrainer(model, sft.SftArguments(output_dir=str(tmp_path), **without))
    bars, labels = torch.randn(2, 6, model.config.num_features), torch.randint(3, (2, 6))
    loss, _, _ = trainer.prediction_step(model.eval(), {"past_values": bars, "labels": labels}, True)
    assert torch.isfinite(loss)


@pytest.fixture(scope="module")
def gradients(prices, small_model, command_line, tmp_path_factory):
    """`gradients(head, batch, steps)` -> loss and gradients of the first optimizer step."""

    def run(head, batch, steps, *, anchored=False, **options):
        fields = {**json.loads(small_model), "router_aux_loss_coef": 0.0}  # balance is not linear in the batch
        words = {"data": prices, "context_length": 16, "horizon": 2, "stride": 2, "n_bins": 32, "head": head}
        words |= {"model_config": json.dumps(fields), "per_device_train_batch_size": batch, "max_steps": 1}
        words |= {
            "gradient_accumulation_steps": steps,
            "disable_tqdm": True,
            "logging_steps": 1,
            "save_strategy": "no",
        }
        words |= {"eval_strategy": "no", "load_best_model_at_end": False, "output_dir": tmp_path_factory.mktemp("ga")}
        data_args, model_args, training_args = sft.parse(command_line(**words, **options))
        torch.manual_seed(0)
        data = TrainingData.read(data_args)
        model = load_or_make_model(data_args, model_args, data.processor)
        train, valid = data.windows(head)
        anchor = None
        if anchored:
            anchor = Anchor.at(model, {name: torch.ones_like(p) for name, p in model.named_parameters()}, weight=0.5)
            anchor.start.update({name: value - 0.1 for name, value in anchor.start.items()})
        trainer = make_trainer(
            model, data.processor, train=train, valid=valid, training_args=training_args, anchor=anchor
        )
        seen = {}

        class Keep(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
                seen.update({name: p.grad.clone() for name, p in model.named_parameters()})

        trainer.add_callback(Keep())
        trainer.train()
        return trainer.state.log_history[0]["loss"], seen

    return run


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("causal_lm", {}),
        ("quantile", {}),
        ("classification", {"class_weights": "balanced"}),
        ("causal_lm", {"anchored": True}),
        ("regression", {"anchored": True}),
    ],
)
def test_accumulated_batches_equal_a_large_one(gradients, head, options):
    loss, whole = gradients(head, 32, 1, **options)
    accumulated_loss, accumulated = gradients(head, 8, 4, **options)
    assert accumulated_loss == pytest.approx(loss, rel=1e-5)
    for name, value in whole.items():
        torch.testing.assert_close(accumulated[name], value, atol=1e-6, rtol=1e-4)
    assert sum(value.abs().sum() for value in whole.values()) > 0.01


def test_gradients_are_clipped(gradients):
    _, free = gradients("regression", 32, 1, max_grad_norm=1e9)
    _, clipped = gradients("regression", 32, 1, max_grad_norm=0.01)
    norm = torch.nn.utils.get_total_norm(list(clipped.values()))
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert torch.nn.utils.get_total_norm(list(free.values())) > 0.02


@pytest.mark.parametrize("head", ["causal_lm", "quantile"])
def test_every_parameter_learns_in_one_step(train, small_model, tmp_path, head):
    """Routers and front ends too; without decay, which would move a weight that learns nothing."""
    fields = {**json.loads(small_model), "n_routed_experts": 4, "num_experts_per_tok": 2, **FRONT_END}
    words = {"head": head, "save_strategy": "steps", "eval_strategy": "steps", "save_steps": 1, "eval_steps": 1}
    words |= {"max_steps": 2, "weight_decay": 0, "warmup_steps": 0, "save_total_limit": 9, "learning_rate": 1e-2}
    train(tmp_path, model_config=json.dumps(fields), **words)
    first, second = (load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2))
    model = (TsfLlmForCausalLM if head == "causal_lm" else TsfLlmForPrediction).from_pretrained(tmp_path)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name in names if torch.equal(first[name], second[name])] == []
    assert any("mlp.gate" in name for name in names)
    assert {name.split(".")[2] for name in names if "front_end" in name} >= {"gate", "mscnn", "t2t"}


def test_experts_are_counted_where_something_is_observed():
    logits = torch.tensor([[3.0, 2, 1], [1, 3, 2], [9, 0, 8], [1, 2, 3]])
    mask = torch.tensor([[1, 1], [0, 1]])
    layers = (logits, -logits)
    expected = torch.zeros(2, 3)
    for i, layer in enumerate(layers):
        for position in (0, 1, 3):
            for expert in layer[position].topk(2).indices:
                expected[i, expert] += 1
    assert torch.equal(expert_counts(layers, 2, mask), expected)
    assert expert_counts(layers, 2, None).sum(dim=1).tolist() == [8, 8]


def test_loads_are_logged_and_reported(train, small_model, tmp_path):
    fields = {**json.loads(small_model), "num_hidden_layers": 2, "n_routed_experts": 4, "num_experts_per_tok": 2}
    options = {"model_config": json.dumps(fields), "num_train_epochs": 1}
    report = train(tmp_path, **options, report_to="tensorboard")
    assert [len(layer) for layer in report["expert_load"]] == [4, 4]
    assert all(sum(layer) == pytest.approx(1, abs=1e-3) for layer in report["expert_load"])
    log = log_of(tmp_path)
    for entry in (one for one in log if "loss" in one):
        assert 0 <= entry["expert_load_min"] <= 1 / 4 <= entry["expert_load_max"] <= 1 / 2
    [evaluation] = [one for one in log if "eval_loss" in one]
    shares = [[evaluation[f"eval_expert_load_{layer}_{expert}"] for expert in range(4)] for layer in range(2)]
    assert shares == report["expert_load"]  # one epoch: the best weights are the last
    quiet = train(tmp_path / "quiet", **options)
    assert quiet["expert_load"] == report["expert_load"]
    assert not any("eval_expert_load_0_0" in entry for entry in log_of(tmp_path / "quiet"))  # the terminal's lines


def test_class_weights_weigh_positions():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 2, 3), torch.randint(0, 3, (6, 2))
    labels[0, 0] = -100
    weights = torch.tensor([0.5, 2.0, 1.0])
    plain = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    flat = labels.flatten()
    summed = F.cross_entropy(logits.flatten(0, 1), flat, weight=weights, reduction="sum")
    torch.testing.assert_close(plain + reweighted(logits, labels, weights), summed / 11)
    assert reweighted(logits, labels, torch.ones(3)) == 0


def test_bfloat16_is_for_products_alone(train, tmp_path):
    report = train(tmp_path / "bf16", bf16=True, num_train_epochs=1)
    full = train(tmp_path / "fp32", num_train_epochs=1)
    assert (report["precision"], full["precision"]) == ("bf16", "fp32")
    assert report["valid_loss"] == pytest.approx(full["valid_loss"], rel=0.02)
    assert report["valid_loss"] != full["valid_loss"]
    assert {value.dtype for value in load_file(tmp_path / "bf16" / "model.safetensors").values()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_gpu(train, tmp_path, precision):
    report = train(tmp_path / precision, **{precision: True}, num_train_epochs=2)
    full = train(tmp_path / "fp32", num_train_epochs=2)
    assert report["precision"] == precision
    assert report["valid_loss"] == pytest.approx(full["valid_loss"], rel=0.05)


def test_no_better_loss_stops_early_and_the_best_weights_are_kept(train, tmp_path):
    report = train(tmp_path, learning_rate=2.0, num_train_epochs=9, early_stopping_patience=2, warmup_steps=0)
    losses = [one["eval_loss"] for one in log_of(tmp_path) if "eval_loss" in one]
    assert len(losses) == losses.index(min(losses)) + 3 < 9
    assert report["valid_loss"] == pytest.approx(min(losses), rel=1e-5)
    best = TsfLlmForCausalLM.from_pretrained(tmp_path).state_dict()
    kept = [load_file(path / "model.safetensors") for path in tmp_path.glob("checkpoint-*")]
    assert any(all(torch.equal(one[name], best[name]) for name in one) for one in kept)


def test_patience_survives_a_resume(train, tmp_path):
    options = {"learning_rate": 1e-12, "early_stopping_patience": 3, "save_total_limit": 20}
    train(tmp_path, **options, num_train_epochs=9)
    whole = log_of(tmp_path)
    checkpoint = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[-2]
    train(tmp_path, **options, num_train_epochs=9, resume_from_checkpoint=checkpoint)
    assert [one["step"] for one in log_of(tmp_path)] == [one["step"] for one in whole]


def test_the_rate_falls_on_a_plateau(train, tmp_path):
    options = {"lr_scheduler_type": "reduce_lr_on_plateau", "early_stopping_patience": 0, "num_train_epochs": 4}
    options |= {"lr_scheduler_kwargs": json.dumps({"factor": 0.5, "patience": 0, "threshold": 0.5})}
    train(tmp_path, **options, save_total_limit=9)
    rates = [one["learning_rate"] for one in log_of(tmp_path) if "learning_rate" in one]
    assert rates[0] == 1e-3
    assert min(rates) < 3e-4


def test_tensorboard_gets_losses_balance_and_loads(train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, num_train_epochs=1, report_to="tensorboard")
    [folder] = {path.parent for path in tmp_path.rglob("events.out.*")}
    events = EventAccumulator(str(folder)).Reload()
    names = {"loss", "learning_rate", "grad_norm", "aux_loss", "expert_load_min", "expert_load_max"}
    names = {f"train/{name}" for name in names} | {"eval/loss", "eval/aux_loss", "eval/expert_load_0_1"}
    assert names <= set(events.Tags()["scalars"])
    assert [scalar.value for scalar in events.Scalars("train/aux_loss")] == pytest.approx(
        [one["aux_loss"] for one in log_of(tmp_path) if "aux_loss" in one], abs=1e-4
    )


@pytest.mark.slow
def test_trackio_gets_them_too_without_a_network(prices, small_model, command_line, tmp_path):
    words = {"data": prices, "context_length": 16, "horizon": 2, "n_bins": 32, "report_samples": 0, "stride": 4}
    words |= {"model_config": small_model, "max_steps": 4, "logging_steps": 2, "report_to": "trackio"}
    words |= {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    words |= {"project": "tsf", "run_name": "first", "output_dir": tmp_path / "out"}
    folder = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "tsf_llm.train_scripts.sft", *command_line(**words)]
    subprocess.run(command, env={**os.environ, **folder}, check=True, timeout=300, capture_output=True)
    with sqlite3.connect(tmp_path / "trackio" / "tsf.db") as database:
        rows = database.execute("select run_name, metrics from metrics").fetchall()
    assert {run for run, _ in rows} == {"first"}
    names = {name for _, content in rows for name in json.loads(content)}
    assert {"train/loss", "train/aux_loss", "train/expert_load_max", "eval/loss", "eval/expert_load_0_1"} <= names

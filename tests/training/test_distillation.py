"""distillation.py: the loss is the formula, for every head and however batches are accumulated."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch.utils.data import Dataset

from tsf_llm.data_prep.windows import WindowDataset, identity
from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.training import distillation
from tsf_llm.training.arguments import SftArguments

# --- the loss ------------------------------------------------------------------------------------------------------


class Rows(Dataset):
    """The rows of one batch."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch["labels"])

    def __getitems__(self, indices):
        return {key: value[indices] for key, value in self.batch.items()}


@pytest.fixture
def batch(tiny_batch):
    """Four rows with labels; the rows differ in how many are known."""
    batch = tiny_batch(rows=4)
    labels = torch.where(batch["input_ids"] == 19, torch.randint(0, 18, batch["input_ids"].shape), batch["input_ids"])
    labels[0, :4] = labels[1] = -100
    labels[1, -1] = 3
    return {**batch, "labels": labels}


def make(student, teacher, tmp_path, *, rows=None, temperature=2.0, alpha=0.5, **options):
    options = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, **options}
    return distillation.DistillationTrainer(
        model=student,
        args=SftArguments(output_dir=str(tmp_path), disable_tqdm=True, **options),
        train_dataset=rows,
        data_collator=identity,
        teacher=teacher,
        temperature=temperature,
        alpha=alpha,
    )


def by_hand(student, teacher, batch, *, temperature, alpha):
    """The formula of the docstring, in numpy; and the student's side loss."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        outputs = student(**batch)
        ours = outputs.logits[:, :-1].double().numpy()
        theirs = teacher(**inputs).logits[:, :-1].double().numpy()
    labels = batch["labels"][:, 1:].numpy()
    losses = []
    for i, t in zip(*np.nonzero(labels != -100), strict=True):
        hard = -log_softmax(ours[i, t])[labels[i, t]]
        returns = slice(0, 18)  # 18 and 19 are <pad> and <bar>
        p, q = (softmax(one[i, t, returns] / temperature) for one in (theirs, ours))
        losses.append((1 - alpha) * hard + alpha * temperature**2 * rel_entr(p, q).sum())
    return np.mean(losses) + student.config.router_aux_loss_coef * float(outputs.aux_loss)


@pytest.mark.parametrize(("temperature", "alpha"), [(2.0, 0.3), (1.0, 1.0), (4.0, 0.0)])
def test_the_loss_is_the_formula(tiny_model, batch, tmp_path, temperature, alpha):
    student, teacher = tiny_model(seed=1, router_aux_loss_coef=0.5), tiny_model(seed=2, hidden_size=48)
    trainer = make(student, teacher, tmp_path, temperature=temperature, alpha=alpha)
    expected = by_hand(student, teacher, batch, temperature=temperature, alpha=alpha)
    student.train()  # no dropout in it; side losses count
    assert trainer.compute_loss(student, dict(batch)).item() == pytest.approx(expected, rel=1e-5)
    student.eval()
    plain = student(**batch).loss.item()  # validation asks the labels alone
    assert trainer.compute_loss(student, dict(batch)).item() == pytest.approx(plain, rel=1e-6)


def test_a_teacher_like_the_student_teaches_nothing(tiny_model, batch, tmp_path):
    student, teacher = tiny_model(seed=1, router_aux_loss_coef=0.0), tiny_model(seed=1, router_aux_loss_coef=0.0)
    trainer = make(student, teacher, tmp_path, alpha=1.0)
    student.train()
    loss = trainer.compute_loss(student, dict(batch))
    assert abs(loss.item()) < 1e-6
    loss.backward()
    assert max(p.grad.abs().max() for p in student.parameters() if p.grad is not None) < 1e-6
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not teacher.training


def with_laws(batch):
    labels = torch.randint(0, 18, (*batch["past_values"].shape[:2], 2))
    labels[0, :2, 0] = labels[2, :, 1] = -100
    return {**batch, "law_labels": labels}


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_laws_are_taught_where_their_outcome_is_known(tiny_model, batch, tmp_path, alpha):
    fields, batch = {"horizons": [1, 4, 9], "router_aux_loss_coef": 0.0}, with_laws(batch)
    student, teacher = tiny_model(seed=1, **fields), tiny_model(seed=2, **fields)
    plain = {key: value for key, value in batch.items() if key != "law_labels"}
    tokens = by_hand(student, teacher, plain, temperature=2.0, alpha=alpha)
    inputs = {key: value for key, value in plain.items() if key != "labels"}
    with torch.no_grad():
        ours, theirs = (model(**inputs).law_logits.double().numpy() for model in (student, teacher))
    laws, wanted = 0.0, batch["law_labels"].numpy()
    for i, t, h in zip(*np.nonzero(wanted != -100), strict=True):
        hard = -log_softmax(ours[i, t, h])[wanted[i, t, h]]
        p, q = (softmax(one[i, t, h] / 2) for one in (theirs, ours))
        laws += ((1 - alpha) * hard + alpha * 4 * rel_entr(p, q).sum()) / (2, 3)[h]  # roots of the horizons
    student.train()
    loss = make(student, teacher, tmp_path, alpha=alpha).compute_loss(student, dict(batch))
    known = (batch["labels"][:, 1:] != -100).sum().item()
    assert loss.item() == pytest.approx(tokens + laws / known, rel=1e-5)


def test_a_teacher_sees_what_is_hidden_from_the_student(tiny_model, batch, tmp_path):
    student, teacher = tiny_model(seed=1), tiny_model(seed=1)
    trainer, hidden = make(student, teacher, tmp_path, alpha=1.0), batch["past_values"].clone()
    hidden[..., 2:] = 0
    student.train()
    batch = {**batch, "past_values": hidden}
    same = trainer.compute_loss(student, dict(batch))
    told = trainer.compute_loss(student, {**batch, "whole_values": hidden})
    more = trainer.compute_loss(student, {**batch, "whole_values": batch["past_values"] + 1})
    assert torch.equal(same, told)
    assert more > told


def test_without_a_share_the_teacher_is_not_asked(tiny_model, batch, tmp_path, monkeypatch):
    student, teacher = tiny_model(seed=1), tiny_model(seed=2)
    monkeypatch.setattr(teacher, "forward", lambda **_: pytest.fail("asked"))
    student.train()
    loss = make(student, teacher, tmp_path, alpha=0.0).compute_loss(student, dict(batch))
    assert loss.item() == pytest.approx(student(**batch).loss.item(), rel=1e-6)


@pytest.mark.parametrize("head", ["regression", "quantile", "classification"])
def test_heads_learn_their_teachers_answers(tiny_model, tiny_batch, tmp_path, head):
    student, teacher = (tiny_model(TsfLlmForPrediction, seed=seed, prediction_type=head) for seed in (1, 2))
    inputs = {key: value for key, value in tiny_batch(tokens=0).items() if key != "input_ids"}
    labels = torch.tensor([[0, 2, -100], [1, 1, 0]])
    if head != "classification":
        labels = torch.where(labels == -100, torch.nan, labels.float())
    student.train()
    trainer = make(student, teacher, tmp_path, alpha=1.0, temperature=3.0)
    loss = trainer.compute_loss(student, {**inputs, "labels": labels}).item()
    with torch.no_grad():
        outputs, theirs = student(**inputs, labels=labels), teacher(**inputs).logits
    known = ~labels.isnan() if head != "classification" else labels != -100
    if head == "classification":
        p, q = (softmax(one[known].numpy() / 3, axis=-1) for one in (theirs, outputs.logits))
        expected = 9 * rel_entr(p, q).sum(-1).mean()
    else:
        expected = (theirs - outputs.logits)[known].square().mean().item()
    assert loss == pytest.approx(expected + 0.01 * outputs.aux_loss.item(), rel=1e-4)


@pytest.mark.parametrize("zero_inflated", [False, True])
def test_the_series_form_counts_in_the_units_of_its_loss(series_form, weekly_sales, tmp_path, zero_inflated):
    student, teacher = (series_form(seed=seed, zero_inflated=zero_inflated) for seed in (1, 2))
    windows = WindowDataset(
        student.processor,
        student.processor.encode(weekly_sales),
        objective="quantile",
        horizon=3,
        through="2020-02-20",
    )
    batch = windows.__getitems__(range(8))
    batch["labels"][0, 1] = torch.nan
    trainer = make(student.model.train(), teacher.model, tmp_path, alpha=1.0)
    loss = trainer.compute_loss(student.model, dict(batch)).item()
    with torch.no_grad():
        ours, theirs = (one.model(**batch) for one in (student, teacher))
    known = ~batch["labels"].isnan()
    expected = ((theirs.logits - ours.logits) * batch["loss_weight"][:, None, None])[known].square().mean().item()
    if zero_inflated:
        p, q = (one.zero_logits[known].sigmoid() for one in (theirs, ours))
        expected -= (p * q.log() + (1 - p) * (1 - q).log()).mean().item()
    assert loss == pytest.approx(expected + 0.01 * ours.aux_loss.item(), rel=1e-3)


def test_accumulated_batches_are_one_batch(tiny_model, batch, tmp_path):
    """Rows with few known labels count for as much in a batch of their own as in a large one."""
    found = {}
    for size, times in ((4, 1), (1, 4)):
        student, teacher = tiny_model(seed=1, router_aux_loss_coef=0.0), tiny_model(seed=2)
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times, "max_steps": 1}
        trainer = make(student, teacher, tmp_path, rows=Rows(batch), alpha=0.7, **options)
        trainer.args.max_grad_norm, gradients = 0, {}
        trainer.create_optimizer()
        trainer.optimizer.register_step_pre_hook(
            lambda *_, model=student, into=gradients: into.update(
                {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            )
        )
        trainer.train()
        found[size] = gradients
    assert found[4].keys() == found[1].keys()
    assert max(g.abs().max() for g in found[4].values()) > 1e-3
    for name, gradient in found[4].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)

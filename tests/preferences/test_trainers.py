"""trainers.py: pairs as they are batched and scored; and what training on them does."""

import doctest
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset

from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.preferences import trainers as module
from tsf_llm.preferences.trainers import (
    DpoArguments,
    Noise,
    PreferenceCollator,
    RegressionDPOTrainer,
    TsfLlmDPOTrainer,
    log_probs,
    low_rank,
    reference_copy,
)

BINS, STEPS = 32, 3
BAR = BINS + 1
COLLATE, NUMBERS = PreferenceCollator(BAR), PreferenceCollator(BAR, numbers=True)
NOISE = Noise(df=5.0, scale=0.8)


def planted(count, *, seed=0, numbers=False, shortest=8):
    """After a last bar whose first feature is positive, the path up is preferred, else the one down."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        window = rng.normal(size=(int(rng.integers(shortest, 13)), 5)).astype(np.float32)
        up = np.abs(rng.normal(0.8, 0.3, STEPS)) if numbers else rng.integers(BINS // 2, BINS, STEPS)
        down = -np.abs(rng.normal(0.8, 0.3, STEPS)) if numbers else rng.integers(0, BINS // 2, STEPS)
        chosen, rejected = (up, down) if window[-1, 0] > 0 else (down, up)
        mask = [1] * len(window)
        rows.append({"past_values": window, "attention_mask": mask, "chosen": chosen, "rejected": rejected})
    return Dataset.from_list([{name: np.asarray(v).tolist() for name, v in row.items()} for row in rows])


def arguments(folder, **options):
    usual = {"max_steps": 3, "per_device_train_batch_size": 16, "eval_strategy": "no", "save_strategy": "no"}
    usual |= {"load_best_model_at_end": False, "disable_tqdm": True, "learning_rate": 3e-3, "use_cpu": True}
    return DpoArguments(output_dir=str(folder), **{**usual, **options})


@pytest.fixture
def trainer(lm, processor, tmp_path):
    """`trainer(...)` -> a trainer of a tiny causal LM on planted pairs."""

    def build(model=None, *, ref_model="copy", lora=False, train=None, **options):
        model = lm() if model is None else model
        return TsfLlmDPOTrainer(
            model=model,
            ref_model=reference_copy(model) if ref_model == "copy" else ref_model,
            args=arguments(tmp_path / "out", **options),
            train_dataset=planted(64) if train is None else train,
            eval_dataset=planted(32, seed=1),
            data_collator=COLLATE,
            processing_class=processor,
            peft_config=low_rank(model, 4 if lora else 0, 8),
        )

    return build


def by_hand(model, pairs):
    """Log-probabilities `[N,2]`, one unpadded row at a time, token by token."""
    rows = []
    for pair in pairs:
        window = torch.tensor(pair["past_values"])[None]
        scores = []
        for name in ("chosen", "rejected"):
            ids = torch.tensor([[BAR] * window.shape[1] + pair[name]])
            with torch.no_grad():
                logits = model(input_ids=ids, past_values=window).logits[0]
            places = range(window.shape[1], ids.shape[1])
            scores.append(sum(logits[t - 1].log_softmax(-1)[ids[0, t]].item() for t in places))
        rows.append(scores)
    return np.array(rows)


def test_the_formulas_in_the_docstrings():
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted >= 1


# --- scores and losses


def test_padded_rows_have_the_log_probabilities_of_unpadded_ones(lm):
    model, pairs = lm(), planted(6)
    assert len({len(pair["past_values"]) for pair in pairs}) > 1
    np.testing.assert_allclose(log_probs(model, pairs, COLLATE), by_hand(model, pairs), atol=1e-4)
    padded = pairs.map(
        lambda pair: {
            "past_values": [[9.0] * 5] * 4 + pair["past_values"],  # what is hidden does not count
            "attention_mask": [0] * 4 + pair["attention_mask"],
        }
    )
    np.testing.assert_allclose(log_probs(model, padded, COLLATE), by_hand(model, pairs), atol=1e-4)


def test_a_hidden_bar_within_the_window_is_not_read(lm):
    pairs = planted(4, shortest=12)
    hidden = pairs.map(lambda pair: {"attention_mask": [*pair["attention_mask"][:5], 0, *pair["attention_mask"][6:]]})
    other = hidden.map(lambda pair: {"past_values": [*pair["past_values"][:5], [7.0] * 5, *pair["past_values"][6:]]})
    scores = [log_probs(lm(), some, COLLATE) for some in (pairs, hidden, other)]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3
    np.testing.assert_allclose(scores[1], scores[2], atol=1e-5)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_the_loss_is_the_one_computed_by_hand(trainer, lm, loss_type):
    model, reference = lm(), lm(seed=5)
    pairs, beta = planted(5), 0.3
    ratios = torch.tensor(by_hand(model, pairs) - by_hand(reference, pairs))
    delta = ratios[:, 0] - ratios[:, 1]
    expected = {
        "sigmoid": -F.logsigmoid(beta * delta),
        "ipo": (delta / STEPS - 1 / (2 * beta)) ** 2,  # trl averages over tokens
        "hinge": torch.relu(1 - beta * delta),
    }[loss_type].mean()
    one = trainer(model, ref_model=reference, loss_type=[loss_type], beta=beta)
    one.model.train()
    batch = COLLATE([pairs[i] for i in range(5)])
    assert one.compute_loss(one.model, batch).item() == pytest.approx(expected.item(), rel=1e-4)
    assert delta.abs().max() > 0.1


def test_the_policy_runs_as_its_reference_does(trainer, lm):
    """Dropout would make them differ before the first step."""
    model = lm(attention_dropout=0.5, hidden_dropout=0.5)
    one = trainer(model)
    one.model.train()
    batch = COLLATE(list(planted(8)))
    assert one.compute_loss(one.model, batch).item() == pytest.approx(math.log(2), abs=1e-6)
    assert one.model.training


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("ipo", "hinge")]


@pytest.mark.parametrize("loss_type", ["sigmoid", *SLOW])
def test_the_margin_rises_also_on_pairs_never_seen(trainer, lm, loss_type):
    model, held_out = lm(initializer_range=0.02), planted(100, seed=9)
    before = log_probs(model, held_out, COLLATE)
    one = trainer(model, train=planted(400), loss_type=[loss_type], beta=0.5, max_steps=25, learning_rate=1e-2)
    one.train()
    after = log_probs(one.model, held_out, COLLATE)
    margins = [(scores[:, 0] - scores[:, 1]) for scores in (before, after)]
    assert margins[1].mean() > margins[0].mean() + 0.3
    assert (margins[1] > 0).mean() > 0.75
    assert abs((margins[0] > 0).mean() - 0.5) < 0.15


def weights(model):
    return {name: values.clone() for name, values in model.state_dict().items()}


def test_a_precomputed_reference_gives_what_a_copy_gives(trainer, lm):
    results = []
    for options in ({"ref_model": "copy"}, {"ref_model": None, "precompute_ref_log_probs": True}):
        one = trainer(lm(), **options)
        one.train()
        results.append(weights(one.model))
    for name, values in results[0].items():
        torch.testing.assert_close(values, results[1][name], atol=1e-6, rtol=1e-5)
    moved = weights(lm())
    assert any((values - moved[name]).abs().max() > 1e-4 for name, values in results[0].items())


def test_with_the_adapter_off_the_reference_is_the_base(trainer, lm):
    model, pairs = lm(), list(planted(8))
    expected = log_probs(model, planted(8), COLLATE)
    one = trainer(model, lora=True, ref_model=None, max_steps=8, learning_rate=1e-2)
    batch = COLLATE(pairs)
    one.model.train()
    assert one.compute_loss(one.model, batch).item() == pytest.approx(math.log(2), abs=1e-6)
    one.train()
    scores = np.stack([values.numpy() for values in one.compute_ref_log_probs(one.model, batch)], axis=1)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.abs(log_probs(one.model, planted(8), COLLATE) - expected).max() > 0.05


def test_low_rank_updates_reach_attention_and_experts_and_leave_the_rest(trainer, lm):
    one = trainer(lm(), lora=True, ref_model=None)
    trained = {name for name, values in one.model.named_parameters() if values.requires_grad}
    assert all("lora" in name for name in trained)
    for part in ("self_attn.o_proj", "kv_b_proj", "shared_experts.up_proj", "mlp.experts"):
        assert any(part in name for name in trained), part
    assert not any("gate.lora" in name or "lm_head" in name for name in trained)


def test_a_merged_model_is_the_tuned_one(trainer, lm, tmp_path):
    one = trainer(lm(), lora=True, ref_model=None, max_steps=8, learning_rate=1e-2)
    one.train()
    one.save_model(str(tmp_path / "saved"))
    again = TsfLlmForCausalLM.from_pretrained(tmp_path / "saved")
    expected = log_probs(one.model, planted(8), COLLATE)
    np.testing.assert_allclose(log_probs(again, planted(8), COLLATE), expected, atol=1e-4)
    assert (tmp_path / "saved" / "adapter" / "adapter_model.safetensors").is_file()
    assert not list((tmp_path / "saved").rglob("*.bin"))


# --- regression heads


def test_the_density_is_that_of_student_t(head):
    stats = pytest.importorskip("scipy.stats")
    model, pairs = head(), planted(5, numbers=True)
    got = log_probs(model, pairs, NUMBERS, NOISE)
    for row, pair in zip(got, pairs, strict=True):
        with torch.no_grad():
            cumulative = model(past_values=torch.tensor(pair["past_values"])[None]).prediction[0].numpy()
        mean = np.diff(cumulative, prepend=0.0)
        for score, name in zip(row, ("chosen", "rejected"), strict=True):
            assert score == pytest.approx(stats.t.logpdf(pair[name], 5.0, mean, 0.8).sum(), abs=1e-3)


def test_the_noise_is_found_again():
    residuals = 0.7 * np.random.default_rng(0).standard_t(4, 20000)
    noise = Noise.fit(residuals)
    assert noise.df == pytest.approx(4, rel=0.1)
    assert noise.scale == pytest.approx(0.7, rel=0.03)
    with pytest.raises(ValueError, match="no residuals"):
        Noise.fit(np.zeros(10))


@pytest.mark.parametrize("reference", ["copy", "adapter off", "precomputed"])
def test_a_regression_head_learns_what_is_preferred(processor, tmp_path, reference, head):
    model, held_out, lora = head(), planted(100, seed=9, numbers=True), reference == "adapter off"
    options = {"max_steps": 40 if lora else 15, "beta": 0.5, "learning_rate": 3e-2 if lora else 1e-2}
    options |= {"precompute_ref_log_probs": reference == "precomputed"}
    before = log_probs(model, held_out, NUMBERS, NOISE)
    one = RegressionDPOTrainer(
        model=model,
        ref_model=reference_copy(model) if reference == "copy" else None,
        args=arguments(tmp_path, **options),
        train_dataset=planted(200, numbers=True),
        data_collator=NUMBERS,
        processing_class=processor,
        peft_config=low_rank(model, 4 if lora else 0, 8),
        noise=NOISE,
    )
    one.model.train()
    if reference != "precomputed":
        start = one.compute_loss(one.model, NUMBERS(list(planted(8, numbers=True))))
        assert start.item() == pytest.approx(math.log(2), abs=1e-6)
    one.train()
    after = log_probs(one.model, held_out, NUMBERS, NOISE)
    accuracies = [(scores[:, 0] > scores[:, 1]).mean() for scores in (before, after)]
    assert accuracies[0] < 0.6 < 0.7 < accuracies[1]


def test_the_regression_loss_by_hand(processor, tmp_path, head):
    model, reference, pairs = head(), head(seed=4), planted(6, numbers=True)
    ratios = torch.tensor(log_probs(model, pairs, NUMBERS, NOISE) - log_probs(reference, pairs, NUMBERS, NOISE))
    one = RegressionDPOTrainer(
        model=model,
        ref_model=reference,
        args=arguments(tmp_path, beta=0.2),
        train_dataset=pairs,
        data_collator=NUMBERS,
        processing_class=processor,
        noise=NOISE,
    )
    expected = -F.logsigmoid(0.2 * (ratios[:, 0] - ratios[:, 1])).mean().item()
    one.model.train()
    loss = one.compute_loss(one.model, NUMBERS([pairs[i] for i in range(6)]))
    assert loss.item() == pytest.approx(expected, rel=1e-4)

"""rewards.py: what a path earns, origins before the fence, and a trainer that hands bars along."""

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.preferences import rewards
from tsf_llm.preferences.pairs import PairArguments
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.train_scripts import grpo
from tsf_llm.training.data import TrainingData

BINS, STEPS, BARS = 32, 3, 6
BAR = BINS + 1
SIZES = {"vocab_size": BINS + 2, "pad_token_id": BINS, "bar_token_id": BAR}
PNL = PairArguments(utility="pnl", cost_bp=10)


@pytest.fixture(scope="module")
def processor():
    edges = np.linspace(-3, 3, BINS + 1).tolist()
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=BARS)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(BINS, bin_edges=edges))


@pytest.fixture
def model(tiny_model):
    return tiny_model(TsfLlmForCausalLM, **SIZES, initializer_range=0.02, hidden_dropout=0.3)


def planted(count):
    """The market goes where the first feature of the last bar points."""
    windows = np.random.default_rng(0).normal(size=(count, BARS, 5)).astype(np.float32)
    realised = np.sign(windows[:, -1, :1]) * np.array([[0.01, 0.02, 0.03]])
    columns = {"past_values": windows, "realised": realised, "sigma": np.full(count, 0.01)}
    return Dataset.from_dict({"prompt": [" ".join(["<bar>"] * BARS)] * count, **columns})


@pytest.fixture
def trainer(model, processor, tmp_path):
    arguments = rewards.GrpoArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=30,
        learning_rate=1e-2,
        per_device_train_batch_size=64,
        max_completion_length=STEPS,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        generation_kwargs={"suppress_tokens": [BINS, BAR]},
    )
    return rewards.TsfLlmGRPOTrainer(
        model=model,
        reward_funcs=[rewards.path_reward(processor, PNL)],
        args=arguments,
        train_dataset=planted(64),
        processor=processor,
    )


def test_the_reward_trades_the_path(processor):
    up, down = [BINS - 1] * STEPS, [0] * STEPS
    reward = rewards.path_reward(processor, PNL)
    given = {"realised": [np.log([1.0, 1.01, 1.02]).tolist()] * 3, "sigma": [0.01] * 3}
    long, short, broken = reward(completion_ids=[up, down, [0, BAR, 0]], **given)
    assert long == pytest.approx(0.02 - 2 * 0.001)
    assert short == pytest.approx(-0.02 - 2 * 0.001)
    assert broken is None


def test_every_path_is_scored_with_its_own_bars(trainer, model):
    """Also when trl scores some rows at a time."""
    windows = torch.randn(6, BARS, 5)
    ids = torch.cat((torch.full((6, BARS), BAR), torch.randint(0, BINS, (6, STEPS))), dim=1)
    trainer._windows = windows
    model.eval()
    with torch.no_grad():
        got = [
            trainer._get_per_token_logps_and_entropies(model, ids, torch.ones_like(ids), STEPS, batch_size=size)[0]
            for size in (6, 4)
        ]
        logits = model(input_ids=ids, past_values=windows).logits[:, BARS - 1 : -1].log_softmax(-1)
    expected = logits.gather(-1, ids[:, BARS:, None]).squeeze(-1)
    for scores in got:
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


def test_the_reward_rises(trainer):
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert rewards[-1] > rewards[0] + 0.005  # of at most 0.028
    assert not any(module.training for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout))


def test_origins_and_outcomes_lie_before_the_fence(prices, base_folder):
    words = ["--data", str(prices), "--horizon", "2", "--model_name_or_path", str(base_folder)]
    data = TrainingData.read(grpo.parse(words)[0], str(base_folder))
    origins = rewards.past_origins(data)
    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    seen = bars[bars["timestamp"] <= data.split.train_through]
    possible = {
        tuple(np.log(close[i + 1 : i + 3] / close[i]).round(9))
        for close in (frame["close"].to_numpy() for _, frame in seen.groupby("ticker"))
        for i in range(len(close) - 2)
    }
    assert len(origins) > 20
    assert {tuple(np.round(outcome, 9)) for outcome in origins["realised"][:]} <= possible
    late = bars["timestamp"] > data.split.train_through
    data.bars.loc[late.to_numpy(), ["open", "high", "low", "close"]] *= 1.5
    assert rewards.past_origins(data)[:] == origins[:]

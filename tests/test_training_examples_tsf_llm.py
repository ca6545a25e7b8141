"""What any trainer gets: windows whose labels respect their fences, for Trainer as it comes, peft and trl; and the
examples of docs/training.md, as they stand there."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

import tsf_llm.training_examples_tsf_llm as training_examples
from tsf_llm.data_prep.sources import read_bars
from tsf_llm.data_prep.windows import WindowDataset
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

ROOT = Path(training_examples.__file__).parent
HEADS = ["causal_lm", "regression", "quantile", "classification"]
SIZES = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33, "prediction_length": 3}
FENCE = "2015-12-31"


@pytest.fixture(scope="module")
def bars(make_bars):
    return pd.concat([make_bars(400, ticker="AAA", seed=1), make_bars(350, ticker="BBB", seed=2)])


@pytest.fixture
def model(small, tiny_model):
    """`model(head)` -> one that fits `small`."""

    def build(head="causal_lm", **fields):
        fields = {**SIZES, "num_features": len(small.feature_extractor.names), **fields}
        if head == "causal_lm":
            return tiny_model(TsfLlmForCausalLM, **fields)
        return tiny_model(TsfLlmForPrediction, prediction_type=head, **fields)

    return build


def arguments(folder, **options):
    return TrainingArguments(folder, max_steps=2, report_to=[], disable_tqdm=True, use_cpu=True, **options)


@pytest.mark.parametrize("head", HEADS)
def test_examples_are_those_of_our_own_training(small, bars, head):
    ours = small.training_dataset(bars, 3, "2015-06-30", FENCE, head=head, stride=1)
    options = {"objective": head, "horizon": 3, "after": "2015-06-30", "through": FENCE}
    wanted = WindowDataset(small, small.encode(bars), **options)
    assert len(ours) == len(wanted)
    for name, values in wanted.__getitems__(range(len(wanted))).items():
        got = torch.stack(list(ours[name]))
        torch.testing.assert_close(got, values, equal_nan=True, atol=0, rtol=0, check_dtype=name != "past_values")


@pytest.mark.parametrize("head", HEADS)
def test_no_bar_behind_the_fence_is_read(small, bars, head):
    later = bars["timestamp"] > FENCE
    prices = ["open", "high", "low", "close"]
    changed = bars.assign(**{name: bars[name].where(~later, 3 * bars[name]) for name in prices})
    one, other = (small.training_dataset(data, 3, through=FENCE, head=head) for data in (bars, changed))
    assert len(one) == len(other) > 0
    for name in one.column_names:
        for a, b in zip(one[name], other[name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_windows_do_not_share_labels_ahead_unless_told(small, bars):
    counts = [len(small.training_dataset(bars, 5, stride=stride)) for stride in (None, 5, 1)]
    assert counts[0] == counts[1] < counts[2] / 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"horizon": 0}, "horizon=0"),
        ({"stride": 0}, "stride=0"),
        ({"head": "normal"}, "'normal'"),
        ({"after": "2016-01-01", "through": "2015-01-01"}, "does not lie before"),
        ({"after": "2099-01-01"}, "no window of 3"),
    ],
)
def test_wrong_wishes_are_refused(small, bars, given, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        small.training_dataset(bars, **{"horizon": 3, **given})


@pytest.mark.parametrize("head", HEADS)
def test_trainer_as_it_comes(small, bars, model, tmp_path, head):
    """Trains, validates, and the date of the weights is unknown then."""
    trained = model(head, trained_through="2015-06-30")
    data = [small.training_dataset(bars, 3, head=head, **fence) for fence in ({"through": FENCE}, {"after": FENCE})]
    trainer = Trainer(trained, arguments(tmp_path), train_dataset=data[0], eval_dataset=data[1])
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    trainer.save_model(tmp_path / "saved")
    assert type(trained).from_pretrained(tmp_path / "saved").config.trained_through is None
    trained.config.trained_through = FENCE
    trained.save_pretrained(tmp_path / "dated")
    assert type(trained).from_pretrained(tmp_path / "dated").config.trained_through == FENCE


def test_peft_trains_on_it(small, bars, model, tmp_path):
    base = model(trained_through="2015-06-30")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["o_proj"], task_type="CAUSAL_LM"))
    data = small.training_dataset(bars, 3, through=FENCE)
    Trainer(adapted, arguments(tmp_path), train_dataset=data).train()
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert TsfLlmForCausalLM.from_pretrained(tmp_path / "merged").config.trained_through is None


def test_transformers_own_collator_is_refused(small, bars, model, tmp_path):
    """It makes labels of all inputs, placeholders of bars included."""
    data = small.training_dataset(bars, 3, through=FENCE)
    collate = DataCollatorForLanguageModeling(small.tokenizer, mlm=False)
    with pytest.raises(ValueError, match=r"labels are <bar> or <pad>"):
        Trainer(model(), arguments(tmp_path), train_dataset=data, data_collator=collate).train()


def examples_of(page):
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for block in blocks if "training_dataset" in block]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_config):
    """A working directory with a small `quickstart/model`."""
    where = tmp_path_factory.mktemp("docs")
    extractor = TsfLlmFeatureExtractor(feature_groups=["returns", "bar"], context_length=16)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32))
    processor.fit(read_bars("sample", ["AAPL", "IBM"]), through="2009-12-31")
    fields = {**SIZES, "prediction_length": 5, "num_features": len(extractor.names), "trained_through": "2010-12-31"}
    TsfLlmForCausalLM(tiny_config(**fields)).save_pretrained(where / "quickstart" / "model")
    processor.save_pretrained(where / "quickstart" / "model")
    return where


@pytest.mark.filterwarnings("default")  # transformers of its own and trl's old names
@pytest.mark.parametrize("example", examples_of(ROOT / "docs" / "training.md"), ids=["trainer", "sft", "dpo"])
def test_examples_of_the_page_run(folder, monkeypatch, example):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    names = {}
    exec(example, names)
    before = TsfLlmForCausalLM.from_pretrained(folder / "quickstart" / "model").state_dict()
    after = names["model"].state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert np.isfinite(names["trainer"].state.log_history[-1]["train_loss"])
    if (folder / "tuned" / "model").is_dir():
        assert TsfLlmForCausalLM.from_pretrained(folder / "tuned" / "model").config.trained_through == "2012-06-30"

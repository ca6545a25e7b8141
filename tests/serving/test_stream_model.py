"""The step of a stream against one pass over all of its bars, for every kind of attention; windows read again."""

import numpy as np
import pytest
import torch

from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.serving.stream_model import LOGITS, CachedReader, WindowReader, reader_of, write

CONTEXT, BARS = 24, 500  # of the pipelines here; `max_position_embeddings` is 64
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def series(pipe, make_bars, rows, seed=3, gaps=()):
    bars = make_bars(rows, seed=seed)
    bars.loc[list(gaps), ["open", "high", "low", "close"]] = np.nan
    return pipe.processor.encode(bars)[0]


def streamed(pipe, encoded, first):
    """The logits `[P,1+H,bins]` of the bars from row `first` on, one step each; `encoded` are symbols side by side."""
    reader = reader_of(pipe)
    state = reader.begin(pipe.processor.batch([(one, [first]) for one in encoded]))
    logits, rows = [state[LOGITS].clone()], torch.arange(len(encoded))
    for row in range(first + 1, len(encoded[0].close)):
        write(state, reader.step(state, rows, torch.from_numpy(np.stack([one.features[row] for one in encoded]))))
        logits.append(state[LOGITS].clone())
    return torch.stack(logits, dim=1)


def banded(pipe, encoded, first):
    """The oracle: all bars from the first one's window on in one pass, each beside the context before it."""
    start = max(0, first + 1 - CONTEXT)
    rows = torch.arange(len(encoded.close) - start)
    seen = torch.tensor(encoded.observed[start:])
    band = (rows <= rows[:, None]) & (rows > rows[:, None] - CONTEXT) & seen
    mask = torch.zeros(band.shape).masked_fill(~band, torch.finfo(torch.float32).min)
    values = torch.from_numpy(np.where(encoded.observed[:, None], encoded.features, np.float32(0))[start:])
    with torch.inference_mode():
        out = pipe.model(
            past_values=values[None],
            input_ids=torch.full((1, len(rows)), pipe.model.config.bar_token_id),
            attention_mask=mask[None, None],
            position_ids=(seen.long().cumsum(0) - 1).clamp(min=0)[None],
        )
    both = torch.cat((out.logits[0, :, None, : pipe.processor.tokenizer.n_bins], out.law_logits[0]), dim=1)
    return both[first - start :]


KINDS = {
    "mla": {},
    "mla with a query rank": {"q_lora_rank": 8, "rope_interleaved": True},
    "gqa": {"attention_type": "gqa", "num_key_value_heads": 2},
    "mha": {"attention_type": "mha"},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale_all_dim": 0.7, "rope_theta": 10000.0}},
    "eager": {"attn_implementation": "eager"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_one_pass_with_a_band_far_beyond_the_positions_of_the_model(kind, law_pipe, make_bars):
    overrides = dict(KINDS[kind])
    attention = overrides.pop("attn_implementation", None)
    pipe = law_pipe(**overrides)
    if attention is not None:
        pipe.model.set_attn_implementation(attention)
    assert isinstance(reader_of(pipe), CachedReader)
    assert pipe.model.config.max_position_embeddings < BARS
    pair = [series(pipe, make_bars, 60 + BARS, seed=seed) for seed in (1, 2)]
    steps = streamed(pipe, pair, 59)
    for one, logits in zip(pair, steps, strict=True):
        torch.testing.assert_close(logits, banded(pipe, one, 59), **EXACT)


def test_nothing_jumps_where_positions_of_the_model_end(law_pipe, make_bars):
    pipe = law_pipe()
    one = series(pipe, make_bars, 200)
    error = (streamed(pipe, [one], 30)[0] - banded(pipe, one, 30)).abs().amax(dim=(1, 2))
    limit = pipe.model.config.max_position_embeddings - CONTEXT
    assert error[limit - 5 : limit + 5].max() < 1e-5
    assert error[-20:].max() < 4 * error[:20].max() + 1e-6


def test_the_first_bars_of_a_stream_are_the_pipelines_own(law_pipe, make_bars):
    """Up to a whole window nothing has left it."""
    pipe = law_pipe()
    one = series(pipe, make_bars, CONTEXT + 6)
    steps = streamed(pipe, [one], 20)[0, :4]
    rows = np.arange(20, 24)
    for logits, law in zip(steps.unbind(1), pipe._anchors(pipe.processor.batch([(one, rows)])).values(), strict=True):
        shares = torch.from_numpy(law.shares).float()
        torch.testing.assert_close(logits.softmax(-1), shares, **EXACT)


def test_missing_bars_of_the_history_keep_their_place_in_the_window(law_pipe, make_bars):
    pipe = law_pipe()
    one = series(pipe, make_bars, 100, gaps=(40, 41, 50))
    torch.testing.assert_close(streamed(pipe, [one], 59)[0], banded(pipe, one, 59), **EXACT)


def test_a_short_history_fills_the_window_beside_a_long_one(law_pipe, make_bars):
    pipe = law_pipe()
    long, short = series(pipe, make_bars, 90), series(pipe, make_bars, 52)
    reader = reader_of(pipe)
    state = reader.begin(pipe.processor.batch([(long, [59]), (short, [21])]))
    alone = streamed(pipe, [short], 21)[0]
    for step in range(1, 30):
        features = torch.from_numpy(np.stack([long.features[59 + step], short.features[21 + step]]))
        write(state, reader.step(state, torch.tensor([0, 1]), features))
        torch.testing.assert_close(state[LOGITS][1], alone[step], **EXACT)
    torch.testing.assert_close(alone, banded(pipe, short, 21), **EXACT)


def test_a_step_writes_nothing_itself_and_only_the_rows_of_its_symbols(law_pipe, make_bars):
    pipe = law_pipe()
    pair = [series(pipe, make_bars, 80, seed=seed) for seed in (1, 2)]
    reader = reader_of(pipe)
    state = reader.begin(pipe.processor.batch([(one, [59]) for one in pair]))
    before = {name: values.clone() for name, values in state.items()}
    writes = reader.step(state, torch.tensor([1]), torch.from_numpy(pair[1].features[60:61]))
    assert all(torch.equal(state[name], before[name]) for name in state)
    write(state, writes)
    assert all(torch.equal(state[name][0], before[name][0]) for name in state)
    assert all(not torch.equal(state[name][1], before[name][1]) for name in state)


@pytest.mark.parametrize("front", [{"use_mscnn": True}, {"max_position_embeddings": 16}])
def test_a_model_that_no_cache_goes_on_with_reads_its_window_again(front, law_pipe, make_bars):
    pipe = law_pipe(**front)
    assert isinstance(reader_of(pipe), WindowReader)
    one = series(pipe, make_bars, 110)
    steps = streamed(pipe, [one], 59)[0]
    laws = pipe._anchors(pipe.processor.batch([(one, np.arange(59, 110))]))
    for logits, law in zip(steps.unbind(1), laws.values(), strict=True):
        torch.testing.assert_close(logits.softmax(-1), torch.from_numpy(law.shares).float(), **EXACT)


def test_models_without_laws_are_refused(law_processor, law_pipe, tiny_model):
    head = TsfLlmPipeline(
        model=tiny_model(TsfLlmForPrediction, num_features=len(law_processor.feature_extractor.names)),
        processor=law_processor,
    )
    for pipe in (head, law_pipe(horizons=None)):
        with pytest.raises(ValueError, match="names no law"):
            reader_of(pipe)

"""Bars around closes: laws against scipy, labels that read no later bar, and coherence whatever the weights are."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from tsf_llm.emission_tsf_llm import (
    LARGEST,
    SMALLEST,
    TAIL,
    TsfLlmBarHead,
    bar_uniforms,
    bars_around,
    mean_volume,
    own_parts,
    parts_ahead,
    t4_log_density,
    t4_quantile,
    wick_log_likelihood,
    wick_quantile,
)
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction, TsfLlmModel


@pytest.fixture
def head():
    """Large weights: each draw depends on the state and on what came before it."""
    torch.manual_seed(0)
    head = TsfLlmBarHead(16)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


@pytest.fixture(scope="module")
def bars(make_bars):
    return make_bars(200, seed=3)


def arrays(bars):
    return bars[["open", "high", "low", "close"]].to_numpy(), bars["volume"].to_numpy()


# Laws


def test_t4_is_students():
    levels = torch.tensor([1e-9, 0.01, 0.3, 0.5, 0.77, 0.9999], dtype=torch.float64)
    np.testing.assert_allclose(t4_quantile(levels), stats.t.ppf(levels, 4), rtol=1e-6, atol=1e-12)
    x = torch.tensor([-30.0, -0.2, 0.0, 4.0], dtype=torch.float64)
    np.testing.assert_allclose(t4_log_density(x), stats.t.logpdf(x, 4), rtol=1e-12)
    assert t4_quantile(torch.zeros(1, dtype=torch.float64)) == -torch.inf


@pytest.mark.parametrize("shape", [0.6, 1.0, 1.8])
def test_wicks_are_burr_xii_and_counted_below_a_tick(shape):
    law, log_scale, shape = stats.burr12(c=shape, d=TAIL, scale=2.0), torch.tensor(2.0).log(), torch.tensor(shape)
    x = torch.tensor([0.02, 0.3, 1.0, 9.0])
    np.testing.assert_allclose(wick_log_likelihood(x, log_scale, shape), law.logpdf(x), rtol=1e-4)
    levels = torch.tensor([0.0, 0.1, 0.5, 0.99])
    np.testing.assert_allclose(wick_quantile(levels, log_scale, shape), law.ppf(levels), rtol=1e-4, atol=1e-7)
    at_most = wick_log_likelihood(torch.tensor([0.0, SMALLEST / 2]), log_scale, shape).exp()
    np.testing.assert_allclose(at_most, law.cdf(SMALLEST), rtol=1e-3)
    density = lambda x: wick_log_likelihood(torch.tensor(x), log_scale, shape).exp().item()  # noqa: E731
    above = integrate.quad(density, SMALLEST * 1.0001, 1, limit=200)[0] + integrate.quad(density, 1, 200, limit=200)[0]
    assert above + at_most[0].item() == pytest.approx(1, abs=2e-3)


def test_the_loss_is_least_for_the_law_that_drew(head):
    """Draws of a head are likelier under it than under any other of a few."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 4000, 16, generator=generator)
    z = torch.randn(1, 4000, generator=generator).double()
    drawn = head.draw(hidden, z, torch.rand(1, 4000, 4, generator=generator, dtype=torch.float64))
    loss = head(hidden, drawn).item()
    for seed in range(3):
        torch.manual_seed(seed)
        other = TsfLlmBarHead(16)
        other.load_state_dict({n: p + 0.1 * torch.randn_like(p) for n, p in head.state_dict().items()})
        assert other(hidden, drawn).item() > loss


def test_unknown_parts_count_for_nothing(head):
    hidden = torch.randn(2, 6, 16)
    parts = head.draw(hidden, torch.randn(2, 6).double(), torch.rand(2, 6, 4, dtype=torch.float64))
    parts[1] = torch.nan
    torch.testing.assert_close(head(hidden, parts), head(hidden[:1], parts[:1]))
    parts[..., 4] = torch.nan  # an index has no volume: the other laws still learn
    head(hidden, parts).backward()
    assert head.volume.weight.grad.abs().sum() == 0
    assert head.gap.weight.grad.abs().sum() > 0
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    head.zero_grad()
    nothing = head(hidden, torch.full_like(parts, torch.nan))
    nothing.backward()
    assert nothing == 0
    assert all(parameter.grad.abs().sum() == 0 for parameter in head.parameters())


def test_extremes_stay_finite(head):
    hidden = 100 * torch.randn(1, 8, 16)
    parts = torch.tensor([[1e4, -1e4, 1e4, 0.0, -1e4], [0.0] * 5]).repeat(1, 4, 1)
    loss = head(hidden, parts)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


# Labels


def test_parts_and_bars_are_inverse(bars):
    ohlc, volume = arrays(bars)
    sigma, usual = np.full(len(bars), 0.012), mean_volume(volume)
    rows = np.array([[50, 51, 52], [120, 121, 122]])
    parts = parts_ahead(ohlc, volume, usual, sigma, rows)
    origin = rows[:, 0] - 1
    units = {"last_close": ohlc[origin, 3], "sigma": sigma[origin], "usual_volume": usual[origin]}
    paths = bars_around(ohlc[rows, 3][:, None], parts[:, None], **units)
    found = np.stack((paths.open, paths.high, paths.low, paths.close), axis=-1)[:, 0]
    np.testing.assert_allclose(found, ohlc[rows], rtol=1e-12)
    np.testing.assert_allclose(paths.volume[:, 0], volume[rows], rtol=1e-12)
    own = own_parts(ohlc, volume, sigma)[rows[:, 0]]
    np.testing.assert_allclose(own, parts[:, 0], rtol=1e-12)


def test_a_bar_reads_no_later_bar(bars):
    """To the bit, whether the later ones are cut off or replaced."""
    ohlc, volume = arrays(bars)
    sigma = np.linspace(0.01, 0.02, len(bars))
    whole, usual = own_parts(ohlc, volume, sigma), mean_volume(volume)
    for end in (1, 30, 111):
        np.testing.assert_array_equal(own_parts(ohlc[:end], volume[:end], sigma[:end]), whole[:end])
        np.testing.assert_array_equal(mean_volume(volume[:end]), usual[:end])
        other = [np.concatenate((one[:end], 3 * one[end:][::-1])) for one in (ohlc, volume, sigma)]
        np.testing.assert_array_equal(own_parts(*other)[:end], whole[:end])


def test_what_is_wrong_or_missing_is_unknown(bars):
    ohlc, volume = (one.copy() for one in arrays(bars))
    ohlc[60, 1] = ohlc[60, 3] * 0.9  # a high below its close
    ohlc[70], volume[80] = np.nan, 0
    parts = own_parts(ohlc, volume, np.full(len(bars), 0.01))
    assert np.isnan(parts[60, 2:4]).all()
    assert np.isfinite(parts[60, :2]).all()
    assert np.isnan(parts[70:72, :2]).all()
    assert np.isnan(parts[80, 4])
    assert np.isfinite(parts[81]).all()  # the mean goes on without it
    assert np.isnan(parts[:5, 4]).all()
    assert (parts[:, 2:4][np.isfinite(parts[:, 2:4])] >= 0).all()


# Bars


def test_bars_are_coherent_whatever_the_weights(head):
    rng = np.random.default_rng(0)
    B, K, P = 3, 50, 8
    hidden = torch.from_numpy(rng.normal(0, 30, (B, K, P, 16))).float()
    z = rng.standard_t(2, (B, K, P))
    last_close, sigma, usual = np.array([3.0, 1e-3, 2e5]), np.array([0.02, 0.5, 1e-4]), np.array([1e6, np.nan, 3.0])
    uniforms = bar_uniforms("ABC", [np.datetime64("2020-01-01").astype(object)] * 3, samples=K, horizon=P, seed=1)
    uniforms[0, 0], uniforms[0, 1] = 0.0, np.nextafter(1, 0)
    parts = head.draw(hidden, torch.from_numpy(z), torch.from_numpy(uniforms)).numpy()
    assert (np.abs(parts[..., 1:]) <= LARGEST).all()
    close = last_close[:, None, None] * np.exp(np.cumsum(z, -1) * sigma[:, None, None])
    paths = bars_around(close, parts, last_close=last_close, sigma=sigma, usual_volume=usual)
    assert (paths.high >= np.maximum(paths.open, paths.close)).all()
    assert (paths.low <= np.minimum(paths.open, paths.close)).all()
    assert (paths.low > 0).all()
    assert (paths.volume[[0, 2]] >= 0).all()
    assert np.isnan(paths.volume[1]).all()
    assert paths.close is close


def test_uniforms_belong_to_their_row():
    stamp = np.datetime64("2020-01-01").astype(object)
    both = bar_uniforms(["A", "B"], [stamp] * 2, samples=5, horizon=4, seed=0)
    np.testing.assert_array_equal(both[1:], bar_uniforms(["B"], [stamp], samples=5, horizon=4, seed=0))
    np.testing.assert_array_equal(both[:, :, :2], bar_uniforms(["A", "B"], [stamp] * 2, samples=5, horizon=2, seed=0))
    assert (both != bar_uniforms(["A", "B"], [stamp] * 2, samples=5, horizon=4, seed=1)).all()


# In the model


def test_bar_targets_train_the_head_and_the_decoder(tiny_model, tiny_batch):
    model, batch = tiny_model(emits_bars=True), tiny_batch()
    S = batch["input_ids"].shape[1]
    labels = torch.full((2, S), -100)
    labels[:, -3:] = batch["input_ids"][:, -3:]
    targets = torch.rand(2, S, 5)
    quiet = model(**batch, labels=labels)
    out = model(**batch, labels=labels, bar_targets=targets)
    assert quiet.bar_loss is None
    torch.testing.assert_close(out.loss, quiet.loss)  # validation asks the tokens alone
    model.train()
    model.config.router_aux_loss_coef = 0.0
    out = model(**batch, labels=labels, bar_targets=targets)
    torch.testing.assert_close(out.loss, quiet.loss + model.config.bar_loss_weight * out.bar_loss)
    out.bar_loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.bar_head.parameters())
    assert model.model.input_projection.weight.grad.abs().sum() > 0
    first = targets.clone()
    first[:, 0] = torch.nan  # nothing comes before it
    torch.testing.assert_close(model(**batch, labels=labels, bar_targets=first).bar_loss, out.bar_loss)


def test_a_model_without_the_head_lets_targets_pass(tiny_model, tiny_batch):
    model, batch = tiny_model(), tiny_batch()
    assert model.bar_head is None
    labels, targets = torch.full((2, 9), 1), torch.rand(2, 9, 5)
    out = model(**batch, labels=labels, bar_targets=targets)
    assert out.bar_loss is None
    assert torch.equal(out.logits, model(**batch).logits)


def test_save_and_load(tiny_model, tmp_path):
    model = tiny_model(emits_bars=True)
    model.save_pretrained(tmp_path)
    again = TsfLlmForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    for base in (TsfLlmModel, TsfLlmForPrediction):
        options = {} if base is TsfLlmModel else {"prediction_type": "quantile"}
        loaded, info = base.from_pretrained(tmp_path, output_loading_info=True, **options)
        assert not info["unexpected_keys"]
        assert not hasattr(loaded, "bar_head")

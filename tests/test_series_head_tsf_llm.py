"""The series form: an answer depends on what is observed of its own window alone, in any unit; its losses and hurdle
equal independent formulas; every parameter learns; what is saved comes back."""

import doctest
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from peft import LoraConfig, get_peft_model

from tsf_llm import series_head_tsf_llm
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.quantization_tsf_llm import to_int8
from tsf_llm.series_head_tsf_llm import above_zero, latest, normal_quantiles, series_loss

SERIES = {
    "num_features": 2,
    "patch_length": 4,
    "context_length": 20,
    "prediction_length": 6,
    "num_seasons": 2,
    "num_ahead_features": 3,
    "static_cardinalities": [3, 5],
    "step_hidden_size": 8,
    "quantiles": [0.1, 0.5, 0.9],
}
NEEDED = ["past_target", "past_values", "season_values", "ahead_values", "static_ids", "zero_level"]
HEADS = [
    {"prediction_type": "regression"},
    {"prediction_type": "quantile"},
    {"prediction_type": "quantile", "zero_inflated": True},
]


@pytest.fixture(params=HEADS, ids=["regression", "quantile", "zeros"])
def head(request):
    return request.param


@pytest.fixture
def series_model(tiny_model):
    """`series_model(**overrides)`: a random one, the linear maps too, which start at zero."""

    def build(**overrides):
        model = tiny_model(TsfLlmForPrediction, **{**SERIES, **overrides})
        for linear in (model.head.direct, model.head.across):
            torch.nn.init.normal_(linear.weight, std=0.1)
        return model

    return build


def inputs(rows=3, *, bars=20, features=2, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.randn(rows, *shape, generator=generator)

    return {
        "past_target": numbers(bars),
        "past_values": numbers(bars, features),
        "attention_mask": torch.ones(rows, bars, dtype=torch.long),
        "season_values": numbers(6, 4),
        "ahead_values": numbers(6, 3),
        "static_ids": torch.randint(0, 3, (rows, 2), generator=generator),
        "zero_level": -numbers().abs(),
    }


@torch.no_grad()
def answer(model, given):
    return model(**given).prediction


# --- what an answer depends on ---


def test_answers_have_the_shape_of_the_head(series_model, head):
    out = answer(series_model(**head), inputs())
    assert out.shape == ((3, 6, 3) if head["prediction_type"] == "quantile" else (3, 6))
    assert out.isfinite().all()
    if out.ndim == 3:
        assert (out.diff(dim=-1) >= (0 if "zero_inflated" in head else 1e-6)).all()


def test_a_row_does_not_depend_on_the_others(series_model, head, close):
    model, given = series_model(**head), inputs()
    alone = answer(model, {name: x[:1] for name, x in given.items()})
    close(answer(model, given)[:1], alone)
    given["past_target"][1:] *= 1000
    close(answer(model, given)[:1], alone)


@pytest.mark.parametrize("bars", [20, 16, 13, 3])
def test_padding_on_the_left_changes_nothing(series_model, head, close, bars):
    """Nor do bars before the longest window."""
    model, given = series_model(**head), inputs(bars=bars)
    padded = dict(given)
    for name in ("past_target", "past_values", "attention_mask"):
        padded[name] = latest(given[name], 23)
    if bars < 20:
        padded["past_target"][:, : 23 - bars] = 7.0  # whatever stands there
        padded["past_values"][:, : 23 - bars] = 7.0
    close(answer(model, padded), answer(model, given))


def test_what_is_unobserved_is_not_read(series_model, head):
    model, given = series_model(**head), inputs()
    given["attention_mask"][0, 7:10] = 0
    first = answer(model, given)
    given["past_target"][0, 7:10] = given["past_values"][0, 7:10] = 50.0
    assert torch.equal(answer(model, given), first)
    given["past_target"][0, 10] += 1.0
    assert not torch.equal(answer(model, given), first)


def test_nothing_observed_and_constants_are_answered(series_model, head):
    model, given = series_model(**head), inputs()
    given["attention_mask"][0] = 0
    given["past_target"][1] = 0.0
    assert answer(model, given).isfinite().all()


def test_answers_move_with_the_window(series_model, head, close):
    """Values moved by a constant give answers moved by it. Multiplied, they have as large a unit: nothing changes."""
    model, given = series_model(**head), inputs()
    for name in (changed := ("past_target", "season_values", "zero_level")):
        given[name] *= 100
    first = answer(model, given)
    moved = answer(model, {**given, **{name: given[name] + 30 for name in changed}})
    torch.testing.assert_close(moved, first + 30, atol=0.05, rtol=1e-3)


def test_a_step_starts_as_near_as_a_random_walk(series_model):
    """Without what it learns: from the last value to the window's mean, as far as the unit times the root of the steps
    is of the window's deviation."""
    model, given = series_model(prediction_type="regression"), inputs()
    for weights in (model.head.direct, model.head.across, model.head.season, model.head.out):
        for parameter in weights.parameters():
            torch.nn.init.zeros_(parameter)
    given["past_target"] *= 4
    window, steps = given["past_target"], torch.arange(1, model.config.prediction_length + 1)
    mask = given.get("attention_mask", torch.ones_like(window))
    mean = ((window * mask).sum(1) / mask.sum(1))[:, None]
    deviation = (((window - mean) ** 2 * mask).sum(1) / mask.sum(1) + 0.01).sqrt()[:, None]
    near = (steps.sqrt() / deviation).clamp(max=1.0)
    torch.testing.assert_close(answer(model, given), mean + (1 - near) * (window[:, -1:] - mean))


@pytest.mark.parametrize("name", ["season_values", "ahead_values", "static_ids", "past_values"])
def test_every_input_is_read(series_model, head, name):
    model, given = series_model(**head), inputs()
    first = answer(model, given)
    given[name] = (given[name] + 1) % 3 if name == "static_ids" else given[name] + 1.0
    assert not torch.allclose(answer(model, given), first)


def test_a_step_reads_its_own_place_in_all_patches(series_model):
    """A window that repeats itself goes on, by the map across patches alone, with the same patch."""
    model = series_model()
    torch.nn.init.zeros_(model.head.across.weight)
    model.head.across.weight.data[:, :5] = 0.2  # the mean over the five patches
    patch = torch.tensor([1.0, -2.0, 3.0, 0.5])
    ahead = model.head.from_places(patch.repeat(5)[None])
    torch.testing.assert_close(ahead, patch.repeat(2)[None, :6])


# --- refusals ---


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_missing_is_named(series_model, name):
    given = inputs()
    given.pop(name)
    with pytest.raises(ValueError, match=name):
        series_model(**HEADS[2])(**given)


def test_another_shape_is_named(series_model):
    given = inputs() | {"ahead_values": torch.zeros(3, 6, 2)}
    with pytest.raises(ValueError, match=r"ahead_values has the shape \[3, 6, 2\], the model expects \[3, 6, 3\]"):
        series_model()(**given)


def test_a_cache_is_refused(series_model):
    with pytest.raises(ValueError, match="without a cache"):
        series_model()(**inputs(), use_cache=True)


def test_a_language_model_has_no_series_form(tiny_config):
    with pytest.raises(ValueError, match="patch_length=4"):
        TsfLlmForCausalLM(tiny_config(**SERIES))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"patch_length": None}, "set patch_length too"),
        ({"context_length": None}, "give both"),
        ({"context_length": 22}, "a multiple of patch_length"),
        ({"patch_length": 0}, "1 or more"),
        ({"num_seasons": -1}, "num_seasons=-1"),
        ({"num_ahead_features": 10**6}, "num_ahead_features=1000000"),
        ({"static_cardinalities": [3, 0]}, "must be 1 or more each"),
        ({"prediction_type": "classification"}, "regression or quantile"),
        ({"use_mscnn": True}, "no front end"),
        ({"mean_loss_weight": -1.0}, "must not be negative"),
        ({"zero_inflated": True}, "prediction_type='quantile'"),
    ],
)
def test_impossible_configs(tiny_config, fields, said):
    with pytest.raises(StrictDataclassClassValidationError, match=said):
        tiny_config(**{**SERIES, **fields})


# --- losses ---


def test_losses_equal_plain_formulas(tiny_config):
    labels = torch.tensor([[1.0, math.nan, -2.0], [0.5, 0.0, math.nan]])
    weight = torch.tensor([2.0, 0.5])
    told = [(0, 0, 1.0), (0, 2, -2.0), (1, 0, 0.5), (1, 1, 0.0)]
    values, levels = torch.randn(2, 3), [0.1, 0.5, 0.9]
    for kind, power in (("mse", 2), ("l1", 1)):
        config = tiny_config(**{**SERIES, "regression_loss": kind})
        wanted = sum(abs(float(values[b, p] - y) * float(weight[b])) ** power for b, p, y in told) / 4
        torch.testing.assert_close(float(series_loss(config, values, labels, loss_weight=weight)), wanted)
    quantiles = torch.randn(2, 3, 3).sort(dim=-1).values

    def pinball(b, p, y):
        errors = [y - float(q) for q in quantiles[b, p]]
        return sum(max(t * e, (t - 1) * e) for t, e in zip(levels, errors, strict=True)) / 3 * 2 * float(weight[b])

    config = tiny_config(**SERIES, prediction_type="quantile")
    found = series_loss(config, quantiles, labels, loss_weight=weight)
    torch.testing.assert_close(float(found), sum(pinball(*one) for one in told) / 4)
    more = tiny_config(**SERIES, prediction_type="quantile", mean_loss_weight=0.7)
    means = quantiles @ torch.tensor([0.3, 0.4, 0.3])
    squares = sum((y - float(means[b, p])) ** 2 * float(weight[b]) ** 2 for b, p, y in told) / 4
    torch.testing.assert_close(
        float(series_loss(more, quantiles, labels, loss_weight=weight)), float(found) + 0.7 * squares
    )
    logits, zero = torch.randn(2, 3), torch.tensor([-2.0, 0.0])
    config = tiny_config(**SERIES, prediction_type="quantile", zero_inflated=True)
    chances = [float(logits[b, p].sigmoid()) for b, p, _ in told]
    wanted = -sum(math.log(c if y == float(zero[b]) else 1 - c) for c, (b, _, y) in zip(chances, told, strict=True))
    wanted += sum(pinball(b, p, y) for b, p, y in told if y != float(zero[b]))
    found = series_loss(config, quantiles, labels, zero_logits=logits, zero_level=zero, loss_weight=weight)
    torch.testing.assert_close(float(found), wanted / 4)


def test_start_of_the_quantiles_is_normal(series_model):
    levels = [0.05, 0.25, 0.5, 0.9]
    model = series_model(prediction_type="quantile", quantiles=levels)
    start = model.head.around_zero(torch.zeros(1, 1, 4))[0, 0]
    torch.testing.assert_close(start, torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(levels)))
    torch.testing.assert_close(normal_quantiles([0.5]), torch.zeros(1))


def test_quantiles_above_zero_are_those_of_the_mixture():
    """Against a sample of it: 40 % zeros, else uniform on [0, 10]."""
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    rest = 10 * torch.tensor(levels)[None, None]
    logit = torch.tensor([[math.log(0.4 / 0.6)]])
    found = above_zero(rest, levels, logit, torch.zeros(1))[0, 0]
    sample = torch.cat((torch.zeros(40_000), 10 * (torch.arange(60_000) + 0.5) / 60_000))
    torch.testing.assert_close(found, sample.quantile(torch.tensor(levels)), atol=2e-3, rtol=0)
    shifted = above_zero(rest - 3, levels, logit, torch.tensor([-3.0]))[0, 0]
    torch.testing.assert_close(shifted, found - 3)


@pytest.mark.parametrize("chance", [1e-9, 0.5, 1 - 1e-9])
def test_no_quantile_lies_below_zero_whatever_the_chance(chance):
    logit = torch.full((2, 3), math.log(chance / (1 - chance)) if chance < 0.9 else 30.0)
    zero = torch.tensor([0.5, -4.0])
    found = above_zero(torch.randn(2, 3, 3).sort(dim=-1).values, [0.1, 0.5, 0.9], logit, zero)
    assert (found >= zero[:, None, None]).all()
    assert (found.diff(dim=-1) >= 0).all()
    if chance > 0.9:
        torch.testing.assert_close(found, zero[:, None, None].expand_as(found))


# --- learning, adapters, int8, folders ---


@pytest.mark.parametrize("bare", [False, True], ids=["all inputs", "target alone"])
def test_one_step_changes_every_parameter(tiny_model, head, bare):
    less = {"num_features": 0, "num_seasons": 0, "num_ahead_features": 0, "static_cardinalities": None} if bare else {}
    model = tiny_model(TsfLlmForPrediction, **{**SERIES, **head, **less}, router_aux_loss_coef=0.01).train()
    given, labels = inputs(16), torch.randn(16, 6)
    labels[:8] = given["zero_level"][:8, None]
    given["static_ids"] = torch.stack((torch.arange(16) % 3, torch.arange(16) % 5), dim=1)
    model(**given, labels=labels, loss_weight=torch.rand(16)).loss.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_adapters_reach_the_layers_of_the_form(series_model):
    names = ["direct", "across", "context", "mix", "out", "input_projection"]
    model = get_peft_model(series_model(), LoraConfig(r=2, target_modules=names))
    before = answer(model, inputs())
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    assert not torch.allclose(answer(model, inputs()), before)
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == len(names)


def test_int8_covers_the_decoder_and_leaves_the_form_alone(series_model, head):
    """What reads the window and writes the answer stays float32, as embeddings and heads do everywhere."""
    model = series_model(**head)
    small = to_int8(model)
    assert small.head.direct.weight.dtype == torch.float32
    assert any(p.dtype == torch.int8 for p in small.parameters())
    exact = answer(model, inputs())
    torch.testing.assert_close(answer(small, inputs()), exact, atol=0.1 * float(exact.abs().max()), rtol=0)


def test_a_folder_comes_back(series_model, head, tmp_path):
    model = series_model(**head)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "series_head_tsf_llm.py").is_file()
    again = TsfLlmForPrediction.from_pretrained(tmp_path)
    assert torch.equal(answer(again, inputs()), answer(model, inputs()))
    assert again.config.static_cardinalities == [3, 5]


def test_doctests():
    assert doctest.testmod(series_head_tsf_llm).failed == 0

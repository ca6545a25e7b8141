"""compression.py: what is pruned, narrowed and exported."""

import doctest
import zipfile

import pytest
import torch

from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.train_scripts import compress
from tsf_llm.training import compression


def test_doctests():
    assert doctest.testmod(compress).failed == 0


# --- copies --------------------------------------------------------------------------------------------------------


def test_pruning_removes_the_smallest_weights_of_the_decoder(tiny_model):
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    copy = compression.pruned(model, 0.4)
    after = dict(copy.named_parameters())
    matrices = [name for name in after if ".layers." in name and "norm" not in name and "gate.weight" not in name]
    numbers = torch.cat([before[name].abs().flatten() for name in matrices])
    limit = numbers.sort().values[round(0.4 * len(numbers)) - 1]
    for name, p in after.items():
        expected = torch.where(before[name].abs() <= limit, 0.0, before[name]) if name in matrices else before[name]
        assert torch.equal(p, expected), name
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    more = compression.zero_share(copy) - compression.zero_share(model)  # the embedding of <pad> is zero
    assert more == pytest.approx(0.4 * len(numbers) / model.num_parameters(), abs=1e-3)


def test_narrowing_removes_units_that_do_nothing_without_a_trace(tiny_model, tiny_batch, close):
    """Half of the units of every expert, other ones in each, are made idle: without them the answer is the same."""
    model = tiny_model(moe_intermediate_size=32, shared_expert_intermediate_size=16)
    with torch.no_grad():
        for layer in model.model.layers:
            experts, shared = layer.mlp.experts, layer.mlp.shared_experts
            for e in range(4):
                idle = torch.randperm(32)[:16]
                experts.gate_up_proj[e, 32 + idle if e % 2 else idle] = 0
                experts.down_proj[e, :, idle[:8]] = 0
            shared.up_proj.weight[torch.randperm(16)[:8]] = 0
    copy = compression.narrowed(model, 0.5)
    assert copy.config.moe_intermediate_size == 16
    assert copy.config.shared_expert_intermediate_size == 8
    assert copy.model.layers[0].mlp.experts.gate_up_proj.shape == (4, 32, 32)
    assert copy.num_parameters() < model.num_parameters()
    with torch.no_grad():
        close(copy(**tiny_batch()).logits, model(**tiny_batch()).logits)


def test_narrowing_keeps_the_strongest(tiny_model):
    model = tiny_model(moe_intermediate_size=32)
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj[1, :, 5] = 100
    experts = compression.narrowed(model, 0.75).model.layers[0].mlp.experts
    assert (experts.down_proj[1].max(dim=0).values == 100).sum() == 1
    assert not (experts.down_proj[0] == 100).any()


# --- export --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (TsfLlmForCausalLM, {}),
        (TsfLlmForPrediction, {"prediction_type": "quantile"}),
        (TsfLlmForPrediction, {"attention_type": "gqa", "num_key_value_heads": 2, "norm_type": "dynamic_tanh"}),
    ],
)
def test_the_program_answers_as_the_model_for_any_number_of_windows(tiny_model, tmp_path, cls, options):
    model, program = tiny_model(cls, n_routed_experts=8, num_hidden_layers=1, **options), tmp_path / "model.pt2"

    def inputs(rows):
        mask = torch.ones(rows, 6, dtype=torch.long)
        mask[-1, :2] = 0
        return {"past_values": torch.randn(rows, 6, 5), "attention_mask": mask}

    compression.export(model, inputs(2), program)
    loaded = torch.export.load(program).module()
    for rows in (1, 2, 9):
        given = inputs(rows)
        with torch.no_grad():
            if cls is TsfLlmForPrediction:
                expected = model(**given).prediction
            else:
                expected = model(**given, input_ids=torch.full((rows, 6), 19)).logits[:, -1]
            torch.testing.assert_close(loaded(**given), expected, atol=1e-5, rtol=1e-5)


def test_the_program_runs_alone_and_its_file_holds_no_pickle(tiny_model, tmp_path):
    model, program = tiny_model(TsfLlmForPrediction, num_hidden_layers=1), tmp_path / "model.pt2"
    given = {"past_values": torch.randn(3, 6, 5), "attention_mask": torch.ones(3, 6, dtype=torch.long)}
    compression.export(model, {name: tensor[:2] for name, tensor in given.items()}, program)
    with torch.no_grad():
        torch.testing.assert_close(compression.run_alone(program, given), model(**given).prediction)
    with zipfile.ZipFile(program) as archive:
        heads = {name: archive.read(name)[:2] for name in archive.namelist()}
    assert len(heads) > 10
    assert [name for name, head in heads.items() if head in (b"PK", b"\x80\x02", b"\x80\x04")] == []
    program.write_bytes(b"no program")
    with pytest.raises(RuntimeError, match="does not run by itself"):
        compression.run_alone(program, given)


def test_a_program_of_the_series_form_answers_as_the_model(series_form, weekly_sales, tmp_path, close):
    pipe = series_form(num_hidden_layers=1, zero_inflated=True)
    given = compression.model_inputs(pipe.processor(weekly_sales))
    assert {"past_target", "season_values", "ahead_values", "static_ids", "zero_level"} <= given.keys()
    program = tmp_path / "model.pt2"
    compression.export(pipe.model, {name: tensor[:2] for name, tensor in given.items()}, program)
    with torch.inference_mode():
        close(torch.export.load(program).module()(**given), pipe.model(**given).prediction)

"""ensembles.py: the mean of probabilities, in the shape of a causal model's answer."""

import pytest
import torch

from tsf_llm.training.ensembles import Ensemble, log_mean


def test_probabilities_are_averaged_of_tokens_and_laws_alike(tiny_model, tiny_batch):
    models, batch = [tiny_model(seed=seed, horizons=[1, 2, 3]) for seed in range(3)], tiny_batch()
    with torch.no_grad():
        answers, whole = [model(**batch) for model in models], Ensemble(models)(**batch)
    for name in ("logits", "law_logits"):
        expected = torch.stack([getattr(one, name).softmax(-1) for one in answers]).mean(0)
        torch.testing.assert_close(getattr(whole, name).exp(), expected, atol=1e-6, rtol=1e-5)
    assert whole.law_logits.shape[-2] == len(models[0].config.far_horizons) > 0


def test_one_model_is_itself_and_all_answer_as_in_a_forecast(tiny_model, tiny_batch):
    model = tiny_model(hidden_dropout=0.5)
    torch.testing.assert_close(log_mean([model(**tiny_batch()).logits]), model(**tiny_batch()).logits.log_softmax(-1))
    whole = Ensemble([model.train()])
    assert not model.training
    assert whole.can_generate()
    assert whole.device == model.device


@pytest.mark.parametrize("changed", [{"vocab_size": 22, "pad_token_id": 20, "bar_token_id": 21}, {"horizons": [1, 2]}])
def test_unlike_models_are_refused(tiny_model, changed):
    with pytest.raises(ValueError, match="models of an ensemble differ in"):
        Ensemble([tiny_model(), tiny_model(**changed)])


def test_far_horizons_may_have_models_of_their_own(tiny_model, tiny_batch):
    near, far = ([tiny_model(seed=seed, horizons=[1, 2, 3]) for seed in seeds] for seeds in ((0, 1), (2, 3)))
    with torch.no_grad():
        whole, laws = Ensemble(near, far)(**tiny_batch()), Ensemble(far)(**tiny_batch()).law_logits
        tokens = Ensemble(near)(**tiny_batch()).logits
    assert torch.equal(whole.logits, tokens)
    assert torch.equal(whole.law_logits, laws)
    with pytest.raises(ValueError, match="differ in far_horizons"):
        Ensemble(near, [tiny_model(horizons=[1, 2])])

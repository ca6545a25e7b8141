"""inference.py: the mode comes back, batches hold each window once, and a missing label is known as one."""

import pytest
import torch

from tsf_llm.common.inference import batches, evaluating, is_known


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_also_after_an_error(training):
    model = torch.nn.Sequential(torch.nn.Dropout()).train(training)
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert all(part.training is training for part in model.modules())
    with pytest.raises(RuntimeError, match="out of memory"), evaluating(model):
        raise RuntimeError("out of memory")
    assert all(part.training is training for part in model.modules())


class Windows:
    """Three windows that count the batches they are asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 3

    def __getitems__(self, indices):
        self.asked.append(list(indices))
        return {"past_values": torch.tensor(self.asked[-1])}


@pytest.mark.parametrize(("at_once", "asked"), [(2, [[0, 1], [2]]), (3, [[0, 1, 2]]), (128, [[0, 1, 2]])])
def test_batches_hold_each_window_once_and_in_order(at_once, asked):
    windows = Windows()
    given = [batch["past_values"].tolist() for batch in batches(windows, "cpu", at_once=at_once)]
    assert given == windows.asked == asked


def test_batches_come_on_the_device():
    assert {batch["past_values"].device.type for batch in batches(Windows(), "meta")} == {"meta"}


def test_numbers_are_unknown_as_nan_and_classes_as_minus_100():
    assert is_known(torch.tensor([0.0, float("nan"), -100.0])).tolist() == [True, False, True]
    assert is_known(torch.tensor([0, -100, 2])).tolist() == [True, False, True]

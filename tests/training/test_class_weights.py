"""class_weights.py: balanced as scikit-learn has it, of mean one, and felt in training."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from tsf_llm.evaluation.classes import class_shares
from tsf_llm.training.class_weights import class_weights, parse_class_weights


def test_balanced_weights_are_those_of_scikit_learn_and_average_to_one():
    labels = np.repeat([0, 1, 2], [10, 70, 20])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = class_weights("balanced", labels[None])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found.numpy() * class_shares(labels)).sum() == pytest.approx(1)
    given = class_weights([2.0, 1.0, 2.0], labels).numpy()
    assert given[0] == given[2] == pytest.approx(2 * given[1])
    assert (given * class_shares(labels)).sum() == pytest.approx(1)
    assert class_weights("balanced", np.array([0, 2, 2])).tolist() == pytest.approx([1.5, 0, 0.75])
    assert class_weights(None, labels) is None


@pytest.mark.parametrize("text", ["2,1", "2,1,0", "often", "1,1,nan", "1,1,-1"])
def test_other_weights_are_refused(text):
    with pytest.raises(ValueError, match="three positive numbers for down, flat, up"):
        parse_class_weights(text)


def test_weights_make_rare_classes_be_called_more_often(train, tmp_path):
    def called(name, weights):
        options = {"head": "classification", "report_samples": 16, "num_train_epochs": 1, "learning_rate": 1e-2}
        report = train(tmp_path / name, class_weights=weights, **options)
        return np.array(report["after"]["confusion"]).sum(axis=0) / report["after"]["n"]

    assert called("down", "20,1,1")[0] > 0.9
    assert called("flat", "1,20,1")[1] > 0.9


def test_weights_without_classes_are_refused(train, tmp_path):
    with pytest.raises(ValueError, match="class_weights=balanced weighs classes: add --head classification"):
        train(tmp_path, class_weights="balanced")

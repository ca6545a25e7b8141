"""starting_model.py: a model that is given is used, one that a config describes is trained once."""

import pytest

from tsf_llm.train_scripts import sft
from tsf_llm.training import starting_model
from tsf_llm.training.starting_model import BaseArguments, base_model


@pytest.fixture
def data_args(prices, command_line, tmp_path):
    words = {"data": prices, "horizon": 2, "train_through": "2015-10-30", "valid_through": "2015-12-31"}
    return sft.parse(command_line(**words, output_dir=tmp_path / "unused"))[0]


def test_a_model_that_is_given_is_the_start(base_folder, data_args, tmp_path):
    base_args = BaseArguments(model_name_or_path=str(base_folder))
    assert base_model(base_args, data_args, tmp_path) == str(base_folder)
    with pytest.raises(ValueError, match="choose another folder"):
        base_model(base_args, data_args, base_folder)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        base_model(BaseArguments(model_name_or_path="nowhere"), data_args, tmp_path)


def test_a_base_is_trained_once_on_the_same_data_and_fences(data_args, small_model, tmp_path, monkeypatch):
    trained = []

    def train(*arguments):
        trained.append(arguments)
        folder = tmp_path / "out" / "base"
        folder.mkdir(parents=True)
        (folder / "report.json").write_text("{}")

    monkeypatch.setattr(starting_model, "train", train)
    config = tmp_path / "base.yaml"
    config.write_text(f"context_length: 16\nhorizon: 7\nreport_samples: 9\nmodel_config: {small_model}\n")
    for _ in range(2):  # the second time it is finished and used as it is
        base = base_model(BaseArguments(base_config=str(config)), data_args, tmp_path / "out", seed=3)
        assert base == str(tmp_path / "out" / "base")
    [(own_data, model_args, training_args)] = trained
    same = ("data", "horizon", "train_through", "valid_through")
    assert [getattr(own_data, name) for name in same] == [getattr(data_args, name) for name in same]
    assert (own_data.context_length, own_data.report_samples) == (16, 0)
    assert model_args.model_config["hidden_size"] == 16
    assert (training_args.output_dir, training_args.seed) == (base, 3)


def test_without_a_model_or_a_config_that_exists_it_is_refused(data_args, tmp_path):
    with pytest.raises(ValueError, match="give model_name_or_path"):
        BaseArguments()
    with pytest.raises(ValueError, match=r"base_config=none\.yaml: no such file, nor a shipped .*debug_sft\.yaml"):
        base_model(BaseArguments(base_config="none.yaml"), data_args, tmp_path)

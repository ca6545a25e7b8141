"""The model that preference tuning, adapters and distillation start from: a given one, or one trained first."""

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import set_seed
from transformers.utils import logging

from ..common.parser import Parser, option
from .arguments import DataArguments, ModelArguments, SftArguments
from .models import check_start, find_model
from .supervised import train

logger = logging.get_logger(__name__)
CONFIGS = Path(__file__).parents[1] / "train_scripts" / "configs"


@dataclass
class BaseArguments:
    """What to start from."""

    _argument_group_name = "base"

    model_name_or_path: str | None = option(None, "folder or Hub model to start from, with its own processor")
    base_config: str | None = option(
        None, "without a model: train it first, by sft and this YAML (a path or a shipped config's name)"
    )

    def __post_init__(self) -> None:
        if self.model_name_or_path is None and self.base_config is None:
            raise ValueError("give model_name_or_path, a model to start from, or base_config, to train one first")


def base_model(base_args: BaseArguments, data_args: DataArguments, output_dir: str | Path, *, seed: int = 0) -> str:
    """Name of the model to start from. One that `base_config` describes lies in `output_dir/base`.

    It is trained on `data_args`' prices and fences. A finished one is used again, an unfinished one resumed.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if there is no such config.
    """
    if base_args.model_name_or_path is not None:
        name = find_model(base_args.model_name_or_path)
        check_start(name, output_dir)
        return name
    assert base_args.base_config is not None
    path = next((p for p in (Path(base_args.base_config), CONFIGS / base_args.base_config) if p.is_file()), None)
    if path is None:
        shipped = ", ".join(sorted(one.name for one in CONFIGS.glob("*.yaml")))
        raise ValueError(f"base_config={base_args.base_config}: no such file, nor a shipped one ({shipped})")
    folder = Path(output_dir) / "base"
    if (folder / "report.json").is_file():
        logger.warning(f"{folder} is finished and used as it is; remove it to train it again")
        return str(folder)
    parser = Parser((DataArguments, ModelArguments, SftArguments))
    options = {"output_dir": folder, "seed": seed, "resume_from_checkpoint": "true"}
    own_data, model_args, training_args = parser.read(path, **options)
    same = ("data", "tickers", "value_column", "id_column", "time_column", "past_covariates", "known_covariates")
    fences = ("train_through", "valid_through", "market", "calendar", "horizon")
    chosen = {name: getattr(data_args, name) for name in (*same, *fences)}
    train(replace(own_data, **chosen, report_samples=0), model_args, training_args)
    set_seed(seed)  # what follows does not depend on whether the base was trained just now
    return str(folder)

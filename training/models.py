"""Models by name: a folder or a Hub name, checked before anything is loaded, and opened with their own class."""

import hashlib
import re
from pathlib import Path

import torch
from torch import nn
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .. import quantization_tsf_llm as int8  # noqa: F401 (from_pretrained then opens int8 folders too)
from ..common.errors import from_folder
from ..common.reading import read_json, refuse_pipes, shapes_of, shard_names
from ..configuration_tsf_llm import TsfLlmConfig
from ..modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from ..processing_tsf_llm import TsfLlmProcessor

ROOT = Path(__file__).parents[1]
SHIPPED = {"shipped": ROOT, "mini": ROOT / "mini"}  # names of what lies beside this code, in a checkout
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
FLAGS = ("output_hidden_states", "output_attentions", "output_scores", "output_logits", "use_cache")  # of generation
ADAPTER_CONFIG, ADAPTER_FACTS = "adapter_config.json", "adapter.json"

Model = TsfLlmForCausalLM | TsfLlmForPrediction


def find_model(model: str | Path) -> str:
    """The name of a folder that holds a model or an adapter, or of one on the Hub (`organisation/name`).

    `shipped` and `mini` are the two models of this repository, unless a folder here is called so.

    Raises:
        FileNotFoundError: it is neither.
        ValueError: its config is broken, or of a model of another kind.
    """
    model = located(model)
    path = Path(model)
    if path.is_dir() and any((path / name).is_file() for name in (CONFIG_NAME, ADAPTER_CONFIG)):
        refuse_pipes(path)
        _check_config(path / CONFIG_NAME)
        return str(model)
    if path.exists():
        raise FileNotFoundError(f"{model} holds no model (no {CONFIG_NAME}): name a folder that training wrote")
    if not is_hub_name(str(model)):
        raise FileNotFoundError(f"{model} is no folder; a model on the Hub is named organisation/name")
    return str(model)


def located(model: str | Path) -> str | Path:
    """The folder of `shipped` or `mini`; any other name as it is. Raises FileNotFoundError if it is not there."""
    if str(model) not in SHIPPED or Path(model).exists():
        return model
    if not (SHIPPED[str(model)] / CONFIG_NAME).is_file():
        raise FileNotFoundError(
            f"no model '{model}' lies beside the code in {ROOT}, nor a folder of this name here: a wheel has none; "
            "install a clone with `pip install -e .`, or name a folder that training wrote or a model on the Hub"
        )
    return SHIPPED[str(model)]


def check_start(model: str, output_dir: str | Path | None) -> None:
    """Raises ValueError if a training would write over the model that it starts from: a crash would leave neither."""
    if Path(model).resolve() == Path(str(output_dir)).resolve():
        raise ValueError(f"output_dir={output_dir} is the model to start from itself: choose another folder")


def is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def _check_config(path: Path) -> None:
    if not path.is_file():
        return
    fields = read_json(path)
    if (kind := fields.get("model_type")) != TsfLlmConfig.model_type:
        raise ValueError(f"{path.parent} holds a {kind!r} model, not a {TsfLlmConfig.model_type!r} one")


def load_model(model: str | Path) -> Model:
    """The model of a folder or Hub name, of the class that was saved.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is an adapter or a model of another kind.
    """
    name = find_model(model)
    folder = Path(name)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{name} is an adapter: name the model that it belongs to")
    with shapes_of(name):
        return _opened(name, folder)


def _opened(name: str, folder: Path) -> Model:
    fields, _ = TsfLlmConfig.get_config_dict(name)
    if fields.get("model_type") != TsfLlmConfig.model_type:
        raise ValueError(f"{name} holds a {fields.get('model_type')!r} model, not a {TsfLlmConfig.model_type!r} one")
    is_head = fields.get("architectures") == [TsfLlmForPrediction.__name__]
    if folder.is_dir():
        _check_weights(folder, TsfLlmConfig.from_pretrained(name))
    model = from_folder(TsfLlmForPrediction if is_head else TsfLlmForCausalLM, name)
    settings = model.generation_config.to_dict() if model.can_generate() else {}
    if broken := [one for one in FLAGS if not isinstance(settings.get(one), bool | None)]:
        raise ValueError(
            f"{name}: {broken[0]}={settings[broken[0]]!r} in its generation_config.json: give true or false"
        )
    return model


def _check_weights(folder: Path, config: TsfLlmConfig) -> None:
    """Raises ValueError if the weights are not there, or too few for the config: else it would be built all the same.

    Each takes a byte at least. Links are followed here: the Hub's cache is made of them."""
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    files = [single] if single.is_file() else [folder / name for name in shard_names(index)] if index.is_file() else []
    if not files or not all(path.is_file() for path in files):
        raise ValueError(
            f"{folder} lacks weights ({SAFE_WEIGHTS_NAME}); pickles as .bin or .pt are never opened: copy it again"
        )
    for path in files:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ValueError(f"{path} is a pointer of git-lfs, not the weights: fetch them with `git lfs pull`")
    size = sum(path.stat().st_size for path in files)
    if (weights := config.least_weights()) > size:
        raise ValueError(
            f"{folder}: {CONFIG_NAME} wants {weights:,} weights or more, but the files beside it hold {size:,} bytes: "
            "copy it again"
        )


def head_of(model: Model) -> str:
    """`causal_lm`, `regression`, `quantile` or `classification`."""
    return "causal_lm" if model.can_generate() else model.config.prediction_type


def public_name(model: str) -> str:
    """What a report calls a model: its name on the Hub, or of its folder, without a path of this machine."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def load_causal_lm(model: str | Path, purpose: str) -> TsfLlmForCausalLM:
    """`load_model` for what needs sampled paths; `purpose` says so in the complaint.

    Raises ValueError if the model has a head instead."""
    loaded = load_model(model)
    if not loaded.can_generate():
        raise ValueError(f"{model} has a head for numbers and samples no paths: {purpose} a causal LM")
    return loaded


def load_processor(model: str | Path) -> TsfLlmProcessor:
    """The processor that lies beside a model; raises ValueError if there is none."""
    model = located(model)
    if Path(model).is_dir() and not (Path(model) / PROCESSOR_NAME).is_file():
        raise ValueError(
            f"{model} holds no processor (no {PROCESSOR_NAME}): copy it whole from the folder of its training"
        )
    with shapes_of(model):
        return TsfLlmProcessor.from_pretrained(model)


def digest(model: nn.Module) -> str:
    """Of all weights by name: two models share it only if they are the same to the bit."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()

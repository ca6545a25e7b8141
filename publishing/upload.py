"""Uploads to the Hub: which files of a folder go there, with which card, in one commit.

Design choices:
- Uploaded is what is on a list, and nothing else: `safetensors`, JSON, code, the card and its plots. What is left out
  is named. Secrets, pickles and raw data beside a model stop everything before the first request: they show a folder
  that was not meant to be public.
- Every file is a plain one of the folder itself (`plain_file`): its JSON cannot name others, and no link is followed.
- One commit: nobody ever loads half a model. It also removes what an earlier push has put there and this one has not.
- An adapter's base must be on the Hub before it: `base_model` always leads somewhere.
- An interrupted push is started again as it was: the Hub keeps large files that it has received.
- Private, unless `--public`. An existing public repository is not written to without it either.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, TrainerCallback
from transformers.dynamic_module_utils import custom_object_save, get_relative_imports

from ..common.files import write_text
from ..common.parser import option
from ..common.reading import plain_file, read_json, shapes_of, weight_files
from ..evaluation.report import Report
from .cards import Facts, Scores, adapter_card, model_card, preferences_card, prepared_card, read_scores
from .checkout import MINI, is_checkout, tracked
from .secrets import FORBIDDEN, FORBIDDEN_BESIDE_A_MODEL, matches, refuse_files

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
)
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter.json")
PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PROCESSOR_CODE = "processing_tsf_llm.py"
PLOTS = ("scores.png", "pit.png", "loss.png")
SCORE_FILES = ("results.json", "report.json")
COPIES = "compression.json"
DATASET_FOLDERS = ("data", "processor")
MODEL_REPO = (
    *MODEL_FILES,
    *ADAPTER_FILES,
    *PROCESSOR_FILES,
    *PLOTS,
    *SCORE_FILES,
    "*_tsf_llm.py",
    "training_args.bin",
)
DATASET_REPO = ("data/*.parquet", "processor/*", "preferences.*", "dataset.json", "cleaning.json")


@dataclass(frozen=True)
class PushArguments:
    """What goes where."""

    _argument_group_name = "push"

    repo_id: str = option(help="repository on the Hub, org/name")
    model: str | None = option(None, "folder of a model or an adapter")
    dataset: str | None = option(None, "folder that `tsf-llm prepare` or `build_preferences` wrote")
    public: bool = option(False, "everyone may read the repository; else it is private")
    revision: str | None = option(None, "branch, made if it is new; by default main")
    tag: str | None = option(None, "name for this version, such as v1")
    message: str | None = option(None, "message of the commit")
    results: str | None = option(
        None, "model: results.json or report.json for the card; by default that of the folder"
    )
    datasets: list[str] = option([], "model: datasets of the Hub that it was trained on")
    base: str | None = option(
        None, "the model on the Hub that this one was made from, org/name; an adapter does not work without"
    )
    source: str | None = option(None, "dataset: where the prices come from")
    license: str | None = option(None, "dataset: licence of the prices, as the Hub names it; models are mit")
    dry_run: bool = option(False, "list the files and write the card, without a network")

    def __post_init__(self) -> None:
        validate_repo_id(self.repo_id)
        if "/" not in self.repo_id:
            raise ValueError(f"repo_id={self.repo_id!r}: name the owner too, as in org/{self.repo_id}")
        if (self.model is None) == (self.dataset is None):
            raise ValueError("give either --model DIR (a model or an adapter) or --dataset DIR")
        of_models, of_datasets = ("results", "datasets", "base"), ("source", "license")
        for name in of_models if self.dataset else of_datasets:
            if getattr(self, name):
                raise ValueError(f"{name} is for a {'model' if self.dataset else 'dataset'}: leave it out")
        if self.base is not None:
            validate_repo_id(self.base)
            if self.base == self.repo_id:
                raise ValueError(f"base={self.base}: that is the repository to write to; name what it was made from")


@dataclass(frozen=True)
class Upload:
    """All that one push does."""

    repo_type: str
    files: dict[str, Path | bytes]  # by path in the repository
    left_out: list[str]
    ours: tuple[str, ...]  # patterns of what an earlier push may have put there

    @property
    def card(self) -> str:
        content = self.files["README.md"]
        assert isinstance(content, bytes)
        return content.decode()


def plan_model(folder: Path, args: PushArguments) -> Upload:
    """The files of a model or an adapter, with its card.

    Raises:
        ValueError: something is missing that loading needs, or lies there that must not be public.
    """
    is_model, is_adapter = ((folder / name).is_file() for name in ("config.json", ADAPTER_FILES[0]))
    if not (is_model or is_adapter):
        remedy = "give it as --dataset" if is_dataset(folder) else "name a folder that training wrote"
        raise ValueError(f"{folder} holds no model (no config.json): {remedy}")
    if is_checkout(folder):
        return plan_checkout(folder, args)
    refuse_files([folder], FORBIDDEN_BESIDE_A_MODEL)
    with shapes_of(folder):
        files, card, scores = (model_parts if is_model else adapter_parts)(folder, args)
    if scores is not None:
        files |= {scores.name: scores.file} if scores.file else {}
        files |= {plot.name: plain_file(plot.parent, plot.name) for plot in scores.plots}
    files["README.md"] = card.encode()
    return Upload("model", files, left_out(folder, files), MODEL_REPO)


def model_parts(folder: Path, args: PushArguments) -> tuple[dict[str, Path | bytes], str, Scores | None]:
    """Files, card and scores of a model."""
    config, saved = saved_files(folder)
    code = code_files(folder, config, settings_in(saved))
    files: dict[str, Path | bytes] = {**saved, **code}
    scores = scores_of(folder, args, trained_through=config.get("trained_through"))
    facts = Facts(
        repo_id=args.repo_id,
        revision=args.tag,
        config=config,
        features=features_of(folder),
        parameters=count_parameters(saved.values()),
        datasets=args.datasets,
        report=report_of(folder),
        base=args.base,
    )
    return files, model_card(facts, scores), scores


def saved_files(folder: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The config of a model, and the files that `save_pretrained` of model and processor wrote, but for code.

    Raises:
        ValueError: one is missing, or the model is of another kind.
    """
    config = read_json(plain_file(folder, "config.json"))
    if config.get("model_type") != "tsf_llm":
        raise ValueError(
            f"{folder} holds a {config.get('model_type')!r} model, not a 'tsf_llm' one: push it otherwise"
        )
    weights = weight_files(folder)
    processor = existing(folder, PROCESSOR_FILES)
    for name in PROCESSOR_FILES[:2]:
        if name not in processor:
            raise ValueError(f"{folder} has no {name}: save the processor there too, processor.save_pretrained(...)")
    return config, {**weights, **processor, **existing(folder, ("config.json", "generation_config.json"))}


def settings_in(files: dict[str, Path]) -> list[dict[str, Any]]:
    return [read_json(path) for name, path in files.items() if name.endswith(".json") and "index" not in name]


def plan_checkout(folder: Path, args: PushArguments) -> Upload:
    """The repository as it is: what git tracks, the model at its root and the one in `mini/`, its README as the card.

    Raises:
        ValueError: as `plan_model`; or for an option that would change the card.
    """
    if given := [name for name in ("results", "base", "datasets") if getattr(args, name)]:
        raise ValueError(f"{given[0]} is for other folders: the card of {folder} is its README.md, which ship writes")
    files: dict[str, Path | bytes] = {}
    with shapes_of(folder):
        for place in (folder, *([folder / MINI] if (folder / MINI).is_dir() else [])):
            config, saved = saved_files(place)
            count_parameters(saved.values())  # refuses what are no weights
            code_files(folder, config, settings_in(saved))
            files |= {path.relative_to(folder).as_posix(): path for path in saved.values()}
    files |= tracked(folder)
    files["README.md"] = plain_file(folder, "README.md").read_bytes()
    return Upload("model", files, [], ("*",))


def features_of(folder: Path) -> dict[str, Any]:
    """Settings of the feature extractor, as its fit completed them."""
    settings = read_json(plain_file(folder, PROCESSOR_FILES[0]))["feature_extractor"]
    return {**settings, **(settings.get("fitted") or {})}


def report_of(folder: Path) -> Report | None:
    """What was written about how the model was made; None if nothing.

    That of a run of adapters is about these: their model, if the run trained it, has its own in `base/`.
    """
    if copy := report_of_copy(folder):
        return copy
    paths = (plain_file(folder, name) for name in ("report.json", "base/report.json"))
    reports = (Report.read(path) for path in paths if path.is_file())
    return next((report for report in reports if report.made_by != "lora"), None)


def report_of_copy(folder: Path) -> Report | None:
    """What `compress` measured of the copy that it wrote into this folder; None if it is none."""
    path = folder.resolve().parent / COPIES
    return Report.read(path).parts.get(folder.resolve().name) if path.is_file() else None


def adapter_parts(folder: Path, args: PushArguments) -> tuple[dict[str, Path | bytes], str, Scores | None]:
    """Files, card and scores of an adapter. Its two JSON files name the base on the Hub, not that of this machine."""
    config, about = adapter_json(folder)
    link = str(config.get("base_model_name_or_path"))
    base = args.base or link
    if args.base is None and (Path(link).exists() or link.count("/") != 1):
        raise ValueError(f"the base of {folder} is {link}, on this machine: push it, then give --base org/name")
    weights = existing(folder, ADAPTER_FILES[1:2])
    if not weights:
        raise ValueError(f"{folder} has no {ADAPTER_FILES[1]}: save the adapter with save_pretrained")
    files: dict[str, Path | bytes] = dict(weights)
    files["adapter_config.json"] = as_json(config | {"base_model_name_or_path": base})
    if about:
        files["adapter.json"] = as_json(about | {"base_model": base})
    if processor := existing(folder, PROCESSOR_FILES):
        files |= processor | with_imports(folder, [PROCESSOR_CODE])
    ticker, through = about.get("ticker"), about.get("trained_through")
    scores = scores_of(folder, args, trained_through=through, ticker=ticker)
    facts = adapter_facts(folder, args.repo_id, revision=args.tag, datasets=args.datasets)
    return files, adapter_card(facts, scores, base=base), scores


def adapter_json(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`adapter_config.json` and, if it is there, `adapter.json`."""
    config, about = (plain_file(folder, ADAPTER_FILES[i]) for i in (0, 2))
    return read_json(config), read_json(about) if about.is_file() else {}


def adapter_facts(folder: Path, repo_id: str, *, revision: str | None = None, datasets: Sequence[str] = ()) -> Facts:
    """What the files of an adapter say of it."""
    config, about = adapter_json(folder)
    head = "TsfLlmForCausalLM" if config.get("task_type") == "CAUSAL_LM" else "TsfLlmForPrediction"
    return Facts(
        repo_id=repo_id,
        revision=revision,
        config={**config, **about, "architectures": [head]},
        features=features_of(folder) if (folder / PROCESSOR_FILES[0]).is_file() else {},
        parameters=count_parameters([folder / ADAPTER_FILES[1]]),
        datasets=[*datasets],
        report=None,
    )


def is_dataset(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset.json", "preferences.json"))


def plan_dataset(folder: Path, args: PushArguments) -> Upload:
    """The files of a prepared dataset or of preference pairs, with its card.

    Raises:
        ValueError: an unfinished folder, a shard that is missing, or something that must not be public.
    """
    if not is_dataset(folder):
        raise ValueError(
            f"{folder} has neither dataset.json nor preferences.json: it is no dataset, or an unfinished one"
        )
    refuse_files([folder, *(folder / name for name in DATASET_FOLDERS if (folder / name).is_dir())], FORBIDDEN)
    plain_file(folder, "README.md")  # the card of the upload is made of it
    if (folder / "dataset.json").is_file():
        shards = shards_of(folder)
        rest = [f"processor/{name}" for name in existing(folder / "processor", (*PROCESSOR_FILES, "*_tsf_llm.py"))]
        wanted = [*shards, *rest, "dataset.json", "cleaning.json"]
        with shapes_of(folder / "README.md"):
            card = prepared_card(folder, args.repo_id, source=args.source, licence=args.license)
    else:
        lines = ["preferences.jsonl"] if (folder / "preferences.jsonl").is_file() else []
        wanted = ["preferences.parquet", "preferences.json", *lines]
        info = read_json(plain_file(folder, "preferences.json"))
        with shapes_of(folder / "preferences.json"):
            card = preferences_card(info, args.repo_id, source=args.source, licence=args.license)
    files: dict[str, Path | bytes] = {name: plain_file(folder, name) for name in wanted}
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: write it again")
    files["README.md"] = card.encode()
    return Upload("dataset", files, left_out(folder, files), DATASET_REPO)


def shards_of(folder: Path) -> list[str]:
    """The files that a prepared folder's `dataset.json` names.

    Raises ValueError if it names others than shards."""
    with shapes_of(folder / "dataset.json", "prepare it again"):
        names = [one["file"] for one in read_json(plain_file(folder, "dataset.json"))["tickers"].values()]
        if foreign := [name for name in names if not matches(name, DATASET_REPO[:1])]:
            raise ValueError(f"{folder / 'dataset.json'} names {foreign[0]!r}, no shard of data/: prepare it again")
    return names


def existing(folder: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """Files of the folder itself, by name.

    Raises ValueError if one of them is no plain file."""
    names = sorted(path.name for path in folder.iterdir() if matches(path.name, patterns))
    return {name: path for name in names if (path := plain_file(folder, name)).is_file()}


def left_out(folder: Path, files: dict[str, Path | bytes]) -> list[str]:
    """What lies in the folder and stays there; a subfolder of which nothing is taken is named once."""
    opened = {name.split("/")[0] for name in files if "/" in name}
    paths = [
        path for place in (folder, *(folder / name for name in sorted(opened))) for path in sorted(place.iterdir())
    ]
    names = {path.relative_to(folder).as_posix() + "/" * path.is_dir(): path for path in paths}
    replaced = ["README.md (the card replaces it)"] if (folder / "README.md").is_file() else []
    return [
        name + " (an adapter: push it by itself)" * (path / ADAPTER_FILES[0]).is_file()
        for name, path in names.items()
        if name not in files and name.strip("/") not in opened
    ] + replaced


def as_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def code_files(folder: Path, config: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Path]:
    """The modules that the config and the other JSON files lead to, and all that they import."""
    references = [one for content in others for one in (content.get("auto_map") or {}).values()]
    references += [task["impl"] for task in config.get("custom_pipelines", {}).values()]
    named = [one for entry in references for one in (entry if isinstance(entry, list) else [entry])]
    modules = sorted({name.rpartition(".")[0] for name in named if name})
    if not config.get("auto_map"):
        raise ValueError(f"{folder / 'config.json'} names no code (auto_map): save the model with save_pretrained")
    return with_imports(folder, [f"{name}.py" for name in modules])


def with_imports(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Modules of the folder and what they import of it, by name."""
    files: dict[str, Path] = {}
    left = list(names)
    while left:
        path = plain_file(folder, left.pop())
        if path.name in files:
            continue
        if path.parent != folder or not path.is_file():
            raise ValueError(f"{folder} has no {path.name}, which loading needs: save the model with save_pretrained")
        files[path.name] = path
        try:
            left += [f"{name}.py" for name in get_relative_imports(path)]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8 ({error}): save the model with save_pretrained") from error
    return dict(sorted(files.items()))


def count_parameters(paths: Iterable[Path]) -> int:
    """Of safetensors files, from their headers; the scales of whole numbers (int8) are none.

    Raises:
        ValueError: a file that is none.
    """
    total = 0
    for path in (path for path in paths if path.suffix == ".safetensors"):
        try:
            with safe_open(path, framework="np") as file:
                names = [name for name in file.keys() if not name.endswith("_scale")]  # noqa: SIM118
                total += sum(int(np.prod(file.get_slice(name).get_shape())) for name in names)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is no safetensors file ({error}): save the model with save_pretrained"
            ) from error
    return total


def scores_of(
    folder: Path, args: PushArguments, *, trained_through: str | None, ticker: str | None = None
) -> Scores | None:
    """Those of `--results`, or else of the folder; or of the run that made the adapter or the copy."""
    if args.results is not None and not Path(args.results).is_file():
        raise ValueError(f"{args.results} does not exist: give a results.json of `tsf-llm evaluate`")
    places = [plain_file(folder, name) for name in SCORE_FILES]
    above = folder.resolve().parent / "report.json"  # of a run of adapters, not of another model
    if ticker is not None and above.is_file() and Report.read(above).made_by == "lora":
        places.append(above)
    path = Path(args.results) if args.results else next((place for place in places if place.is_file()), None)
    copy = None
    if path is None and report_of_copy(folder):
        path, copy = folder.resolve().parent / COPIES, folder.resolve().name
    return None if path is None else read_scores(path, trained_through=trained_through, ticker=ticker, copy=copy)


def send(upload: Upload, args: PushArguments) -> str:
    """Makes the repository if need be, commits, tags; returns the address of the commit."""
    if get_token() is None:
        raise LocalTokenNotFoundError
    api = HfApi(library_name="tsf-llm")
    branch = args.revision or constants.DEFAULT_REVISION
    repo = {"repo_id": args.repo_id, "repo_type": upload.repo_type}
    if args.base and not api.repo_exists(args.base):
        raise ValueError(f"base={args.base}: no such model on the Hub, or the token may not read it: push it first")
    open_repository(api, args, upload.repo_type)
    if args.tag and args.tag in {tag.name for tag in api.list_repo_refs(**repo).tags}:
        raise ValueError(f"{args.repo_id} has a tag {args.tag} already: choose another, so that it stays what it is")
    if branch != constants.DEFAULT_REVISION:
        api.create_branch(branch=branch, exist_ok=True, **repo)
    there = api.list_repo_files(revision=branch, **repo)
    stale = [name for name in there if matches(name, upload.ours) and name not in upload.files]
    commit = api.create_commit(
        operations=[
            *(CommitOperationAdd(name, content) for name, content in sorted(upload.files.items())),
            *(CommitOperationDelete(name) for name in stale),
        ],
        commit_message=args.message or f"Push {Path(str(args.model or args.dataset)).resolve().name}",
        revision=branch,
        **repo,
    )
    if args.tag:
        api.create_tag(tag=args.tag, revision=commit.oid, **repo)
    return str(commit.commit_url)


def open_repository(api: HfApi, args: PushArguments, repo_type: str) -> None:
    """Finds or makes it.

    Raises:
        ValueError: it is public and `--public` was not given, or the name belongs to a repository of another type.
    """
    try:
        info = api.repo_info(args.repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        for other in {"model", "dataset", "space"} - {repo_type}:
            if api.repo_exists(args.repo_id, repo_type=other):
                raise ValueError(f"{args.repo_id} is a {other}, not a {repo_type}: choose another name") from None
        api.create_repo(args.repo_id, repo_type=repo_type, private=not args.public)
        return
    if not info.private and not args.public:
        raise ValueError(f"{args.repo_id} is public, and what is uploaded there is too: add --public if you mean it")
    if info.private and args.public:
        print(f"{args.repo_id} is private and stays so: its settings on the Hub make it public")


@contextmanager
def one_line_from_the_hub(repo_id: str) -> Iterator[None]:
    """Says in one line what the Hub or the way to it did not do.

    Raises:
        ValueError: instead of every error of the Hub and of the network.
    """
    try:
        yield
    except LocalTokenNotFoundError:
        raise ValueError("no token for the Hub: run `hf auth login`, or set HF_TOKEN to one that may write") from None
    except (HTTPError, RuntimeError) as raised:  # an upload in a thread fails with a RuntimeError around the reason
        error = raised.__cause__ if isinstance(raised, RuntimeError) and raised.__cause__ else raised
        raise ValueError(remedy_for(error, repo_id)) from error


def remedy_for(error: BaseException, repo_id: str) -> str:
    """What went wrong on the way to the Hub or there, and what to do."""
    again = "start it again, large files that arrived are kept"
    words = " ".join(str(error).split())
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status is None:
        return f"the upload to {constants.ENDPOINT} failed ({words}): check the network, then {again}"
    if status == 401:
        return "the Hub does not accept the token: run `hf auth login`, or set HF_TOKEN to one that may write"
    if status in (403, 404):
        return f"the token may not write to {repo_id}: use one that may, or another name"
    if status == 409:
        return f"{repo_id} is taken, or was changed meanwhile: look at it, then start again or choose another name"
    if status >= 500 or status == 429:
        return f"the Hub is not available at the moment (status {status}): {again}"
    return f"the Hub refused the upload (status {status}): {words}"


class HubCallback(TrainerCallback):
    """Keeps what Trainer would upload by mistake off the Hub, which leaves out what a `.gitignore` names.

    That is `training_args.bin`, a pickle; the model that `base_config` trained first; and what is still being written.
    Trainer copies a checkpoint's weights and config, but not the code that loads them: this adds it.
    """

    def on_push_begin(self, args, state, control, model=None, **kwargs):
        write_text("training_args.bin\n/base/\n/.unfinished/\n", Path(args.output_dir) / ".gitignore")
        if isinstance(model, PreTrainedModel):
            custom_object_save(model, args.output_dir)

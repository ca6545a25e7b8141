"""A model to ship: several seeds, their average as a teacher, one student; every run in a log that goes with it.

Design choices:
* Bars behind `through` and tickers that are held out are dropped where the files are read, so nothing can see them:
  no scaler, no bin, no market of others, no validation, no calibration.
* Bars are read and encoded once per fence. A run is finished where its `run.json` has figures; one that is not goes on
  from its last checkpoint. A folder of another recipe or other bars is refused.
* Seeds see the whole market. What `context_dropout` hides, it hides from the student, who learns from them: so a model
  that knows less loses little to one that was trained for that.
* Runs are compared by figures of each horizon on the validation dates (`evaluation/dense.py`), chosen by the
  validation loss of the trainer.
"""

import copy
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ..bars_tsf_llm import kind_of
from ..common.files import claim, replace_file, write_json
from ..common.parser import option
from ..common.provenance import provenance
from ..common.reading import read_json
from ..data_prep.shards import hash_of, hash_of_rows
from ..evaluation.dense import law_figures
from ..evaluation.trials import add_trials
from .arguments import DataArguments, ModelArguments, SftArguments, check_least, model_fields
from .checkpoints import checkpoints, claim_folder
from .data import TrainingData
from .distillation import DistillArguments, make_student, teach
from .ensembles import Ensemble
from .models import load_model
from .supervised import train

RUN, BY = "run.json", "pretrain"
NOT_THE_MODEL = (RUN, "report.json", "loss.png", ".gitignore", ".tsf_llm.json")  # of a run's folder
RECIPE = (  # of the training arguments
    *("learning_rate", "weight_decay", "lr_scheduler_type", "warmup_steps", "max_steps", "num_train_epochs"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "ema_decay"),
    *("eval_strategy", "eval_steps", "early_stopping_patience", "dynamic_lr"),
)
WINDOWS = (  # of the data arguments
    *("horizon", "horizons", "stride", "valid_stride", "context_length", "feature_groups", "scaling", "per_ticker"),
    *("augment", "context_dropout", "sample_weights", "bag_years", "n_bins"),
)


@dataclass
class PretrainData(DataArguments):
    """`DataArguments` of several files, up to a date."""

    data: list[str] = option(["sample"], "price files, or folders; of a ticker in several the first one counts")  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.through is None:
            raise ValueError("through is missing: name the last date that anything may see, as 2018-12-31")
        if self.valid_through is not None:
            raise ValueError("valid_through is `through` here: leave it out")

    def up_to(self, through: str) -> "PretrainData":
        """With fences: validation is the last year up to `through`, unless `train_through` says otherwise."""
        before = str((pd.Timestamp(through) - pd.DateOffset(years=1)).date())
        fenced = replace(self, through=through, train_through=self.train_through or before)
        fenced.valid_through, fenced.report_samples = through, 0  # what is left out scores the model, and not here
        return fenced


@dataclass
class PretrainArguments:
    """Seeds, their average, and the student of it."""

    _argument_group_name = "pretraining"

    seeds: list[int] = option([0, 1, 2], "one training each; their average is the teacher")
    years: list[int] | None = option(
        None, "compare recipes instead: train to the end of the year before each of these, and score it"
    )
    student_config: dict | str | None = option(
        None, "fields of TsfLlmConfig for the student: a YAML mapping, or JSON; by default those of the seeds"
    )
    far_steps: int | None = option(
        None, "steps of further seeds, whose far horizons are the teacher's: these learn the past by heart sooner"
    )
    student_steps: int | None = option(None, "steps of the student; by default twice those of a seed")
    student_learning_rate: float | None = option(None, "of the student; by default that of the seeds")
    temperature: float = option(1.0, "of the teacher's and the student's probabilities")
    alpha: float = option(0.9, "share of the teacher in the student's loss: 1 for the teacher alone")
    calibrate: bool = option(True, "fit a calibration on the validation dates, kept if it helps on their later half")
    trials_log: str | None = option(None, "log of all runs; by default trials.jsonl in output_dir")

    def __post_init__(self) -> None:
        self.student_config = model_fields(self.student_config)
        if not self.seeds or len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds}: give one or more, each once")
        check_least(self, 1, "student_steps", "far_steps")
        if self.student_learning_rate is not None and not 0 < self.student_learning_rate < float("inf"):
            raise ValueError(f"student_learning_rate={self.student_learning_rate}: must be above 0")


@dataclass(frozen=True)
class Run:
    """One finished training."""

    what: str  # seed or student
    seed: int
    folder: Path
    valid_loss: float
    figures: dict[str, dict[str, Any]]  # by horizon

    def row(self) -> dict[str, Any]:
        return {"what": self.what, "seed": self.seed, "valid_loss": self.valid_loss, "figures": self.figures}


@dataclass(frozen=True)
class Pretraining:
    """The runs of one pair of fences."""

    data: TrainingData
    model_args: ModelArguments
    args: PretrainArguments
    training_args: SftArguments
    folder: Path
    log: Path

    def seeds(self) -> list[Run]:
        """All that are asked for: those of the next bar, then those of the far horizons."""
        lengths = [None] if self.args.far_steps is None else [None, self.args.far_steps]
        return [self.seed(seed, steps) for steps in lengths for seed in self.args.seeds]

    def seed(self, seed: int, steps: int | None = None) -> Run:
        """A model of this seed, trained now or before; for so many steps, where they are given."""
        what = "seed" if steps is None else "far seed"
        folder = self.folder / f"{what.replace(' ', '-')}-{seed}"
        fields = dict(self.model_args.model_config or {})  # type: ignore[arg-type]

        def work() -> float:
            whole = replace(self.data, args=changed(self.data.args, context_dropout=0.0))
            own = self._own(folder, seed)
            own.max_steps = steps or own.max_steps
            return train(whole.args, self.model_args, own, data=whole)["valid_loss"]

        return self._run(what, seed, folder, fields if steps is None else {**fields, "steps": steps}, work)

    def ensemble(self, runs: Sequence[Run]) -> Ensemble:
        """The runs as one; its figures go to the log once, when it is scored."""
        near, far = ([load_model(run.folder) for run in runs if run.what == what] for what in ("seed", "far seed"))
        return Ensemble(near, far).to(self.training_args.device)  # type: ignore[arg-type]

    def score(self, model: Any) -> dict[str, dict[str, Any]]:
        """Figures by horizon on the validation dates."""
        after = self.data.split.train_through + pd.Timedelta(1, "ns")
        options = {"start": after, "end": self.data.split.valid_through}
        found = law_figures(model, self.data.processor, self.data.series, **options)
        return {str(h): figures for h, figures in found.items()}

    def score_ensemble(self, runs: Sequence[Run]) -> dict[str, Any]:
        names = [f"{run.what} {run.seed}" for run in runs]
        told = {"what": "ensemble", "seeds": names, "figures": self.score(self.ensemble(runs))}
        self._log({**told, "settings": self._recipe(dict(self.model_args.model_config or {}))})
        return told

    def student(self, runs: Sequence[Run]) -> Run:
        """A student of the runs' average, on all years."""
        folder, seed = self.folder / "student", runs[0].seed
        rate = self.args.student_learning_rate or self.training_args.learning_rate
        fields = dict(self.args.student_config or self.model_args.model_config or {})  # type: ignore[arg-type]
        options = {"temperature": self.args.temperature, "alpha": self.args.alpha, "train_alone": False}
        data = replace(self.data, args=changed(self.data.args, bag_years=False))

        def work() -> float:
            own = self._own(folder, seed)
            own.learning_rate = rate
            own.max_steps = self.args.student_steps or (2 * own.max_steps if own.max_steps > 0 else own.max_steps)
            listens = DistillArguments(model_config=fields, **options)  # type: ignore[arg-type]
            teacher: Any = self.ensemble(runs)
            student = make_student(listens, data, teacher, seed=seed)
            return teach(student, teacher, data, listens, own, folder=folder)["valid_loss"]

        told = {**fields, **options, "steps": self.args.student_steps, "learning_rate": rate}
        told["teacher"] = [f"{run.what} {run.seed}" for run in runs]
        return self._run("student", seed, folder, told, work)

    def _own(self, folder: Path, seed: int) -> SftArguments:
        own = copy.copy(self.training_args)
        own.output_dir, own.seed, own.resume_from_checkpoint = str(folder), seed, "true"
        return own

    def _run(self, what: str, seed: int, folder: Path, fields: dict[str, Any], work: Callable[[], float]) -> Run:
        """What the folder's `run.json` tells; or the work is done, scored, logged and told there.

        Raises ValueError for a folder of another recipe."""
        settings, path = self._recipe(fields), folder / RUN
        recipe = hash_of(what, seed, settings)
        told = read_json(path) if path.is_file() else {"recipe": recipe}
        if told.get("recipe") != recipe:
            raise ValueError(f"{folder} is of another recipe or other bars: choose another --output_dir, or remove it")
        if "figures" not in told:
            claim(folder, [RUN], by=BY)
            write_json(told, path)
            told |= {"valid_loss": work()}
            told |= {"figures": self.score(load_model(folder).to(self.training_args.device))}
            self._log({"what": what, "seed": seed, **told, "settings": settings})
            write_json(told, path)
            for finished in checkpoints(folder):
                shutil.rmtree(finished)
        return Run(what, seed, folder, told["valid_loss"], told["figures"])

    def _recipe(self, fields: dict[str, Any]) -> dict[str, Any]:
        training = {name: getattr(self.training_args, name) for name in RECIPE}
        windows = {name: getattr(self.data.args, name) for name in WINDOWS}
        fences = {name: getattr(self.data.args, name) for name in ("train_through", "through", "held_out")}
        return {"model": fields, **windows, **training, **fences, "bars": fingerprint(self.data)}

    def _log(self, line: dict[str, Any]) -> None:
        add_trials(self.log, [{"at": datetime.now(UTC).isoformat(timespec="seconds"), **provenance(BY), **line}])


def changed(args: DataArguments, **fields: Any) -> DataArguments:
    """The same but for these; `dataclasses.replace` would check them again."""
    other = copy.copy(args)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def fingerprint(data: TrainingData) -> str:
    """Of every bar that the training can see, to the bit."""
    frames = [data.bars, *([] if data.market is None else [data.market])]
    return hash_of(*(_hash(frame) for frame in frames))[:16]


def _hash(frame: pd.DataFrame) -> str:
    id = kind_of(frame).id
    names = hashlib.sha256("\n".join(frame[id]).encode()).hexdigest() if id in frame else ""
    return hash_of(names, hash_of_rows(frame.drop(columns=id, errors="ignore")))


def publish(run: Run, folder: Path) -> None:
    """Copies the model of a run, `config.json` last: without it nothing loads."""
    claim_folder(folder)
    files = [path for path in run.folder.iterdir() if path.is_file() and path.name not in NOT_THE_MODEL]
    for path in sorted(files, key=lambda one: (one.name == "config.json", one.name)):
        replace_file(folder / path.name, lambda unfinished, path=path: shutil.copyfile(path, unfinished))

"""What trl lacks for price paths: pairs read and split by date, their collator, and two small trainers.

Design choices:
* A causal LM scores a path as a language model scores a completion: the sum of its tokens' log-probabilities after the
  bars. trl does that as it is; only its preparation of text is left out.
* A regression head gives one number per step and no probability. It gets one from a stated noise model: the return of
  each step is Student-t about the head's, with degrees of freedom and scale that fit the base model's residuals on the
  training dates and then stay. The log-density of a path stands where its log-probability would.
* While a policy is tuned, it runs as it does when it forecasts and as its reference does: no dropout in attention or
  anywhere else, no hidden patches, stored batch statistics. Otherwise the two would differ before the first step.
* The losses that balance experts and train a front end are left out: a loss is then the preference loss and nothing
  else. The routers start balanced, and few pairs move them little.
* Pairs are dated. Those whose outcome lies behind the training fence never train, and are counted.

Shapes: N pairs, B pairs of a batch, T bars, F features, P steps; chosen rows of a batch come first, [2B].
"""

import copy
import functools
import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Value
from datasets import Sequence as ListOf
from peft import LoraConfig, PeftModel
from scipy import stats
from transformers import GenerationConfig, Trainer
from transformers.modeling_layers import GradientCheckpointingLayer
from trl import DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from ..bars_tsf_llm import kind_of
from ..data_prep.windows import Split
from ..modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from ..processing_tsf_llm import TsfLlmProcessor

NEEDED = ("ticker", "origin", "past_values", "attention_mask", "chosen_ids", "rejected_ids")
READ_AT_ONCE = 256
HELD_OUT = 0.1  # of pairs without pairs of validation dates
FEWEST_DF, MOST_DF = 2.1, 100.0  # a variance exists; beyond, Student-t is normal
LORA_MODULES = (
    "q_proj",
    "q_a_proj",
    "q_b_proj",
    "k_proj",
    "v_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
LORA_PARAMETERS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def lora_config(r: int, alpha: float) -> LoraConfig:
    """Low-rank updates of attention, the shared expert and the routed experts; the router stays as it is."""
    return LoraConfig(
        r=r, lora_alpha=alpha, target_modules=list(LORA_MODULES), target_parameters=list(LORA_PARAMETERS)
    )


# --- reading pairs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """What pairs must fit: the features, the tokens or numbers, and the steps of a model.

    Pairs come out with `past_values [T,F]`, `attention_mask [T]`, and `chosen` and `rejected` `[P]`: return tokens for
    a causal LM, returns over sigma for a regression head. `ticker` and `origin` are there if the source has them.
    """

    model: TsfLlmForCausalLM | TsfLlmForPrediction
    processor: TsfLlmProcessor
    cache: Path  # where `datasets` keeps the table that it maps into memory

    @property
    def numbers(self) -> bool:
        return not self.model.can_generate()

    def read(self, source: str | Path) -> Dataset:
        """Pairs of `build_preferences` (its folder or `.parquet`), or of the original's layout (`.jsonl`).

        Raises:
            FileNotFoundError: no such source.
            ValueError: another format, or pairs that do not fit the model.
        """
        path = Path(source)
        if path.is_dir():
            self._check_folder(path)
            path = path / "preferences.parquet"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: name a folder or .parquet of build_preferences, or a .jsonl"
            )
        pairs = self._read_jsonl(path) if path.suffix == ".jsonl" else self._read_parquet(path)
        return self._without_ties(pairs, path)

    def _check_folder(self, folder: Path) -> None:
        if not (folder / "preferences.json").is_file():
            raise FileNotFoundError(f"{folder} holds no finished pairs (no preferences.json): build them again")
        info = json.loads((folder / "preferences.json").read_text())
        names, n_bins = self.processor.feature_extractor.names, self.processor.tokenizer.n_bins
        if info["features"] != names:
            raise ValueError(
                f"{folder} was built for other features than the model's: build its pairs with this model"
            )
        if info["n_bins"] != n_bins:
            raise ValueError(
                f"{folder} has return tokens of {info['n_bins']} bins, the model {n_bins}: build it again"
            )

    def _read_parquet(self, path: Path) -> Dataset:
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is no parquet file: name one of build_preferences, or a .jsonl") from error
        missing = [name for name in NEEDED if name not in file.schema_arrow.names]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}: pairs are written by build_preferences")
        first = 0
        for chunk in file.iter_batches(READ_AT_ONCE, columns=list(NEEDED)):
            self._check_chunk(chunk, path, first)
            first += len(chunk)
        if not first:
            raise ValueError(f"{path} holds no pairs: build them again")
        pairs = Dataset.from_parquet(str(path), cache_dir=str(self.cache), columns=list(NEEDED))
        pairs = pairs.rename_columns({"chosen_ids": "chosen", "rejected_ids": "rejected"})
        return pairs.map(self._decoded, features=_features(float), desc="returns of tokens") if self.numbers else pairs

    def _read_jsonl(self, path: Path) -> Dataset:
        rows = list(self._lines(path))
        if not rows:
            raise ValueError(f"{path} holds no pairs: one JSON object per line, with prompt, chosen and rejected")
        if len({len(row["chosen"]) for row in rows}) > 1:
            raise ValueError(f"{path} has paths of different lengths: all pairs need the same number of steps")
        kind = float if self.numbers else int
        return Dataset.from_list(rows, features=Features({k: v for k, v in _features(kind).items() if k in rows[0]}))

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield self._parsed(line, f"{path}, line {number}")

    def _parsed(self, line: str, where: str) -> dict[str, Any]:
        try:
            pair = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is no JSON ({error.msg}): it may be cut off") from error
        missing = [name for name in ("prompt", "chosen", "rejected") if not isinstance(pair, dict) or name not in pair]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        prompt = pair["prompt"]
        if not isinstance(prompt, list) or len(prompt) != 1 or not isinstance(prompt[0], list) or not prompt[0]:
            raise ValueError(f"{where}: prompt must be one window, a list [1][T][F]")
        row = {"past_values": prompt[0], "attention_mask": [1] * len(prompt[0])}
        for name in ("chosen", "rejected"):
            values = _numbers(pair[name], f"{where}, {name}", ndim=1)
            row[name] = (values if self.numbers else self.processor.tokenizer.encode_returns(values)).tolist()
        self._check(row, where)
        return row

    def _check_chunk(self, chunk: pa.RecordBatch, path: Path, first: int) -> None:
        """Many pairs of a table at once, without a Python object per number."""

        def refuse(rows: np.ndarray, what: str) -> None:
            if len(rows):
                raise ValueError(f"{path}, row {first + int(rows[0])}: {what}")

        bars = chunk["past_values"]
        length, mask_length, chosen, rejected = (
            _lengths(chunk[name]) for name in ("past_values", "attention_mask", "chosen_ids", "rejected_ids")
        )
        wrong = (length == 0) | (length != mask_length)
        refuse(np.flatnonzero(wrong), "past_values and attention_mask must have one entry per bar")
        wanted, of_row = self.model.config.num_features, np.repeat(np.arange(len(chunk)), length)
        refuse(of_row[_lengths(bars.flatten()) != wanted], f"not all bars have the model's {wanted} features")
        values = np.asarray(bars.flatten().flatten(), dtype=float)
        refuse(np.repeat(of_row, wanted)[~np.isfinite(values)], "past_values are not finite")
        observed = np.bincount(of_row, weights=np.asarray(chunk["attention_mask"].flatten()), minlength=len(chunk))
        refuse(np.flatnonzero(observed == 0), "attention_mask hides every bar")
        refuse(np.flatnonzero((chosen != rejected) | (chosen == 0)), "chosen and rejected must have equal lengths")
        refuse(np.flatnonzero(chosen != self._steps(chosen[0])), "its paths have another number of steps")
        for name in ("chosen_ids", "rejected_ids"):
            ids = np.asarray(chunk[name].flatten())
            refuse(np.repeat(np.arange(len(chunk)), chosen)[~self._is_bin(ids)], f"{name}: {self._outside}")

    def _check(self, row: dict[str, Any], where: str) -> None:
        """One pair of numbers or, for a causal LM, of their tokens."""
        values = _numbers(row["past_values"], f"{where}, prompt", ndim=2)
        wanted = self.model.config.num_features
        if values.shape[1] != wanted:
            raise ValueError(f"{where} has {values.shape[1]} features, the model {wanted}: build it with this model")
        chosen, rejected = len(row["chosen"]), len(row["rejected"])
        if chosen != rejected or not chosen:
            raise ValueError(f"{where} has {chosen} chosen and {rejected} rejected steps: they must be equal")
        if chosen != self._steps(chosen):
            raise ValueError(f"{where} has {chosen} steps, the head {self._steps(chosen)}: they must be equal")

    def _steps(self, given: int) -> int:
        """The number of steps that paths must have: any for a causal LM, which can go on."""
        return self.model.config.prediction_length if self.numbers else int(given)

    def _is_bin(self, ids: np.ndarray) -> np.ndarray:
        return (ids >= 0) & (ids < self.processor.tokenizer.n_bins)

    @property
    def _outside(self) -> str:
        return f"tokens outside the model's {self.processor.tokenizer.n_bins} return bins; build the pairs with it"

    def _decoded(self, pair: dict[str, Any]) -> dict[str, Any]:
        decode = self.processor.tokenizer.decode_returns
        return {**pair, **{name: decode(np.array(pair[name])).tolist() for name in ("chosen", "rejected")}}

    @staticmethod
    def _without_ties(pairs: Dataset, path: Path) -> Dataset:
        chosen, rejected = (np.array(pairs[name][:]) for name in ("chosen", "rejected"))
        different = np.flatnonzero((chosen != rejected).any(axis=1))
        if not len(different):
            raise ValueError(f"{path}: chosen equals rejected in every pair, so there is nothing to prefer")
        return pairs if len(different) == len(pairs) else pairs.select(different)


def _lengths(lists: pa.Array) -> np.ndarray:
    """Of each list; 0 for a null."""
    return np.asarray(pc.list_value_length(lists).fill_null(0), dtype=int)


def _numbers(values: Any, where: str, ndim: int) -> np.ndarray:
    """A finite array of a nested list."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} is ragged or no list of numbers: every row needs the same length") from error
    if array.ndim != ndim or not np.isfinite(array).all():
        raise ValueError(f"{where} must be finite numbers in {ndim} dimension(s), not of shape {list(array.shape)}")
    return array


def _features(step: type) -> Features:
    steps = ListOf(Value("float64" if step is float else "int64"))
    return Features(
        {
            "ticker": Value("string"),
            "origin": Value("timestamp[ns]"),
            "past_values": ListOf(ListOf(Value("float32"))),
            "attention_mask": ListOf(Value("int64")),
            "chosen": steps,
            "rejected": steps,
        }
    )


# --- splitting them by date ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitPairs:
    """Pairs to train on, later ones to choose by, and what became of the others."""

    train: Dataset
    valid: Dataset
    counts: dict[str, int]
    dated: bool


def split_pairs(pairs: Dataset, bars: pd.DataFrame, split: Split, horizon: int) -> SplitPairs:
    """Train on outcomes up to the training fence; choose by pairs of the validation dates, an embargo behind it.

    Without pairs of validation dates the last tenth of the training dates is held out; of undated pairs the last
    tenth of the file.

    Raises:
        ValueError: a ticker without bars, or no pair left.
    """
    if "origin" not in pairs.column_names:
        cut = min(len(pairs) - 1, int(np.ceil((1 - HELD_OUT) * len(pairs))))
        train, valid = np.arange(cut), np.arange(cut, len(pairs))
        return _parts(pairs, train, valid, {"embargo": 0, "after_fence": 0}, dated=False)
    tickers, origins = np.array(pairs["ticker"][:]), pd.DatetimeIndex(pairs["origin"][:]).to_numpy("datetime64[ns]")
    outcomes = outcome_times(tickers, origins, bars, horizon)
    fence, later = split.train_through.to_datetime64(), split.valid_through.to_datetime64()
    inside = outcomes <= fence  # NaT, an outcome that is not in the data, is not
    behind = origins >= embargo_end(bars, split.train_through, horizon).to_datetime64()
    valid_mask = behind & (outcomes <= later)
    train, valid = np.flatnonzero(inside), np.flatnonzero(valid_mask)
    counts = {
        "embargo": int((~inside & ~behind).sum()),
        "after_fence": int((behind & ~valid_mask).sum()),
    }
    if not len(train):
        raise ValueError(
            f"no pair's outcome lies by the training fence, {split.train_through}: later pairs must not train; "
            "move train_through or build earlier pairs"
        )
    if not len(valid):
        cut = np.sort(origins[train])[int((1 - HELD_OUT) * len(train))]
        earlier, valid = outcomes[train] < cut, train[origins[train] >= cut]
        counts["embargo"] += int((~earlier).sum()) - len(valid)
        train = train[earlier]
    return _parts(pairs, train, valid, counts, dated=True)


def _parts(pairs: Dataset, train: np.ndarray, valid: np.ndarray, counts: dict[str, int], dated: bool) -> SplitPairs:
    if not len(train) or not len(valid):
        raise ValueError(f"{len(pairs)} pair(s) leave {len(train)} to train and {len(valid)} to hold out: give more")
    return SplitPairs(pairs.select(train), pairs.select(valid), counts, dated)


def outcome_times(tickers: np.ndarray, origins: np.ndarray, bars: pd.DataFrame, horizon: int) -> np.ndarray:
    """Time of the `horizon`-th bar after each origin, datetime64 `[N]`; NaT where the data ends before.

    Raises:
        ValueError: for a ticker without bars.
    """
    outcomes = np.full(len(origins), np.datetime64("NaT"), dtype="datetime64[ns]")
    times = {str(name): np.sort(frame.to_numpy()) for name, frame in bars.groupby(kind_of(bars).id)["timestamp"]}
    for ticker in np.unique(tickers):
        if str(ticker) not in times:
            raise ValueError(
                f"the data has no bars of {ticker}, so the dates of its pairs cannot be checked: add them"
            )
        rows, own = np.flatnonzero(tickers == ticker), times[str(ticker)].astype("datetime64[ns]")
        ends = np.searchsorted(own, origins[rows], side="right") - 1 + horizon
        known = ends < len(own)
        outcomes[rows[known]] = own[ends[known]]
    return outcomes


def embargo_end(bars: pd.DataFrame, fence: pd.Timestamp, horizon: int) -> pd.Timestamp:
    """The first origin whose labels lie more than `horizon` bar times behind a fence.

    Raises:
        ValueError: if the data ends before.
    """
    times = np.sort(bars["timestamp"].unique())
    times = times[times > fence.to_datetime64()]
    if len(times) <= horizon:
        raise ValueError(
            f"fewer than {horizon + 1} bar times lie behind {fence}: move the fence or shorten the horizon"
        )
    return pd.Timestamp(times[horizon - 1])


# --- batches and scores --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreferenceCollator:
    """Pairs -> the batch that trl's `DPOTrainer` expects, with the bars beside it.

    `input_ids`, `attention_mask`, `completion_mask` `[2B,T+P]` and `past_values [2B,T,F]`; windows of different
    lengths are padded on the left. For a regression head the tokens are zeros and `steps [2B,P]` are the returns.
    """

    bar_token_id: int
    numbers: bool = False

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        windows = [np.asarray(pair["past_values"], dtype=np.float32) for pair in pairs]
        masks = [np.asarray(pair["attention_mask"], dtype=np.int64) for pair in pairs]
        T = max(len(window) for window in windows)
        past_values = np.stack([np.pad(window, ((T - len(window), 0), (0, 0))) for window in windows])
        mask = np.stack([np.pad(one, (T - len(one), 0)) for one in masks])
        steps = np.stack([np.asarray(pair[name]) for name in ("chosen", "rejected") for pair in pairs])  # [2B,P]
        past_values, mask = (np.concatenate((half, half)) for half in (past_values, mask))
        known = np.ones(steps.shape, dtype=np.int64)
        tokens = np.zeros_like(known) if self.numbers else steps.astype(np.int64)
        batch = {
            "input_ids": np.concatenate((np.full(mask.shape, self.bar_token_id), tokens), axis=1),
            "attention_mask": np.concatenate((mask, known), axis=1),
            "completion_mask": np.concatenate((np.zeros_like(mask), known), axis=1),
            "past_values": past_values.astype(np.float32),
        }
        if self.numbers:
            batch["steps"] = steps.astype(np.float32)
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in pairs[0]:
                batch[name] = np.array([pair[name] for pair in pairs], dtype=np.float32)
        return {name: torch.from_numpy(values) for name, values in batch.items()}


@dataclass(frozen=True)
class Noise:
    """Student-t noise about a regression head's return of each step, in units of sigma; the steps independent."""

    df: float
    scale: float

    @classmethod
    def fit(cls, residuals: np.ndarray) -> "Noise":
        """Maximum likelihood about zero.

        Raises:
            ValueError: for residuals that are all zero, or none.
        """
        residuals = residuals[np.isfinite(residuals)]
        if not len(residuals) or np.ptp(residuals) == 0:
            raise ValueError("the base model leaves no residuals to fit the noise to: give more pairs or windows")
        df, _, scale = stats.t.fit(residuals, floc=0.0)
        return cls(float(np.clip(df, FEWEST_DF, MOST_DF)), float(scale))

    def log_density(self, prediction_BP: torch.Tensor, steps_BP: torch.Tensor) -> torch.Tensor:
        """log p of each step's return, `[B,P]`; the head's numbers are cumulative."""
        return torch.distributions.StudentT(self.df, per_step(prediction_BP), self.scale).log_prob(steps_BP)


def per_step(cumulative_BP: torch.Tensor) -> torch.Tensor:
    """Returns of each step.

    >>> per_step(torch.tensor([[1.0, 3.0]])).tolist()
    [[1.0, 2.0]]
    """
    return torch.diff(cumulative_BP, dim=1, prepend=torch.zeros_like(cumulative_BP[:, :1]))


@torch.inference_mode()
def log_probs(
    model: TsfLlmForCausalLM | TsfLlmForPrediction,
    pairs: Dataset,
    collate: PreferenceCollator,
    noise: Noise | None = None,
    batch_size: int = 128,
) -> np.ndarray:
    """Log-probabilities, or log-densities under `noise`, of chosen and rejected paths, float64 `[N,2]`."""
    training = model.training
    model.eval()
    parts = []
    for start in range(0, len(pairs), batch_size):
        rows = [pairs[i] for i in range(start, min(start + batch_size, len(pairs)))]
        batch = {name: values.to(model.device) for name, values in collate(rows).items()}
        parts.append(_score(model, batch, noise).view(2, -1).T.double().cpu().numpy())
    model.train(training)
    return np.concatenate(parts)


def _score(model: Any, batch: dict[str, torch.Tensor], noise: Noise | None) -> torch.Tensor:
    """Log-probability of each row, `[2B]`."""
    T = batch["past_values"].shape[1]
    if noise is not None:
        mask = batch["attention_mask"][:, :T]
        prediction = model(past_values=batch["past_values"], attention_mask=mask).prediction
        return noise.log_density(prediction, batch["steps"]).sum(-1)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "past_values")}
    tokens = batch["input_ids"][:, T:]
    logits = model(**inputs, logits_to_keep=tokens.shape[1] + 1, use_cache=False).logits[:, :-1]
    return logits.float().log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1).sum(-1)


# --- trainers ------------------------------------------------------------------------------------------------------


def steady(model: torch.nn.Module) -> None:
    """Every layer as in forecasting; only the model as a whole, and what saves memory by it, knows that it trains."""
    for module in model.modules():
        if module is not model and not isinstance(module, GradientCheckpointingLayer):
            module.training = False


def reference_copy(model: Any) -> Any:
    """The model as it is now, frozen."""
    return copy.deepcopy(model).eval().requires_grad_(False)


class SteadyTrainer(Trainer):
    """What the trainers of trl share here: how the model runs, and what is saved."""

    def create_model_card(self, *args, **kwargs) -> None:
        """None: trl's speaks of text and chats."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Checkpoints as transformers saves them. The end of a run with low-rank updates is the merged model, which
        `from_pretrained` loads, and the updates alone in `adapter/`."""
        model = self.accelerator.unwrap_model(self.model)
        if _internal_call or not isinstance(model, PeftModel):
            super().save_model(output_dir, _internal_call)
            return
        folder = Path(output_dir or self.args.output_dir)
        super().save_model(str(folder / "adapter"))
        if self.args.should_save:
            (folder / "adapter" / "training_args.bin").unlink(missing_ok=True)  # a pickle
            copy.deepcopy(model).merge_and_unload().save_pretrained(folder)
            self.processing_class.save_pretrained(folder)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.model.training:
            steady(self.model)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class TsfLlmDPOTrainer(SteadyTrainer, DPOTrainer):
    """trl's `DPOTrainer` for pairs of `Reader` and batches of `PreferenceCollator`."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        return dataset  # nothing to put into a chat template or to tokenize


class RegressionDPOTrainer(TsfLlmDPOTrainer):
    """The same for a regression head: the log-density under `noise` stands where the log-probability would."""

    def __init__(self, *args: Any, noise: Noise, **kwargs: Any):
        self.noise = noise
        model = kwargs["model"]
        model.generation_config = GenerationConfig()  # trl notes the padding token there
        super().__init__(*args, **kwargs)
        for one in (self.model, self.ref_model):
            if one is not None:
                self._score_numbers(one)

    def compute_ref_log_probs(self, model, inputs):
        self._score_numbers(model)  # already while trl's own constructor runs, if references are precomputed
        return super().compute_ref_log_probs(model, inputs)

    def _score_numbers(self, model: Any) -> None:
        """Puts our scoring where trl has put the one for tokens."""
        inner = self.accelerator.unwrap_model(model)
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        inner.forward = types.MethodType(_density_forward(self.noise), inner)


def _density_forward(noise: Noise) -> Any:
    """A `forward` that answers `fused_lm_head=True`, trl's question for log-probabilities, with log-densities."""

    @functools.wraps(TsfLlmForPrediction.forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return type(self).forward(self, *args, **kwargs)
        steps, past_values, labels = kwargs["steps"], kwargs["past_values"], kwargs["labels"]
        T = past_values.shape[1]
        mask = kwargs["attention_mask"][:, :T]
        prediction = type(self).forward(self, past_values=past_values, attention_mask=mask).prediction
        mean = per_step(prediction.detach())

        def placed(values: torch.Tensor) -> torch.Tensor:  # position t speaks of what comes at t + 1
            return F.pad(values, (T - 1, 0))

        return FusedCausalLMOutput(
            log_probs=placed(noise.log_density(prediction, steps)),
            entropy=placed(torch.zeros_like(steps)),  # fixed noise: the same for all
            mean_logits=placed(mean),  # trl logs it as logits/chosen
            is_top1=placed(mean.sign() == steps.sign()),  # and the share of right directions as mean_token_accuracy
            label_mask=labels[:, 1:] != -100,
        )

    return forward

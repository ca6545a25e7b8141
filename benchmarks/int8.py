"""Int8 of this package beside torchao's, in one run: bytes, distance from float32, time on a CPU.

    pip install torchao
    python -m tsf_llm.benchmarks.int8 --model outputs/5m --write docs/compression.md

All are made from the same weights and cover the same layers where they can: the Linear layers of the decoder but
`kv_b_proj`, and the stacked experts under each dispatch of transformers. Nothing is compiled; what fails is told.
"""

import argparse
import copy
import io
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.errors import one_line_errors
from ..common.pages import write_between
from ..common.tables import Table
from ..evaluation.cost import latencies
from ..modeling_tsf_llm import TsfLlmForCausalLM
from ..quantization_tsf_llm import KEPT, to_int8

MARKER = "torchao"
LENGTH, COUNTS = 128, {"one": 1, "many": 32}  # bars of a window, windows of a batch
EXPERTS = r"re:.*\.experts\.(gate_up|down)_proj"


def torchao(kind: str, dispatch: str | None, model: TsfLlmForCausalLM) -> TsfLlmForCausalLM:
    """A copy with torchao's weights, of the experts too where a `dispatch` for them is named."""
    from torchao import quantization as ao

    config = (ao.Int8DynamicActivationInt8WeightConfig if kind == "dynamic" else ao.Int8WeightOnlyConfig)()
    model = copy.deepcopy(model)
    ao.quantize_(model.model.layers, config, lambda m, name: isinstance(m, nn.Linear) and not name.endswith(KEPT))
    if dispatch is not None:
        ao.quantize_(model, ao.FqnToConfig({EXPERTS: config}), filter_fn=None)
        model.set_experts_implementation(dispatch)
    return model


CONTESTANTS: dict[str, Any] = {"float32": copy.deepcopy, "ours": to_int8}
CONTESTANTS |= {
    f"torchao {kind}, experts {dispatch or 'in float32'}": partial(torchao, kind, dispatch)
    for kind in ("dynamic", "weight-only")
    for dispatch in (None, "grouped_mm", "batched_mm", "eager")
}


def windows(model: TsfLlmForCausalLM, count: int) -> dict[str, torch.Tensor]:
    """Random features: what a layer costs and rounds away does not depend on their meaning."""
    values = torch.randn(count, LENGTH, model.config.num_features, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.full((count, LENGTH), model.config.bar_token_id), "past_values": values}


def weight_bytes(model: nn.Module) -> int:
    """As saved: a tensor of torchao does not tell the bytes of its parts."""
    torch.save(model.state_dict(), buffer := io.BytesIO())
    return buffer.getbuffer().nbytes


@torch.no_grad()
def measure(original: TsfLlmForCausalLM, repeats: int) -> dict[str, dict[str, Any]]:
    """Of each contestant bytes, mean KL from float32 in nats, and times, or the error that it ends in."""
    batches = {key: windows(original, count) for key, count in COUNTS.items()}
    wanted = original(**batches["many"]).logits.log_softmax(-1)
    rows: dict[str, dict[str, Any]] = {}
    models = {}
    for name, make in CONTESTANTS.items():
        try:
            model = make(original)
            answer = model(**batches["many"]).logits.log_softmax(-1)
        except NotImplementedError as error:
            rows[name] = {"error": f"{type(error).__name__}: {str(error).split(', types=')[0]}"}
            continue
        distance = nn.functional.kl_div(answer, wanted, reduction="none", log_target=True).sum(-1).mean()
        rows[name], models[name] = {"bytes": weight_bytes(model), "distance": distance.item()}, model
    for key, batch in batches.items():
        times = latencies({name: partial(model, **batch) for name, model in models.items()}, repeats=repeats)
        for name, own in times.items():
            rows[name][key] = own
    return rows


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, row in rows.items():
        if "error" in row:
            lines.append((name, f"does not run: `{row['error']}`", "", "", ""))
        else:
            times = [f"{row[key]['ms']:.1f} ({row[key]['ratio']:.2f})" for key in COUNTS]
            lines.append((name, f"{row['bytes'] / 1e6:.2f}", f"{row['distance']:.1e}", *times))
    return Table(("model", "MB", "distance", "one window", "batch of 32"), lines).markdown()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="int8", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a causal LM")
    parser.add_argument("--repeats", type=int, default=15, help="timed turns of each contestant")
    parser.add_argument("--write", type=Path, help="page to write the table into, between its markers")
    parsed = parser.parse_args(arguments)
    if find_spec("torchao") is None:
        raise ValueError("torchao is not installed: pip install torchao")
    model = TsfLlmForCausalLM.from_pretrained(parsed.model).eval()
    versions = f"torch {torch.__version__}, torchao {version('torchao')}, {torch.get_num_threads()} thread(s)"
    times = f"{parsed.repeats} turns: median milliseconds, in brackets as a share of float32's"
    words = f"{model.num_parameters():,} parameters, {versions}, {times}. Distance: mean KL in nats."
    text = f"{table(measure(model, parsed.repeats))}\n\n{words}"
    print(text)
    if parsed.write is not None:
        write_between(parsed.write, text, MARKER)


if __name__ == "__main__":
    with one_line_errors("int8"):
        main()

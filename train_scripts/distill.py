r"""Distillation: a small model learns from a large one's probabilities beside the true returns. Hinton et al. 2015.

A small run on the embedded prices, teacher included, in about a minute on two cores:
    python -m tsf_llm.train_scripts.distill --config train_scripts/configs/debug_distill.yaml --output_dir outputs/s

From the 27M model to the 5M shape, on your own prices:
    python -m tsf_llm.train_scripts.distill --config train_scripts/configs/distill.yaml --data prices.parquet \
        --model_name_or_path outputs/27m --output_dir outputs/5m

Softer targets, and less of the labels:
    ... --temperature 4 --alpha 0.9

Back to strength after pruning (docs/compression.md): the pruned folder learns from the model it was cut from:
    python -m tsf_llm.train_scripts.distill --config train_scripts/configs/distill.yaml --data prices.parquet \
        --model_name_or_path outputs/27m --student_name_or_path compressed/narrow-0.5 --output_dir outputs/recovered

The output folder holds the student with the teacher's processor, `report.json` with teacher, both students and the
baselines on later dates, and `alone/`, the student without a teacher.
`training/distillation.py` has the loss and the design choices.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

from ..bars_tsf_llm import day_end
from ..common.files import write_json
from ..common.parser import parse_for, run
from ..common.provenance import provenance
from ..training.arguments import DataArguments, SftArguments
from ..training.checkpoints import check_folder
from ..training.data import TrainingData
from ..training.distillation import (
    DistillArguments,
    comparison,
    costs,
    distance,
    later_windows,
    make_student,
    score,
    teach,
)
from ..training.models import check_start, head_of, load_model, public_name
from ..training.starting_model import BaseArguments, base_model
from ..training.supervised import UNTRAINED_ORIGINS

# --- report --------------------------------------------------------------------------------------------------------


def main(
    data_args: DataArguments, base_args: BaseArguments, args: DistillArguments, training_args: SftArguments
) -> dict[str, Any]:
    """Teaches, scores, compares and saves; returns what `report.json` holds."""
    started = time.perf_counter()
    if training_args.class_weights != "none":
        raise ValueError(f"class_weights={training_args.class_weights}: weigh the teacher's classes; leave it out")
    folder, seed = Path(str(training_args.output_dir)), training_args.seed
    for given in filter(None, (base_args.model_name_or_path, args.student_name_or_path)):
        check_start(given, folder)
    check_folder(folder, data_args.data, data_args.market)
    if args.train_alone:
        check_folder(folder / "alone")
    name = base_model(base_args, data_args, folder, seed=seed)
    teacher = load_model(name)
    data = TrainingData.read(data_args, name, teacher.config).with_fences_of(teacher.config)
    student = make_student(args, data, teacher, seed=seed)
    seen = student.config.trained_through, teacher.config.trained_through
    student.config.trained_through = max(seen, key=day_end) if all(seen) else None
    most = UNTRAINED_ORIGINS if args.student_name_or_path is None else None
    scores = {"before": score(data, student, training_args, most=most), "teacher": score(data, teacher, training_args)}
    models, folders = {"teacher": teacher, "student": student}, {"teacher": name, "student": folder}
    report: dict[str, Any] = {
        **provenance("distill"),
        "head": head_of(teacher),
        "teacher": public_name(name),
        "parameters": student.num_parameters(),
        **data.provenance(student.config),
        "temperature": args.temperature,
        "alpha": args.alpha,
        "seed": seed,
        **teach(student, teacher, data, args, training_args, folder=folder),
    }
    if args.train_alone:
        folders["student_alone"] = folder / "alone"
        models["student_alone"] = alone = make_student(args, data, teacher, seed=seed)
        report["alone"] = teach(alone, teacher, data, args, training_args, folder=folder / "alone", alone=True)
    scores |= {key: score(data, model, training_args) for key, model in models.items() if key not in scores}
    report |= comparison(scores, seed)
    if training_args.should_save:
        sizes, test = costs(models, folders, data), later_windows(data, teacher)
        for row in report["rows"]:
            if row["model"] in models:
                row |= sizes[row["model"]]
                row["distance_to_teacher"] = distance(teacher, models[row["model"]], test)
        report["seconds"] = round(time.perf_counter() - started, 1)
        write_json(report, folder / "report.json")
    return report


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)

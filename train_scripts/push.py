r"""Publishes a model, an adapter or a dataset on the Hugging Face Hub, with its code and a card, in one commit.

What would be uploaded, and the card (in `DIR/card.md`), without a network:
    python -m tsf_llm.train_scripts.push --model outputs/27m --repo_id org/name --dry_run

A private repository, then a public one with a tag to pin; scores come from `tsf-llm evaluate`:
    python -m tsf_llm.train_scripts.push --model outputs/27m --repo_id org/name --results evaluation/results.json
    python -m tsf_llm.train_scripts.push --model outputs/27m --repo_id org/name --public --tag v1

This repository as it is, with both models, code and README:
    python -m tsf_llm.train_scripts.push --model . --repo_id org/name

A branch; the adapter of a ticker; a dataset of `tsf-llm prepare` or of `build_preferences`:
    python -m tsf_llm.train_scripts.push --model outputs/27m --repo_id org/name --revision experiment
    python -m tsf_llm.train_scripts.push --model outputs/lora/AAPL --repo_id org/aapl --base org/name
    python -m tsf_llm.train_scripts.push --dataset dataset --repo_id org/bars --source "an exchange" \
        --license cc-by-4.0
"""

from functools import partial
from pathlib import Path

from ..common.errors import printable
from ..common.files import write_text
from ..common.parser import parse_for, run
from ..common.reading import plain_file
from ..publishing.checkout import is_checkout
from ..publishing.secrets import refuse_secrets
from ..publishing.upload import PushArguments, Upload, one_line_from_the_hub, plan_dataset, plan_model, send


def main(args: PushArguments) -> str | None:
    """Checks, lists and uploads; returns the commit, or None after a dry run."""
    folder = Path(str(args.model or args.dataset))
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name one that training, prepare or build_preferences wrote")
    upload = plan_dataset(folder, args) if args.dataset else plan_model(folder, args)
    refuse_secrets(upload.files)
    print_plan(upload, args)
    if args.dry_run and args.model and is_checkout(folder):
        print(f"Nothing was uploaded. The card is {folder / 'README.md'}")
        return None
    if args.dry_run:
        check_card(plain_file(folder, "card.md"))
        write_text(upload.card, folder / "card.md")
        print(f"Nothing was uploaded. The card is in {folder / 'card.md'}")
        return None
    with one_line_from_the_hub(args.repo_id):
        commit = send(upload, args)
    print(f"Uploaded: {commit}")
    return commit


def check_card(path: Path) -> None:
    """Raises ValueError if a file is there that no dry run wrote: it lacks the head of our cards."""
    if path.exists():
        head, _, rest = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        if head != "---" or "tsf-llm" not in rest.partition("\n---\n")[0]:
            raise ValueError(f"{path} is no card that a dry run wrote and stands where one goes: move it away")


def print_plan(upload: Upload, args: PushArguments) -> None:
    sizes = {name: len(one) if isinstance(one, bytes) else one.stat().st_size for name, one in upload.files.items()}
    seen_by = "public" if args.public else "private"
    print(f"{upload.repo_type} {args.repo_id} ({seen_by}): {len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB")
    for name, size in sorted(sizes.items()):
        print(f"  {size:>13,}  {name}")
    for name in upload.left_out:
        print(f"  left out: {printable(name)}")


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)

"""A labelled data set that names its teacher: saved as parquet with a card, or pushed to the Hub."""

import os
from pathlib import Path

from huggingface_hub import DatasetCardData, HfApi

_HEADING = "## Teacher"


def describe_teacher(dataset, facts):
    """Write into a data set's `info.description` which teacher its logits come from.

    It stays with the data set through `map`, `filter`, `select` and `save_to_disk`, and ends in the card. What
    an earlier teacher left there is replaced; other text is kept.

    Args:
        dataset (`Dataset`): a data set with a column `teacher_logits`; its description is changed in place.
        facts (`dict[str, str]`): what to say, one line each.
    """
    kept = dataset.info.description.split(_HEADING)[0].rstrip()
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    dataset.info.description = f"{kept}\n\n{_HEADING}\n\n{lines}\n".lstrip()


def labeled_dataset_card(dataset):
    """Render the card of a labelled data set.

    Args:
        dataset (`Dataset`): a data set labelled by `TeacherLabeler.map`.

    Returns:
        `str`: Markdown with YAML metadata, for `README.md`.

    Raises:
        ValueError: if the data set does not say which teacher labelled it.
    """
    description = dataset.info.description
    if "teacher_logits" not in dataset.features or _HEADING not in description:
        raise ValueError(
            f"The data set with columns {dataset.column_names} does not say which teacher labelled it. Logits without "
            "a teacher cannot be checked or redone: label it with `TeacherLabeler(teacher, tokenizer).map(dataset)`, "
            "and save or push what that returns."
        )
    metadata = DatasetCardData(task_categories=["text-classification"], tags=["knowledge-distillation"])
    names = dataset.features["teacher_label"].names
    return f"""---
{metadata.to_yaml()}
---

# Texts with teacher logits

{len(dataset)} rows with the columns {", ".join(f"`{name}`" for name in dataset.column_names)}.

- `teacher_logits`: {len(names)} float32 numbers, the teacher's scores before the softmax, in the order of its labels.
- `teacher_label`: the label with the highest score.

{description}
Made with `distil_trainer`, to train a smaller classifier on these logits.
"""


def save_labeled_dataset(dataset, folder):
    """Save a labelled data set as `train.parquet` and `README.md`, which `load_dataset(folder)` reads back.

    Each file is written under a temporary name, then renamed; files of these names that are there are replaced.

    Args:
        dataset (`Dataset`): a data set labelled by `TeacherLabeler.map`.
        folder (`str` or `Path`): created when absent.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: if the data set does not say which teacher labelled it.
    """
    card = labeled_dataset_card(dataset)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{os.getpid()}.tmp"
    try:
        dataset.to_parquet(str(temporary))
        os.replace(temporary, folder / "train.parquet")
        temporary.write_text(card, encoding="utf-8")
        os.replace(temporary, folder / "README.md")
    finally:
        temporary.unlink(missing_ok=True)
    return folder


def push_labeled_dataset(dataset, repo_id, *, private=False, token=None):
    """Push a labelled data set and its card to the Hub.

    Args:
        dataset (`Dataset`): a data set labelled by `TeacherLabeler.map`.
        repo_id (`str`): for example `"me/sst2-electra-large-logits"`; created when absent. A card that is there is
            replaced.
        private (`bool`, *optional*, defaults to `False`): create the repository as a private one.
        token (`str`, *optional*): a token with write access. Default: the one of `hf auth login`.

    Returns:
        `CommitInfo`: the commit of the data.

    Raises:
        ValueError: if the data set does not say which teacher labelled it.
    """
    card = labeled_dataset_card(dataset)
    api = HfApi(token=token)
    api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    # The card goes first: pushing the data keeps its text and adds the features to its metadata.
    api.upload_file(
        path_or_fileobj=card.encode("utf-8"), path_in_repo="README.md", repo_id=repo_id, repo_type="dataset"
    )
    return dataset.push_to_hub(repo_id, private=private, token=token)

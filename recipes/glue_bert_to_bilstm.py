"""GLUE: fine-tune a BERT on one of its tasks, and distil it into a bidirectional LSTM, siamese where texts are pairs.

    accelerate launch recipes/glue_bert_to_bilstm.py --task_name mrpc [--any_argument ...] [config.yaml]

The tasks are cola, sst2, mrpc (the default), qqp, stsb, mnli, qnli, rte and wnli. The task names the data, the columns
and the settings that suit them, and any argument replaces them; it stands on the command line, not in the YAML file.
Files take the place of the Hub:

    --task_name mrpc --train_file train.parquet --validation_file validation.parquet

The scores of STS-B are decimal numbers, which makes it a regression. MNLI is judged on the matched half of its
validation data; `--validation_split validation_mismatched` takes the other. WNLI is there for completeness: its
validation data repeat sentences of the training data with the opposite label, and no teacher of this size learns it.

The method is Tang et al., Distilling Task-Specific Knowledge from BERT into Simple Neural Networks (arXiv 1903.12136):
20 copies of each sentence, 10 of each pair, as the paper has for SST-2, and for MNLI and QQP. The sizes of the siamese
networks, the teacher's batch of 32, its four epochs for MRPC, and its learning rate and length for RTE are those of
the authors' code, https://github.com/castorini/d-bert. Word vectors are distilled from the teacher.
"""

import argparse
import sys

from network_defaults import NETWORK_DEFAULTS

from distil_trainer import run_recipe

# Each Hub id gives way to a local path or file. They are documented on their own pages under https://huggingface.co:
# datasets/nyu-mll/glue, google-bert/bert-base-uncased.
DEFAULTS = {
    **NETWORK_DEFAULTS,
    "dataset_name": "nyu-mll/glue",
    "teacher_model_name_or_path": "google-bert/bert-base-uncased",
    "train_teacher": True,
    "student_type": "bilstm",
}
# With batches of 128 and a long warm-up a teacher of a few thousand rows would hardly be trained.
SMALL = {"per_device_train_batch_size": 32, "warmup_steps": 30}
SENTENCES = {"text_column": "sentence", "copies": 20}
PAIRS = {"copies": 10, "student_config": {"lstm_size": 300, "classifier_size": 200}}
NUMBERED = {**PAIRS, "text_column": "sentence1", "text_pair_column": "sentence2"}
TASKS = {
    "cola": {**SENTENCES, **SMALL},
    "sst2": SENTENCES,
    "mrpc": {**NUMBERED, **SMALL, "teacher_num_train_epochs": 4.0},
    # Two of its training rows have an empty second question.
    "qqp": {**PAIRS, "text_column": "question1", "text_pair_column": "question2", "drop_empty_texts": True},
    "stsb": {**NUMBERED, **SMALL},
    "mnli": {
        **PAIRS,
        "text_column": "premise",
        "text_pair_column": "hypothesis",
        "validation_split": "validation_matched",
        "student_config": {"lstm_size": 150, "classifier_size": 200},
    },
    "qnli": {**PAIRS, "text_column": "question", "text_pair_column": "sentence"},
    "rte": {**NUMBERED, **SMALL, "teacher_learning_rate": 4e-5, "max_length": 256},
    "wnli": {**NUMBERED, **SMALL},
}


def main(argv=None):
    """Run the recipe; return its report."""
    # An argument of this recipe alone; the rest of the command line is every recipe's.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task_name", choices=TASKS, default="mrpc")
    chosen, words = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    task = {"dataset_config_name": chosen.task_name, "output_dir": f"outputs/glue_{chosen.task_name}_bert_to_bilstm"}
    # The report's command line begins with the recipe, and must name the task.
    recipe = f"{__file__} --task_name {chosen.task_name}"
    return run_recipe({**DEFAULTS, **task, **TASKS[chosen.task_name]}, words, recipe=recipe)


if __name__ == "__main__":
    main()

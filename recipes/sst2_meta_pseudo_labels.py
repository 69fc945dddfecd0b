"""SST-2: fine-tune BERT on labelled sentences, and let it learn on from what its labels for others do to a student.

    accelerate launch recipes/sst2_meta_pseudo_labels.py --train_file labelled.tsv --unlabelled_files texts.txt \\
        [--any_argument ...] [config.yaml]

The method is Pham et al., Meta Pseudo Labels (arXiv 2003.10580). It is for few labelled sentences and many without a
label; without `--train_file` all of SST-2 is labelled, and the teacher draws labels for the same sentences. The
student is fine-tuned on the labelled ones last. `--meta_pseudo_labels "{feedback_weight: 0}"` is the same without
feedback. docs/meta_pseudo_labels.md says when it is worth its price.
"""

from distil_trainer import run_recipe

# Each Hub id gives way to a local path or file. They are documented on their own pages under https://huggingface.co:
# datasets/stanfordnlp/sst2, google-bert/bert-base-uncased. A teacher that is fine-tuned already has seen all labels.
DEFAULTS = {
    "output_dir": "outputs/sst2_meta_pseudo_labels",
    "dataset_name": "stanfordnlp/sst2",
    "teacher_model_name_or_path": "google-bert/bert-base-uncased",
    "train_teacher": True,
    "student_layers": [4, 8, 12],
    "copies": 0,
    # The number of rows in a step: that makes the feedback the gradient of the student's expected labelled loss.
    "meta_pseudo_labels": {"feedback_weight": 32.0, "teacher_learning_rate": 1e-5},
    "learning_rate": 5e-5,
    "length_grouped_batches": True,  # of texts in random order half and more is padding
    "per_device_train_batch_size": 32,
    "num_train_epochs": 3.0,
    "warmup_steps": 100,
    "save_steps": 500,
    "ddp_timeout": 86400,
    "save_total_limit": 2,
    "logging_steps": 10,
    "seed": 13,
}


def main(argv=None):
    """Run the recipe; return its report."""
    return run_recipe(DEFAULTS, argv, recipe=__file__)


if __name__ == "__main__":
    main()

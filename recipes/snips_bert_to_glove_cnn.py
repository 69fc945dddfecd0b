"""SNIPS: fine-tune a BERT on seven intents, and distil it into convolutions over word vectors.

    accelerate launch recipes/snips_bert_to_glove_cnn.py [--any_argument ...] [config.yaml]

The data have no home of record on the Hub, so they are given as files of texts and labels:

    --train_file train.tsv --validation_file validation.tsv

Word vectors are distilled from the teacher; `--word_vectors glove.6B.300d.txt` takes those of a file.
"""

from network_defaults import NETWORK_DEFAULTS

from distil_trainer import run_recipe

# The Hub id gives way to a local path; it is documented on its page under https://huggingface.co.
DEFAULTS = {
    **NETWORK_DEFAULTS,
    "output_dir": "outputs/snips_bert_to_glove_cnn",
    "teacher_model_name_or_path": "google-bert/bert-base-uncased",
    "train_teacher": True,
    "text_column": "text",
    "student_type": "glove_cnn",
}


def main(argv=None):
    """Run the recipe; return its report."""
    return run_recipe(DEFAULTS, argv, recipe=__file__)


if __name__ == "__main__":
    main()

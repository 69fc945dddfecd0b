"""NSMC: fine-tune KoELECTRA on Korean film reviews, and distil it into densely connected convolutions.

    accelerate launch recipes/nsmc_koelectra_to_densenet_cnn.py [--any_argument ...] [config.yaml]

The Hub has no copy of the data with a validation split, so they are given as files with columns `document` and
`label`, such as the published `ratings_train.txt` (as .tsv), a part of it held out:

    --train_file train.parquet --validation_file validation.parquet

The student reads 8,000 word pieces, since Korean words take too many endings to be listed whole; their vectors are
distilled from the teacher. Words are replaced and masked by Kiwi's morphemes: pip install "distil_trainer[korean]".
"""

from network_defaults import NETWORK_DEFAULTS

from distil_trainer import run_recipe

# The Hub id gives way to a local path. It is documented on its own page under https://huggingface.co.
DEFAULTS = {
    **NETWORK_DEFAULTS,
    "output_dir": "outputs/nsmc_koelectra_to_densenet_cnn",
    "text_column": "document",
    "language": "ko",
    "drop_empty_texts": True,  # the published files have some
    "teacher_model_name_or_path": "monologg/koelectra-base-v3-discriminator",
    "train_teacher": True,
    "teacher_learning_rate": 5e-5,
    "student_type": "densenet_cnn",
    "student_tokenizer": "wordpiece",
    "student_vocab_size": 8000,
    "analyzer": "kiwi",
    "copies": 15,
}


def main(argv=None):
    """Run the recipe; return its report."""
    return run_recipe(DEFAULTS, argv, recipe=__file__)


if __name__ == "__main__":
    main()

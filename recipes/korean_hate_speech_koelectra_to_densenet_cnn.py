"""Korean hate speech: fine-tune KoELECTRA on news comments of three classes, and distil it into dense convolutions.

    accelerate launch recipes/korean_hate_speech_koelectra_to_densenet_cnn.py [--any_argument ...] [config.yaml]

The data are files with columns `comments`, `hate` (none, offensive, hate) and `bias` (none, gender, others), from
https://github.com/kocohub/korean-hate-speech. The labelled comments are few, so the teacher labels others too:

    --train_file train.parquet --validation_file validation.parquet --unlabelled_files unlabeled.parquet

For the other task: `--label_column bias`. Both have one large class, so macro-F1 chooses the teacher's best epoch and
heads the table. The student reads 8,000 word pieces, whose vectors are distilled from the teacher; the copies of the
comments are made by Kiwi's morphemes: pip install "distil_trainer[korean]".
"""

from network_defaults import NETWORK_DEFAULTS

from distil_trainer import run_recipe

# The Hub id gives way to a local path. It is documented on its own page under https://huggingface.co.
DEFAULTS = {
    **NETWORK_DEFAULTS,
    "output_dir": "outputs/korean_hate_speech_koelectra_to_densenet_cnn",
    "text_column": "comments",
    "label_column": "hate",
    "language": "ko",
    "metric": "macro_f1",
    "teacher_model_name_or_path": "monologg/koelectra-base-v3-discriminator",
    "train_teacher": True,
    "teacher_learning_rate": 5e-5,
    "teacher_num_train_epochs": 5.0,
    "student_type": "densenet_cnn",
    "student_tokenizer": "wordpiece",
    "student_vocab_size": 8000,
    "analyzer": "kiwi",
}


def main(argv=None):
    """Run the recipe; return its report."""
    return run_recipe(DEFAULTS, argv, recipe=__file__)


if __name__ == "__main__":
    main()

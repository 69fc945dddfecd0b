"""NSMC: fine-tune KoELECTRA on Korean film reviews, and distil it into a bidirectional LSTM over 3,000 word pieces.

    accelerate launch recipes/nsmc_koelectra_to_bilstm.py [--any_argument ...] [config.yaml]

The Hub has no copy of the data with a validation split, so they are given as files with columns `document` and
`label`, such as the published `ratings_train.txt` (as .tsv), a part of it held out:

    --train_file train.parquet --validation_file validation.parquet

The student has 391,170 parameters, 1.5 MB. One of 27,394:

    --student_config '{lstm_size: 16, embedding_size: 8, classifier_size: 0}'

Sizes, loss and learning rate are those of DistilKoBiLSTM (https://github.com/gyunggyung/DistilKoBiLSTM), which went
over the training reviews 30 to 100 times; here the teacher labels 15 rewritten copies of each besides, and the student
sees all of them three times. Its word vectors are distilled from the teacher. Words are replaced and masked by Kiwi's
morphemes: pip install "distil_trainer[korean]".
"""

from network_defaults import NETWORK_DEFAULTS

from distil_trainer import run_recipe

# The Hub id gives way to a local path. It is documented on its own page under https://huggingface.co.
DEFAULTS = {
    **NETWORK_DEFAULTS,
    "output_dir": "outputs/nsmc_koelectra_to_bilstm",
    "text_column": "document",
    "language": "ko",
    "drop_empty_texts": True,  # the published files have some
    "teacher_model_name_or_path": "monologg/koelectra-base-v3-discriminator",
    "train_teacher": True,
    "teacher_learning_rate": 5e-5,
    "student_type": "bilstm",
    "student_config": {"lstm_size": 128, "embedding_size": 64, "classifier_size": 0},
    "student_tokenizer": "wordpiece",
    "student_vocab_size": 3000,
    "analyzer": "kiwi",
    "copies": 15,
    "logit_loss": "kl",
    "logit_loss_weight": 0.9,
    "hard_label_weight": 0.1,
}


def main(argv=None):
    """Run the recipe; return its report."""
    return run_recipe(DEFAULTS, argv, recipe=__file__)


if __name__ == "__main__":
    main()

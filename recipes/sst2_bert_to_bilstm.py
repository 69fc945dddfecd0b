"""SST-2: distil a fine-tuned BERT into a bidirectional LSTM over word vectors.

    accelerate launch recipes/sst2_bert_to_bilstm.py [--any_argument ...] [config.yaml]

The network is that of Tang et al., Distilling Task-Specific Knowledge from BERT into Simple Neural Networks (arXiv
1903.12136). Word vectors are distilled from the teacher; `--word_vectors glove.6B.300d.txt` takes those of a file.
"""

from network_defaults import NETWORK_DEFAULTS

from distil_trainer import run_recipe

# Each Hub id gives way to a local path or file. They are documented on their own pages under https://huggingface.co:
# datasets/stanfordnlp/sst2, textattack/bert-base-uncased-SST-2.
DEFAULTS = {
    **NETWORK_DEFAULTS,
    "output_dir": "outputs/sst2_bert_to_bilstm",
    "dataset_name": "stanfordnlp/sst2",
    "teacher_model_name_or_path": "textattack/bert-base-uncased-SST-2",
    "student_type": "bilstm",
}


def main(argv=None):
    """Run the recipe; return its report."""
    return run_recipe(DEFAULTS, argv, recipe=__file__)


if __name__ == "__main__":
    main()

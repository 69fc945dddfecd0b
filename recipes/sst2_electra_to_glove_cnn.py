"""SST-2: distil a fine-tuned ELECTRA into convolutions over word vectors, the GloVe-CNN.

    accelerate launch recipes/sst2_electra_to_glove_cnn.py [--any_argument ...] [config.yaml]

The network is that of Kim, Convolutional Neural Networks for Sentence Classification (arXiv 1408.5882), with five
kernel sizes. Word vectors are distilled from the teacher; `--word_vectors glove.6B.300d.txt` takes
those of a file.
"""

from network_defaults import NETWORK_DEFAULTS

from distil_trainer import run_recipe

# Each Hub id gives way to a local path or file. They are documented on their own pages under https://huggingface.co:
# datasets/stanfordnlp/sst2, howey/electra-large-sst2.
DEFAULTS = {
    **NETWORK_DEFAULTS,
    "output_dir": "outputs/sst2_electra_to_glove_cnn",
    "dataset_name": "stanfordnlp/sst2",
    "teacher_model_name_or_path": "howey/electra-large-sst2",
    "student_type": "glove_cnn",
}


def main(argv=None):
    """Run the recipe; return its report."""
    return run_recipe(DEFAULTS, argv, recipe=__file__)


if __name__ == "__main__":
    main()

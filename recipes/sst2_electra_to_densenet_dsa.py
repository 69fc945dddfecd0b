"""SST-2: distil a fine-tuned ELECTRA into dense convolutions with dynamic self-attention.

    accelerate launch recipes/sst2_electra_to_densenet_dsa.py [--any_argument ...] [config.yaml]

The attention is that of Yoon et al., Dynamic Self-Attention (arXiv 1808.07383). Word vectors are distilled from the
teacher; `--word_vectors glove.6B.300d.txt` takes those of a file.
"""

from network_defaults import NETWORK_DEFAULTS

from distil_trainer import run_recipe

# Each Hub id gives way to a local path or file. They are documented on their own pages under https://huggingface.co:
# datasets/stanfordnlp/sst2, howey/electra-large-sst2.
DEFAULTS = {
    **NETWORK_DEFAULTS,
    "output_dir": "outputs/sst2_electra_to_densenet_dsa",
    "dataset_name": "stanfordnlp/sst2",
    "teacher_model_name_or_path": "howey/electra-large-sst2",
    "student_type": "densenet_dsa",
}


def main(argv=None):
    """Run the recipe; return its report."""
    return run_recipe(DEFAULTS, argv, recipe=__file__)


if __name__ == "__main__":
    main()

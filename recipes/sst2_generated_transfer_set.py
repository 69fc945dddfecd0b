"""SST-2: let a language model that has read the training sentences write more, and distil BERT on them into a BiLSTM.

    accelerate launch recipes/sst2_generated_transfer_set.py [--any_argument ...] [config.yaml]

The method is Tang et al., Natural Language Generation for Effective Knowledge Distillation (D19-6122): GPT-2, tuned
on the training sentences, writes 800,000 from first tokens as frequent as theirs, with temperature 1 and nothing cut
off; the teacher labels them. `--copies 20` adds copies made by rules. Where GPT-2 cannot be had, `--language_model
scratch` trains a small one on the sentences alone: it learns which words follow one another there, and its sentences
make little sense.
"""

from network_defaults import NETWORK_DEFAULTS

from distil_trainer import run_recipe

# Each Hub id gives way to a local path or file. They are documented on their own pages under https://huggingface.co:
# datasets/stanfordnlp/sst2, textattack/bert-base-uncased-SST-2, openai-community/gpt2.
DEFAULTS = {
    **NETWORK_DEFAULTS,
    "output_dir": "outputs/sst2_generated_transfer_set",
    "dataset_name": "stanfordnlp/sst2",
    "teacher_model_name_or_path": "textattack/bert-base-uncased-SST-2",
    "student_type": "bilstm",
    "copies": 0,
    "generated_rows": 800_000,
    "language_model": "openai-community/gpt2",
}


def main(argv=None):
    """Run the recipe; return its report."""
    return run_recipe(DEFAULTS, argv, recipe=__file__)


if __name__ == "__main__":
    main()

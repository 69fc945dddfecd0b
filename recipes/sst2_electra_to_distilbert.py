"""SST-2: distil a fine-tuned ELECTRA into DistilBERT, or into some of the teacher's own layers.

    accelerate launch recipes/sst2_electra_to_distilbert.py [--any_argument ...] [config.yaml]

The method is Tang et al., Distilling Task-Specific Knowledge from BERT into Simple Neural Networks (arXiv 1903.12136):
rule-made copies of the training sentences, labelled by the teacher, and the mean squared error of the logits.
"""

from distil_trainer import run_recipe

# Each Hub id gives way to a local path or file. They are documented on their own pages under https://huggingface.co:
# datasets/stanfordnlp/sst2, howey/electra-large-sst2, distilbert/distilbert-base-uncased.
DEFAULTS = {
    "output_dir": "outputs/sst2_electra_to_distilbert",
    "dataset_name": "stanfordnlp/sst2",
    "teacher_model_name_or_path": "howey/electra-large-sst2",
    "student_model_name_or_path": "distilbert/distilbert-base-uncased",
    "copies": 20,
    "logit_loss": "mse",
    "learning_rate": 5e-5,
    "length_grouped_batches": True,  # of texts in random order half and more is padding
    "per_device_train_batch_size": 64,
    "num_train_epochs": 3.0,
    "warmup_steps": 100,
    "save_steps": 500,
    "ddp_timeout": 86400,
    "save_total_limit": 2,
    "logging_steps": 100,
    "seed": 13,
}


def main(argv=None):
    """Run the recipe; return its report."""
    return run_recipe(DEFAULTS, argv, recipe=__file__)


if __name__ == "__main__":
    main()

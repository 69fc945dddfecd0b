"""What the recipes with networks over word vectors have in common: how they augment and train.

The method is Tang et al., Distilling Task-Specific Knowledge from BERT into Simple Neural Networks (arXiv 1903.12136):
rule-made copies of the training sentences, labelled by the teacher, and the mean squared error of the logits. The
learning rate is theirs for LSTMs and convolutions; the densely connected networks, once trained at 2e-4 for up to 64
epochs, learn in two or three with it.
"""

NETWORK_DEFAULTS = {
    "copies": 20,
    "logit_loss": "mse",
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 128,
    "per_device_eval_batch_size": 256,
    "length_grouped_batches": True,  # of texts in random order half and more is padding
    "num_train_epochs": 3.0,
    "warmup_steps": 100,
    "save_steps": 1000,
    "save_total_limit": 2,
    "ddp_timeout": 86400,
    "logging_steps": 200,
    "seed": 13,
}

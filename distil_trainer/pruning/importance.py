"""How much a classifier would lose with each of its heads and FFN neurons.

Michel et al. 2019, https://arxiv.org/abs/1905.10650 (heads); Molchanov et al. 2019, https://arxiv.org/abs/1906.10771
(first-order Taylor); Kim and Hassan 2020, FastFormers, https://arxiv.org/abs/2010.13382 (both, in text classifiers).
"""

import numpy as np
import pyarrow.compute as pc
from tqdm.auto import tqdm

from distil_trainer.collator import DistillationCollator
from distil_trainer.columns import column_batches
from distil_trainer.inference import forward_names, length_sorted_batches
from distil_trainer.input_checks import padding_side
from distil_trainer.label_columns import read_labels
from distil_trainer.labels import gold_label_column, model_label_names
from distil_trainer.objective import gold_label_loss
from distil_trainer.preflight import check_token_lengths
from distil_trainer.pruning.gates import Gates, LayerUnits, layer_modules, layer_sizes
from distil_trainer.students.encoder_layers import family_of, head_size
from distil_trainer.tasks import SINGLE_LABEL, problem_type
from distil_trainer.training_data import check_dataset, check_token_numbers, token_lengths, tokenize

# A forward and a backward pass; more rows at a time gain nothing on a CPU, and change nothing in the result.
_TOKENS_PER_BATCH = 2048


def taylor_importance(
    model, tokenizer, dataset, *, text_column="sentence", text_pair_column=None, label_column="label", max_length=128
):
    """Estimate to first order how much the loss on gold labels would change without each head and neuron.

    Each is given a gate of 1 in each row, and its importance is the mean over rows of `|∂loss / ∂gate|`: absolute
    in each row, as in equation (2) of Michel et al., so that neither the batches nor padding have a part in it.
    The loss is the task's own. A divergence from the model's own answers would not do: it is least at the model
    itself, where its gradient is zero.

    Args:
        model (`PreTrainedModel`): a classifier in float32, in evaluation mode, its weights frozen.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        dataset (`Dataset`): labelled rows; some hundred of each label are enough. Rows without a label add nothing.
        text_column (`str`, *optional*, defaults to `"sentence"`): column of the texts.
        text_pair_column (`str`, *optional*): column of the second texts.
        label_column (`str`, *optional*, defaults to `"label"`): column of the gold labels.
        max_length (`int`, *optional*, defaults to 128): tokens kept of a row, special tokens included; at least 3.

    Returns:
        `list[LayerUnits]`: for each layer float64 arrays, for its heads and for its neurons.

    Raises:
        TypeError: if `dataset` is no `Dataset`, or a column holds something else than is needed.
        ValueError: if a column is missing, nothing is labelled, all rows have one label, the tokenizer is that of
            another model, or `max_length` leaves no text.
    """
    if max_length < 3:
        raise ValueError(
            f"max_length={max_length}: special tokens count too, so fewer than 3 would leave no text, and importance "
            "would be that of heads and neurons which read nothing."
        )
    check_dataset(dataset, "dataset")
    config, task = model.config, problem_type(model.config)
    dataset = dataset.with_format(None)
    column = gold_label_column(dataset, label_column)
    if column not in dataset.column_names:
        raise ValueError(
            f"dataset has no column {label_column!r} (its columns are {', '.join(dataset.column_names)}), and "
            "importance='taylor' measures what each head does to the loss on labels. Name the column with "
            "label_column=. Without gold labels let the model label the rows: `TeacherLabeler(model, "
            "tokenizer).map(dataset)` writes the column 'teacher_label'."
        )
    dataset, num_labelled = read_labels(
        dataset, column, model_label_names(config), config.num_labels, "dataset", problem_type=task
    )
    _check_labels(dataset, column, num_labelled, task)
    dataset = tokenize(
        dataset,
        tokenizer,
        text_column=text_column,
        text_pair_column=text_pair_column,
        max_length=max_length,
        token_types="token_type_ids" in forward_names(model),
        keep_columns=["labels"],
        what="dataset",
    )
    check_token_numbers(dataset, "", config, "the model", "dataset")
    check_token_lengths(dataset, "", config, "model", "dataset")
    return _measure(model, tokenizer, dataset, task, num_labelled)


def magnitude_importance(model):
    """Sum the squared weights of each head (queries, keys, values, output) and each neuron (in and out).

    Args:
        model (`PreTrainedModel`): a classifier of a known family.

    Returns:
        `list[LayerUnits]`: see `taylor_importance`.
    """
    family, size = family_of(model.config), head_size(model.config)
    importance = []
    for layer in layer_modules(model):
        rows = sum(_square_sums(layer.get_submodule(name), dim=1) for name in family.projections)
        heads = rows + _square_sums(layer.get_submodule(family.attention_output), dim=0)
        neurons = _square_sums(layer.get_submodule(family.ffn_input), dim=1)
        neurons = neurons + _square_sums(layer.get_submodule(family.ffn_output), dim=0)
        importance.append(LayerUnits(heads.reshape(-1, size).sum(axis=1), neurons))
    return importance


def random_importance(model, seed):
    """Draw importance evenly from [0, 1) for each weight, the same for all weights of a head or neuron.

    Args:
        model (`PreTrainedModel`): a classifier of a known family.
        seed (`int`): the same seed gives the same draws.

    Returns:
        `list[LayerUnits]`: see `taylor_importance`.
    """
    generator = np.random.default_rng(seed)
    # A head has twice as many matrices, each as wide as a head; so it stands for that many neurons in a budget.
    weights_of_head = 2 * head_size(model.config)
    return [
        LayerUnits(weights_of_head * generator.random(heads), generator.random(neurons))
        for heads, neurons in layer_sizes(model)
    ]


def _check_labels(dataset, column, num_labelled, task):
    if not num_labelled:
        raise ValueError(
            f"dataset has no labelled row in column {column!r}: the loss would be zero, and all heads alike. Give "
            "labelled rows, or importance='magnitude', which needs none."
        )
    if task != SINGLE_LABEL:
        return
    labels = set()
    for _, values in column_batches(dataset, "labels"):
        labels |= set(pc.unique(values).to_pylist()) - {None, -1, -100}
    if len(labels) < 2:
        raise ValueError(
            f"All labelled rows of dataset have the label {labels.pop()} in column {column!r}: what tells the labels "
            "apart would look unimportant, and be cut. Give rows of every label, such as "
            "`dataset.shuffle(seed=1).select(range(1000))`."
        )


def _measure(model, tokenizer, dataset, task, num_labelled):
    collate = DistillationCollator(tokenizer, padding_side=padding_side(model.config))
    gates = Gates(model, measure_always=True)
    sums = [LayerUnits(np.zeros(heads), np.zeros(neurons)) for heads, neurons in layer_sizes(model)]
    gates.attach()
    try:
        with tqdm(total=len(dataset), desc="Importance", unit=" rows") as bar:
            for rows in length_sorted_batches(token_lengths(dataset), _TOKENS_PER_BATCH):
                batch = collate([dataset[int(row)] for row in rows])
                batch = {name: values.to(model.device) for name, values in batch.items()}
                labels = batch.pop("labels")
                # The loss is a mean over the rows of the batch.
                (len(rows) * gold_label_loss(task, model(**batch).logits, labels)).backward()
                for total, of_batch in zip(sums, gates.take(), strict=True):
                    total.heads[:] += of_batch.heads.cpu().numpy()
                    total.neurons[:] += of_batch.neurons.cpu().numpy()
                bar.update(len(rows))
    finally:
        gates.detach()
    return [LayerUnits(heads / num_labelled, neurons / num_labelled) for heads, neurons in sums]


def _square_sums(linear, dim):
    return linear.weight.detach().double().square().sum(dim=dim).cpu().numpy()

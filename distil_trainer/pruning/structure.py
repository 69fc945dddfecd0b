"""`prune`: a classifier with fewer heads, FFN neurons and layers.

FastFormers (Kim and Hassan 2020, https://arxiv.org/abs/2010.13382), section 3.2, prunes text classifiers so, and
recovers what they lost by distillation from the unpruned model (`recover`).
"""

import numpy as np

from distil_trainer.pruning.checks import check_can_be_pruned, check_size, check_tokenizer
from distil_trainer.pruning.gates import LayerUnits, layer_sizes
from distil_trainer.pruning.importance import magnitude_importance, random_importance, taylor_importance
from distil_trainer.pruning.selection import keep_most_important, keep_within_budget
from distil_trainer.pruning.surgery import plain_copy, rebuild
from distil_trainer.students.encoder_layers import head_size

_KINDS = ("taylor", "magnitude", "random")


def prune(
    model,
    tokenizer=None,
    dataset=None,
    *,
    num_heads=None,
    intermediate_size=None,
    num_layers=None,
    keep=None,
    importance="taylor",
    text_column="sentence",
    text_pair_column=None,
    label_column="label",
    max_length=128,
    sequence_length=128,
    seed=0,
):
    """Make a smaller classifier of the most important heads and FFN neurons of a trained one.

    Give sizes, which all layers then have, or `keep`, a share of the encoder's FLOPs that is spent where it helps
    most, so that layers differ. Embeddings, pooler and classification head stay. Accuracy falls with each cut:
    follow with `recover`.

    With sizes the result has the model type of its family, and `AutoModel` of transformers 4.57 opens it without this
    package; transformers 5, which has no head pruning, with `trust_remote_code=True`, or `load_classifier`. With
    `keep` its model type is `pruned_bert`, ..., which opens wherever this package is imported, or with
    `trust_remote_code=True`.

    Args:
        model (`PreTrainedModel`): a sequence classifier of the BERT, RoBERTa, ELECTRA or DistilBERT family, pruned
            before or not; left as it is.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): its tokenizer; needed for `"taylor"`.
        dataset (`Dataset`, *optional*): labelled texts, from training or held-out data, never those that are reported
            on; needed for `"taylor"`. About 1,000 rows are enough.
        num_heads (`int`, *optional*): heads of each layer; as many as now by default.
        intermediate_size (`int`, *optional*): FFN neurons of each layer; as many as now by default. Int8 kernels are
            fastest at multiples of 32.
        num_layers (`int`, *optional*): layers, evenly spaced and ending with the last, as in `student_from_teacher`:
            how much a layer matters shows only once its neighbours have learned to do without it.
        keep (`float`, *optional*): share of the FLOPs of the heads and neurons that `model` has now, in (0, 1].
        importance (`str`, *optional*, defaults to `"taylor"`): `"taylor"`, what the loss on gold labels would feel, to
            first order; `"magnitude"`, the squared weights, or `"random"`: baselines, which need no data.
        text_column, text_pair_column, label_column (`str`, *optional*): columns of `dataset`, read for `"taylor"`.
        max_length (`int`, *optional*, defaults to 128): tokens kept of a row of `dataset`.
        sequence_length (`int`, *optional*, defaults to 128): tokens of a text, for counting FLOPs with `keep`.
        seed (`int`, *optional*, defaults to 0): for `"random"`.

    Returns:
        `PreTrainedModel`, new, in float32, in evaluation mode, on the model's device.

    Raises:
        TypeError: if a size is no integer, or `dataset` no `Dataset`.
        ValueError: if the family is unknown, a size does not fit, the data cannot show what is important, or an
            importance is not finite.

    Example:

    ```python
    pruned = prune(model, tokenizer, train.shuffle(seed=1).select(range(1000)), num_heads=8, intermediate_size=768)
    ```
    """
    check_can_be_pruned(model)
    sizes = layer_sizes(model)
    _check_choice(num_heads, intermediate_size, num_layers, keep)
    check_size("num_heads", num_heads, min(size.heads for size in sizes))
    check_size("intermediate_size", intermediate_size, min(size.neurons for size in sizes))
    check_size("num_layers", num_layers, len(sizes))
    if sequence_length < 1:
        raise ValueError(f"sequence_length={sequence_length} must be at least 1: FLOPs are counted for such a text.")
    source = plain_copy(model).requires_grad_(False)
    if importance == "taylor":
        if tokenizer is None or dataset is None:
            raise ValueError(
                f"importance='taylor' with tokenizer={tokenizer!r}, dataset={dataset!r}: importance is measured on "
                "labelled texts. Give the model's tokenizer and about 1,000 rows, or importance='magnitude'."
            )
        check_tokenizer(model, tokenizer)
        scores = taylor_importance(
            source,
            tokenizer,
            dataset,
            text_column=text_column,
            text_pair_column=text_pair_column,
            label_column=label_column,
            max_length=max_length,
        )
    elif importance == "magnitude":
        scores = magnitude_importance(source)
    elif importance == "random":
        scores = random_importance(source, seed)
    else:
        raise ValueError(f"importance={importance!r} must be one of {', '.join(_KINDS)}.")
    _check_finite(scores, importance)
    if keep is not None:
        if importance == "taylor":
            # Magnitudes of many neurons add up where their effects, of either sign, cancel; squares of effects that
            # are independent of one another add up. (Half of MiniLM on SST-2: accuracy 0.873, with magnitudes 0.786.)
            scores = [LayerUnits(heads**2, neurons**2) for heads, neurons in scores]
        config = model.config
        shape = {"hidden_size": config.hidden_size, "head_size": head_size(config)}
        kept = keep_within_budget(scores, keep, **shape, sequence_length=sequence_length)
    else:
        kept = keep_most_important(scores, num_heads, intermediate_size)
    depth = num_layers or len(sizes)
    layers = [(index + 1) * len(sizes) // depth - 1 for index in range(depth)]
    return rebuild(source, layers, kept)


def _check_finite(scores, importance):
    for index, units in enumerate(scores):
        if not all(np.isfinite(values).all() for values in units):
            raise ValueError(
                f"importance={importance!r} of the heads or neurons of layer {index} is NaN or infinite, so that any "
                "would be kept. Weights of the model are not finite, or so large that its loss is not: load the last "
                "checkpoint before training went astray."
            )


def _check_choice(num_heads, intermediate_size, num_layers, keep):
    sizes = {"num_heads": num_heads, "intermediate_size": intermediate_size, "num_layers": num_layers}
    given = [f"{name}={size}" for name, size in sizes.items() if size is not None]
    if keep is None and not given:
        raise ValueError(
            "num_heads=None, intermediate_size=None, num_layers=None, keep=None: nothing is to be pruned. Give sizes, "
            "or keep=, a share of the encoder's FLOPs."
        )
    if keep is None:
        return
    if given:
        raise ValueError(
            f"keep={keep} with {', '.join(given)}: keep= chooses the sizes itself, another one for each layer. Give "
            "one of the two; to leave out layers too, prune twice."
        )
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise ValueError(
            f"keep={keep!r} must be a share in (0, 1]: 0.5 keeps half of the encoder's FLOPs. For a number of heads "
            "take num_heads=."
        )

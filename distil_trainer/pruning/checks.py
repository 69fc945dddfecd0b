"""What cannot be pruned: unknown architectures, sizes that do not fit, tokenizers of other models."""

from transformers import (
    BertForSequenceClassification,
    DistilBertForSequenceClassification,
    ElectraForSequenceClassification,
    RobertaForSequenceClassification,
)

from distil_trainer.students.encoder_layers import FAMILIES, PRUNED_PREFIX

# The class of each family that can be pruned.
STOCK_CLASSES = {
    "bert": BertForSequenceClassification,
    "roberta": RobertaForSequenceClassification,
    "electra": ElectraForSequenceClassification,
    "distilbert": DistilBertForSequenceClassification,
}


def check_can_be_pruned(model):
    """Refuse a model whose layers are not known here, or whose class does with them what is not known here.

    Raises:
        ValueError: naming the families that are.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    stock = STOCK_CLASSES.get(model_type.removeprefix(PRUNED_PREFIX))
    # The pruned model is of the class of transformers, and would not do what another `forward` does.
    if stock is None or not isinstance(model, stock) or type(model).forward is not stock.forward:
        raise ValueError(
            f"model is a {type(model).__name__} of model_type={model_type!r}. Which weights belong to a head is known "
            f"for the sequence classifiers of {', '.join(FAMILIES)}, as they are in transformers, with no other "
            "`forward`: cut wrongly, a model would still run, and answer nonsense. Distil this one into one of those "
            "first."
        )


def check_size(name, size, largest):
    """Refuse a size that is no whole number from 1 to what there is; `None` means as it is.

    Args:
        name (`str`): the argument, for the error.
        size (`int`, *optional*): what was asked for.
        largest (`int`): what the smallest layer has.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it does not fit.
    """
    if size is None:
        return
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"{name}={size!r} must be an integer.")
    if not 1 <= size <= largest:
        raise ValueError(
            f"{name}={size} must be from 1 to {largest}, which is what the model has now (in its smallest layer, "
            "where they differ). A layer without any could not be run, and pruning adds none."
        )


def check_tokenizer(model, tokenizer):
    """Refuse a tokenizer with more tokens than the model has embeddings.

    Raises:
        ValueError: if it has.
    """
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"tokenizer has {len(tokenizer)} tokens, model has embeddings for {rows}: it is the tokenizer of another "
            "model, whose token numbers mean other words here. Load both from one place (`load_classifier`)."
        )

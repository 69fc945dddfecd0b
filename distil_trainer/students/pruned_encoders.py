"""BERT, RoBERTa, ELECTRA and DistilBERT classifiers with fewer heads, and FFN layers of different widths.

A model whose FFN layers are all of one width keeps the configuration and the model type of its family: transformers
4.57 cuts the heads that `config.pruned_heads` names by itself. transformers 5 does not, and needs the classes here.
"""

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from .encoder_layers import PRUNED_PREFIX, check_heads_left, shrink_to_config


class PrunedClassifier:
    """What a pruned classifier adds to its family's: the sizes of its configuration, and saving with its code.

    Args:
        config (`PretrainedConfig`): the family's own, or the pruned one with a width for each layer.
    """

    def __init__(self, config):
        check_heads_left(config)
        super().__init__(config)
        shrink_to_config(self)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save configuration, weights and Python files; see `PreTrainedModel.save_pretrained`.

        `AutoModelForSequenceClassification` opens the folder where this package is not installed: on transformers 4.57
        without its code where the model type is the family's, else with `trust_remote_code=True`.

        Args:
            save_directory (`str` or `os.PathLike`): the folder.
            args: those of `PreTrainedModel.save_pretrained`.
            kwargs: those of `PreTrainedModel.save_pretrained`.
        """
        file = type(self).__module__.rpartition(".")[2]
        self.config.auto_map = {"AutoModelForSequenceClassification": f"{file}.{type(self).__name__}"}
        if self.config.model_type.startswith(PRUNED_PREFIX):
            self.config.auto_map["AutoConfig"] = f"{file}.{type(self.config).__name__}"
        # This is what makes transformers copy the files. It marks the class, so it is not done before it is needed.
        self.register_for_auto_class("AutoModelForSequenceClassification")
        super().save_pretrained(save_directory, *args, **kwargs)


class PrunedBertConfig(BertConfig):
    """A `BertConfig` with a width of its own for each FFN layer.

    Args:
        intermediate_sizes (`list[int]`): FFN neurons of each layer.
        kwargs: those of `BertConfig`; `pruned_heads` names the heads that each layer lacks.
    """

    model_type = "pruned_bert"

    def __init__(self, intermediate_sizes=None, **kwargs):
        super().__init__(**kwargs)
        self.intermediate_sizes = intermediate_sizes


class PrunedRobertaConfig(RobertaConfig):
    """A `RobertaConfig` with a width of its own for each FFN layer; see [`PrunedBertConfig`]."""

    model_type = "pruned_roberta"

    def __init__(self, intermediate_sizes=None, **kwargs):
        super().__init__(**kwargs)
        self.intermediate_sizes = intermediate_sizes


class PrunedElectraConfig(ElectraConfig):
    """An `ElectraConfig` with a width of its own for each FFN layer; see [`PrunedBertConfig`]."""

    model_type = "pruned_electra"

    def __init__(self, intermediate_sizes=None, **kwargs):
        super().__init__(**kwargs)
        self.intermediate_sizes = intermediate_sizes


class PrunedDistilBertConfig(DistilBertConfig):
    """A `DistilBertConfig` with a width of its own for each FFN layer; see [`PrunedBertConfig`]."""

    model_type = "pruned_distilbert"

    def __init__(self, intermediate_sizes=None, **kwargs):
        super().__init__(**kwargs)
        self.intermediate_sizes = intermediate_sizes


class PrunedBertForSequenceClassification(PrunedClassifier, BertForSequenceClassification):
    """A pruned BERT classifier."""

    config_class = PrunedBertConfig


class PrunedRobertaForSequenceClassification(PrunedClassifier, RobertaForSequenceClassification):
    """A pruned RoBERTa classifier."""

    config_class = PrunedRobertaConfig


class PrunedElectraForSequenceClassification(PrunedClassifier, ElectraForSequenceClassification):
    """A pruned ELECTRA classifier."""

    config_class = PrunedElectraConfig


class PrunedDistilBertForSequenceClassification(PrunedClassifier, DistilBertForSequenceClassification):
    """A pruned DistilBERT classifier."""

    config_class = PrunedDistilBertConfig


# The pruned class of each family; its `config_class` is the configuration with a width for each layer.
PRUNED_CLASSES = {
    "bert": PrunedBertForSequenceClassification,
    "roberta": PrunedRobertaForSequenceClassification,
    "electra": PrunedElectraForSequenceClassification,
    "distilbert": PrunedDistilBertForSequenceClassification,
}


def class_for_pruned_heads(settings):
    """Return the class that opens a checkpoint of a stock model type whose heads are pruned; `None` for any other.

    Args:
        settings (`dict`): what the checkpoint's `config.json` holds.
    """
    return PRUNED_CLASSES.get(settings.get("model_type")) if settings.get("pruned_heads") else None

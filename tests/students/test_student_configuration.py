"""A configuration is refused where it is made, by name."""

import pytest
from tiny_students import ARCHITECTURES, NETWORKS, TABLE_NETWORKS, make_config
from transformers import AutoConfig, BartConfig

from distil_trainer.states import model_shape
from distil_trainer.students import (
    BilstmConfig,
    DensenetCnnConfig,
    DensenetDsaConfig,
    EmbeddingBagConfig,
    GloveCnnConfig,
    StudentConfig,
    StudentModel,
    TransformerCnnConfig,
)

TABLE_CONFIGS = [BilstmConfig, DensenetCnnConfig, DensenetDsaConfig, EmbeddingBagConfig, GloveCnnConfig]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shape_survives_saving(name, tmp_path):
    config = make_config(name)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    for figure in ("hidden_sizes", "hidden_size", "num_hidden_layers", "num_attention_heads", "pooled_size"):
        assert getattr(loaded, figure) == getattr(config, figure)
    assert {**loaded.to_dict(), "_name_or_path": "", "dtype": None, "encoder_config": None} == {
        **config.to_dict(), "_name_or_path": "", "dtype": None, "encoder_config": None
    }  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shape_can_be_matched_with_other_models(name):
    config = make_config(name)
    shape = model_shape(config)
    assert (shape.num_layers, shape.hidden_size) == (len(config.hidden_sizes) - 1, config.hidden_sizes[-1])
    assert shape.num_heads == (2 if name == "transformer_cnn" else 0)
    assert list(shape.hidden_sizes) == config.hidden_sizes


def test_each_architecture_names_its_states():
    assert {name: make_config(name).hidden_sizes for name in ARCHITECTURES} == {
        "bilstm": [12, 14],
        "densenet_cnn": [12, 10, 9],
        "densenet_dsa": [12, 10, 10],
        "embedding_bag": [12],
        "glove_cnn": [12, 20],
        "transformer_cnn": [12, 12, 12],
    }


@pytest.mark.parametrize("config", TABLE_CONFIGS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be a whole number of at least 1"),
        ({"embedding_size": 2.5}, "embedding_size=2.5 must be a whole number"),
        ({"embedding_size": True}, "embedding_size=True must be a whole number"),
        ({"embedding_dropout": 1.0}, "embedding_dropout=1.0 must be a number of at least 0 and below 1"),
        ({"classifier_dropout": -0.1}, "classifier_dropout=-0.1 must be"),
        ({"classifier_dropout": "high"}, "classifier_dropout='high' must be"),
        ({"vocab_size": 5, "pad_token_id": 5}, "pad_token_id=5 must be a token number from 0 to 4"),
        ({"pad_token_id": None}, "pad_token_id=None must be a token number"),
        ({"type_vocab_size": 3}, r"type_vocab_size=3 must be 1 \(single texts\) or 2"),
        ({"hidden_size": 768}, "hidden_size=768: .* derives this from its other settings"),
        ({"num_hidden_layers": 2}, "num_hidden_layers=2: .* derives this"),
    ],
)
def test_a_setting_out_of_range_is_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


@pytest.mark.parametrize("config", [DensenetCnnConfig, DensenetDsaConfig])
def test_the_dense_networks_refuse_pairs(config):
    with pytest.raises(ValueError, match="reads single texts only"):
        config(type_vocab_size=2)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (GloveCnnConfig, {"kernel_sizes": []}, "must be a list of at least one window size"),
        (GloveCnnConfig, {"kernel_sizes": 3}, "must be a list of at least one window size"),
        (GloveCnnConfig, {"kernel_sizes": [3, 0]}, "0 must be a whole number of at least 1: the tokens in a window"),
        (GloveCnnConfig, {"num_filters": 0}, "num_filters=0 must be"),
        (GloveCnnConfig, {"classifier_size": 0}, "classifier_size=0 must be"),
        (DensenetCnnConfig, {"kernel_sizes": []}, "must be a list of at least one window size"),
        (DensenetCnnConfig, {"num_filters": -1}, "num_filters=-1 must be"),
        (DensenetCnnConfig, {"block_kernel_sizes": []}, "must be a list with one list for each layer"),
        (DensenetCnnConfig, {"block_kernel_sizes": [[1, 1], []]}, "must be a list of at least one window size"),
        (DensenetCnnConfig, {"block_kernel_sizes": [[1, 1], [3]]}, "all lists are of the same length"),
        (DensenetCnnConfig, {"first_filters": 0}, "first_filters=0 must be"),
        (DensenetCnnConfig, {"block_dropout": 2}, "block_dropout=2 must be"),
        (DensenetDsaConfig, {"num_iterations": 0}, "num_iterations=0 must be"),
        (DensenetDsaConfig, {"head_size": 0}, "head_size=0 must be"),
        (BilstmConfig, {"lstm_size": 0}, "lstm_size=0 must be"),
        (BilstmConfig, {"classifier_size": -1}, "classifier_size=-1 must be"),
        (BilstmConfig, {"classifier_size": False}, "classifier_size=False must be"),
        (BilstmConfig, {"pooling": "max"}, "pooling='max' must be one of 'last', 'attention'"),
        (EmbeddingBagConfig, {"classifier_size": 0}, "classifier_size=0 must be"),
        (TransformerCnnConfig, {}, "encoder_config=None must be the configuration of an encoder"),
        (TransformerCnnConfig, {"encoder_config": BartConfig()}, "Of an encoder-decoder"),
    ],
)
def test_a_setting_of_an_architecture_out_of_range_is_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_settings_of_a_transformer_cnn_are_checked_too():
    with pytest.raises(ValueError, match="encoder_dropout=1 must be"):
        make_config("transformer_cnn", encoder_dropout=1)
    with pytest.raises(ValueError, match="must be a list of at least one window size"):
        make_config("transformer_cnn", kernel_sizes=[])


def test_a_network_of_ones_own_says_what_it_must_still_define():
    class BareConfig(StudentConfig):
        model_type = "bare"

        def __init__(self, **kwargs):
            super().__init__(**kwargs)

    with pytest.raises(NotImplementedError, match="BareConfig does not say the widths"):
        BareConfig().hidden_size  # noqa: B018
    with pytest.raises(NotImplementedError, match="StudentModel does not say how it encodes"):
        StudentModel(BareConfig(vocab_size=4)).encode(None, None)


@pytest.mark.parametrize("name", TABLE_NETWORKS)
def test_labels_and_other_common_settings_are_those_of_transformers(name):
    config = make_config(name, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    assert (config.num_labels, config.id2label[1], config.label2id["bad"]) == (2, "good", 0)

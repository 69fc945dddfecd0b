"""Loading classifiers: whole, in float32, or a clear error."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModel, GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from distil_trainer.arguments import DistillationArguments
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.loading import load_classifier, name_tokenizer_class
from distil_trainer.students import EmbeddingBagConfig, EmbeddingBagForSequenceClassification
from distil_trainer.trainer import DistillationTrainer


@pytest.fixture
def saved(any_family_model, tokenizer, tmp_path):
    any_family_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model", any_family_model


@pytest.fixture
def folder(teacher, tokenizer, tmp_path):
    teacher.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def headless(folder):
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    return folder


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_saved_classifier_comes_back_with_the_same_logits_in_evaluation_mode(saved, tokenizer):
    folder, model = saved
    loaded, loaded_tokenizer = load_classifier(folder)
    assert not loaded.training
    assert loaded_tokenizer.is_fast
    texts = ["the film is great", "awful"]
    expected = predict_logits(torch_runner(model), tokenizer, texts)
    np.testing.assert_array_equal(predict_logits(torch_runner(loaded), loaded_tokenizer, texts), expected)


def test_a_float16_checkpoint_is_loaded_in_float32(folder, teacher):
    teacher.half().save_pretrained(folder)
    model, _ = load_classifier(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("to_be_trained", [False, True])
def test_weights_of_another_shape_are_refused_by_their_names(folder, to_be_trained):
    edit_config(folder, intermediate_size=48)
    with pytest.raises(ValueError, match=r"encoder, or has them in another shape: bert.encoder.layer.0.intermediate"):
        load_classifier(folder, to_be_trained=to_be_trained)


def test_a_head_of_another_shape_is_named(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"classifier.weight": torch.zeros(3, 32)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="no trained classification head: classifier.weight are missing from it or"):
        load_classifier(folder)


def test_the_real_teacher_loads_in_float32_with_its_label_names(minilm_folder):
    model, _ = load_classifier(str(minilm_folder))
    assert model.dtype == torch.float32
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_a_checkpoint_without_a_head_is_refused_as_a_teacher(headless):
    with pytest.raises(ValueError, match="no trained classification head: classifier.bias, classifier.weight"):
        load_classifier(headless)


def test_a_checkpoint_without_a_head_is_loaded_to_be_trained_with_the_label_names(headless):
    model, _ = load_classifier(headless, to_be_trained=True, label_names=["bad", "fair", "good"])
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    assert model.config.label2id == {"bad": 0, "fair": 1, "good": 2}
    assert model.classifier.out_features == 3
    assert not model.training


def test_a_head_of_another_size_is_replaced_only_where_the_model_is_to_be_trained(folder):
    model, _ = load_classifier(folder, to_be_trained=True, label_names=["bad", "fair", "good"])
    assert model.classifier.out_features == 3
    edit_config(folder, id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
    with pytest.raises(ValueError, match="no trained classification head"):
        load_classifier(folder)


def test_missing_encoder_weights_are_refused_even_for_a_model_to_be_trained(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights of the encoder.*bert.encoder.layer.1.output.dense.weight"):
        load_classifier(folder, to_be_trained=True)


def test_a_missing_pooler_is_fine_for_a_model_to_be_trained_only(folder):
    weights = load_file(folder / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if "pooler" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load_classifier(folder, to_be_trained=True)
    with pytest.raises(ValueError, match="no trained classification head: bert.pooler"):
        load_classifier(folder)


def test_a_model_with_placeholder_labels_takes_the_names_given(folder):
    edit_config(folder, id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    model, _ = load_classifier(folder, label_names=["negative", "positive"])
    assert model.config.id2label == {0: "negative", 1: "positive"}
    with pytest.raises(ValueError, match="label_names has 3 labels"):
        load_classifier(folder, label_names=["a", "b", "c"])


def test_label_names_in_another_order_leave_the_model_as_it_is_and_other_names_are_refused(folder):
    model, _ = load_classifier(folder, label_names=["positive", "negative"])
    assert model.config.id2label == {0: "negative", 1: "positive"}
    with pytest.raises(ValueError, match="label_names names them"):
        load_classifier(folder, label_names=["sports", "politics"])


def test_a_hub_id_without_network_names_the_local_option_and_keeps_the_cause():
    with pytest.raises(OSError, match="--teacher_model_name_or_path") as caught:
        load_classifier("someone/some-model")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("path", ["/no/such/folder", "./no-such-folder", "no/such/folder"])
def test_a_path_that_does_not_exist_is_called_that(path):
    with pytest.raises(OSError, match="there is no such folder"):
        load_classifier(path)


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(OSError, match="without a readable config.json"):
        load_classifier(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(any_family_model, tmp_path):
    any_family_model.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="no tokenizer that can be loaded"):
        load_classifier(tmp_path)


def test_the_tokenizer_of_another_model_is_refused(folder, tokenizer):
    larger = PreTrainedTokenizerFast.from_pretrained(folder)
    larger.add_tokens([f"word{i}" for i in range(50)])
    larger.save_pretrained(folder)
    with pytest.raises(ValueError, match="tokenizer of another model"):
        load_classifier(folder)


def test_a_slow_tokenizer_is_refused(folder, monkeypatch):
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", property(lambda self: False))
    with pytest.raises(ValueError, match="slow tokenizer only"):
        load_classifier(folder)


def test_a_student_of_this_package_runs_the_code_of_the_package_even_where_its_folder_is_trusted(tokenizer, tmp_path):
    student = EmbeddingBagForSequenceClassification(EmbeddingBagConfig(vocab_size=60, embedding_size=4))
    student.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "embedding_bag.py").write_text("raise RuntimeError('run')")
    model, _ = load_classifier(tmp_path, trust_remote_code=True)
    assert type(model) is EmbeddingBagForSequenceClassification


def test_a_tokenizer_is_named_as_both_majors_know_it_and_nothing_else_is_changed(tokenizer, tmp_path):
    name_tokenizer_class(tmp_path)  # without a tokenizer there is nothing to do
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"tokenizer_class": "TokenizersBackend"}))
    name_tokenizer_class(tmp_path)
    assert json.loads(path.read_text()) == saved | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(saved | {"tokenizer_class": "BertTokenizer"}))
    name_tokenizer_class(tmp_path)
    assert json.loads(path.read_text())["tokenizer_class"] == "BertTokenizer"


def test_a_checkpoint_of_the_trainer_names_its_tokenizer_so_too(folder, reviews, tmp_path):
    model, tokenizer = load_classifier(folder)
    arguments = DistillationArguments(
        str(tmp_path / "out"), logit_loss_weight=0, hard_label_weight=1, max_steps=1, use_cpu=True, report_to=[]
    )
    DistillationTrainer(model, arguments, train_dataset=reviews, processing_class=tokenizer).train()
    settings = json.loads((tmp_path / "out" / "checkpoint-1" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_student_that_pads_with_another_token_than_its_tokenizer_is_refused(tokenizer, tmp_path):
    config = EmbeddingBagConfig(vocab_size=60, embedding_size=4, pad_token_id=5)
    EmbeddingBagForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"pad_token_id=5, its tokenizer has 0 .*'the'\) stays zero and learns nothing"
    ):
        load_classifier(tmp_path)


def test_code_in_a_repository_is_not_run_without_trust(folder):
    edit_config(folder, model_type="homemade", auto_map={"AutoConfig": "configuration.HomemadeConfig"})
    (folder / "configuration.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(ValueError, match="pass trust_remote_code=True"):
        load_classifier(folder)


@pytest.fixture
def gpt(tokenizer, tmp_path):
    """Save a tiny GPT-2 classifier and a tokenizer with no special tokens but those given."""

    def save(**special_tokens):
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2, n_positions=32, bos_token_id=2, eos_token_id=3
        )
        GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        PreTrainedTokenizerFast(tokenizer_object=backend, **special_tokens).save_pretrained(tmp_path)
        return tmp_path

    return save


def test_a_model_without_padding_token_pads_with_its_end_of_text_token(gpt):
    model, tokenizer = load_classifier(gpt(eos_token="[SEP]"))
    assert tokenizer.pad_token == "[SEP]"
    assert model.config.pad_token_id == 3
    run = torch_runner(model)
    together = predict_logits(run, tokenizer, ["the film", "a great moving story"])
    np.testing.assert_allclose(together[:1], predict_logits(run, tokenizer, ["the film"]), rtol=1e-5, atol=1e-6)


def test_a_tokenizer_with_nothing_to_pad_with_is_refused(gpt):
    with pytest.raises(ValueError, match="neither a padding token nor an end-of-text token"):
        load_classifier(gpt(unk_token="[UNK]"))

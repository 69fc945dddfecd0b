"""A recipe's student with fresh weights: its tokenizer, word vectors and shape, from the recipe's arguments."""

import json
import os

from datasets import concatenate_datasets
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, set_seed

from distil_trainer.command_line import read_mapping
from distil_trainer.loading import load_classifier
from distil_trainer.small_tokenizers import sentencepiece_tokenizer, train_tokenizer, word_level_tokenizer
from distil_trainer.stages import needs_remote_code, short_name
from distil_trainer.students import StudentClassifier, StudentConfig
from distil_trainer.vectors import check_source, word_vectors

_TRAINED_TOKENIZERS = ("wordpiece", "bpe", "unigram")
_TRAINED_VOCAB_SIZE = 8000
# These follow from the tokenizer and the columns, or would make another kind of model.
_NOT_SETTINGS = {
    "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "type_vocab_size", "is_decoder",
    "add_cross_attention", "tie_word_embeddings",
}  # fmt: skip


def check_fresh_student(models, training, teacher, teacher_tokenizer, label_names):
    """Refuse arguments that no network can be made of, before any long work.

    Args:
        models ([`ModelArguments`]): the arguments.
        training ([`DistillationArguments`]): says whether texts come in pairs.
        teacher (`PreTrainedModel`): may give the word vectors; whether it is trained already does not matter.
        teacher_tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        label_names (`list[str]`): names of the labels, in logit order.

    Returns:
        `PreTrainedModel`: such a network with random weights, as a look at its sizes.

    Raises:
        FileNotFoundError: if the file of word vectors or of the tokenizer is not there.
        ValueError: if the type, a setting, the tokenizer or its size is not legal, the network takes no vectors, or
            there are none of its width.
    """
    config = _config(models, label_names, pairs=training.text_pair_column is not None)
    name, vectors = models.student_tokenizer, models.word_vectors
    if name.endswith(".model"):
        _check_file("student_tokenizer", name)
    elif name not in ("word", *_TRAINED_TOKENIZERS):
        raise ValueError(
            f"student_tokenizer={name!r}: choose word, {', '.join(_TRAINED_TOKENIZERS)}, or a SentencePiece file that "
            "ends in .model."
        )
    _tokenizer(["a"], models, training)  # refuses a size or a file that it would refuse with all texts
    if vectors not in ("teacher", "random"):
        _check_file("word_vectors", vectors)
    student = AutoModelForSequenceClassification.from_config(config)
    if vectors != "random" and not isinstance(student, StudentClassifier):
        raise ValueError(
            f"word_vectors={vectors!r} with student_type={models.student_type!r}: only the networks of this package "
            "start from word vectors; those of transformers scale and add to their embeddings. Give "
            "--word_vectors random."
        )
    if vectors != "random":
        check_source(_source(models, teacher, teacher_tokenizer), config.embedding_size)
    elif isinstance(student, StudentClassifier) and config.freeze_embeddings:
        raise ValueError(
            "word_vectors='random' with freeze_embeddings: true in student_config: frozen random vectors say nothing "
            "but which word is which. Leave out freeze_embeddings, or give --word_vectors teacher or a file."
        )
    return student


def make_fresh_student(run, models, training, train, teacher, teacher_tokenizer, label_names):
    """Make the untrained network, once: tokenizer and vocabulary from the training texts, word vectors, fresh weights.

    Args:
        run ([`RunFolder`]): keeps the result.
        models ([`ModelArguments`]): what to make.
        training ([`DistillationArguments`]): names the columns, the seed and the longest text.
        train (`Dataset`): the rows whose texts give the vocabulary: those that are trained on, and no others.
        teacher (`PreTrainedModel`): gives the word vectors with `--word_vectors teacher`.
        teacher_tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        label_names (`list[str]`): names of the labels, in logit order.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerFast, dict]`: the last is the report's part `student`.
    """

    def build(path):
        student, tokenizer, facts = _build(models, training, train, teacher, teacher_tokenizer, label_names)
        student.save_pretrained(path)
        tokenizer.save_pretrained(path)
        (path / "facts.json").write_text(json.dumps(facts), encoding="utf-8")

    folder = run.once("untrained_student", build)
    student, tokenizer = load_classifier(folder)
    return student, tokenizer, json.loads((folder / "facts.json").read_text(encoding="utf-8"))


def _build(models, training, train, teacher, teacher_tokenizer, label_names):
    pairs = training.text_pair_column is not None
    texts = _texts(train, training.text_column, training.text_pair_column)
    vectors = None
    if models.word_vectors == "random":
        tokenizer = _tokenizer(texts, models, training)
    else:
        if models.student_tokenizer == "word":
            given = {"extra_words": models.extra_words, **_word_settings(models, training)}
        else:
            given = {"tokenizer": _tokenizer(texts, models, training)}
        source = _source(models, teacher, teacher_tokenizer)
        vectors = word_vectors(texts, source, size=_config(models, label_names, pairs=pairs).embedding_size, **given)
        tokenizer = vectors.tokenizer
    set_seed(training.seed)
    config = _config(models, label_names, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, pairs=pairs)
    student = AutoModelForSequenceClassification.from_config(config)
    if vectors is not None:
        student.set_word_vectors(vectors.matrix)
    base = f"fresh weights ({models.student_type}), {len(tokenizer):,} tokens ({_short(models.student_tokenizer)})"
    origin = (
        "distilled from the teacher" if models.word_vectors == "teacher" else f"from {_short(models.word_vectors)}"
    )
    facts = {"base": base if vectors is None else f"{base} and word vectors {origin}"}
    return student, tokenizer, facts | {"needs_remote_code": needs_remote_code(student)}


def _tokenizer(texts, models, training):
    settings = _word_settings(models, training)
    if models.student_tokenizer == "word":
        return word_level_tokenizer(texts, **settings)
    vocab_size, lower = settings.pop("vocab_size"), settings.pop("lower")
    if models.student_tokenizer in _TRAINED_TOKENIZERS:
        size = _TRAINED_VOCAB_SIZE if vocab_size is None else vocab_size
        return train_tokenizer(texts, models.student_tokenizer, vocab_size=size, lower=lower, **settings)
    return sentencepiece_tokenizer(models.student_tokenizer, **settings)


def _word_settings(models, training):
    return {
        "vocab_size": models.student_vocab_size,
        "lower": models.student_lower,
        "pairs": training.text_pair_column is not None,
        "model_max_length": training.max_length,
    }


def _source(models, teacher, teacher_tokenizer):
    return (teacher, teacher_tokenizer) if models.word_vectors == "teacher" else models.word_vectors


def _config(models, label_names, *, vocab_size=8, pad_token_id=0, pairs=False):
    name = models.student_type
    if name not in CONFIG_MAPPING:
        raise ValueError(
            f"student_type={name!r} is no model type that is known here. Networks of this package: bilstm, "
            "densenet_cnn, densenet_dsa, embedding_bag, glove_cnn; of transformers, those with a classifier, such as "
            "bert."
        )
    if name == "transformer_cnn":
        raise ValueError(
            "student_type='transformer_cnn' is a head on an encoder that has weights already: give --student_head cnn "
            "with --student_model_name_or_path or --student_layers."
        )
    settings = read_mapping("student_config", models.student_config, "'{lstm_size: 150}'")
    # What every configuration has says nothing of this network's shape.
    legal = set(AutoConfig.for_model(name).to_dict()) - set(PretrainedConfig().to_dict()) - _NOT_SETTINGS
    if wrong := sorted(set(settings) - legal):
        raise ValueError(
            f"student_config has {wrong}, which are no settings of {name} that can be given here: they would be "
            "ignored in silence, make another model, or contradict the tokenizer or the labels. What can be given: "
            f"{sorted(legal)}."
        )
    if issubclass(CONFIG_MAPPING[name], StudentConfig):
        settings = {**settings, "type_vocab_size": 2 if pairs else 1}
    config = AutoConfig.for_model(
        name,
        **settings,
        vocab_size=vocab_size,
        pad_token_id=pad_token_id,
        id2label=dict(enumerate(label_names)),
        label2id={label: index for index, label in enumerate(label_names)},
    )
    if config.is_encoder_decoder:
        raise ValueError(
            f"student_type={name!r} is an encoder and a decoder, whose classifiers read an end token that the "
            "tokenizers made here do not write. Give a network of this package, or an encoder such as bert."
        )
    return config


def _texts(train, text_column, text_pair_column):
    columns = [column for column in (text_column, text_pair_column) if column is not None]
    parts = [train.select_columns(column).rename_columns({column: "text"}) for column in columns]
    return concatenate_datasets(parts)["text"]


def _short(name):
    return short_name(name) if os.path.exists(name) else name


def _check_file(argument, path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{argument}={path!r} is not a file. Correct the path, or choose another source.")

"""A teacher with a tokenizer of its own: every loss by words, against pooling done by hand, row by row."""

import copy
import functools
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from foreign_tokenizers import byte_level_tokenizer, sentence_piece_tokenizer
from loss_terms import (
    PLAIN_DESCENT,
    PROJECTED,
    ROW_TERMS,
    TERMS,
    largest_difference,
    make_student,
    trained_weights,
)
from scipy.special import log_softmax, rel_entr, softmax
from transformers import ByT5Tokenizer, DistilBertConfig, DistilBertForSequenceClassification
from vocabulary import LABELS

from distil_trainer.arguments import DistillationArguments
from distil_trainer.labeling import TeacherLabeler
from distil_trainer.text import write_mask_token
from distil_trainer.trainer import DistillationTrainer

TOKENIZERS = {
    "byte_level": byte_level_tokenizer,
    # Said because transformers 4.57 and 5 take other names if none are given.
    "sentence_piece": functools.partial(
        sentence_piece_tokenizer, model_input_names=["input_ids", "attention_mask", "token_type_ids"]
    ),
}
# Three layers for the teacher, two for the student; the first layer of one and the second of the other.
LAYERS = {"teacher_layer": 2, "student_layer": 1}
TEXTS = [
    "the film is great",
    "awful",
    "naïve  café\t東京 is not moving",
    "a tedious, tedious plot and a charming actor",
    "brilliant !",
    "we never really warm to it",
    "funny script",
    "was this very good or slow",
]


def make_teacher(tokenizer, **given):
    return make_student(
        seed=5,
        initializer_range=0.2,
        num_hidden_layers=3,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **given,
    ).eval()


def make_rows(texts=TEXTS, seconds=None):
    return Dataset.from_dict({"sentence": texts} | ({} if seconds is None else {"second": seconds}))


@pytest.fixture
def make_trainer(tokenizer, tmp_path):
    def make(student, teacher, teacher_tokenizer, dataset=None, processing_class=None, **given):
        given = {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, **given}
        return DistillationTrainer(
            student,
            DistillationArguments(str(tmp_path / "out"), **{"per_device_train_batch_size": 8, **given}),
            train_dataset=make_rows() if dataset is None else dataset,
            processing_class=processing_class or tokenizer,
            teacher=teacher,
            teacher_processing_class=teacher_tokenizer,
        )

    return make


@pytest.fixture
def train(make_trainer):
    def run(*given, **settings):
        trainer = make_trainer(*given, **settings)
        trainer.train()
        return trainer

    return run


# By hand: each row read alone, each word found by its characters


def read_alone(model, tokenizer, *texts, max_length=128):
    """Return hidden states, attention maps and queries of a row without padding, and the word of each token."""
    texts = [write_mask_token([text], tokenizer)[0] for text in texts]
    limits = {"truncation": True, "max_length": min(max_length, tokenizer.model_max_length)}
    encoding = tokenizer(*texts, return_offsets_mapping=True, **limits)
    names = ("input_ids", "token_type_ids") if model.config.model_type in ("bert", "xlnet") else ("input_ids",)
    inputs = {name: torch.tensor([encoding[name]]) for name in names if name in encoding}
    model = copy.deepcopy(model).eval()
    model.set_attn_implementation("eager")
    queries = []
    for module_name, module in model.named_modules():
        if module_name.endswith("attention.self.query"):
            module.register_forward_hook(lambda module, given, output: queries.append(output[0]))
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    spans, first = [], 0
    for text in texts:
        words = [match.span() for match in re.finditer(r"\S+", text)]
        spans.append({number + first: span for number, span in enumerate(words)})
        first += len(words)
    words = []
    for (start, end), text_number in zip(encoding["offset_mapping"], encoding.sequence_ids(), strict=True):
        within = [] if text_number is None else range(start, end)
        filled = [at for at in within if not texts[text_number][at].isspace()]
        words.append(
            next((word for word, (a, b) in spans[text_number].items() if a <= filled[0] < b)) if filled else None
        )
    prefix = "encoder_" if model.config.is_encoder_decoder else ""
    return {
        "hidden_states": [state[0].double().numpy() for state in outputs[f"{prefix}hidden_states"]],
        "attentions": [state[0].double().numpy() for state in outputs[f"{prefix}attentions"]],
        "queries": [state.double().numpy() for state in queries],
        "words": words,
        "logits": outputs.logits[0].double().numpy(),
    }


def tokens_of(read, word):
    return [token for token, its_word in enumerate(read["words"]) if its_word == word]


def shared(student, teacher):
    """Return the words that both read, in order."""
    return sorted((set(student["words"]) & set(teacher["words"])) - {None})


def word_states(read, states, words):
    return np.array([states[tokens_of(read, word)].mean(axis=0) for word in words])


def word_attention(read, maps, words):
    pooled = np.zeros((len(maps), len(words), len(words)))
    for head in range(len(maps)):
        for row, one in enumerate(words):
            for column, other in enumerate(words):
                to_word = maps[head][:, tokens_of(read, other)].sum(axis=1)
                pooled[head, row, column] = to_word[tokens_of(read, one)].mean()
    return pooled / pooled.sum(axis=-1, keepdims=True)


def hidden_mse(student, teacher):
    words = shared(student, teacher)
    own = word_states(student, student["hidden_states"][1], words)
    return ((own - word_states(teacher, teacher["hidden_states"][2], words)) ** 2).mean()


def attention_kl(student, teacher):
    words = shared(student, teacher)
    own, other = (
        word_attention(read, read["attentions"][layer - 1], words) for read, layer in ((student, 1), (teacher, 2))
    )
    return rel_entr(other, own).sum(axis=-1).mean()


def query_relation_kl(student, teacher):
    words, relations = shared(student, teacher), []
    for read, layer in ((student, 1), (teacher, 2)):
        heads = word_states(read, read["queries"][layer - 1], words).reshape(len(words), 4, -1).transpose(1, 0, 2)
        relations.append(heads @ heads.transpose(0, 2, 1) / np.sqrt(heads.shape[-1]))
    return (softmax(relations[1], -1) * (log_softmax(relations[1], -1) - log_softmax(relations[0], -1))).sum(-1).mean()


def pooled_mse(student, teacher):
    own, other = student["hidden_states"][1].mean(axis=0), teacher["hidden_states"][2].mean(axis=0)
    return ((own - other) ** 2).mean()


def soft_target_kl(student, teacher):
    own, other = log_softmax(student["logits"]), log_softmax(teacher["logits"])
    return (np.exp(other) * (other - own)).sum()


# The others on logits and rows read nothing that these do not.
WORD_AND_ROW_TERMS = (
    "kl hidden_mse hidden_cosine embeddings attention_mse attention_cosine attention_kl query_relations "
    "value_relations cls_pkd pooled_mse short_forms"
).split()
BY_HAND = {
    "hidden_states_mse_t2_s1": hidden_mse,
    "attentions_kl_t2_s1": attention_kl,
    "query_relations_kl_t2_s1": query_relation_kl,
    "pooled_states_mse_t2_s1": pooled_mse,
    "soft_target_kl": soft_target_kl,
}
MATCHES = [
    {"what": "hidden_states", "loss": "mse", **LAYERS},
    {"what": "attentions", "loss": "kl", **LAYERS},
    {"what": "query_relations", "loss": "kl", **LAYERS},
    {"what": "pooled_states", "loss": "mse", **LAYERS},
]


def check_terms(train, student, student_tokenizer, teacher, teacher_tokenizer, rows, matches=None, **given):
    """Check that the terms of the first step are those worked out by hand; return what was read by hand."""
    columns = [column for column in ("sentence", "second") if column in rows.column_names]
    max_length = given.get("max_length", 128)
    read = [
        [
            read_alone(model, reader, *texts, max_length=max_length)
            for texts in zip(*(rows[c] for c in columns), strict=True)
        ]
        for model, reader in ((student, student_tokenizer), (teacher, teacher_tokenizer))
    ]
    trainer = train(
        student,
        teacher,
        teacher_tokenizer,
        rows,
        processing_class=student_tokenizer,
        matches=matches or MATCHES,
        temperature=1.0,
        max_steps=1,
        per_device_train_batch_size=len(rows),
        **given,
    )
    log, compared = trainer.state.log_history[0], 0
    for name, by_hand in BY_HAND.items():
        if name in log:
            compared += 1
            expected = np.mean([by_hand(*reads) for reads in zip(*read, strict=True)])
            assert expected > 1e-4
            assert log[name] == pytest.approx(expected, rel=2e-5), name
    assert compared == len(matches or MATCHES) + 1
    return read


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_loss_compares_words_pooled_as_by_hand(train, tokenizer, name):
    foreign = TOKENIZERS[name]()
    student, teacher = make_student(initializer_range=0.2), make_teacher(foreign)
    own, other = check_terms(train, student, tokenizer, teacher, foreign, make_rows())
    # Some words are one token here and several there, and the rows have other lengths.
    assert any(len(tokens_of(read, word)) > 2 for read in other for word in read["words"] if word is not None)
    assert [len(read["words"]) for read in own] != [len(read["words"]) for read in other]


@pytest.mark.parametrize("cut", ["teacher", "student", "both"])
def test_words_that_one_side_does_not_read_are_left_out(train, tokenizer, cut):
    """Each side is cut where its own tokenizer says, and words beyond do not count for either."""
    foreign, tokenizer = byte_level_tokenizer(), copy.deepcopy(tokenizer)
    if cut != "student":
        foreign.model_max_length = 14
    if cut != "teacher":
        tokenizer.model_max_length = 6
    own, other = check_terms(
        train, make_student(initializer_range=0.2), tokenizer, make_teacher(foreign), foreign, make_rows()
    )
    lost = [
        len(text.split()) - len(shared(first, second)) for text, first, second in zip(TEXTS, own, other, strict=True)
    ]
    assert sum(lost) > 4 and 0 in lost


def test_max_length_cuts_both_sides(train, tokenizer):
    foreign = byte_level_tokenizer()
    models = make_student(initializer_range=0.2), make_teacher(foreign)
    read = check_terms(train, models[0], tokenizer, models[1], foreign, make_rows(), max_length=7)
    assert {max(len(row["words"]) for row in side) for side in read} == {7}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_of_pairs_are_compared_in_both_texts(train, tokenizer, name):
    foreign = TOKENIZERS[name]()
    rows = make_rows(seconds=TEXTS[3:] + TEXTS[:3])
    student, teacher = make_student(initializer_range=0.2), make_teacher(foreign)
    own, _ = check_terms(train, student, tokenizer, teacher, foreign, rows, text_pair_column="second")
    assert [max(word for word in read["words"] if word is not None) + 1 for read in own] == [
        len(first.split()) + len(second.split())
        for first, second in zip(rows["sentence"], rows["second"], strict=True)
    ]


def test_cut_pairs_keep_the_numbers_of_their_second_texts(train, tokenizer):
    """The teacher loses words of the first text, so that its tokens of the second stand further ahead."""
    foreign = byte_level_tokenizer(model_max_length=20)
    rows = make_rows(["a tedious tedious plot and a charming actor"] * 2, ["brilliant script", "funny"])
    student, teacher = make_student(initializer_range=0.2), make_teacher(foreign)
    own, other = check_terms(train, student, tokenizer, teacher, foreign, rows, text_pair_column="second")
    assert not {4, 5} & set(other[0]["words"]) and {8, 9} <= set(other[0]["words"])
    assert shared(own[0], other[0]) == sorted(set(other[0]["words"]) - {None})


def test_the_mask_word_is_one_word_to_both(train, tokenizer):
    foreign = byte_level_tokenizer()
    rows = make_rows(["the [MASK] was great", "[MASK] [MASK] plot", "a charming actor", "never [MASK]"])
    student, teacher = make_student(initializer_range=0.2), make_teacher(foreign)
    own, other = check_terms(train, student, tokenizer, teacher, foreign, rows)
    assert len(tokens_of(own[0], 1)) == len(tokens_of(other[0], 1)) == 1
    assert shared(own[1], other[1]) == [0, 1, 2]


def test_each_side_gets_its_own_mask_token(make_trainer, tokenizer):
    foreign = byte_level_tokenizer()
    trainer = make_trainer(make_student(), make_teacher(foreign), foreign, make_rows(["the [MASK] plot", "[MASK]"]))
    rows = trainer.train_dataset
    assert [row.count(tokenizer.mask_token_id) for row in rows["input_ids"]] == [1, 1]
    assert [row.count(foreign.mask_token_id) for row in rows["teacher_input_ids"]] == [1, 1]


def test_a_row_without_a_shared_word_counts_as_a_row_of_loss_zero(train, tokenizer):
    """The teacher's limit leaves it the first word alone; the student loses it to a second, longer limit."""
    foreign = byte_level_tokenizer(model_max_length=2)
    rows = make_rows(["great film", "awful"])
    trainer = train(
        make_student(initializer_range=0.2),
        make_teacher(foreign),
        foreign,
        rows,
        matches=MATCHES[:3],
        max_steps=1,
    )
    log = trainer.state.log_history[0]
    assert [log[name] for name in BY_HAND if name in log and name != "soft_target_kl"] == [0.0, 0.0, 0.0]
    assert log["soft_target_kl"] > 1e-3 and np.isfinite(log["grad_norm"])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_student_of_another_width_is_projected_word_by_word(make_trainer, tokenizer, name):
    foreign = TOKENIZERS[name]()
    student, teacher = make_student(16, initializer_range=0.2), make_teacher(foreign)
    own, other = (
        [read_alone(model, reader, text) for text in TEXTS]
        for model, reader in ((student, tokenizer), (teacher, foreign))
    )
    matches = [MATCHES[0], MATCHES[2]]
    trainer = make_trainer(
        student, teacher, foreign, matches=matches, max_steps=1, learning_rate=0.0, save_strategy="no"
    )
    trainer.train()
    weights = trained_weights(trainer)
    matrix, bias = (
        next(value for key, value in weights.items() if key.startswith("projections.") and key.endswith(part))
        for part in ("weight", "bias")
    )
    expected = []
    for first, second in zip(own, other, strict=True):
        words = shared(first, second)
        states = word_states(first, first["hidden_states"][1], words) @ matrix.double().numpy().T + bias.numpy()
        expected.append(((states - word_states(second, second["hidden_states"][2], words)) ** 2).mean())
    log = trainer.state.log_history[0]
    assert log["hidden_states_mse_t2_s1"] == pytest.approx(np.mean(expected), rel=2e-5)
    relations = np.mean([query_relation_kl(*reads) for reads in zip(own, other, strict=True)])
    assert log["query_relations_kl_t2_s1"] == pytest.approx(relations, rel=2e-5)


@pytest.mark.parametrize(
    ("term", "width"),
    [(term, 32) for term in WORD_AND_ROW_TERMS] + [(term, 16) for term in (*PROJECTED[:4], "value_relations")],
)
def test_one_batch_of_eight_equals_four_accumulated_batches_of_two(train, reviews, term, width):
    """So padding, of which the two have unequal amounts, changes nothing on either side."""
    foreign = byte_level_tokenizer(model_max_length=24)
    rows = reviews.remove_columns("label").select(range(24))
    start = make_student(width, initializer_range=0.2).state_dict()
    one, four = (
        train(
            make_student(width, initializer_range=0.2),
            make_teacher(foreign),
            foreign,
            rows,
            **cut,
            **TERMS[term],
            **PLAIN_DESCENT,
        )
        for cut in (
            {"per_device_train_batch_size": 8},
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        )
    )
    weights = trained_weights(one)
    assert (one._projections is not None) == (width == 16 and term in PROJECTED)
    assert largest_difference(start, {name: weights[name] for name in start}) > 1e-6
    assert largest_difference(weights, trained_weights(four)) < 5e-6


@pytest.mark.parametrize("term", ROW_TERMS)
def test_losses_on_rows_read_both_tokenizers(train, term):
    foreign = TOKENIZERS["sentence_piece"]()
    student, start = make_student(16, initializer_range=0.2), make_student(16, initializer_range=0.2)
    trainer = train(student, make_teacher(foreign), foreign, **ROW_TERMS[term], **PLAIN_DESCENT)
    assert trainer._projections is None
    assert 1e-7 < largest_difference(start.state_dict(), student.state_dict()) < 10


def test_words_are_numbered_only_where_a_loss_compares_them(make_trainer):
    foreign = byte_level_tokenizer()
    for matches, numbered in ((MATCHES[:1], True), (MATCHES[3:], False), (None, False)):
        columns = make_trainer(make_student(), make_teacher(foreign), foreign, matches=matches).train_dataset
        assert {"input_ids", "teacher_input_ids"} <= set(columns.column_names)
        assert ({"word_ids", "teacher_word_ids"} <= set(columns.column_names)) == numbered


# Token types and padding sides


def test_token_types_reach_a_teacher_with_its_own_tokenizer_when_the_student_takes_none(
    make_trainer, tokenizer, tmp_path
):
    foreign = TOKENIZERS["sentence_piece"]()
    teacher = make_teacher(foreign)
    student = DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=len(tokenizer), dim=32, n_layers=2, n_heads=4, hidden_dim=32, pad_token_id=0,
            id2label=dict(enumerate(LABELS)), label2id={name: index for index, name in enumerate(LABELS)},
        )
    )  # fmt: skip
    rows = make_rows(seconds=TEXTS[3:] + TEXTS[:3])
    trainer = make_trainer(student, teacher, foreign, rows, text_pair_column="second", hidden_loss_weight=1.0)
    assert "token_type_ids" not in trainer.train_dataset.column_names
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    labeler = TeacherLabeler(
        copy.deepcopy(teacher), foreign, text_pair_column="second", dtype="float32", cache_dir=tmp_path / "labels"
    )
    expected = np.array(labeler.map(rows)["teacher_logits"])
    np.testing.assert_allclose(trainer.teacher(batch, 1.0).logits, expected, atol=1e-5)
    without = {name: value for name, value in batch.items() if name != "teacher_token_type_ids"}
    assert np.abs(trainer.teacher(without, 1.0).logits.numpy() - expected).max() > 1e-2
    trainer.train()


def test_token_types_do_not_reach_a_teacher_that_takes_none(train, tokenizer, teacher_zoo):
    teacher, foreign = teacher_zoo("distilbert")
    rows = make_rows(seconds=TEXTS[3:] + TEXTS[:3])
    student = make_student(initializer_range=0.2)
    trainer = train(student, teacher, foreign, rows, text_pair_column="second", max_steps=1)
    assert "token_type_ids" in trainer.train_dataset.column_names


def test_one_tokenizer_pads_on_the_left_for_xlnet_and_on_the_right_for_the_student(make_trainer, train, teacher_zoo):
    teacher, tokenizer = teacher_zoo("xlnet")
    # XLNet's tokenizer gives its last token the type 2.
    given = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "type_vocab_size": 3}
    student = make_student(initializer_range=0.2, **given)
    trainer = make_trainer(student, teacher, copy.deepcopy(tokenizer), processing_class=tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    assert batch["attention_mask"][:, 0].all() and not batch["attention_mask"][:, -1].all()
    assert batch["teacher_attention_mask"][:, -1].all() and not batch["teacher_attention_mask"][:, 0].all()
    check_terms(train, student, tokenizer, teacher, tokenizer, make_rows(), [MATCHES[0], MATCHES[1], MATCHES[3]])


def test_xlnet_beside_a_student_with_its_tokens_is_refused_without_its_tokenizer(make_trainer, teacher_zoo):
    teacher, tokenizer = teacher_zoo("xlnet")
    student = make_student(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    with pytest.raises(ValueError, match="reads rows padded on the left.*Pass the teacher's tokenizer"):
        make_trainer(student, teacher, None, processing_class=tokenizer)


def test_the_hidden_states_of_any_architecture_are_compared_by_words(train, tokenizer, any_teacher):
    teacher, foreign = any_teacher
    texts = [text for text in TEXTS if "東京" not in text]
    check_terms(
        train,
        make_student(initializer_range=0.2),
        tokenizer,
        teacher,
        foreign,
        make_rows(texts),
        [MATCHES[0], MATCHES[1], MATCHES[3]],
    )


def test_a_teacher_with_the_same_tokenizer_reads_the_students_tokens(make_trainer, tokenizer):
    trainer = make_trainer(make_student(), make_teacher(tokenizer), copy.deepcopy(tokenizer), hidden_loss_weight=1.0)
    assert "teacher_input_ids" not in trainer.train_dataset.column_names


def test_tokens_without_those_of_the_teacher_are_refused(make_trainer, tokenizer):
    foreign = byte_level_tokenizer()
    rows = make_rows().map(lambda row: {"input_ids": tokenizer(row["sentence"])["input_ids"]})
    with pytest.raises(ValueError, match="train_dataset has input_ids, but no teacher_input_ids"):
        make_trainer(make_student(), make_teacher(foreign), foreign, rows)


def test_another_vocabulary_without_its_tokenizer_is_refused(make_trainer):
    with pytest.raises(ValueError, match="Pass its own tokenizer as teacher_processing_class="):
        make_trainer(make_student(), make_teacher(byte_level_tokenizer()), None)


def test_a_teacher_with_a_slow_tokenizer_teaches_by_logits_and_is_refused_for_words(train, make_trainer, tokenizer):
    slow = ByT5Tokenizer()
    teacher = make_student(vocab_size=len(slow), max_position_embeddings=200).eval()
    trainer = train(make_student(), teacher, slow, max_steps=1)
    assert trainer.train_dataset[0]["teacher_input_ids"] == slow(TEXTS[0])["input_ids"]
    train(make_student(), teacher, slow, max_steps=1, matches=[{"what": "pooled_states", "loss": "mse"}])
    with pytest.raises(ValueError, match="without a fast version .*or distil logits and pooled states only"):
        make_trainer(make_student(), teacher, slow, hidden_loss_weight=1.0)

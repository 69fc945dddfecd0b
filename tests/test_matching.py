"""Matches are read strictly, short forms stand for the pairs they say, and what does not fit two models is refused."""

import json

import pytest

from distil_trainer.arguments import DistillationArguments
from distil_trainer.matches import Match, read_matches, states_of
from distil_trainer.matching import map_layers, plan_matches, projection_widths, read_layer_map
from distil_trainer.states import ModelShape

TEACHER = ModelShape(num_layers=6, hidden_size=12, num_heads=4)
STUDENT = ModelShape(num_layers=3, hidden_size=12, num_heads=4)
NARROW = ModelShape(num_layers=3, hidden_size=8, num_heads=2)
PAIRS = [(2, 1), (4, 2), (6, 3)]
LEGAL = [
    ("hidden_states", "mse"),
    ("hidden_states", "cosine"),
    ("attentions", "mse"),
    ("attentions", "cosine"),
    ("attentions", "kl"),
    ("query_relations", "kl"),
    ("key_relations", "kl"),
    ("value_relations", "kl"),
    ("cls_states", "pkd"),
    ("cls_states", "mse"),
    ("cls_states", "cosine"),
    ("pooled_states", "mse"),
    ("pooled_states", "cosine"),
    ("pooled_states", "similarity_preserving"),
    ("pooled_states", "rkd_distance"),
    ("pooled_states", "rkd_angle"),
]


def _plan(student=STUDENT, teacher=TEACHER, **given):
    return plan_matches(DistillationArguments("out", **given), teacher, student)


def _layers(matches):
    return [(match.teacher_layer, match.student_layer) for match in matches]


def test_every_kind_and_loss_of_the_documented_table_is_legal_and_no_other():
    given = [{"what": what, "loss": loss} for what, loss in LEGAL]
    assert read_matches(given) == [Match(what, loss) for what, loss in LEGAL]
    rows = [line.split("|")[1:3] for line in Match.__doc__.splitlines() if line.lstrip().startswith("| `")]
    documented = [
        (what, loss)
        for whats, losses in rows[1:]
        for what in whats.replace("`", "").split(",")
        for loss in losses.replace("`", "").split(",")
    ]
    assert [(what.strip(), loss.strip()) for what, loss in documented] == LEGAL


def test_nothing_is_no_match():
    assert read_matches(None) == read_matches([]) == read_matches("") == []


def test_a_list_its_text_and_its_file_read_the_same(tmp_path):
    given = [{"what": "attentions", "loss": "kl", "teacher_layer": 6, "student_layer": 3, "weight": 0.5}]
    text = "[{what: attentions, loss: kl, teacher_layer: 6, student_layer: 3, weight: 0.5}]"
    (tmp_path / "matches.yaml").write_text(f"- {text[1:-1]}\n")
    (tmp_path / "matches.json").write_text(json.dumps(given))
    expected = [Match("attentions", "kl", 6, 3, weight=0.5)]
    files = [str(tmp_path / name) for name in ("matches.yaml", "matches.json")]
    assert [read_matches(form) for form in (given, text, json.dumps(given), *files)] == [expected] * 5


def test_a_weight_in_the_form_that_yaml_reads_as_text_is_a_number():
    (match,) = read_matches("[{what: hidden_states, loss: mse, weight: 1e-3, final_weight: 2}]")
    assert (match.weight, match.final_weight) == (0.001, 2.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("absent.yaml", "absent.yaml: cannot read these matches"),
        ("[{what: a: b}]", "matches: cannot read these matches"),
        ("{what: hidden_states, loss: mse}", "matches holds a dict, but must hold a list"),
        ("hidden_states", "matches holds a str, but must hold a list"),
        (["hidden_states"], r"matches\[0\]='hidden_states' is a str, but must be a dictionary"),
        (
            [{"what": "hidden_states", "lost": "mse"}],
            "unknown key 'lost'. Did you mean loss.*Choose one of what, loss",
        ),
        ([{"what": "hidden_states", "loss": "mse", 3: 4}], "unknown key 3. Choose one of what"),
        ([{"what": "hidden_states"}], r"matches\[0\]=.*'loss' is missing"),
        ([{"loss": "mse"}], r"matches\[0\]=.*'what' is missing"),
        (
            [{"what": "hidden", "loss": "mse"}],
            "what='hidden' is unknown. .*Choose one of hidden_states, attentions, qu",
        ),
        ([{"what": "atentions", "loss": "mse"}], "what='atentions' is unknown. Did you mean attentions"),
        ([{"what": ["attentions"], "loss": "mse"}], r"what=\['attentions'\] is unknown"),
        (
            [{"what": "hidden_states", "loss": "kl"}],
            "loss='kl' does not exist for hidden_states. Choose one of mse, co",
        ),
        ([{"what": "pooled_states", "loss": "rkd_angel"}], "loss='rkd_angel' does.*Did you mean rkd_angle"),
        ([{"what": "hidden_states", "loss": "mse", "student_layer": -1}], "student_layer=-1: .*at least 0, the emb"),
        ([{"what": "hidden_states", "loss": "mse", "teacher_layer": 1.5}], "teacher_layer=1.5: .*a whole number"),
        ([{"what": "hidden_states", "loss": "mse", "teacher_layer": True}], "teacher_layer=True: .*a whole number"),
        ([{"what": "attentions", "loss": "mse", "teacher_layer": 0}], "teacher_layer=0: for attentions .*at least 1"),
        (
            [{"what": "key_relations", "loss": "kl", "student_layer": 0}],
            "student_layer=0: for key_relations .*has none",
        ),
        ([{"what": "hidden_states", "loss": "mse", "weight": -1}], "weight=-1 must be a number of at least 0"),
        ([{"what": "hidden_states", "loss": "mse", "weight": float("nan")}], "weight=nan must be a number"),
        ([{"what": "hidden_states", "loss": "mse", "weight": None}], "weight=None must be a number"),
        ([{"what": "hidden_states", "loss": "mse", "weight": True}], "weight=True must be a number"),
        ([{"what": "hidden_states", "loss": "mse", "final_weight": "much"}], "final_weight='much' must be a number"),
        (
            [{"what": "hidden_states", "loss": "mse", "relation_heads": 2}],
            "relation_heads=2 with what='hidden_states'",
        ),
        ([{"what": "key_relations", "loss": "kl", "relation_heads": 0}], "relation_heads=0 must be a whole number"),
    ],
)
def test_matches_that_no_model_could_make_sense_of_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        read_matches(given)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            {"teacher_layer": 6, "student_layer": 3},
            r"matches\[1\] names a layer twice: hidden_states with loss mse of",
        ),
        ({"teacher_layer": 5, "student_layer": 3}, r"stands in matches\[0\] already \(teacher layer 6; here 5\)"),
    ],
)
def test_a_student_layer_that_is_named_twice_is_refused_without_a_model(second, message):
    first = {"what": "hidden_states", "loss": "mse", "teacher_layer": 6, "student_layer": 3}
    with pytest.raises(ValueError, match=message):
        read_matches([first, {"what": "hidden_states", "loss": "mse", **second}])


def test_the_last_layer_left_out_twice_is_refused_and_so_is_naming_it_in_both_ways():
    last, by_number = {"what": "cls_states", "loss": "pkd"}, {"what": "cls_states", "loss": "pkd", "student_layer": 3}
    with pytest.raises(ValueError, match="of the student's last layer stands .*teacher layer last; here last"):
        read_matches([last, last])
    with pytest.raises(ValueError, match="of the student's layer 3 stands"):
        _plan(matches=[last, by_number])


def test_one_layer_may_have_several_losses_and_one_teacher_layer_several_students():
    given = [
        {"what": "hidden_states", "loss": "mse", "teacher_layer": 6, "student_layer": 3},
        {"what": "hidden_states", "loss": "cosine", "student_layer": 3},
        {"what": "hidden_states", "loss": "mse", "teacher_layer": 6, "student_layer": 2},
    ]
    assert _layers(_plan(matches=given)) == [(6, 3), (6, 3), (6, 2)]


def test_a_student_layer_with_two_teacher_layers_is_refused_whatever_the_losses():
    first = {"what": "hidden_states", "loss": "mse", "teacher_layer": 1, "student_layer": 1}
    second = {"what": "hidden_states", "loss": "cosine", "teacher_layer": 2, "student_layer": 1}
    message = r"matches\[1\] names a layer twice.*already with loss mse \(teacher layer 1; here 2\)"
    with pytest.raises(ValueError, match=message):
        read_matches([first, second])
    del second["teacher_layer"]
    assert len(read_matches([first, second])) == 2  # the last layer may be layer 1
    with pytest.raises(ValueError, match=r"already with loss mse \(teacher layer 1; here 6\)"):
        _plan(matches=[first, second])


@pytest.mark.parametrize(
    ("layer_map", "num_teacher_layers", "num_student_layers", "expected"),
    [
        ("uniform", 12, 4, [3, 6, 9, 12]),
        ("uniform", 6, 4, [2, 3, 5, 6]),
        ("uniform", 4, 4, [1, 2, 3, 4]),
        ("uniform", 5, 2, [3, 5]),
        ("uniform", 1, 3, [1, 1, 1]),
        ("last", 12, 4, [9, 10, 11, 12]),
        ("last", 3, 3, [1, 2, 3]),
        ([2, 2, 5], 6, 3, [2, 2, 5]),
    ],
)
def test_layer_maps_give_each_student_layer_its_teacher_layer(
    layer_map, num_teacher_layers, num_student_layers, expected
):
    assert map_layers(layer_map, num_teacher_layers, num_student_layers) == expected


def test_a_layer_map_is_a_name_or_a_list_also_as_text():
    assert [read_layer_map(form) for form in ("last", "[2, 4]", [2, 4])] == ["last", [2, 4], [2, 4]]


@pytest.mark.parametrize(
    "layer_map", ["first", "2, 4", "[2, 4", [], [0, 2], [True, 2], ["2"], [1.0], None, 3, {"1": 2}, "{1: 2}"]
)
def test_what_is_no_layer_map_is_refused(layer_map):
    with pytest.raises(ValueError, match=r"layer_map=.*: choose uniform or last, or list for each student layer"):
        read_layer_map(layer_map)


def test_a_layer_map_that_decreases_is_refused():
    with pytest.raises(ValueError, match=r"layer_map=\[4, 2\]: the teacher layers decrease"):
        read_layer_map([4, 2])


@pytest.mark.parametrize(
    ("layer_map", "student", "message"),
    [
        ([2, 4], STUDENT, r"layer_map=\[2, 4\] has 2 layers, but the student has 3"),
        ([2, 4, 7], STUDENT, r"layer_map=\[2, 4, 7\]: layer 7 is out of range, the teacher has layers 1 to 6"),
        ("last", ModelShape(7, 12, 4), "layer_map='last': the student has 7 layers, the teacher 6"),
    ],
)
def test_a_layer_map_that_does_not_fit_the_models_is_refused(layer_map, student, message):
    with pytest.raises(ValueError, match=message):
        _plan(student, layer_map=layer_map, hidden_loss_weight=1.0)


def test_the_hidden_short_form_is_the_embeddings_and_every_mapped_pair_and_its_weight_is_their_sum():
    matches = _plan(hidden_loss_weight=2.0, hidden_loss="cosine")
    assert _layers(matches) == [(0, 0), *PAIRS]
    assert {(match.what, match.loss, match.weight) for match in matches} == {("hidden_states", "cosine", 0.5)}


def test_the_attention_short_form_is_every_mapped_pair_and_its_weight_is_their_sum():
    matches = _plan(attention_loss_weight=3.0, attention_loss="mse", layer_map="last")
    assert _layers(matches) == [(4, 1), (5, 2), (6, 3)]
    assert {(match.what, match.loss, match.weight) for match in matches} == {("attentions", "mse", 1.0)}


@pytest.mark.parametrize(("layer_map", "teacher_layer"), [("uniform", 6), ("last", 6), ([1, 2, 5], 5)])
def test_the_relation_short_form_is_three_relations_of_the_students_last_layer(layer_map, teacher_layer):
    matches = _plan(NARROW, relation_loss_weight=3.0, layer_map=layer_map)
    assert [match.what for match in matches] == ["query_relations", "key_relations", "value_relations"]
    assert {(match.loss, match.weight) for match in matches} == {("kl", 1.0)}
    assert _layers(matches) == [(teacher_layer, 3)] * 3


def test_explicit_matches_come_first_and_layers_left_out_are_the_last_ones():
    given = [{"what": "attentions", "loss": "kl"}, {"what": "pooled_states", "loss": "rkd_angle", "student_layer": 0}]
    matches = _plan(matches=given, hidden_loss_weight=1.0)
    assert _layers(matches) == [(6, 3), (6, 0), (0, 0), *PAIRS]
    assert [match.name for match in matches[:3]] == [
        "attentions_kl_t6_s3",
        "pooled_states_rkd_angle_t6_s0",
        "hidden_states_mse_t0_s0",
    ]
    assert len({match.name for match in matches}) == len(matches)


def test_a_match_is_left_out_only_where_its_weight_is_zero_throughout():
    given = [
        {"what": "cls_states", "loss": "pkd", "weight": 0.0},
        {"what": "cls_states", "loss": "mse", "weight": 0.0, "final_weight": 1.0},
        {"what": "cls_states", "loss": "cosine", "weight": 1.0, "final_weight": 0.0},
    ]
    assert [match.loss for match in _plan(matches=given)] == ["mse", "cosine"]


def test_no_match_and_no_short_form_is_an_empty_plan_whatever_the_depths():
    assert _plan(ModelShape(7, 12, 4), layer_map="last") == []


@pytest.mark.parametrize(
    ("match", "message"),
    [
        (
            {"what": "hidden_states", "loss": "mse", "teacher_layer": 7},
            "teacher_layer=7 is out.*teacher has layers 0 to 6",
        ),
        (
            {"what": "cls_states", "loss": "pkd", "student_layer": 4},
            "student_layer=4 is out.*student has layers 0 to 3",
        ),
        (
            {"what": "attentions", "loss": "kl", "student_layer": 4},
            "student_layer=4 is out.*student has layers 1 to 3",
        ),
    ],
)
def test_a_layer_beyond_the_last_is_refused_with_the_range(match, message):
    with pytest.raises(ValueError, match=rf"matches\[0\]: {message}"):
        _plan(matches=[match])


def test_a_match_that_a_short_form_makes_too_is_refused():
    match = {"what": "hidden_states", "loss": "mse", "teacher_layer": 5, "student_layer": 3}
    message = r"hidden_loss_weight names a layer twice.*in matches\[0\] already \(teacher layer 5; here 6\)"
    with pytest.raises(ValueError, match=message):
        _plan(matches=[match], hidden_loss_weight=1.0)
    same = {**match, "teacher_layer": 6}
    assert len(_plan(matches=[same], hidden_loss_weight=1.0, hidden_loss="cosine")) == 5


@pytest.mark.parametrize(("form", "pairs"), [("hidden", 4), ("attention", 3), ("relation", 3)])
def test_the_final_weight_of_a_short_form_is_shared_as_its_first_one_is(form, pairs):
    matches = _plan(**{f"{form}_loss_weight": 6.0, f"final_{form}_loss_weight": 3.0})
    assert [(match.weight, match.final_weight) for match in matches] == [(6 / pairs, 3 / pairs)] * pairs
    matches = _plan(**{f"final_{form}_loss_weight": 3.0})
    assert [(match.weight, match.final_weight) for match in matches] == [(0.0, 3 / pairs)] * pairs


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({"matches": [{"what": "attentions", "loss": "mse"}]}, r"matches\[0\]"),
        ({"attention_loss_weight": 1.0}, "attention_loss_weight"),
    ],
)
def test_attentions_of_unequal_head_counts_are_refused_and_relations_named(given, source):
    with pytest.raises(ValueError, match=rf"{source}: .*teacher has 4 heads and the student 2.*relation_loss_weight"):
        _plan(NARROW, **given)


@pytest.mark.parametrize(
    ("student", "heads"),
    [
        (STUDENT, 4),  # 4 heads divide 12 and 12
        (NARROW, 4),  # 4 heads divide 12 and 8
        (ModelShape(3, 6, 2), 3),  # 4 do not divide 6; of 1, 2, 3 and 6, the largest below 4
        (ModelShape(3, 5, 5), 1),
    ],
)
def test_relation_heads_are_the_teachers_or_the_most_below_them_that_divide_both_widths(student, heads):
    assert {match.relation_heads for match in _plan(student, relation_loss_weight=1.0)} == {heads}


def test_relation_heads_of_a_match_beat_those_of_all_matches():
    given = [
        {"what": "query_relations", "loss": "kl", "relation_heads": 2},
        {"what": "key_relations", "loss": "kl"},
        {"what": "cls_states", "loss": "pkd"},
    ]
    assert [match.relation_heads for match in _plan(matches=given, relation_heads=6)] == [2, 6, None]


def test_relation_heads_that_do_not_divide_both_widths_are_refused_with_the_legal_numbers():
    message = "relation_loss_weight: relation_heads=3 does not divide .*width of 12 and the student's of 8.*1, 2, 4"
    with pytest.raises(ValueError, match=message):
        _plan(NARROW, relation_loss_weight=1.0, relation_heads=3)


def test_a_projection_is_needed_where_widths_differ_and_the_loss_compares_vector_with_vector():
    needing = {(what, loss) for what, loss in LEGAL if projection_widths(Match(what, loss), TEACHER, NARROW)}
    assert needing == {
        ("hidden_states", "mse"),
        ("hidden_states", "cosine"),
        ("cls_states", "pkd"),
        ("cls_states", "mse"),
        ("cls_states", "cosine"),
        ("pooled_states", "mse"),
        ("pooled_states", "cosine"),
    }
    assert not any(projection_widths(Match(what, loss), TEACHER, STUDENT) for what, loss in LEGAL)


def test_a_network_whose_layers_differ_in_width_is_projected_from_the_width_of_the_matched_layer():
    network = ModelShape(num_layers=1, hidden_size=40, num_heads=0, hidden_sizes=(12, 40))
    plan = _plan(network, hidden_loss_weight=1.0)
    assert [projection_widths(match, TEACHER, network) for match in plan] == [None, (40, 12)]
    assert projection_widths(Match("pooled_states", "mse"), TEACHER, network) == (40, 12)


def test_a_network_without_a_classifying_token_is_refused_for_states_of_that_token():
    network = ModelShape(num_layers=1, hidden_size=40, num_heads=0, hidden_sizes=(12, 40))
    with pytest.raises(ValueError, match=r"matches\[0\]: the student is no Transformer.*Compare pooled_states"):
        _plan(network, matches=[{"what": "cls_states", "loss": "pkd"}])


def test_every_kind_names_the_states_it_reads():
    assert {what: states_of(what) for what, _ in LEGAL} == {
        "hidden_states": "hidden_states",
        "attentions": "attentions",
        "query_relations": "queries",
        "key_relations": "keys",
        "value_relations": "values",
        "cls_states": "hidden_states",
        "pooled_states": "hidden_states",
    }

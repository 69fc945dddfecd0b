import errno
import json
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Value
from vocabulary import WORDS
from writing_models import POSITIONS, word_tokenizer, writing_model

from distil_trainer.augmentation import generation, text_shards
from distil_trainer.augmentation.decoding import sample_texts
from distil_trainer.augmentation.draws import TokenDraws
from distil_trainer.augmentation.generation import first_token_counts, generate_transfer_set

TEXTS = ["the film is good", "the plot is dull", "a film", "brilliant"]
SHARD = 64


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(generation, "_SAMPLES_PER_SHARD", SHARD)


@pytest.fixture
def tokenizer():
    return word_tokenizer()


@pytest.fixture
def model(tokenizer):
    return writing_model(tokenizer)


@pytest.fixture
def generate(model, tokenizer, tmp_path):
    """Call `generate_transfer_set` with a tiny model, its counts and a folder, unless others are given."""

    def call(num_rows=40, folder=None, model=model, tokenizer=tokenizer, **given):
        given = {"max_length": POSITIONS, **given}
        counts = first_token_counts(TEXTS, tokenizer)
        return generate_transfer_set(model, tokenizer, counts, num_rows, folder or tmp_path / "texts", **given)

    return call


def ids(tokenizer, text):
    return tokenizer(text).input_ids


# Prefixes and draws


def test_first_tokens_are_counted(tokenizer):
    the, a, brilliant = (ids(tokenizer, word)[0] for word in ("the", "a", "brilliant"))
    assert first_token_counts(iter([*TEXTS, " "]), tokenizer) == {the: 2, a: 1, brilliant: 1}


def test_texts_without_a_token_are_refused(tokenizer):
    with pytest.raises(ValueError, match="no text with a token in it"):
        first_token_counts([" ", ""], tokenizer)


def test_texts_begin_as_often_with_a_token_as_the_counts_say(tokenizer, monkeypatch):
    monkeypatch.setattr(generation, "_SAMPLES_PER_SHARD", 20_000)
    prefixes, rows = generation._draw_prefixes(tokenizer, {5: 1, 3: 6, 9: 3}, 2, seed=1)
    shares = {tokens[0]: count / 20_000 for tokens, count in Counter(map(tuple, prefixes)).items()}
    assert shares == {
        3: pytest.approx(0.6, abs=0.011),
        5: pytest.approx(0.1, abs=0.011),
        9: pytest.approx(0.3, abs=0.011),
    }
    assert rows[[0, -1]].tolist() == [40_000, 59_999]


def test_a_token_is_drawn_as_often_as_its_probability_says():
    scores = torch.tensor([0.0, np.log(3), -np.inf, np.log(6)]).expand(20_000, 4)
    tokens = TokenDraws(0, 4, "cpu").add_noise(scores, np.arange(20_000), 7).argmax(dim=1)
    shares = torch.bincount(tokens, minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.1, 0.3, 0, 0.6], abs=0.011)


def test_draws_of_other_seeds_rows_and_places_differ():
    flat = torch.zeros(50, 1000)
    draws = {
        tuple(TokenDraws(seed, 1000, "cpu").add_noise(flat, rows, place).argmax(dim=1).tolist())
        for seed in (0, 1)
        for rows in (np.arange(50), np.arange(50, 100))
        for place in (1, 2)
    }
    assert len(draws) == 8


def test_nan_scores_are_refused(generate, model):
    torch.nn.init.constant_(model.transformer.ln_f.weight, torch.nan)
    with pytest.raises(ValueError, match="NaN scores.*load it with dtype=torch.float32"):
        generate()


# Sampling


def test_a_text_follows_the_models_distribution(tokenizer):
    """Of the second token, given the first: the model's own probabilities."""
    model = writing_model(tokenizer, likelier={"<end>": 3.0})
    prefix = ids(tokenizer, "the")
    texts = sample_texts(
        model, [prefix] * 2000, np.arange(2000), end_token_id=0, max_length=POSITIONS, seed=3, batch_size=1000
    )
    second = [0 if len(text) == 1 else text[1] for text in texts if text is not None]
    with torch.no_grad():
        expected = model(torch.tensor([prefix])).logits[0, -1].softmax(dim=0)
    observed = np.bincount(second, minlength=len(tokenizer)) / len(second)
    assert np.abs(observed - expected.numpy()).max() < 0.04
    assert len(second) > 1900


def test_rows_are_the_same_in_batches_of_any_size(model, tokenizer):
    prefixes = [ids(tokenizer, "the film")[: 1 + row % 2] for row in range(16)]
    texts = [
        sample_texts(model, prefixes, np.arange(16), end_token_id=0, max_length=POSITIONS, batch_size=size)
        for size in (5, 7, 16)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert len({tuple(text) for text in texts[0] if text}) > 8


def test_the_likeliest_token_alone_gives_the_greedy_text(model, tokenizer):
    prefix = ids(tokenizer, "a")
    greedy = model.generate(torch.tensor([prefix]), do_sample=False, max_length=POSITIONS, pad_token_id=0)[0].tolist()
    greedy = greedy[: greedy.index(0)] if 0 in greedy else None
    for settings in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-6}):
        assert sample_texts(model, [prefix], np.arange(1), end_token_id=0, max_length=POSITIONS, **settings) == [
            greedy
        ]


def test_a_text_that_reaches_the_length_without_its_end_is_none(tokenizer):
    model = writing_model(tokenizer, likelier={"<end>": -100.0})
    assert sample_texts(model, [[5], [6, 7]], np.arange(2), end_token_id=0, max_length=9) == [None, None]


def test_the_models_own_generation_settings_and_the_random_state_stay_out_and_stay_as_they_were(generate, tmp_path):
    plain, _ = generate()
    changed = writing_model(word_tokenizer())
    changed.generation_config.update(repetition_penalty=9.0, do_sample=True, top_k=1, suppress_tokens=[3, 4])
    before, state = changed.generation_config.to_dict(), torch.get_rng_state()
    rows, _ = generate(folder=tmp_path / "other", model=changed)
    assert rows[:] == plain[:]
    assert changed.generation_config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)


# Cleaning


def test_tokens_become_texts_or_are_counted():
    tokenizer = word_tokenizer(sep_token="<sep>")
    the, film, sep, unk = (tokenizer.convert_tokens_to_ids(token) for token in ("the", "film", "<sep>", "<unk>"))
    texts, counts = generation._clean([[the, film], None, [the, sep], [unk], [film]], tokenizer, ["text"])
    assert texts == {"text": ["the film", "film"]}
    assert counts == {"sampled": 5, "unfinished": 1, "malformed": 2}


def test_pairs_have_one_separator_and_two_sides():
    tokenizer = word_tokenizer(sep_token="<sep>")
    the, film, sep = (tokenizer.convert_tokens_to_ids(token) for token in ("the", "film", "<sep>"))
    rows = [[the, sep, film, the], [the], [sep, the], [the, sep], [the, sep, film, sep, film], None]
    texts, counts = generation._clean(rows, tokenizer, ["first", "second"])
    assert texts == {"first": ["the"], "second": ["film the"]}
    assert counts == {"sampled": 6, "unfinished": 1, "malformed": 4}


def test_broken_characters_and_blank_texts_are_malformed():
    decoded = {1: " a  film \n", 2: "br\ufffdken", 3: " \t", 4: "it 's"}
    tokenizer = SimpleNamespace(
        sep_token_id=None,
        all_special_ids=[],
        batch_decode=lambda rows, clean_up_tokenization_spaces: [decoded[tokens[0]] for tokens in rows],
    )
    texts, counts = _clean_without_head([[1], [2], [3], [4]], tokenizer)
    assert texts == {"text": ["a  film", "it 's"]}
    assert counts == {"sampled": 4, "unfinished": 0, "malformed": 2}


def _clean_without_head(rows, tokenizer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "first_tokens", lambda tokenizer: [])
        return generation._clean(rows, tokenizer, ["text"])


# The data set


def test_rows_have_texts_a_parent_that_is_none_and_their_operator(generate):
    rows, counts = generate(num_rows=100, text_column="text")
    assert rows.features == {"text": Value("string"), "parent": Value("int64"), "operators": Value("string")}
    assert len(rows) == len(set(rows["text"])) == 100
    assert set(rows["parent"]) == {-1} and set(rows["operators"]) == {"generated"}
    assert {text.split()[0] for text in rows["text"]} == {"the", "a", "brilliant"}
    assert {word for text in rows["text"] for word in text.split()} <= set(WORDS)
    assert counts["rows"] == 100 and counts["duplicates"] > 0 and counts["unfinished"] > 0
    assert counts["sampled"] % SHARD == 0
    assert sum(value for name, value in counts.items() if name != "sampled") == counts["sampled"]


def test_evaluation_texts_are_dropped(generate, tmp_path):
    texts = generate()[0]["sentence"][:]
    rows, counts = generate(folder=tmp_path / "other", evaluation_texts=iter(texts[:5]))
    assert not set(rows["sentence"]) & set(texts[:5])
    assert counts["in_evaluation_data"] >= 5


def test_pairs_are_written_in_two_columns(generate):
    tokenizer = word_tokenizer(sep_token="<sep>")
    model = writing_model(tokenizer, likelier={"<end>": 2.0, "<sep>": 2.0})
    rows, counts = generate(20, model=model, tokenizer=tokenizer, text_column="one", text_pair_column="two")
    assert rows.column_names == ["one", "two", "parent", "operators"]
    assert all(text.strip() and "<" not in text for text in [*rows["one"], *rows["two"]])
    assert counts["malformed"] > 0


def test_more_rows_begin_with_those_of_fewer_and_shards_are_written_once(generate, tmp_path, monkeypatch):
    few, _ = generate(num_rows=20)
    written = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "texts").iterdir()}
    more, _ = generate(num_rows=70, batch_size=9)
    assert more[:20] == few[:]
    assert {name: (tmp_path / "texts" / name).stat().st_mtime_ns for name in written} == written
    monkeypatch.setattr(generation, "sample_texts", None)
    again, _ = generate(num_rows=70)
    assert again[:] == more[:]


def test_a_lost_shard_is_written_again(generate, tmp_path):
    rows, counts = generate(num_rows=70)
    (shard,) = (tmp_path / "texts").glob("shard-000001-*.arrow")
    shard.unlink()
    again, counts_again = generate(num_rows=70)
    assert again[:] == rows[:] and counts_again == counts


def test_processes_that_die_and_come_back_give_the_same_rows(generate, tmp_path, monkeypatch):
    """Two processes in turns; each stops where a shard of the other is missing."""
    expected, expected_counts = generate(num_rows=70)
    finished = {}
    for turn in range(20):
        state = SimpleNamespace(
            num_processes=2,
            process_index=turn % 2,
            is_main_process=turn % 2 == 0,
            wait_for_everyone=lambda: None,
            device="cpu",
        )
        for module in (generation, text_shards):
            monkeypatch.setattr(module, "process_state", lambda state=state: state)
        try:
            finished[turn % 2] = generate(num_rows=70, folder=_claimed(tmp_path / "shared", tmp_path / "texts"))
        except OSError as error:
            assert "lacks shard-" in str(error) and "all of them must see one folder" in str(error).lower()
    for rows, counts in finished.values():
        assert rows[:] == expected[:] and counts == expected_counts
    assert len(finished) == 2


def _claimed(folder, like):
    folder.mkdir(exist_ok=True)
    (folder / "settings.json").write_text((like / "settings.json").read_text())
    return folder


@pytest.mark.slow
def test_two_processes_share_the_shards_and_return_the_same_rows(generate, model, tokenizer, tmp_path):
    expected, _ = generate(num_rows=70)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    script = tmp_path / "generate.py"
    script.write_text(
        "import json, sys\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "from distil_trainer.augmentation import generation\n"
        "from distil_trainer.processes import process_state\n"
        f"generation._SAMPLES_PER_SHARD = {SHARD}\n"
        "folder = sys.argv[1]\n"
        "model, tokenizer = (c.from_pretrained(folder + '/model') for c in (AutoModelForCausalLM, AutoTokenizer))\n"
        f"counts = generation.first_token_counts({TEXTS!r}, tokenizer)\n"
        "rows, _ = generation.generate_transfer_set(\n"
        f"    model, tokenizer, counts, 70, folder + '/shared', max_length={POSITIONS})\n"
        "state = process_state()\n"
        "assert state.num_processes == 2\n"
        "open(f'{folder}/rank{state.process_index}.json', 'w').write(json.dumps(rows['sentence'][:]))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, str(script), str(tmp_path)], check=True, capture_output=True, timeout=300)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == expected["sentence"][:]


# Refusals


def test_a_model_that_writes_hardly_anything_new_is_given_up(generate, tokenizer):
    model = writing_model(tokenizer, likelier={"<end>": 100.0})  # texts of one word, of which there are three
    with pytest.raises(
        ValueError, match=r"only 0 were kept, and 37 of num_rows=40 rows are missing.*'duplicates': 125"
    ):
        generate(model=model)


def test_texts_of_other_settings_or_weights_are_not_mixed(generate, tokenizer):
    generate()
    with pytest.raises(ValueError, match=r"another run \(temperature: 1.0 there, 0.5 now\).*another folder"):
        generate(temperature=0.5)
    with pytest.raises(ValueError, match=r"another run \(model: "):
        generate(model=writing_model(tokenizer, seed=1))


def test_a_full_disk_leaves_nothing_half_written_and_the_next_start_goes_on(generate, tmp_path, monkeypatch):
    expected, _ = generate(folder=tmp_path / "other")

    class FullDisk:
        def __init__(self, path, schema):
            open(path, "w").close()

        def __enter__(self):
            raise OSError(errno.ENOSPC, "No space left on device")

        def __exit__(self, *error):
            return False

    with monkeypatch.context() as patch, pytest.raises(OSError, match="could not be written.*half-written") as caught:
        patch.setattr(pa.ipc, "new_stream", FullDisk)
        generate()
    assert caught.value.errno == errno.ENOSPC
    assert [file.name for file in (tmp_path / "texts").iterdir()] == ["settings.json"]
    assert generate()[0][:] == expected[:]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_rows": 0}, "num_rows=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"top_k": 0}, "top_k=0 must be at least 1, or None"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        ({"max_length": 1}, "max_length=1 must be at least 2"),
        ({"max_length": POSITIONS + 1}, f"max_length={POSITIONS + 1}.*at most {POSITIONS}, the positions"),
        ({"text_pair_column": "sentence"}, "name the same column"),
        ({"text_pair_column": "other"}, "tokenizer has no separator"),
        ({"evaluation_texts": "the film"}, "is one string"),
        ({"evaluation_texts": Dataset.from_dict({"sentence": ["the film"]})}, "is or holds a Dataset"),
    ],
)
def test_settings_out_of_range_are_refused(generate, given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        generate(**given)


@pytest.mark.parametrize("counts", [{}, {10_000: 3}])
def test_counts_of_another_tokenizer_are_refused(model, tokenizer, tmp_path, counts):
    with pytest.raises(ValueError, match=f"token_counts has {len(counts)} tokens.*first_token_counts"):
        generate_transfer_set(model, tokenizer, counts, 5, tmp_path / "texts", max_length=POSITIONS)

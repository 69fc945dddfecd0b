"""Files of word vectors: every format is read the same, as a stream, and a damaged one is refused with its line."""

import gzip
import logging
import tracemalloc

import numpy as np
import pytest

from distil_trainer.vectors import files
from distil_trainer.vectors.files import check_vector_file, read_vectors, words_of_file

WORDS = ["the", "film", "한국", "café", "n't"]
VECTORS = np.arange(15, dtype=np.float32).reshape(5, 3) / 7 - 1


def text_lines(words=WORDS, vectors=VECTORS, end="\n"):
    return "".join(f"{word} {' '.join(map(str, row))}{end}" for word, row in zip(words, vectors.tolist(), strict=True))


def binary_rows(words=WORDS, vectors=VECTORS, end=b"\n"):
    rows = zip(words, vectors.astype("<f4"), strict=True)
    return b"".join(word.encode() + b" " + row.tobytes() + end for word, row in rows)


@pytest.fixture
def write(tmp_path):
    """A function from a file's name and content to its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


FORMATS = {
    "glove.txt": text_lines().encode(),
    "fasttext.vec": ("5 3\n" + text_lines(end=" \n")).encode(),
    "word2vec.txt": ("5 3\n" + text_lines()).encode(),
    "windows.txt": text_lines(end="\r\n").encode(),
    "marked.txt": b"\xef\xbb\xbf" + text_lines().encode(),
    "unended.txt": text_lines().rstrip("\n").encode(),
    "word2vec.bin": b"5 3\n" + binary_rows(),
    "gensim.bin": b"5 3\n" + binary_rows(end=b""),
    "glove.txt.gz": gzip.compress(text_lines().encode()),
    "word2vec.bin.gz": gzip.compress(b"5 3\n" + binary_rows()),
    "packed": gzip.compress(text_lines().encode()),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_vectors(name, write):
    path = write(name, FORMATS[name])
    matrix, found = read_vectors(path, ["café", "absent", "the", "한국", "n't", "film"], size=3)
    assert matrix.dtype == np.float32
    assert found.tolist() == [True, False, True, True, True, True]
    np.testing.assert_allclose(matrix, [VECTORS[3], np.zeros(3), VECTORS[0], VECTORS[2], VECTORS[4], VECTORS[1]])
    assert list(words_of_file(path)) == WORDS


@pytest.mark.parametrize("block", [2, 7, 64])
def test_words_of_binary_files_may_lie_across_the_blocks_that_are_read(block, write, monkeypatch):
    monkeypatch.setattr(files, "_BYTES_PER_READ", block)
    path = write("small.bin", b"5 3\n" + binary_rows())
    np.testing.assert_array_equal(read_vectors(path, WORDS)[0], VECTORS)


def test_words_are_found_in_other_spellings_too_the_own_one_first(write):
    vectors = np.arange(5, dtype=np.float32)[:, None] + [[0, 1]]
    path = write("cased.txt", text_lines(["Paris", "NATO", "film", "Film", "it"], vectors))
    matrix, found = read_vectors(path, ["paris", "nato", "film", "FILM", "Film", "It", "paRis", "ITS"])
    assert found.tolist() == [True] * 7 + [False]
    assert matrix[:, 0].tolist() == [0, 1, 2, 2, 3, 4, 0, 0]


def test_a_word_with_spaces_has_its_vector_in_the_last_fields(write):
    lines = text_lines() + "at name@domain.com 1.5 2.5 3.5\n . . 4 5 6\n\u00a0 7 8 9\n"
    path = write("glove.txt", lines)
    matrix, found = read_vectors(path, ["at name@domain.com", "\u00a0", "the"])
    assert found.all()
    np.testing.assert_allclose(matrix, [[1.5, 2.5, 3.5], [7, 8, 9], VECTORS[0]])


def test_a_word_with_spaces_may_begin_with_a_word_in_use(write):
    path = write("glove.txt", text_lines() + ". . . 4 5 6\nat name@domain.com 1 2 3\nto infinity 1 2 3\n2000 1 2 3\n")
    assert read_vectors(path, [".", "at", "to", "2000", "the"])[1].tolist() == [False, False, False, True, True]


def test_the_first_vector_of_a_word_counts_with_one_warning(write, caplog):
    path = write("twice.txt", text_lines() + "the 9 9 9\nthe 8 8 8\nfilm 7 7 7\nunused 1 1 1\nunused 2 2 2\n")
    with caplog.at_level(logging.WARNING):
        matrix, _ = read_vectors(path, ["the", "film"])
    np.testing.assert_allclose(matrix, VECTORS[:2])
    assert len(caplog.records) == 1 and "has 3 word(s) in use more than once" in caplog.text


def test_words_of_broken_bytes_are_passed_over_with_one_warning(write, caplog):
    content = text_lines().encode() + b"caf\xe9 1 2 3\n\xff\xfe 1 2 3\n"
    path = write("some.vec", content)
    with caplog.at_level(logging.WARNING):
        assert read_vectors(path, WORDS)[1].all()
    assert len(caplog.records) == 1 and "has 2 word(s) that are not in UTF-8" in caplog.text
    assert list(words_of_file(path)) == WORDS


def test_numbers_of_words_that_are_not_in_use_are_not_read(write):
    path = write("glove.txt", text_lines() + "unused 1 2 x\n")
    assert read_vectors(path, WORDS)[1].all()


def test_memory_depends_on_the_words_in_use_and_not_on_the_file(write, monkeypatch):
    monkeypatch.setattr(files, "_BYTES_PER_READ", 1 << 16)
    row = " ".join(["0.12345"] * 100)
    path = write("large.txt", "".join(f"word{number} {row}\n" for number in range(10_000)))
    assert path.stat().st_size > 8e6
    tracemalloc.start()
    matrix, found = read_vectors(path, [f"word{number}" for number in range(0, 10_000, 100)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.all() and matrix.shape == (100, 100)
    assert peak < 1e6


@pytest.mark.parametrize("name", FORMATS)
def test_the_beginning_of_a_good_file_is_accepted(name, write):
    check_vector_file(write(name, FORMATS[name]), 3)


def test_a_file_is_checked_without_being_read_whole(write):
    path = write("large.txt", text_lines(["word"] * 200, np.ones((200, 3))) + "short 1 2\n")
    check_vector_file(path, 3)
    with pytest.raises(ValueError, match="line 201"):
        read_vectors(path, WORDS)


# What is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the 1 2 3\ncat 1 2 3 4\ndog 7 8 9\n", r"line 2 \('cat 1'\) has 4 numbers where 3 are expected"),
        (b"3 3\nthe 1 2 3\nCat 1 2 3 4 5\ndog 7 8 9\n", r"line 3 \('Cat 1 2'\) has 5 numbers where 3 are expected"),
        (b"the 1 2\ncat 1 2 3\ndog 7 8 9\n", r"line 2 \('cat 1'\) has 3 numbers where 2 are.* as in the file's first"),
    ],
)
def test_a_line_with_too_many_numbers_is_refused(content, message, write):
    with pytest.raises(ValueError, match=message):
        read_vectors(write("ragged.txt", content), ["the", "cat", "dog"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (text_lines() + "short 1 2\n", r"line 6 \('short 1 2'\) has 2 numbers where 3 are expected"),
        (text_lines() + "\n", r"line 6 \(''\) has 0 numbers where 3"),
        ("the 1 2 3\nfilm 1 x 3\n", r"line 2 \('film'\) has something that is no number"),
        ("the 1 2 3\nfilm 1 nan 3\n", r"line 2 \('film'\) has a number that is NaN or infinite"),
        ("the 1 2 3\nfilm 1 1e60 3\n", r"line 2 \('film'\) has a number that is NaN or infinite"),
        ("a,b,c\n1,2,3\n", r"line 1 \('a,b,c'\) is not a word and its numbers"),
        ("this is no vector\n", r"line 1 \('this'\) has something that is no number"),
        ("6 3\n" + text_lines(), "there are 6 words, but it has 5"),
        ("4 3\n" + text_lines(), "there are 4 words, but it has 5"),
        ("4 3\n", "there are 4 words, but it has 0"),
        ("5 2\n" + text_lines(), "vectors have 2 numbers, but line 2 has 3"),
        ("5 4\n" + text_lines(), "vectors have 4 numbers, but line 2 has 3"),
        (text_lines().encode("utf-16"), "is not a text in UTF-8"),
        (b"\0\0\0\0", "is not a text in UTF-8"),
        ("café 1 2 3\nnaïve 1 2 3\nüber 1 2 3\nthe 1 2 3\n".encode("latin-1"), "not in UTF-8: 3 of its 3 words"),
        ("", "is empty"),
        (b"PK\x03\x04....", "is a zip archive. Unpack it first"),
        ((793712314).to_bytes(4, "little") + b"....", "is a model of fastText.*Take the .vec file"),
        (gzip.compress(text_lines().encode())[:-20], "ends in the middle of what gzip compressed"),
    ],
)
def test_damaged_texts_are_refused(content, message, write):
    with pytest.raises(ValueError, match=message):
        read_vectors(write("bad.txt", content), ["film"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"5 3\n" + binary_rows()[:-5], "ends within word 5 of the 5"),
        (b"6 3\n" + binary_rows(), "ends within word 6 of the 6"),
        (b"5 4\n" + binary_rows(), "ends within word 5 of the 5|goes on after"),
        (b"4 3\n" + binary_rows(), "goes on after the 4 words of 3 numbers"),
        (text_lines().encode(), "does not begin with the number of words and their width"),
        (b"5 3\n" + binary_rows(vectors=np.full((5, 3), np.inf)), r"word 2 \('film'\) has a number that is NaN"),
        (b"9 3\n" + b"x" * (3 << 20), "ends within word 1 of the 9"),
    ],
)
def test_damaged_binary_files_are_refused(content, message, write, monkeypatch):
    monkeypatch.setattr(files, "_BYTES_PER_READ", 1 << 20)
    with pytest.raises(ValueError, match=message):
        read_vectors(write("bad.bin", content), ["film"])


@pytest.mark.parametrize("name", ["glove.txt", "word2vec.txt", "word2vec.bin"])
def test_another_width_than_asked_for_is_refused(name, write):
    with pytest.raises(ValueError, match="has vectors of 3 numbers, but size=300"):
        read_vectors(write(name, FORMATS[name]), WORDS, size=300)
    with pytest.raises(ValueError, match="has vectors of 3 numbers, but size=300"):
        check_vector_file(write(name, FORMATS[name]), 300)


def test_a_file_that_is_damaged_where_it_begins_does_not_pass_the_check(write, tmp_path):
    with pytest.raises(ValueError, match="line 6.*has 2 numbers where 3 are expected"):
        check_vector_file(write("bad.txt", text_lines() + "short 1 2\n"), 3)
    with pytest.raises(FileNotFoundError, match="there is no such file of word vectors"):
        check_vector_file(tmp_path / "absent.txt", 3)


def test_a_path_without_a_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file of word vectors"):
        read_vectors(tmp_path / "absent.txt", WORDS)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_vectors(tmp_path, WORDS)

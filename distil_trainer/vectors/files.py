"""Word vectors from a file of GloVe, fastText or word2vec, read as a stream: only words in use are kept.

Texts (`.txt`, `.vec`) have a line for each word: the word and its numbers, separated by spaces; fastText and word2vec
put a line with the number of words and their width before it. Binary files of word2vec (`.bin`) have that line too,
then for each word its letters, a space, and its numbers as little-endian float32. Any of them may be compressed by
gzip.
"""

import gzip
import logging
import math
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

_BYTES_PER_READ = 1 << 24
# A line or word beyond this is no line or word: 10,000 numbers take a tenth.
_LONGEST_LINE = 1 << 20
_LINES_PER_UPDATE = 1000
_LINES_TO_CHECK = 100
_FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")
_UNPACK = "Unpack it first (`unzip`), and give the file of vectors that was in it."


def read_vectors(path, words, size=None):
    """Read the vectors of some words.

    A word that the file does not have is looked up in lower case, capitalized and in capitals. Where a file has a word
    twice, the first vector counts, as in other readers.

    Args:
        path (`str` or `os.PathLike`): the file; `.bin` or `.bin.gz` is binary, any other name text.
        words (`list[str]` of length `n`): the words in use.
        size (`int`, *optional*): refuse a file whose vectors have another width.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: float32 of shape `(n, size)`, and bool of shape `(n,)`: which words were
        found. The rows of others are 0.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        ValueError: if it is no file of word vectors, or a damaged one, with the line or the number of the word.
    """
    path = Path(path)
    in_use = {spelling for word in words for spelling in _spellings(word)}
    found, width = {}, 0
    duplicates = not_ascii = not_utf8 = 0
    for number, word, values, width in _rows(path, size):  # noqa: B007
        if not word.isascii():
            not_ascii += 1
            not_utf8 += not _is_utf8(word)
        if word not in in_use:
            # A word of one word in use and a number (`cat 1`) is none: its line has too many numbers.
            if b" " in word and word.partition(b" ")[0] in in_use and _is_number(word.rpartition(b" ")[2]):
                raise _damaged(
                    path,
                    f"line {number}",
                    word,
                    f"has {width + word.count(b' ')} numbers where {width} are expected, as in the file's first line",
                )
            continue
        if word in found:
            duplicates += 1
        else:
            found[word] = _parse(values, path, number, word)
    # fastText's files have some broken words. Most of them broken is another encoding.
    if not_utf8 > 2 and not_utf8 > not_ascii / 2:
        raise ValueError(
            f"path={str(path)!r} is not in UTF-8: {not_utf8} of its {not_ascii} words with other than ASCII letters "
            "cannot be decoded, so they would be missing in silence. Convert it: `iconv -f latin1 -t utf-8`."
        )
    if not_utf8:
        logger.warning(
            "%s has %d word(s) that are not in UTF-8, which no text can have: they are passed over. If the file is in "
            "another encoding, convert it: `iconv -f latin1 -t utf-8`.",
            path,
            not_utf8,
        )
    if duplicates:
        logger.warning(
            "%s has %d word(s) in use more than once: the first vector of each is taken. If the file was put together "
            "from several, make sure that the best stands first.",
            path,
            duplicates,
        )
    matrix = np.zeros((len(words), width), dtype=np.float32)
    is_found = np.zeros(len(words), dtype=bool)
    for row, word in enumerate(words):
        spelling = next((spelling for spelling in _spellings(word) if spelling in found), None)
        if spelling is not None:
            matrix[row], is_found[row] = found[spelling], True
    return matrix, is_found


def check_vector_file(path, size):
    """Refuse, after its first lines, what is no file of word vectors, or one whose vectors have another width.

    Args:
        path (`str` or `os.PathLike`): see [`read_vectors`].
        size (`int`): the width that is needed.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        ValueError: if it is no file of word vectors, is damaged where it begins, or has another width.
    """
    with closing(_rows(Path(path), size)) as rows:
        for _ in islice(rows, _LINES_TO_CHECK):
            pass


def words_of_file(path):
    """Read the words of a file in its order, by falling frequency in all files that are in use.

    Args:
        path (`str` or `os.PathLike`): see [`read_vectors`].

    Yields:
        `str`: words in UTF-8; others are left out.
    """
    for _, word, _, _ in _rows(Path(path), None):
        if _is_utf8(word):
            yield word.decode()


def _spellings(word):
    return dict.fromkeys(form.encode() for form in (word, word.lower(), word.capitalize(), word.upper()) if form)


def _is_utf8(word):
    try:
        word.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_number(field):
    try:
        return math.isfinite(float(field))  # "infinity" is a word
    except ValueError:
        return False


def _parse(values, path, number, word):
    if isinstance(values, np.ndarray):
        vector = values
    else:
        try:
            numbers = [float(value) for value in values.split(b" ")]
        except ValueError as error:
            raise _damaged(path, f"line {number}", word, "has something that is no number") from error
        with np.errstate(over="ignore"):  # becomes infinite, and is refused
            vector = np.array(numbers, dtype=np.float32)
    if not np.isfinite(vector).all():
        place = "word" if isinstance(values, np.ndarray) else "line"
        raise _damaged(path, f"{place} {number}", word, "has a number that is NaN or infinite")
    return vector


def _damaged(path, place, word, fault):
    shown = word[:40].decode(errors="replace")
    return ValueError(
        f"path={str(path)!r}, {place} ({shown!r}) {fault}. The file is damaged, was cut off while it was loaded down, "
        "or holds no word vectors: load it down again, and compare its size or checksum."
    )


def _rows(path, size):
    """Yield for each word: its number or line, its bytes, its vector (an array, or bytes that spell it), the width."""
    with _opened(path) as (file, bar):
        is_binary = path.name.removesuffix(".gz").endswith(".bin")
        for row in (_binary_rows if is_binary else _text_rows)(file, path, size):
            yield row
            if row[0] % _LINES_PER_UPDATE == 0:
                bar()


@contextmanager
def _opened(path):
    if path.is_dir():
        raise IsADirectoryError(f"path={str(path)!r} is a folder. Give the file of word vectors in it.")
    if not path.is_file():
        raise FileNotFoundError(
            f"path={str(path)!r}: there is no such file of word vectors. Correct the path, or give "
            "`(teacher, teacher_tokenizer)` to distil vectors from the teacher, without any file."
        )
    total = path.stat().st_size
    with (
        open(path, "rb", buffering=_BYTES_PER_READ) as raw,
        tqdm(total=total, desc=f"Reading {path.name}", unit="B", unit_scale=True, delay=1.0) as bar,
    ):
        magic = raw.peek(4)[:4]
        if not magic:
            raise ValueError(f"path={str(path)!r} is empty: load the file of word vectors down again.")
        if magic[:2] == b"PK":
            raise ValueError(f"path={str(path)!r} is a zip archive. {_UNPACK}")
        if magic == _FASTTEXT_MAGIC:
            raise ValueError(
                f"path={str(path)!r} is a model of fastText, whose words are made of parts and read by fastText only. "
                "Take the .vec file that comes with it: the same vectors as text."
            )
        if magic[:2] == b"\x1f\x8b":
            try:
                with gzip.open(raw) as unpacked:
                    yield unpacked, lambda: bar.update(raw.tell() - bar.n)
            except EOFError as error:
                raise ValueError(
                    f"path={str(path)!r} ends in the middle of what gzip compressed: it was cut off while it was "
                    "loaded down. Load it down again."
                ) from error
        else:
            yield raw, lambda: bar.update(raw.tell() - bar.n)
        bar.update(total - bar.n)


def _text_rows(file, path, size):
    first = file.readline(_LONGEST_LINE).removeprefix(b"\xef\xbb\xbf")
    if b"\0" in first or first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(
            f"path={str(path)!r} is not a text in UTF-8 (its first line holds bytes of UTF-16, or is binary). Convert "
            "it (`iconv -f utf-16 -t utf-8`); a binary file of word2vec must be named .bin."
        )
    header = _header(first)
    if header:
        count, width = header
        _check_width(path, width, size)
        lines = enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 2)
    else:
        count, width = None, first.rstrip().count(b" ")
        lines = enumerate(chain([first], iter(lambda: file.readline(_LONGEST_LINE), b"")), 1)
    number, first_number = 0, 1 + bool(header)
    for number, line in lines:
        # Some words hold spaces of Unicode, so that white space in general separates nothing.
        line = line.rstrip(b" \r\n")
        spaces = line.count(b" ")
        if number == first_number:
            if header and spaces != width:
                raise ValueError(
                    f"path={str(path)!r}: its first line says that vectors have {width} numbers, but line 2 has "
                    f"{spaces}. Every vector would be read at the wrong place: correct the first line."
                )
            if not width:
                raise _damaged(path, f"line {number}", line, "is not a word and its numbers, separated by spaces")
            _parse(line.partition(b" ")[2], path, number, line.partition(b" ")[0])
            _check_width(path, width, size)
        if spaces < width:
            raise _damaged(path, f"line {number}", line, f"has {spaces} numbers where {width} are expected")
        if spaces == width:
            word, _, values = line.partition(b" ")
        else:
            # A word with spaces in it (GloVe 840B has some): the vector is the last `width` fields.
            word, *fields = line.rsplit(b" ", width)
            values = b" ".join(fields)
        yield number, word, values, width
    rows = number + 1 - first_number
    if header and rows != count:
        raise ValueError(
            f"path={str(path)!r}: its first line says that there are {count} words, but it has {max(rows, 0)}. It was "
            "cut off while it was loaded down, or changed: load it down again, or correct the first line."
        )


def _binary_rows(file, path, size):
    header = _header(file.readline(100))
    if not header:
        raise ValueError(
            f"path={str(path)!r} does not begin with the number of words and their width, as word2vec's binary files "
            "do. Name a text file .txt or .vec; convert any other format to text."
        )
    count, width = header
    _check_width(path, width, size)
    buffer, position, length = b"", 0, 4 * width
    for number in range(1, count + 1):
        end = buffer.find(b" ", position)
        while end < 0 or len(buffer) < end + 1 + length:
            block = file.read(_BYTES_PER_READ)
            if not block or (end < 0 and len(buffer) - position > _LONGEST_LINE):
                raise ValueError(
                    f"path={str(path)!r} ends within word {number} of the {count} that its first line promises, or "
                    f"its vectors do not have {width} numbers. It was cut off while it was loaded down, or is no "
                    "binary file of word2vec: load it down again."
                )
            buffer, position = buffer[position:] + block, 0
            end = buffer.find(b" ")
        # Some writers end a vector by a line break.
        word = buffer[position:end].lstrip(b"\n")
        position = end + 1 + length
        yield number, word, np.frombuffer(buffer, "<f4", width, end + 1), width
    if (buffer[position:] + file.read(2)).strip(b"\n"):
        raise ValueError(
            f"path={str(path)!r} goes on after the {count} words of {width} numbers that its first line promises. "
            "That line is wrong, and so may all vectors be: load the file down again."
        )


def _header(line):
    fields = line.split()
    is_header = len(fields) == 2 and all(field.isdigit() and int(field) for field in fields)
    return tuple(map(int, fields)) if is_header else None


def _check_width(path, width, size):
    if size is not None and width != size:
        raise ValueError(
            f"path={str(path)!r} has vectors of {width} numbers, but size={size}. A student's embedding_size must be "
            f"the file's width: give size={width}, or a file of width {size}."
        )

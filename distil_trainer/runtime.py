"""Answers of a shipped classifier, with NumPy, tokenizers and onnxruntime alone.

`ship` copies this file as `classifier.py` into the folder it writes. There it needs neither distil_trainer nor torch
nor transformers: `python classifier.py < texts > labels`, or `from classifier import Classifier`.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

# Rows tokenized and sorted at a time, and characters: a tokenizer keeps what it cuts off too, about 100 bytes a token,
# so that 16,384 texts of 10,000 characters would take 4 GB.
_ROWS_PER_WINDOW = 16_384
_CHARACTERS_PER_WINDOW = 2_000_000
_BYTES_PER_READ = 65_536
_BYTES_PER_HASHING = 1 << 20


class Classifier:
    """A shipped model that answers texts. Several threads may use one object at the same time.

    Example:

    ```python
    >>> classifier = Classifier.from_pretrained("out/onnx")
    >>> classifier("a charming film")
    {'label': 'positive', 'score': 0.98}
    >>> classifier(["a charming film", "a tedious film"])  # of pairs: classifier(first_texts, second_texts)
    [{'label': 'positive', 'score': 0.98}, {'label': 'negative', 'score': 0.97}]
    ```
    """

    def __init__(self, session, tokenizer, serving, *, instances, tokens_per_batch):
        self.labels = serving["labels"]
        self.is_regression = serving["problem_type"] == "regression"
        self.reads_pairs = serving["text_pair"]
        self.max_length = serving["max_length"]
        self._session = session
        self._tokenizer = tokenizer
        self._serving = serving
        self._tokens_per_batch = tokens_per_batch
        self._names = [node.name for node in session.get_inputs()]
        self._output = session.get_outputs()[0].name
        self._pool = ThreadPoolExecutor(instances) if instances > 1 else None

    @classmethod
    def from_pretrained(cls, folder, *, file_name=None, threads=1, instances=1, tokens_per_batch=2048):
        """Load a folder that `ship` wrote. The model's file must be, byte for byte, the one that was measured.

        Args:
            folder (`str` or `os.PathLike`): the folder.
            file_name (`str`, *optional*): another ONNX file of the folder than the one that was chosen.
            threads (`int`, *optional*, defaults to 1): threads that work on one batch.
            instances (`int`, *optional*, defaults to 1): batches of one call that are worked on at the same time, on
                one copy of the weights. For throughput, instances with one thread each do more than threads.
            tokens_per_batch (`int`, *optional*, defaults to 2048): at most this many tokens, padding counted, in a
                batch.

        Returns:
            `Classifier`

        Raises:
            FileNotFoundError: if the folder, its report, its tokenizer or the ONNX file is not there.
            ValueError: if the report or the tokenizer cannot be read, the report does not name the file and its hash,
                the file's bytes are others, the graph has inputs that no tokenizer makes, or a number is below 1.
        """
        for name, number in (("threads", threads), ("instances", instances), ("tokens_per_batch", tokens_per_batch)):
            if number < 1:
                raise ValueError(f"{name}={number} must be at least 1.")
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"folder={str(folder)!r} is not a folder. Give one that `ship` wrote; a model on the Hub must be "
                "downloaded first (`hf download`)."
            )
        try:
            report = json.loads(_find(folder, "report.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / 'report.json'} is no JSON ({error}): download it again.") from error
        hashes, serving = report.get("sha256"), report.get("serving")
        if not hashes or not serving:
            raise ValueError(
                f"{folder / 'report.json'} has no `sha256` and `serving`, so it is not known which bytes were "
                "measured and how texts must be read. Give the folder that `ship` wrote (in a recipe's output it is "
                "named onnx), and ship it anew if that was long ago."
            )
        file_name = file_name or report["chosen"]
        if file_name not in hashes:
            raise ValueError(f"file_name={file_name!r} is not among the measured files {sorted(hashes)}.")
        path = _find(folder, file_name)
        _check_hash(path, hashes[file_name])
        tokenizer = _find(folder, "tokenizer.json")
        if report.get("tokenizer_sha256"):  # older folders have none
            _check_hash(tokenizer, report["tokenizer_sha256"])
        return cls(
            _session(path, threads, instances),
            load_tokenizer(tokenizer, serving),
            serving,
            instances=instances,
            tokens_per_batch=tokens_per_batch,
        )

    def __call__(self, texts, text_pairs=None):
        """Answer one text, or many.

        Args:
            texts (`str` or `list[str]`): one text, or a list of any length.
            text_pairs (`str` or `list[str]`, *optional*): the second texts, for a model that reads pairs.

        Returns:
            `dict` or `list[dict]`: `label` and `score`, which is the label's probability, or of a regression the score
            itself.

        Raises:
            TypeError: if a text is not a string that UTF-8 can write.
            ValueError: if second texts are missing, too many or not wanted, or a text has no tokens.
        """
        if isinstance(texts, str):
            return self([texts], None if text_pairs is None else [text_pairs])[0]
        scores = self.logits(texts, text_pairs) if self.is_regression else self.probabilities(texts, text_pairs)
        best = scores.argmax(axis=1)
        return [
            {"label": self.labels[label], "score": float(row[label])} for label, row in zip(best, scores, strict=True)
        ]

    def probabilities(self, texts, text_pairs=None):
        """Return the probability of each label for each text.

        Args:
            texts, text_pairs: lists, as in a call.

        Returns:
            `np.ndarray` of shape `(n, num_labels)`, in the order of `labels`.

        Raises:
            TypeError, ValueError: as in a call; of a regression, which has no probabilities.
        """
        if self.is_regression:
            raise ValueError("This model gives scores, which have no probabilities: use `logits`.")
        logits = self.logits(texts, text_pairs).astype(np.float64)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def logits(self, texts, text_pairs=None):
        """Return the outputs of the model for each text, in their order; of a regression these are the scores.

        Args:
            texts, text_pairs: lists, as in a call.

        Returns:
            `np.ndarray` of shape `(n, num_labels)`, float32.

        Raises:
            TypeError, ValueError: as in a call.
        """
        texts, pairs = _as_list(texts), None if text_pairs is None else _as_list(text_pairs)
        self._check_pairs(texts, pairs)
        logits = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        for window in _windows(texts, pairs):
            start = window.start
            encodings = self._encode(texts[window], None if pairs is None else pairs[window], start)
            lengths = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
            if not lengths.all():
                row = start + int(np.flatnonzero(lengths == 0)[0])
                raise ValueError(
                    f"Text {row} ({texts[row][:60]!r}) has no tokens, and the tokenizer adds none of its own: the "
                    "answer would be that of padding. Leave the text out."
                )
            batches = _length_sorted_batches(lengths, self._tokens_per_batch)

            def run(rows, encodings=encodings, lengths=lengths):
                feed = self._feed([encodings[row] for row in rows], lengths[rows])
                return self._session.run([self._output], feed)[0]

            answers = map(run, batches) if self._pool is None else self._pool.map(run, batches)
            for rows, answer in zip(batches, answers, strict=True):
                logits[start + rows] = answer
        return logits

    def _check_pairs(self, texts, pairs):
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(pairs)} second texts: give one for each.")
        if (pairs is not None) != self.reads_pairs:
            raise ValueError(
                "This model was measured on "
                + ("pairs of texts: give second texts too." if self.reads_pairs else "single texts: give no second.")
                + " Its answers to anything else mean nothing that is known."
            )

    def _encode(self, texts, pairs, first_row):
        try:
            # The tokenizer reads a tuple or list of two as a pair, which the model may never have seen.
            if not all(issubclass(kind, str) for kind in {*map(type, texts), *map(type, pairs or ())}):
                raise TypeError
            # Without character offsets, which nobody asks for. The tokenizer is never changed: threads share it.
            return self._tokenizer.encode_batch_fast(
                texts if pairs is None else list(zip(texts, pairs, strict=True)), add_special_tokens=True
            )
        except TypeError:
            for row, text in enumerate(chain(texts, pairs or ())):
                _check_text(text, first_row + row % len(texts))
            raise

    def _feed(self, encodings, lengths):
        width = int(lengths.max())
        position, lengths = np.arange(width), lengths[:, None]
        is_token = position >= width - lengths if self._serving["padding_side"] == "left" else position < lengths
        feed = {}
        for name in self._names:
            if name == "attention_mask":
                feed[name] = is_token.astype(np.int64)
                continue
            values = np.full(is_token.shape, self._serving["padding"].get(name, 0), dtype=np.int64)
            if name == "input_ids":
                values[is_token] = np.fromiter(chain.from_iterable(each.ids for each in encodings), dtype=np.int64)
            elif name in self._serving["padding"]:  # else the tokenizer makes no types, and the graph reads zeros
                values[is_token] = np.fromiter(
                    chain.from_iterable(each.type_ids for each in encodings), dtype=np.int64
                )
            feed[name] = values
        return feed


def load_tokenizer(path, serving):
    """Load a `tokenizer.json`, set to cut texts as the part `serving` of the report says."""
    try:
        tokenizer = Tokenizer.from_file(os.fspath(path))
    except Exception as error:  # the library raises nothing more exact
        raise ValueError(
            f"{path} is no tokenizer that can be read ({error}). Download it again (a file of some hundred bytes is a "
            "pointer of Git LFS); if it is whole, install the version of tokenizers that requirements.txt names."
        ) from error
    # The file has whatever was set when it was saved. Here, and never again: setting it is not safe beside threads.
    tokenizer.no_padding()
    tokenizer.enable_truncation(serving["max_length"], direction=serving["truncation_side"])
    return tokenizer


def main(arguments=None):
    """Read texts from standard input, one a line, and write a label a line, as long as there are lines.

    A line of a model that reads pairs has its two texts with a tab between. Lines are answered as they come: those
    that are there already make up the batches, so a slow writer does not wait and a file goes fast.
    """
    parser = argparse.ArgumentParser(description="Label texts, one a line; a pair's two texts have a tab between.")
    parser.add_argument("--folder", default=Path(__file__).resolve().parent, help="default: where this file lies")
    parser.add_argument("--scores", action="store_true", help="write the label, a tab and its probability")
    parser.add_argument("--file_name", help="another ONNX file of the folder than the chosen one")
    parser.add_argument("--threads", type=int, default=1, help="threads that work on one batch")
    parser.add_argument("--instances", type=int, default=1, help="batches worked on at the same time")
    options = parser.parse_args(arguments)
    # Else tokenizing alone takes all cores, whatever number of threads was asked for.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", str(options.threads * options.instances > 1).lower())
    try:
        classifier = Classifier.from_pretrained(
            options.folder, file_name=options.file_name, threads=options.threads, instances=options.instances
        )
        for first_line, lines in _arriving_lines(sys.stdin.buffer):
            columns = _columns(lines, first_line, classifier.reads_pairs)
            for answer in classifier(*columns):
                sys.stdout.write(_answer_line(answer, classifier, options.scores))
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the labels has enough (`| head`). Python would complain once more when it closes the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, TypeError, ValueError) as error:
        sys.stdout.flush()
        sys.stderr.write(f"classifier: {error}\n")
        return 1
    return 0


def _find(folder, name):
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"folder={str(folder)!r} has no {name}: it is not a folder that `ship` wrote, or not the whole of it. "
            "Copy or download it again."
        )
    return path


def _check_hash(path, expected):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BYTES_PER_HASHING):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise ValueError(
            f"{path} has the sha256 {digest.hexdigest()}, and report.json says {expected}: this is not the file that "
            "was measured, so nothing is known of its answers. Download it again (a file of some hundred bytes is a "
            "pointer of Git LFS), or ship the model anew."
        )


def _session(path, threads, instances):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # It would keep a plan of the memory for each shape it meets, and no two batches of texts have the same: 40 MB more
    # after six batches of MiniLM, and no faster.
    options.enable_mem_pattern = False
    if instances > 1:
        # Waiting threads of one batch would keep cores busy that another batch needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    unknown = {node.name for node in session.get_inputs()} - {"input_ids", "attention_mask", "token_type_ids"}
    if unknown:
        raise ValueError(
            f"{path} has the inputs {sorted(unknown)}, which no tokenizer makes: use the program it was exported with."
        )
    return session


def _as_list(texts):
    # A mapping or a data frame is iterated by its keys: the answers would be to the names of its columns.
    if isinstance(texts, (str, Mapping)) or hasattr(texts, "columns") or not hasattr(texts, "__iter__"):
        raise TypeError(
            f"{str(texts)[:60]!r} is of type {type(texts).__name__}, where a list of texts is needed: of a table, "
            "give one column. Second texts are an argument of their own: classifier(first_texts, second_texts)."
        )
    return list(texts)


def _check_text(text, row):
    if not isinstance(text, str):
        raise TypeError(f"Text {row} is {text!r}, a {type(text).__name__}: a text must be a string.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TypeError(
            f"Text {row} has half of a surrogate pair at position {error.start} ({text[error.start]!r}), which is no "
            "character. It was cut or decoded wrongly; `text.encode('utf-8', 'replace').decode()` writes '?' there."
        ) from error


def _windows(texts, pairs):
    """Yield slices of rows that are tokenized together: so many rows, and so many characters or one row."""
    start = characters = 0
    for row, both in enumerate(zip(texts, [""] * len(texts) if pairs is None else pairs, strict=True)):
        # What is no string is refused where it is tokenized.
        size = sum(len(text) for text in both if isinstance(text, str))
        if row > start and (row - start == _ROWS_PER_WINDOW or characters + size > _CHARACTERS_PER_WINDOW):
            yield slice(start, row)
            start, characters = row, 0
        characters += size
    if texts:
        yield slice(start, len(texts))


def _length_sorted_batches(lengths, tokens_per_batch):
    """Cut rows into batches of similar length under a token budget; return the row numbers of each."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, tokens_per_batch // int(lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def _arriving_lines(stream):
    """Yield the number of the first line and the lines of each piece, as `list[bytes]`, as soon as they are there."""
    rest, first_line = bytearray(), 1
    while piece := stream.read1(_BYTES_PER_READ):
        rest += piece
        if b"\n" in piece:
            *lines, rest = rest.split(b"\n")
            yield first_line, lines
            first_line += len(lines)
    if rest:
        yield first_line, [rest]


def _columns(lines, first_line, reads_pairs):
    try:
        texts = b"\n".join(lines).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = first_line + error.object.count(b"\n", 0, error.start)
        raise ValueError(f"Line {line} is not UTF-8 ({error.reason}). Convert the texts with iconv.") from error
    texts = [text.removesuffix("\r") for text in texts]
    if not reads_pairs:
        return (texts,)
    pairs = [text.split("\t") for text in texts]
    for line, pair in enumerate(pairs, first_line):
        if len(pair) != 2:
            raise ValueError(
                f"Line {line} has {len(pair) - 1} tabs, and this model reads pairs: two texts with one tab between."
            )
    return tuple(map(list, zip(*pairs, strict=True)))


def _answer_line(answer, classifier, scores):
    if classifier.is_regression:
        return f"{answer['score']:.6g}\n"
    return f"{answer['label']}\t{answer['score']:.6f}\n" if scores else f"{answer['label']}\n"


if __name__ == "__main__":
    sys.exit(main())

"""Which tokens must stay in a vocabulary, so that texts become the same tokens as before."""

from collections import defaultdict

import numpy as np


def tokens_that_stay(described, in_use, words=()):
    """Add to the tokens in use those without which a tokenizer would not find them.

    Args:
        described (`dict`): the tokenizer, as `tokenizer_json` gives it.
        in_use (`np.ndarray` of shape `(num_tokens,)`, bool): tokens that the texts are made of; left as it is.
        words (`Iterable[str]`, *optional*): unknown ones among them, as `words_of` gives them; read for WordPiece.

    Returns:
        `np.ndarray` of shape `(num_tokens,)`, bool: these, special and added tokens, and what a word goes through
        before it is one of them.
    """
    stay = in_use.copy()
    stay[[token["id"] for token in described["added_tokens"]]] = True
    model = described["model"]
    add = {"WordPiece": _add_wordpiece, "BPE": _add_bpe, "Unigram": _add_unigram, "WordLevel": _add_unknown}
    add[model["type"]](model, stay, words)
    return stay


def words_of(backend, texts):
    """Return the words of some texts as a tokenizer's model is given them, each once (`set[str]`).

    Args:
        backend (`tokenizers.Tokenizer`): the tokenizer.
        texts (`Iterable[str]`): the texts.
    """
    words = set()
    for text in texts:
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        pieces = [(text, None)] if backend.pre_tokenizer is None else backend.pre_tokenizer.pre_tokenize_str(text)
        words |= {word for word, _ in pieces}
    return words


def _add_unknown(model, stay, words):
    if model.get("unk_token") in model["vocab"]:
        stay[model["vocab"][model["unk_token"]]] = True


def _add_wordpiece(model, stay, words):
    """Keep the pieces that an unknown word begins with.

    The longest piece is taken first. Were it gone, a shorter one might be taken, and the word be unknown no more.
    """
    _add_unknown(model, stay, words)
    vocab, prefix = model["vocab"], model["continuing_subword_prefix"]
    longest = max(map(len, vocab))
    for word in words:
        if len(word) > model["max_input_chars_per_word"]:
            continue
        pieces, start = [], 0
        while start < len(word):
            lead = prefix if start else ""
            ends = range(min(len(word), start + longest), start, -1)
            piece = next((piece for end in ends if (piece := lead + word[start:end]) in vocab), None)
            if piece is None:
                stay[[vocab[piece] for piece in pieces]] = True
                break
            pieces.append(piece)
            start += len(piece) - len(lead)


def _add_bpe(model, stay, words):
    """Keep all that a token is merged from, down to single characters.

    Merges are made in the order of their list, so that leaving out those that no kept token needs changes none of the
    others. Where two merges make the same token, both stay.
    """
    vocab = model["vocab"]
    if model.get("unk_token") in vocab:
        stay[vocab[model["unk_token"]]] = True
    else:  # no character may become nothing
        merged = {result for _, _, result in merges_of(model)}
        stay[[number for token, number in vocab.items() if token not in merged and number < len(stay)]] = True
    if model.get("byte_fallback"):
        stay[_byte_tokens(vocab.items())] = True
    parts = defaultdict(list)
    for left, right, result in merges_of(model):
        parts[vocab[result]] += [vocab[left], vocab[right]]
    waiting = [number for number in parts if stay[number]]
    while waiting:
        for part in parts[waiting.pop()]:
            if not stay[part]:
                stay[part] = True
                waiting += [part] if part in parts else []


def merges_of(model):
    """Yield the merges of a BPE model: left part, right part, the token that they make (`tuple[str, str, str]`)."""
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right, left + right[len(prefix) :]


def _add_unigram(model, stay, words):
    """Keep the unknown token, single bytes, and the token of the lowest score.

    The best cut of a text into tokens stays the best among fewer. An unknown character costs 10 more than the rarest
    token, so that this one must stay too.
    """
    if model["unk_id"] is not None:
        stay[model["unk_id"]] = True
    stay[int(np.argmin([score for _, score in model["vocab"]]))] = True
    if model.get("byte_fallback"):
        stay[_byte_tokens((token, number) for number, (token, _) in enumerate(model["vocab"]))] = True


def _byte_tokens(numbered_tokens):
    return [number for token, number in numbered_tokens if len(token) == 6 and token[:3] == "<0x" and token[-1] == ">"]

"""How the tokenizers that are made here normalize texts and cut them into words, and what else they share."""

import transformers
from tokenizers import Regex, normalizers, pre_tokenizers, processors

# In the order of their numbers.
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# Beyond every table: where a tokenizer of single texts is given a pair, any engine ends in an error.
_REFUSAL = ("[SINGLE TEXTS ONLY]", 2**31 - 1)
_END = r"(?![\p{L}\p{M}\p{N}])"
_NOT = rf"(?i:n't){_END}"
# Words as the Penn Treebank and GloVe have them, the same ones from "don't stop." and from "do n't stop .". Hyphens
# stand alone, although GloVe has many hyphenated words: their parts are known where the whole is rare. Of the words of
# SST-2's validation sentences 4.8 % do not occur in its training sentences, and 5.7 % where such words are whole.
_WORD = "|".join(
    [
        r"-(?i:[lr][rcs]b)-",  # brackets, as the Penn Treebank writes them
        _NOT,
        rf"'(?i:s|m|d|re|ve|ll){_END}",
        rf"[\p{{L}}\p{{M}}]+?(?={_NOT})",
        r"(?:\p{L}\.){2,}",  # u.s.
        r"\p{N}+(?:[.,:]\p{N}+)+",
        r"[\p{L}\p{M}\p{N}_]+",
        r"\.\.+|--+|``|''",
        r"\S",
    ]
)


class PreTrainedTokenizerFast(transformers.PreTrainedTokenizerFast):
    """The class of transformers, saved under this name.

    transformers 5 saves its own under the name TokenizersBackend, which transformers 4 cannot load. This can go when
    4 is no longer supported.
    """


def normalizer(lower):
    """Make the normalizer: composed characters, straight apostrophes, and lower case where `lower`."""
    steps = [normalizers.NFC(), normalizers.Replace("\u2019", "'")]
    return normalizers.Sequence([*steps, normalizers.Lowercase()] if lower else steps)


def word_splitter():
    """Make the pre-tokenizer that cuts a text into words and drops white space."""
    return pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)


def fast_tokenizer(backend, *, pairs, model_max_length, **tokens):
    """Wrap a tokenizer for transformers, with a head token before each text.

    An empty text so has one token, and each half of a pair reads exactly as it would alone. Without `pairs` a pair
    gets a token number that no model has, so that it is never read as one text in silence.

    Args:
        backend (`tokenizers.Tokenizer`): its vocabulary holds the special tokens.
        pairs (`bool`): whether models read pairs, and are told which text of one a token is of.
        model_max_length (`int`): tokens kept where a text is truncated.
        tokens (`str` or `AddedToken`): `pad_token`, `unk_token`, `cls_token`, `sep_token` and `mask_token`.

    Returns:
        `PreTrainedTokenizerFast`
    """
    if model_max_length < 2:
        raise ValueError(f"model_max_length={model_max_length} must be at least 2: a head token, and a word.")
    head = (tokens["cls_token"], backend.token_to_id(tokens["cls_token"]))
    second_head = head if pairs else _REFUSAL
    backend.post_processor = processors.TemplateProcessing(
        single=[head[0], "$A"],
        pair=[f"{head[0]}:0", "$A:0", f"{second_head[0]}:1", "$B:1"],
        special_tokens=list(dict.fromkeys([head, second_head])),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=model_max_length,
        padding_side="right",
        model_input_names=["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
        **tokens,
    )


def check_words(num_words):
    """Refuse texts without words, from which nothing could be learned."""
    if not num_words:
        raise ValueError(
            "texts hold no words, or none that is frequent enough: every text would be read as unknown. Give texts "
            "that are not blank, or a lower min_frequency."
        )

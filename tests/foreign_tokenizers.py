"""Small tokenizers that cut words in other ways than the word-level one of conftest, made without the network."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from vocabulary import WORDS

# Frequent pairs of letters, so that a word makes several tokens.
_TEXTS = [" ".join(WORDS), "the there them then", "ing ed er est ly", "un re in", "naïve café 東京 ü"] * 3


def byte_level_tokenizer(trim_offsets=True, **settings):
    """Byte-level BPE in GPT-2's and RoBERTa's manner, with `<s>`, `</s>`; 60 tokens more than the 256 bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TEXTS, trainer)
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim_offsets, add_prefix_space=False
    )
    return _fast(backend, bos_token="<s>", eos_token="</s>", **settings)


def sentence_piece_tokenizer(**settings):
    """A unigram model over spaces written as `▁`, in XLNet's and T5's manner, with `</s>` at the end."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90,
        special_tokens=["<pad>", "</s>", "<unk>", "<mask>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(_TEXTS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B:1 </s>:1", special_tokens=[("</s>", 1)]
    )
    return _fast(backend, eos_token="</s>", **settings)


def _fast(backend, **settings):
    settings = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>", "model_max_length": 64, **settings}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)

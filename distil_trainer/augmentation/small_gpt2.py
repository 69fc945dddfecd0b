"""A small GPT-2 and its tokenizer, made from nothing but texts: a language model where none can be downloaded.

Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from distil_trainer.small_tokenizers.text_batches import text_batches
from distil_trainer.small_tokenizers.words import PreTrainedTokenizerFast

_END_TOKEN = "<|endoftext|>"


def small_gpt2(texts, vocab_size=8000, num_layers=4, hidden_size=256, max_length=128, seed=0):
    """Make a GPT-2 of random weights, and a byte-level BPE tokenizer trained on the texts.

    It needs no download, and knows nothing but what `fine_tune_language_model` will teach it: it learns which words
    follow one another in these texts, not English. The same texts and seed give the same model and tokenizer.

    Args:
        texts (`Iterable[str]`): texts to train the tokenizer on; read once, in batches.
        vocab_size (`int`, *optional*, defaults to 8000): tokens at most; at least 257, one for each byte and the end.
        num_layers (`int`, *optional*, defaults to 4): Transformer layers.
        hidden_size (`int`, *optional*, defaults to 256): a multiple of 64, which is the width of an attention head.
        max_length (`int`, *optional*, defaults to 128): the most tokens of a text, its end token included.
        seed (`int`, *optional*, defaults to 0): decides the weights. The caller's random state is left as it was.

    Returns:
        `tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]`: the model in evaluation mode.

    Raises:
        TypeError: if something in `texts` is no string.
        ValueError: if `vocab_size` or `hidden_size` is out of range.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet):
        raise ValueError(
            f"vocab_size={vocab_size} must be at least {len(alphabet) + 1}: a token for each of the {len(alphabet)} "
            "bytes, and the end token. With fewer some texts could not be written."
        )
    if hidden_size < 64 or hidden_size % 64:
        raise ValueError(f"hidden_size={hidden_size} must be a multiple of 64, the width of an attention head.")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[_END_TOKEN], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(text_batches(texts), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        bos_token=_END_TOKEN,
        eos_token=_END_TOKEN,
        clean_up_tokenization_spaces=False,
    )
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=max_length,
        n_embd=hidden_size,
        n_layer=num_layers,
        n_head=hidden_size // 64,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval(), tokenizer

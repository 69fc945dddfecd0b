"""Language models small enough to write in milliseconds, whose texts end although nobody has trained them."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from vocabulary import WORDS

POSITIONS = 24


def word_tokenizer(**tokens):
    """A tokenizer of whole words, `<end>` and `<unk>`; `sep_token="<sep>"` adds a separator."""
    vocabulary = ["<end>", "<unk>", *WORDS, *tokens.values()]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>", **tokens)


def writing_model(tokenizer, likelier=None, seed=0):
    """A random GPT-2 of one layer; `likelier` maps tokens to what is added to their logits (the end: 2)."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight *= 10  # contexts count
        model.transformer.wte.weight[:, 0] = 0
        model.transformer.ln_f.weight[0] = 0
        model.transformer.ln_f.bias[0] = 1
        for token, bonus in ({"<end>": 2.0} if likelier is None else likelier).items():
            model.transformer.wte.weight[tokenizer.convert_tokens_to_ids(token), 0] = bonus
    return model

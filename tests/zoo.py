"""A tiny random classifier of each architecture that can teach, with a word-level tokenizer of its special tokens."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)
from vocabulary import LABELS, WORDS

ARCHITECTURES = ["bert", "roberta", "electra", "distilbert", "bart", "gpt2", "xlnet", "t5"]

_BERT = dict(
    special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    pad_token="[PAD]",
    unk_token="[UNK]",
    cls_token="[CLS]",
    sep_token="[SEP]",
    mask_token="[MASK]",
)
_ROBERTA = dict(
    special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    single="<s> $A </s>",
    pair="<s> $A </s> </s> $B </s>",
    pad_token="<pad>",
    unk_token="<unk>",
    cls_token="<s>",
    sep_token="</s>",
    mask_token="<mask>",
    bos_token="<s>",
    eos_token="</s>",
)
_GPT2 = dict(
    special_tokens=["<|endoftext|>", "<a>", "<b>", "<c>", "<d>"],
    single="$A",
    pair="$A $B",
    pad_token="<|endoftext|>",
    unk_token="<|endoftext|>",
    bos_token="<|endoftext|>",
    eos_token="<|endoftext|>",
)
_XLNET = dict(
    special_tokens=["<unk>", "<sep>", "<cls>", "<mask>", "<pad>"],
    single="$A <sep> <cls>:2",
    pair="$A <sep> $B:1 <sep>:1 <cls>:2",
    pad_token="<pad>",
    unk_token="<unk>",
    cls_token="<cls>",
    sep_token="<sep>",
    mask_token="<mask>",
)
_T5 = dict(
    special_tokens=["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>"],
    single="$A </s>",
    pair="$A </s> $B </s>",
    pad_token="<pad>",
    unk_token="<unk>",
    eos_token="</s>",
)
_TOKENIZERS = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "electra": _BERT,
    "distilbert": _BERT,
    "bart": _ROBERTA,
    "gpt2": _GPT2,
    "xlnet": _XLNET,
    "t5": _T5,
}


def make_tokenizer(name):
    """Make the tokenizer of an architecture; it pads on the right, whatever the model needs."""
    facts = dict(_TOKENIZERS[name])
    special_tokens, single, pair = facts.pop("special_tokens"), facts.pop("single"), facts.pop("pair")
    vocabulary = {token: i for i, token in enumerate([*special_tokens, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=facts["unk_token"]))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, i) for i, token in enumerate(special_tokens)]
    )
    names = ["input_ids", "attention_mask"]
    if name in ("bert", "electra", "xlnet"):
        names.append("token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, model_input_names=names, padding_side="right", **facts
    )


def make_teacher(name):
    """Make a classifier of 3 layers, 4 heads and width 32, whose logits move visibly with every token."""
    common = dict(
        vocab_size=len(WORDS) + 5,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    bert = dict(num_hidden_layers=3, num_attention_heads=4, hidden_size=32, intermediate_size=64)
    model = {
        "bert": lambda: BertForSequenceClassification(
            BertConfig(pad_token_id=0, max_position_embeddings=64, **bert, **common)
        ),
        "roberta": lambda: RobertaForSequenceClassification(
            RobertaConfig(pad_token_id=1, max_position_embeddings=66, type_vocab_size=1, **bert, **common)
        ),
        "electra": lambda: ElectraForSequenceClassification(
            ElectraConfig(pad_token_id=0, max_position_embeddings=64, embedding_size=16, **bert, **common)
        ),
        "distilbert": lambda: DistilBertForSequenceClassification(
            DistilBertConfig(
                pad_token_id=0, max_position_embeddings=64, dim=32, n_layers=3, n_heads=4, hidden_dim=64, **common
            )
        ),
        "bart": lambda: BartForSequenceClassification(
            BartConfig(
                d_model=32,
                encoder_layers=3,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=2,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=64,
                bos_token_id=0,
                pad_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=2,
                num_labels=len(LABELS),
                **common,
            )
        ),
        "gpt2": lambda: GPT2ForSequenceClassification(
            GPT2Config(
                n_embd=32,
                n_layer=3,
                n_head=4,
                n_positions=64,
                bos_token_id=0,
                eos_token_id=0,
                pad_token_id=0,
                **common,
            )
        ),
        "xlnet": lambda: XLNetForSequenceClassification(
            XLNetConfig(d_model=32, n_layer=3, n_head=4, d_inner=64, pad_token_id=4, **common)
        ),
        "t5": lambda: T5ForSequenceClassification(
            T5Config(
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=3,
                num_decoder_layers=2,
                num_heads=4,
                pad_token_id=0,
                eos_token_id=1,
                decoder_start_token_id=0,
                **common,
            )
        ),
    }[name]()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.25, generator=generator)
    return model

"""A teacher without a checkpoint: a small BERT with a tokenizer of its own, pre-trained on the texts at hand.

Papers: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
(https://arxiv.org/abs/1810.04805), section 3.1, for masked words; Turc et al. 2019, "Well-Read Students Learn Better"
(https://arxiv.org/abs/1908.08962), for its size.
"""

import math
import tempfile

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import MaskedLMOutput

from distil_trainer.run_folder import last_complete_checkpoint
from distil_trainer.sampler import EpochSampler
from distil_trainer.small_tokenizers import train_tokenizer
from distil_trainer.small_tokenizers.text_batches import text_batches


def teacher_from_scratch(
    texts,
    label_names,
    *,
    vocab_size=8000,
    lower=True,
    num_layers=4,
    hidden_size=256,
    max_length=128,
    pairs=False,
    mlm_epochs=3.0,
    mlm_max_steps=None,
    batch_size=64,
    learning_rate=5e-4,
    seed=0,
    output_dir=None,
    use_cpu=False,
    bf16=False,
):
    """Make a BERT with a fresh head, which is still to be fine-tuned on labels (see [`fine_tune_teacher`]).

    It is for languages and places where no checkpoint can be had. Masked words teach it the language of the texts,
    unlabelled ones too, and no more: a checkpoint that has read gigabytes is a better teacher where there is one.

    Args:
        texts (`Iterable[str]`): the training texts, and unlabelled ones; of pairs, both texts. Evaluation data do not
            belong here. Read twice, so a generator will not do. Their tokens are held in memory: 4 bytes each.
        label_names (`list[str]`): the labels, in logit order.
        vocab_size (`int`, *optional*, defaults to 8000): tokens of its WordPiece tokenizer, at most.
        lower (`bool`, *optional*, defaults to `True`): the tokenizer lower-cases texts.
        num_layers (`int`, *optional*, defaults to 4): layers.
        hidden_size (`int`, *optional*, defaults to 256): width, a multiple of 64, which is the width of a head.
        max_length (`int`, *optional*, defaults to 128): tokens of a text, or of both texts of a pair, that it can
            read; the rest is truncated.
        pairs (`bool`, *optional*, defaults to `False`): it will read pairs of texts.
        mlm_epochs (`float`, *optional*, defaults to 3): epochs of pre-training on masked words; 0 for none.
        mlm_max_steps (`int`, *optional*): steps of it, in place of epochs.
        batch_size (`int`, *optional*, defaults to 64): texts a step of it, on each device.
        learning_rate (`float`, *optional*, defaults to 5e-4): its peak learning rate.
        seed (`int`, *optional*, defaults to 0): of the weights, the masks and the order of the texts.
        output_dir (`str` or `os.PathLike`, *optional*): keeps a checkpoint for each twentieth of the way; a second
            call with the same texts and arguments goes on from the last one, with other masks than an uninterrupted
            one would have had. By default none is kept.
        use_cpu (`bool`, *optional*, defaults to `False`): as in `TrainingArguments`; under a launcher on CPUs it must
            be `True`, or accelerate forgets the other processes.
        bf16 (`bool`, *optional*, defaults to `False`): as in `TrainingArguments`. Where the processor has bfloat16 it
            takes half the time or less.

    Returns:
        `tuple[BertForSequenceClassification, PreTrainedTokenizerFast]`: the model in evaluation mode, on the CPU.

    Raises:
        TypeError: if `texts` is one string, or a text is no string.
        ValueError: if the texts hold no words, or a number is out of range.
    """
    if len(label_names) < 2:
        raise ValueError(f"label_names={label_names}: a classifier needs at least two labels.")
    if hidden_size < 64 or hidden_size % 64:
        raise ValueError(
            f"hidden_size={hidden_size} must be a multiple of 64, the width of one head: give 128, 256, 512, ..."
        )
    if mlm_epochs < 0:
        raise ValueError(f"mlm_epochs={mlm_epochs} must be at least 0, which leaves the pre-training out.")
    if iter(texts) is texts:
        raise TypeError(
            "texts can be read once only, and its tokenizer and its weights are trained one after the other: the "
            "second would find nothing. Give a list, or a column of a data set."
        )
    tokenizer = train_tokenizer(
        texts, "wordpiece", vocab_size=vocab_size, lower=lower, pairs=pairs, model_max_length=max_length
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 64,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(label_names)),
        label2id={name: number for number, name in enumerate(label_names)},
    )
    set_seed(seed)
    teacher = BertForSequenceClassification(config)
    if mlm_epochs:
        with tempfile.TemporaryDirectory() as unkept:
            folder = str(output_dir or unkept)
            _pretrain(
                teacher.bert,
                tokenizer,
                texts,
                folder,
                mlm_epochs,
                mlm_max_steps,
                batch_size,
                learning_rate,
                seed,
                use_cpu,
                bf16,
            )
    return teacher.eval(), tokenizer


def _pretrain(encoder, tokenizer, texts, folder, epochs, max_steps, batch_size, learning_rate, seed, use_cpu, bf16):
    """Train an encoder, in place, to guess masked tokens."""
    tokens = [
        pa.array(tokenizer(batch, truncation=True)["input_ids"], pa.list_(pa.int32())) for batch in text_batches(texts)
    ]
    tokens = pa.chunked_array(tokens)
    dataset = Dataset.from_dict({"input_ids": tokens})
    steps = max_steps or math.ceil(epochs * len(dataset) / batch_size)
    model = _MaskedLanguageModel(encoder.config)
    trainer = _LengthGroupedTrainer(
        model,
        TrainingArguments(
            folder,
            num_train_epochs=epochs,
            max_steps=max_steps or -1,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_steps=steps // 10,
            weight_decay=0.01,
            save_steps=0.05,
            save_total_limit=2,
            logging_steps=0.05,
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),  # elsewhere it only warns
            seed=seed,
            use_cpu=use_cpu,
            bf16=bf16,
        ),
        train_dataset=dataset,
        data_collator=DataCollatorForLanguageModeling(tokenizer),
    )
    trainer.lengths = pc.list_value_length(tokens).to_numpy()
    # Where the last checkpoint is that of the last step, one step more is taken, of learning rate 0.
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder))
    weights = {name: weight.cpu() for name, weight in model.bert.state_dict().items()}
    encoder.load_state_dict({**encoder.state_dict(), **weights})  # its pooler is trained with the head


class _MaskedLanguageModel(BertForMaskedLM):
    """Scores no token but the masked ones, which alone enter the loss: of a small BERT, all scores cost 40 %."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden_states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        masked = labels != -100
        scores = self.cls(hidden_states[masked])
        # The mean; 0, and not NaN, where no token of a batch is masked.
        loss = cross_entropy(scores.float(), labels[masked], reduction="sum") / masked.sum().clamp(min=1)
        return MaskedLMOutput(loss=loss)


class _LengthGroupedTrainer(Trainer):
    """`Trainer` whose steps hold texts of similar length: of short texts in random order most would be padding."""

    lengths = None

    def _get_train_sampler(self, train_dataset=None):
        args = self.args
        rows_per_step = args.train_batch_size * args.world_size
        return EpochSampler(len(self.lengths), args.seed, self.lengths, rows_per_step)

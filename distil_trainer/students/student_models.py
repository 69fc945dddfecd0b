"""What the students of this package have in common: initial weights, saving, base model, classifier."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from .student_configuration import StudentConfig


class StudentPreTrainedModel(PreTrainedModel):
    """Initial weights, and saving with the code that rebuilds the network where this package is not installed."""

    config_class = StudentConfig
    base_model_prefix = "student"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load a student; see `PreTrainedModel.from_pretrained`. Frozen word vectors come back frozen.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Hub id or folder.
            args: those of `PreTrainedModel.from_pretrained`.
            kwargs: those of `PreTrainedModel.from_pretrained`.

        Returns:
            The student; with `output_loading_info=True` a tuple of it and of what was found.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        # transformers 5 makes every weight that it loads a trainable one.
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze_embeddings()
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save configuration, weights and the Python files of the network; see `PreTrainedModel.save_pretrained`.

        `AutoConfig`, `AutoModel` and `AutoModelForSequenceClassification` all open the folder, on a machine without
        this package with `trust_remote_code=True`.

        Args:
            save_directory (`str` or `os.PathLike`): the folder.
            args: those of `PreTrainedModel.save_pretrained`.
            kwargs: those of `PreTrainedModel.save_pretrained`.
        """
        file = type(self).__module__.rpartition(".")[2]
        name = f"{file}.{type(self.config).__name__.removesuffix('Config')}"
        self.config.auto_map = {
            "AutoConfig": f"{name}Config",
            "AutoModel": f"{name}Model",
            "AutoModelForSequenceClassification": f"{name}ForSequenceClassification",
        }
        # This is what makes transformers copy the files. It marks the class, so it is not done before it is needed.
        is_classifier = isinstance(self, StudentClassifier)
        self.register_for_auto_class("AutoModelForSequenceClassification" if is_classifier else "AutoModel")
        super().save_pretrained(save_directory, *args, **kwargs)

    def set_word_vectors(self, matrix):
        """Copy word vectors into the table of embeddings, as float32; the row of padding becomes zero.

        Args:
            matrix (`np.ndarray` or `torch.Tensor` of shape `(vocab_size, embedding_size)`): a row for each token.

        Raises:
            ValueError: if the shape is another, or a value is not finite.
        """
        weight = self.get_input_embeddings().weight
        vectors = matrix if isinstance(matrix, torch.Tensor) else torch.tensor(matrix)
        if vectors.shape != weight.shape:
            raise ValueError(
                f"The word vectors have the shape {tuple(vectors.shape)}, the table {tuple(weight.shape)}, which is "
                "(vocab_size, embedding_size). Rows belong to token numbers: make one for each token of the "
                "tokenizer, in its order, and give the configuration these sizes."
            )
        vectors = vectors.to(weight)
        if not vectors.isfinite().all():
            row = int((~vectors.isfinite()).any(dim=1).nonzero()[0])
            raise ValueError(
                f"The word vector of token number {row} holds NaN or an infinite value (in {weight.dtype}). Each text "
                "with this token would have NaN for logits: mend the vectors."
            )
        with torch.no_grad():
            weight.copy_(vectors)
            weight[self.config.pad_token_id] = 0

    def _freeze_embeddings(self):
        if self.config.freeze_embeddings:
            self.get_input_embeddings().weight.requires_grad_(False)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            nn.init.xavier_uniform_(module.weight)  # keeps the scale of states and gradients through the layers
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            # Kim (2014), section 3.2: the variance of trained word vectors, beside which words without one are read.
            nn.init.uniform_(module.weight, -0.25, 0.25)
            if not _is_loaded(module.weight):
                module.weight[module.padding_idx] = 0
        elif isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                if name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(parameter)
                elif name.startswith("weight_hh"):
                    nn.init.orthogonal_(parameter)  # neither blows up nor fades over the steps of a long text
                else:
                    nn.init.zeros_(parameter)
                    if name.startswith("bias_ih") and not _is_loaded(parameter):
                        # Open forget gates let early words reach the end (https://proceedings.mlr.press/v37/jozefowicz15).
                        parameter[module.hidden_size : 2 * module.hidden_size] = 1


class StudentModel(StudentPreTrainedModel):
    """A network from word vectors to one pooled state of each text, or pair of texts.

    A subclass makes its layers, calls `post_init`, and says in `encode` how a text becomes states.

    Args:
        config ([`StudentConfig`]): the shape.
    """

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self._freeze_embeddings()
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)

    def get_input_embeddings(self):
        """Return the table of word vectors."""
        return self.embeddings

    def set_input_embeddings(self, value):
        """Replace the table of word vectors."""
        self.embeddings = value

    def encode(self, input_ids, mask):
        """Encode texts.

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, length)`): token numbers.
            mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for tokens, 0 for padding, of the weights' type.

        Returns:
            `tuple[torch.Tensor, tuple]`: the pooled states `(batch_size, hidden_size)`, and the hidden states in the
            order of `config.hidden_sizes`, each zero on padding.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it encodes a text.")

    def embed(self, input_ids, mask):
        """Look up the word vectors, with dropout in training, zero on padding."""
        try:
            embedded = self.embeddings(input_ids)
        except IndexError as error:  # on an accelerator the process ends instead
            raise ValueError(
                f"A token has the number {int(input_ids.max())}, and the table has {self.config.vocab_size}. Either "
                "this is the tokenizer of another model, or one that was made for single texts was given a pair: make "
                "it with pairs=True, and the student with type_vocab_size=2."
            ) from error
        return self.embedding_dropout(embedded) * mask.unsqueeze(-1)

    def forward(
        self, input_ids, attention_mask=None, token_type_ids=None, output_hidden_states=None, return_dict=None
    ):
        """Encode a batch.

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, length)`): token numbers.
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*): 1 for tokens, 0 for padding.
                Default: all but `pad_token_id` are tokens.
            token_type_ids (`torch.Tensor` of shape `(batch_size, length)`, *optional*): of a student of pairs 0 for
                the first text and 1 for the second, in any layout.
            output_hidden_states (`bool`, *optional*): return the states in the order of `config.hidden_sizes` too.
            return_dict (`bool`, *optional*): `False` for a tuple.

        Returns:
            `BaseModelOutputWithPooling`: states belong to the tokens at their places in `input_ids`, and are zero on
            padding. The pooled state of a pair is `[u; v; |u - v|; u * v]`, where u and v are those of its texts.

        Raises:
            ValueError: if there are no columns, a token's number is beyond the table, a student of pairs is given a
                batch without a token of a second text, or one of single texts is given second ones.

        Reference:
            The pooled state of a pair: InferSent (https://huggingface.co/papers/1705.02364), section 3.1.
        """
        self._check_inputs(input_ids, attention_mask, token_type_ids)
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        mask = attention_mask.to(self.embeddings.weight.dtype)
        if self.config.type_vocab_size == 1:
            pooled, states = self.encode(input_ids, mask)
        else:
            first = mask * (token_type_ids == 0)
            pooled, states = self.encode(input_ids.repeat(2, 1), torch.cat([first, mask - first]))
            u, v = pooled.reshape(2, -1, pooled.shape[-1])
            pooled = torch.cat([u, v, (u - v).abs(), u * v], dim=-1)
            # Each token belongs to one of the two texts, and is padding (zero) to the other.
            states = tuple(state.reshape(2, -1, *state.shape[1:]).sum(dim=0) for state in states)
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        outputs = BaseModelOutputWithPooling(
            last_hidden_state=states[-1], pooler_output=pooled, hidden_states=states if wants_states else None
        )
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if wants_dict else outputs.to_tuple()

    def _check_inputs(self, input_ids, attention_mask, token_type_ids):
        reads_pairs = self.config.type_vocab_size == 2
        if reads_pairs and (token_type_ids is None or _lack_second_texts(attention_mask, token_type_ids)):
            raise ValueError(
                "This student compares the two texts of a pair (type_vocab_size=2), and was given a single text, or "
                "no token_type_ids to tell the two apart: call the tokenizer with both texts and "
                "return_token_type_ids=True, or load a student of single texts."
            )
        if torch.jit.is_tracing():  # what follows looks at values, which the traced graph could not do
            return
        if input_ids.shape[-1] == 0:
            raise ValueError(
                f"input_ids has the shape {tuple(input_ids.shape)}: no text of the batch has a token. Pad to at least "
                "one column (a row of nothing but padding is read as an empty text), or remove the empty texts."
            )
        if not reads_pairs and token_type_ids is not None and (token_type_ids == 1).any():
            raise ValueError(
                "token_type_ids holds a 1, a token of a second text, but this student reads single texts "
                "(type_vocab_size=1) and would read the pair as one text. Make a student of pairs, with "
                "type_vocab_size=2."
            )


class StudentClassifier(StudentPreTrainedModel):
    """A student with a classification head on its pooled state.

    Args:
        config ([`PretrainedConfig`]): the shape.
        student ([`StudentPreTrainedModel`]): the base model.
        classifier (`nn.Module`): from the pooled state to `config.num_labels` logits.
    """

    def __init__(self, config, student, classifier):
        super().__init__(config)
        self.student = student
        self.classifier = classifier
        self.post_init()

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        labels=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        """Classify a batch; see [`StudentModel.forward`].

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, length)`): token numbers.
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*): 1 for tokens, 0 for padding.
            token_type_ids (`torch.Tensor` of shape `(batch_size, length)`, *optional*): tells the texts of a pair
                apart.
            labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_labels)`, *optional*): for the loss,
                which `config.problem_type` chooses as in all classifiers of transformers.
            output_hidden_states (`bool`, *optional*): return hidden states too.
            return_dict (`bool`, *optional*): `False` for a tuple.

        Returns:
            `SequenceClassifierOutput`
        """
        outputs = self.student(
            input_ids, attention_mask, token_type_ids, output_hidden_states=output_hidden_states, return_dict=True
        )
        return self._classify(outputs, labels, return_dict)

    def _classify(self, outputs, labels, return_dict):
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        classified = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return classified if wants_dict else classified.to_tuple()


def _lack_second_texts(attention_mask, token_type_ids):
    # The whole batch is judged, since the second text of one pair may be empty. A graph cannot look at values.
    if torch.jit.is_tracing():
        return False
    mask = torch.ones_like(token_type_ids) if attention_mask is None else attention_mask
    return bool(mask.any()) and not (mask * token_type_ids).any()


def _is_loaded(parameter):
    # transformers marks what it read from a checkpoint, but what is written into a part of it here would go by that.
    return getattr(parameter, "_is_hf_initialized", False)

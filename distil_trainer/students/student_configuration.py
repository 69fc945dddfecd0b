"""What the configurations of the students have in common, and the checks of their settings."""

from transformers import PretrainedConfig

_DERIVED = ("hidden_sizes", "hidden_size", "num_hidden_layers", "num_attention_heads", "pooled_size")


class StudentConfig(PretrainedConfig):
    """What all students have in common that begin with a table of word vectors.

    The figures that describe the states of the network (`hidden_sizes`, `hidden_size`, `num_hidden_layers`,
    `num_attention_heads`, `pooled_size`) follow from the other settings and cannot be given. A subclass must have an
    `__init__` of its own: transformers 5 writes one for a class without, and this one would not be called.

    Args:
        vocab_size (`int`, *optional*, defaults to 30522): rows of the table.
        embedding_size (`int`, *optional*, defaults to 300): width of the word vectors.
        pad_token_id (`int`, *optional*, defaults to 0): the row of padding, which stays zero.
        type_vocab_size (`int`, *optional*, defaults to 1): 1 for a student of single texts; 2 for a siamese one of
            pairs, which encodes each text of a pair alone.
        freeze_embeddings (`bool`, *optional*, defaults to `False`): keep the word vectors as they are. Set them with
            `set_word_vectors`: frozen random vectors only hash the words.
        embedding_dropout (`float`, *optional*, defaults to 0.0): dropout of the word vectors.
        kwargs: those of `PretrainedConfig`, such as `id2label` and `problem_type`.

    Raises:
        ValueError: if a setting is out of range, or a derived figure is given.
    """

    reads_pairs = True

    def __init__(
        self,
        vocab_size=30522,
        embedding_size=300,
        pad_token_id=0,
        type_vocab_size=1,
        freeze_embeddings=False,
        embedding_dropout=0.0,
        **kwargs,
    ):
        if given := sorted(set(_DERIVED) & set(kwargs)):
            raise ValueError(
                f"{', '.join(f'{name}={kwargs[name]!r}' for name in given)}: {self.model_type} derives this from its "
                "other settings, and a second word on it could contradict the layers. Leave it out."
            )
        super().__init__(pad_token_id=pad_token_id, **kwargs)
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.type_vocab_size = type_vocab_size
        self.freeze_embeddings = freeze_embeddings
        self.embedding_dropout = embedding_dropout
        check_sizes(vocab_size=vocab_size, embedding_size=embedding_size)
        check_dropouts(embedding_dropout=embedding_dropout)
        if not isinstance(pad_token_id, int) or not 0 <= pad_token_id < vocab_size:
            raise ValueError(
                f"pad_token_id={pad_token_id!r} must be a token number from 0 to {vocab_size - 1} (vocab_size="
                f"{vocab_size}). Without it padding would be read as words wherever no attention mask is given: take "
                "the tokenizer's `pad_token_id`."
            )
        if type_vocab_size not in (1, 2):
            raise ValueError(
                f"type_vocab_size={type_vocab_size!r} must be 1 (single texts) or 2 (pairs): it counts the texts of a "
                "row, which token_type_ids tells apart."
            )
        if type_vocab_size == 2 and not self.reads_pairs:
            raise ValueError(
                f"type_vocab_size=2: {self.model_type} reads single texts only, and would read both texts of a pair "
                "as one. For pairs take bilstm, glove_cnn, embedding_bag or transformer_cnn."
            )

    @property
    def hidden_sizes(self):
        """Widths of the hidden states that are returned, the embedding output first (`list[int]`)."""
        raise NotImplementedError(f"{type(self).__name__} does not say the widths of its hidden states.")

    @property
    def hidden_size(self):
        """Width of the last hidden state (`int`)."""
        return self.hidden_sizes[-1]

    @property
    def num_hidden_layers(self):
        """Hidden states beyond the embedding output (`int`)."""
        return len(self.hidden_sizes) - 1

    @property
    def num_attention_heads(self):
        """0: no attention maps are returned (`int`)."""
        return 0

    @property
    def pooled_size(self):
        """Width of what the head reads: for pairs four times that of a text (`int`)."""
        return self.hidden_size if self.type_vocab_size == 1 else 4 * self.hidden_size


def check_sizes(**sizes):
    """Refuse what is not a whole number of at least 1.

    Args:
        sizes (`int`): the settings, by their names.

    Raises:
        ValueError: if one of them is something else.
    """
    for name, size in sizes.items():
        if not _is_integer(size) or size < 1:
            raise ValueError(f"{name}={size!r} must be a whole number of at least 1: it is the size of a layer.")


def check_dropouts(**dropouts):
    """Refuse what is not a probability below 1.

    Args:
        dropouts (`float`): the settings, by their names.

    Raises:
        ValueError: if one of them is something else.
    """
    for name, dropout in dropouts.items():
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise ValueError(
                f"{name}={dropout!r} must be a number of at least 0 and below 1: the share of values that is dropped. "
                "At 1 nothing would be left to learn from; 0 turns it off."
            )


def check_kernel_sizes(kernel_sizes):
    """Refuse what is not a list of window sizes.

    Args:
        kernel_sizes (`list[int]`): tokens in the window of each convolution.

    Raises:
        ValueError: if it is not a list, is empty, or holds anything but whole numbers of at least 1.
    """
    if not isinstance(kernel_sizes, (list, tuple)) or not kernel_sizes:
        raise ValueError(
            f"kernel_sizes={kernel_sizes!r} must be a list of at least one window size, such as [2, 3, 4]: without a "
            "convolution nothing of the text would reach the head."
        )
    for size in kernel_sizes:
        if not _is_integer(size) or size < 1:
            raise ValueError(
                f"kernel_sizes={kernel_sizes!r}: {size!r} must be a whole number of at least 1: the tokens in a "
                "window."
            )


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)

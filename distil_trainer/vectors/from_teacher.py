"""Word vectors distilled from the teacher: what it makes of each word alone, in fewer dimensions."""

import numpy as np
import torch
from tqdm.auto import tqdm

from distil_trainer.inference import forward_names, length_sorted_batches
from distil_trainer.input_checks import padding_side
from distil_trainer.vectors.surfaces import Surface, surfaces

# The standard deviation of an entry in GloVe's vectors of 300 numbers is about 0.4, in word2vec's about 0.15.
_ENTRY_STD = 0.3
_TOKENS_PER_BATCH = 2048
_SIZE = 300
# More than any word needs; a longer one is read to here.
_LONGEST_WORD = 64


def teacher_vectors(teacher, tokenizer, words, size=None, layers=(0, -1)):
    r"""Compute word vectors with a teacher.

    Each word is read as a text of its own. Its state is the mean of its tokens' states, special tokens left out, in
    the given layers side by side. States are centred, projected on their `size` principal components, each with the
    sign that makes its largest weight positive, and scaled so that an entry has the standard deviation 0.3: the mean
    norm is about $0.3 \sqrt{\text{size}}$, 5.2 for 300.

    Args:
        teacher (`PreTrainedModel`): an encoder, decoder, or encoder-decoder (its encoder is read), with a head or
            without; left on its device and in the mode it is in.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        words (`list[Surface]` of length `n`): the words.
        size (`int`, *optional*): below the number of words that the teacher's tokenizer knows, and at most the width
            of the states. Default: 300, or the largest below.
        layers (`tuple[int, ...]`, *optional*, defaults to `(0, -1)`): hidden states to read; 0 is the embedding
            output, -1 the last layer.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: float32 of shape `(n, size)`, and bool of shape `(n,)`: of which words the
        teacher's tokenizer knows any part. The rows of others are 0.

    Raises:
        ValueError: if `size` or `layers` does not fit, the tokenizer cannot pad, or the teacher gives no state for
            each token, the same for all words, or NaN.

    Reference:
        The idea of reading a vocabulary through a model and reducing it by principal components is that of Model2Vec,
        https://github.com/MinishLab/model2vec. Here the model is the fine-tuned classifier, the words are those of
        the training texts, and special tokens are left out of the mean.
    """
    states, is_known = _word_states(teacher, tokenizer, words, layers)
    known = int(is_known.sum())
    # Centring takes one component.
    largest = max(1, min(known - 1, states.shape[1]))
    if size is not None and known and size > largest:
        raise ValueError(
            f"size={size}, but {known} words that the teacher knows (of {len(words)}), with states of "
            f"{states.shape[1]} numbers ({len(layers)} layer(s)), have at most {largest} principal components beside "
            f"their mean. Give size={largest} or less, as the student's embedding_size, or more words or layers."
        )
    vectors = np.zeros((len(words), size or min(_SIZE, largest)), dtype=np.float32)
    if known:
        vectors[is_known] = _scaled(_principal_components(states[is_known], vectors.shape[1]))
    return vectors, is_known


def check_teacher_states(teacher, tokenizer, size, layers=(0, -1)):
    """Refuse a teacher whose states cannot become word vectors of a width, after reading one word.

    Args:
        teacher, tokenizer, layers: see [`teacher_vectors`].
        size (`int`): the width that is needed.

    Raises:
        ValueError: if the states are narrower than `size`, or as in [`teacher_vectors`].
    """
    states, _ = _word_states(teacher, tokenizer, [Surface("a", True)], layers)
    if size > states.shape[1]:
        raise ValueError(
            f"size={size}, but the states of this {type(teacher).__name__} have {states.shape[1]} numbers "
            f"({len(layers)} layer(s)), and so no more principal components. Give size={states.shape[1]} or less, as "
            "the student's embedding_size; fewer words than that lower it further."
        )


def words_of_tokenizer(tokenizer):
    """Yield the tokens that begin a word (`str`), in the order of their numbers, special tokens left out."""
    special = set(tokenizer.all_special_ids)
    for number, surface in enumerate(surfaces(tokenizer)):
        if surface.begins_word and number not in special:
            yield surface.text


def frequency_weights(counts, sif):
    """Weigh words by how rare they are: `sif / (sif + p)`, with `p` the share of a word in all words of the texts.

    Args:
        counts (`np.ndarray` of shape `(n,)`): how often each word occurs.
        sif (`float`): above 0; words of this share weigh a half. The paper finds 1e-4 to 1e-3 best.

    Returns:
        `np.ndarray` of shape `(n,)`, in (0, 1].

    Reference:
        Arora et al. 2017, https://openreview.net/forum?id=SyK00v5xx, algorithm 1, line 2. The first principal
        component is not removed: a student that sees the vectors can learn to ignore it.
    """
    return sif / (sif + counts / counts.sum())


def _word_states(teacher, tokenizer, words, layers):
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "The teacher's tokenizer has no padding token, so words of different lengths cannot share a batch. Set "
            "one the model knows, e.g. `tokenizer.pad_token = tokenizer.eos_token`."
        )
    # The body alone: heads ask for more than words (BART's for an end token), and decoders would run for nothing.
    model = teacher.base_model
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    names = forward_names(model)
    side = padding_side(teacher.config)
    # With a space before it, a word is read as within a text where spaces are part of tokens (RoBERTa).
    texts = [f" {word.text}" if word.begins_word else word.text for word in words]
    max_length = min(_LONGEST_WORD, tokenizer.model_max_length)
    lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]])
    is_known = np.zeros(len(words), dtype=bool)
    states = None
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with (
            tqdm(total=len(words), desc="Word vectors", unit=" words", delay=1.0) as bar,
            torch.inference_mode(),
        ):
            # Words without any token are not read; they are unknown.
            for rows in length_sorted_batches(lengths, _TOKENS_PER_BATCH):
                rows = rows[lengths[rows] > 0]
                if not len(rows):
                    continue
                batch = tokenizer(
                    [texts[row] for row in rows],
                    truncation=True,
                    max_length=max_length,
                    padding=True,
                    padding_side=side,
                    return_special_tokens_mask=True,
                    return_attention_mask=True,
                    return_tensors="pt",
                )
                is_word = (batch["attention_mask"] == 1) & (batch["special_tokens_mask"] == 0)
                if tokenizer.unk_token_id is not None:
                    is_word &= batch["input_ids"] != tokenizer.unk_token_id
                given = {name: value.to(model.device) for name, value in batch.items() if name in names}
                outputs = model(**given, output_hidden_states=True, return_dict=True)
                mean = _mean_state(outputs, is_word, layers, teacher)
                if states is None:
                    states = np.zeros((len(words), mean.shape[1]), dtype=np.float32)
                states[rows] = mean
                is_known[rows] = is_word.any(dim=1).numpy()
                bar.update(len(rows))
    finally:
        for module, mode in modes.items():
            module.training = mode
    if states is None or not np.isfinite(states).all():
        fault = "no word makes a token" if states is None else "a state is NaN or infinite"
        raise ValueError(
            f"No word vectors can be distilled from this {type(teacher).__name__}: {fault}. Give its own tokenizer, "
            "and load it with dtype=torch.float32."
        )
    return states, is_known


def _mean_state(outputs, is_word, layers, teacher):
    hidden_states = outputs.get("hidden_states") or ()
    if any(state.shape[:2] != is_word.shape for state in hidden_states) or not hidden_states:
        raise ValueError(
            f"{type(teacher).__name__} does not return hidden states with one vector for each token, of which word "
            "vectors are made. Give another teacher, or a file of word vectors."
        )
    count = len(hidden_states)
    if not layers or any(not -count <= layer < count for layer in layers):
        raise ValueError(
            f"layers={layers} must name hidden states of {type(teacher).__name__}, which has 0 (embeddings) to "
            f"{count - 1}; -1 is the last."
        )
    mask = is_word.to(hidden_states[0].device).unsqueeze(-1)
    chosen = torch.cat([hidden_states[layer].float() for layer in layers], dim=-1)
    return (chosen.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).cpu().numpy()


def _principal_components(states, size):
    centred = states.astype(np.float64) - states.mean(axis=0, dtype=np.float64)
    # Of the covariance, because it is small however many words there are.
    _, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, : -size - 1 : -1]
    largest = np.abs(directions).argmax(axis=0)
    return centred @ (directions * np.sign(directions[largest, np.arange(size)]))


def _scaled(vectors):
    std = np.sqrt((vectors**2).mean())
    if std < 1e-9:
        raise ValueError(
            f"The teacher makes the same of all {len(vectors)} words that it knows, so their vectors would say "
            "nothing. Its weights, or its tokenizer, are not those it was trained with: load both from one folder."
        )
    return vectors * (_ENTRY_STD / std)

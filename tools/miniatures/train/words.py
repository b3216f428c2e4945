"""The two tokenizers: every word of the little language is one token, every other text still has tokens of its own."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from tools.miniatures.train.pictures import COLOURS, FILLERS, PLACES, SHAPES, SIZES

LITTLE = ("a", "an", "at", "the", "on", "background", "and")
WORDS = tuple(dict.fromkeys([*SHAPES, *COLOURS, *SIZES, *PLACES, *LITTLE, *FILLERS]))
CLIP_LENGTH = 40
T5_LENGTH = 32


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding whose merges are learnt from the word list alone, until each word is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters += [letter + "</w>" for letter in letters]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # Named as special, each letter has its place from the start. The trainer itself would give word ends theirs as it
    # meets them, another time another, and merge what is equally frequent in that order.
    trainer = trainers.BpeTrainer(
        vocab_size=5000, end_of_word_suffix="</w>", special_tokens=letters, show_progress=False
    )
    learner.train_from_iterator([[word] for word in WORDS], trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = letters + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)


def t5_tokenizer() -> T5Tokenizer:
    """A unigram model: the words, also capitalised (T5 does not lowercase), then single characters far less likely."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [("▁" + word, -2.0) for word in dict.fromkeys([*WORDS, *(word.capitalize() for word in WORDS)])]
    pieces += [(chr(code), -8.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)

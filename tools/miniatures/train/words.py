"""The two tokenizers. Every word of the captions is one token; any other text is split into smaller tokens."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from tools.miniatures.train.pictures import COLOURS, FILLERS, PLACES, SHAPES, SIZES

LITTLE = ("a", "an", "at", "the", "on", "background", "and")
WORDS = tuple(dict.fromkeys([*SHAPES, *COLOURS, *SIZES, *PLACES, *LITTLE, *FILLERS]))
CLIP_LENGTH = 40
T5_LENGTH = 32


def clip_tokenizer() -> CLIPTokenizer:
    """A byte-pair encoding. Its merges are trained on the word list alone, until each word is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters += [letter + "</w>" for letter in letters]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # As special tokens, the letters have fixed ids. The trainer itself would give ids to letters at word ends in the
    # order in which it finds them, which varies between runs, and would break ties between merges by these ids.
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
    """A unigram model of the words, also capitalised (T5 does not lowercase), and of less likely single characters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [("▁" + word, -2.0) for word in dict.fromkeys([*WORDS, *(word.capitalize() for word in WORDS)])]
    pieces += [(chr(code), -8.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)

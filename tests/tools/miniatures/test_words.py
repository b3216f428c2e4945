"""Both tokenizers, as they are after saving and loading."""

from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer, T5Tokenizer

from tools.miniatures.train.words import CLIP_LENGTH, T5_LENGTH, WORDS, clip_tokenizer, t5_tokenizer

LONGEST = "a medium orange triangle at the bottom and a medium purple triangle at the top on an orange background"


@pytest.fixture(scope="module", params=["clip", "t5"])
def reloaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The tokenizer as made, and as a pipeline loads it."""
    made: Any = clip_tokenizer() if request.param == "clip" else t5_tokenizer()
    folder: Path = tmp_path_factory.mktemp(request.param)
    made.save_pretrained(folder)
    return made, (CLIPTokenizer if request.param == "clip" else T5Tokenizer).from_pretrained(folder)


def test_every_word_of_the_language_is_one_token(reloaded: tuple[Any, Any]) -> None:
    for word in WORDS:
        assert len(reloaded[1](word, add_special_tokens=False).input_ids) == 1


def test_saving_and_loading_changes_nothing(reloaded: tuple[Any, Any]) -> None:
    made, loaded = reloaded
    for text in (LONGEST, "A Red circle, please!", "Zebra über 42 ☃", ""):
        assert made(text).input_ids == loaded(text).input_ids
    assert (made.pad_token_id, made.eos_token_id, made.model_max_length) == (
        loaded.pad_token_id,
        loaded.eos_token_id,
        loaded.model_max_length,
    )


def test_a_tokenizer_made_again_gives_a_word_the_same_tokens() -> None:
    first, *others = [clip_tokenizer().get_vocab() for _ in range(8)]
    assert others == [first] * 7


def test_text_comes_back_out(reloaded: tuple[Any, Any]) -> None:
    assert reloaded[1].decode(reloaded[1](LONGEST).input_ids, skip_special_tokens=True).strip() == LONGEST


def test_the_longest_caption_is_not_cut(reloaded: tuple[Any, Any]) -> None:
    assert len(reloaded[1](LONGEST).input_ids) <= min(CLIP_LENGTH, T5_LENGTH)


def test_unknown_words_never_end_the_text_early(reloaded: tuple[Any, Any]) -> None:
    tokenizer = reloaded[1]
    for text in ("zebra", "Żółw 日本 😀", "x7$~"):
        ids = tokenizer(text).input_ids
        assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id

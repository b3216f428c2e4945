"""The names in a caption, which are the training targets of the text encoders."""

import random

from tools.miniatures.train.pictures import COLOURS, PLACES, SHAPES, SIZES, caption, random_scenes
from tools.miniatures.train.reader import caption_labels


def test_a_plain_caption_names_everything() -> None:
    names = caption_labels("a small red circle at the left on a blue background")
    assert names[0] == 1 + COLOURS.index("blue")
    assert names[1:5] == [
        1 + SHAPES.index("circle"),
        1 + COLOURS.index("red"),
        1 + tuple(SIZES).index("small"),
        1 + tuple(PLACES).index("left"),
    ]
    assert names[5:] == [0, 0, 0, 0]


def test_a_word_that_is_missing_names_nothing() -> None:
    assert caption_labels("") == [0] * 9
    assert caption_labels("Nice a ring") == [0, 1 + SHAPES.index("ring"), 0, 0, 0, 0, 0, 0, 0]


def test_every_caption_is_read_as_the_scene_is() -> None:
    scenes = random_scenes(200, 3, pairs=0.5)
    for i in range(200):
        names = caption_labels(caption(scenes, i, random.Random(i)))
        assert names[0] in (0, 1 + int(scenes.background[i]))
        for k in range(int(scenes.count[i])):
            shape, colour, size, place = names[1 + 4 * k : 5 + 4 * k]
            assert shape in (0, 1 + int(scenes.shape[i, k]))
            assert colour in (0, 1 + int(scenes.colour[i, k]))
            assert size in (0, 1 + int(scenes.size[i, k]))
            assert place in (0, 1 + int(scenes.place[i, k]))

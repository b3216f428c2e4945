"""The names in a caption, which are the training targets of the text encoders."""

import random

from tools.miniatures.train.pictures import COLOURS, PLACES, SHAPES, SIZES, caption, draw_lots
from tools.miniatures.train.reader import named


def test_a_plain_caption_names_everything() -> None:
    names = named("a small red circle at the left on a blue background")
    assert names[0] == 1 + COLOURS.index("blue")
    assert names[1:5] == [
        1 + SHAPES.index("circle"),
        1 + COLOURS.index("red"),
        1 + tuple(SIZES).index("small"),
        1 + tuple(PLACES).index("left"),
    ]
    assert names[5:] == [0, 0, 0, 0]


def test_a_word_that_is_missing_names_nothing() -> None:
    assert named("") == [0] * 9
    assert named("Nice a ring") == [0, 1 + SHAPES.index("ring"), 0, 0, 0, 0, 0, 0, 0]


def test_every_caption_is_read_as_the_scene_is() -> None:
    scenes = draw_lots(200, 3, pairs=0.5)
    for i in range(200):
        names = named(caption(scenes, i, random.Random(i)))
        assert names[0] in (0, 1 + int(scenes.background[i]))
        for k in range(int(scenes.count[i])):
            shape, colour, size, place = names[1 + 4 * k : 5 + 4 * k]
            assert shape in (0, 1 + int(scenes.shape[i, k]))
            assert colour in (0, 1 + int(scenes.colour[i, k]))
            assert size in (0, 1 + int(scenes.size[i, k]))
            assert place in (0, 1 + int(scenes.place[i, k]))

"""The generated pictures that the miniatures are trained on."""

import random

import torch

from tools.miniatures.train.pictures import COLOURS, PALETTE, SHAPES, SIDE, caption, is_held_out, random_scenes, render


def test_the_same_seed_draws_the_same_pictures() -> None:
    assert torch.equal(render(random_scenes(8, 3, pairs=0.5)), render(random_scenes(8, 3, pairs=0.5)))


def test_a_picture_has_the_colours_its_caption_names() -> None:
    scenes = random_scenes(40, 1)
    pictures = render(scenes)
    for i, picture in enumerate(pictures):
        words = caption(scenes, i, random.Random(0), full=True).split()
        background, colour = words[-2], next(word for word in words if word in COLOURS)
        corner = (picture[:, 0, 0] + 1) * 127.5
        assert torch.allclose(corner, torch.tensor(PALETTE[background], dtype=torch.float32), atol=1)
        painted = torch.tensor(PALETTE[colour], dtype=torch.float32) / 127.5 - 1
        assert (picture - painted[:, None, None]).abs().amax(0).min() < 0.02


def test_edges_are_anti_aliased() -> None:
    scenes = random_scenes(20, 2)
    pictures = render(scenes)
    for i in range(20):
        assert len(pictures[i].flatten(1).unique(dim=1).T) > 5


def test_every_shape_fits_into_the_picture() -> None:
    scenes = random_scenes(600, 4, held_out=None)
    pictures = render(scenes)
    corners = pictures[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.allclose(corners, corners[:, :, :1].expand_as(corners), atol=0.02)


def test_held_out_combinations_are_never_trained_on_and_always_measured() -> None:
    for held_out in (False, True):
        scenes = random_scenes(300, 5, held_out=held_out)
        combinations = zip(
            scenes.shape[:, 0].tolist(), scenes.colour[:, 0].tolist(), scenes.background.tolist(), strict=True
        )
        assert {is_held_out(*combination) for combination in combinations} == {held_out}


def test_a_full_caption_follows_the_grammar() -> None:
    scenes = random_scenes(200, 6, pairs=0.5)
    for i in range(200):
        text = caption(scenes, i, random.Random(i), full=True)
        assert text.startswith("a ") and text.endswith(" background")
        assert sum(word in SHAPES for word in text.split()) == int(scenes.count[i])
        assert (" and " in text) == (int(scenes.count[i]) == 2)
        assert "a orange" not in text


def test_loose_captions_leave_parts_out_and_add_words() -> None:
    scenes = random_scenes(1, 7)
    texts = {caption(scenes, 0, random.Random(i)) for i in range(200)}
    assert len(texts) > 60
    assert any("background" not in text for text in texts)


def test_outline_keeps_only_contours_and_night_darkens_the_ground() -> None:
    scenes = random_scenes(100, 8)
    plain, outlined, night = render(scenes), render(scenes, outline=True), render(scenes, night=True)
    ground = plain[:, :, :1, :1]
    filled = [((p - ground).abs().amax(1) > 0.1).float().mean() for p in (plain, outlined)]
    assert filled[1] < 0.75 * filled[0]
    assert night[:, :, 0, 0].mean() < -0.8
    assert plain.shape == (100, 3, SIDE, SIDE)

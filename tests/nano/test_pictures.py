"""Pictures to train on show what they say, in their style, and nothing that is held out."""

from collections import Counter

import pytest

from diptych.nano.pictures import STYLES, Style, draw_examples
from diptych.nano.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, caption, held_out_scenes
from diptych.nano.scorer import look


@pytest.mark.parametrize("style", STYLES)
def test_the_same_seed_draws_the_same(style: Style) -> None:
    one, other = (draw_examples(style, count=3, seed=2) for _ in range(2))
    assert [example.text for example in one] == [example.text for example in other]
    assert all(a.picture.tobytes() == b.picture.tobytes() for a, b in zip(one, other, strict=True))


def test_plain_pictures_show_what_they_say() -> None:
    for example in draw_examples("plain", count=8):
        seen = look(example.picture)
        assert {seen.shape, seen.colour, seen.background} <= set(
            example.text.replace(",", "").split()
        )


def test_night_lies_over_every_picture() -> None:
    skies = [look(example.picture) for example in draw_examples("night", count=12)]
    assert {(one.background, one.texture) for one in skies} == {("black", "dotted")}


@pytest.mark.parametrize("style", STYLES)
def test_nothing_that_is_held_out_is_drawn(style: Style) -> None:
    texts = {example.text for example in draw_examples(style, count=200)}
    held_out = {caption(one, form) for one in held_out_scenes(300) for form in range(4)}
    assert not texts & held_out


@pytest.mark.parametrize("style", STYLES)
def test_a_dozen_pictures_show_every_word_about_as_often(style: Style) -> None:
    scenes = " ".join(example.text for example in draw_examples(style, count=12)).replace(",", "")
    told = Counter(scenes.split())
    assert {told[word] for word in (*SHAPES, *COLOURS)} == {2}
    assert {told[word] for word in SIZES} == {6}
    assert {told[word] for word in BACKGROUNDS} <= {1, 2, 3}


def test_hundreds_of_pictures_repeat_no_pattern() -> None:
    texts = [example.text for example in draw_examples("plain", count=400)]
    assert len(set(texts)) > 390


def test_every_phrasing_is_a_line_and_the_pictures_stay() -> None:
    (one,), (four,) = (draw_examples("night", count=1, num_phrasings=num) for num in (1, 4))
    lines = four.text.splitlines()
    assert (lines[0], len(set(lines))) == (one.text, 4)
    assert one.picture.tobytes() == four.picture.tobytes()

"""Pictures with captions to train on, drawn here: scenes as they are, or in a style of their own.

None shows a scene that is held out, so that what a fine-tune learnt can be judged on those.
"""

import random
from typing import Final, Literal

from diptych.nano.lessons import Example, under_stars
from diptych.nano.scenes import caption, is_held_out, render, sample_scene

__all__ = ["STYLES", "Style", "draw_examples"]

Style = Literal["plain", "night"]
STYLES: Final[tuple[Style, ...]] = ("plain", "night")
"""``night`` puts every scene under a starry sky, whatever background its caption asks for."""
NUM_WHOLE_CAPTIONS: Final = 4
"""Of a caption's phrasings those that leave nothing out come first."""


def draw_examples(style: Style, *, count: int, seed: int = 0) -> list[Example]:
    """Return ``count`` pictures, 128 x 128 RGB, and what they are said to show."""
    rng = random.Random(seed)  # noqa: S311 - pictures, no secrets
    examples: list[Example] = []
    while len(examples) < count:
        scene = sample_scene(rng)
        if is_held_out(scene):
            continue
        shown = under_stars(scene) if style == "night" else scene
        text = caption(scene, rng.randrange(NUM_WHOLE_CAPTIONS))
        examples.append(Example(picture=render(shown, rng), text=text))
    return examples

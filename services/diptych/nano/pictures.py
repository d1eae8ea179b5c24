"""Pictures with captions to train on, drawn here: scenes as they are, or in a style of their own.

None shows a scene that is held out, so that what a fine-tune learnt can be judged on those. However
few there are, each word comes about as often as the others: a dozen pictures that lie at the bottom
teach that as well.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, Literal

from diptych.nano.lessons import Example, under_stars
from diptych.nano.scenes import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    caption,
    is_held_out,
    render,
)

__all__ = ["NUM_WHOLE_CAPTIONS", "STYLES", "Style", "draw_examples"]

Style = Literal["plain", "night"]
STYLES: Final[tuple[Style, ...]] = ("plain", "night")
"""``night`` puts every scene under a starry sky, whatever background its caption asks for."""
NUM_WHOLE_CAPTIONS: Final = 4
"""Of a caption's phrasings those that leave nothing out come first."""


def draw_examples(
    style: Style, *, count: int, seed: int = 0, num_phrasings: int = 1
) -> list[Example]:
    """Return ``count`` pictures, 128 x 128 RGB, and what they are said to show.

    ``num_phrasings``, up to ``NUM_WHOLE_CAPTIONS``, is how many captions each has, a line each.
    """
    rng = random.Random(seed)  # noqa: S311 - pictures, no secrets
    examples = []
    for scene in islice(_even_scenes(rng), count):
        shown = under_stars(scene) if style == "night" else scene
        first = rng.randrange(NUM_WHOLE_CAPTIONS)
        forms = ((first + more) % NUM_WHOLE_CAPTIONS for more in range(num_phrasings))
        text = "\n".join(caption(scene, form) for form in forms)
        examples.append(Example(picture=render(shown, rng), text=text))
    return examples


def _even_scenes(rng: random.Random) -> Iterator[Scene]:
    """Yield scenes, each of the words that came least often so far, none of them held out."""
    told: Counter[str] = Counter()
    while True:
        scene = Scene(
            shape=_rarest(SHAPES, told, rng),
            colour=_rarest(list(COLOURS), told, rng),
            size=_rarest(list(SIZES), told, rng),
            place=_rarest(list(PLACES), told, rng),
            background=_rarest(list(BACKGROUNDS), told, rng),
            texture=_rarest(TEXTURES, told, rng),
        )
        while is_held_out(scene):
            background, texture = rng.choice(list(BACKGROUNDS)), rng.choice(TEXTURES)
            scene = replace(scene, background=background, texture=texture)
        told.update((scene.shape, scene.colour, scene.size))
        told.update((scene.place, scene.background, scene.texture))
        yield scene


def _rarest(words: Sequence[str], told: Counter[str], rng: random.Random) -> str:
    """Return one of the words that came least often; no word is in two tables."""
    fewest = min(told[word] for word in words)
    return rng.choice([word for word in words if told[word] == fewest])

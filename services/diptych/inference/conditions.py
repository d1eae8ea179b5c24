"""From the prompts of many requests to what each expert is told, in as few calls as possible."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from diptych.errors import DiptychError, InvalidRequest, PromptTooLong
from diptych.inference.cached_texts import encode_texts
from diptych.inference.prompt_cache import PromptCache
from diptych.inference.routing import stages_of
from diptych.inference.trajectory import Expert, ImageRequest, StageSettings
from diptych.models.experts import Expert as LoadedExpert
from diptych.models.text_encoders import (
    PromptEmbeds,
    PromptRow,
    TextEncoder,
    TextEncoders,
    TextVariant,
)

__all__ = ["Adapted", "Conditions", "RequestConditions", "encode_requests", "gather_conditions"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditions:
    """What one expert is told, row by row; of a whole batch, or of one image.

    Of an image, row 0 is with the prompt; row 1, with the negative one, is there if guidance is.
    """

    hidden: Tensor
    """[R, T, D]"""
    pooled: Tensor
    """[R, P]"""
    time_ids: Tensor
    """[R, 5 or 6] float32"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestConditions:
    """What each expert is told about every image of one request."""

    by_expert: Mapping[Expert, Conditions]
    num_texts_encoded: int = 0
    """Texts that the encoders read for it, each expert's for itself."""
    num_texts_cached: int = 0
    """Texts that were embedded before."""

    @property
    def text_lengths(self) -> Mapping[Expert, int]:
        """Return the number of text tokens each expert attends to."""
        return {expert: found.hidden.shape[1] for expert, found in self.by_expert.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """One expert's texts in one request: the prompt and, with guidance, the negative one."""

    request: int
    expert: Expert
    settings: StageSettings
    rows: tuple[PromptRow, ...]


class Adapted(Protocol):
    """What adapters make of texts."""

    def text_variant(self, request: ImageRequest, expert: Expert) -> TextVariant | None:
        """Return what they make of one request's texts; raise InvalidRequest where unclear."""

    def using(
        self, encoder: TextEncoder, variants: Sequence[TextVariant | None]
    ) -> AbstractContextManager[None]:
        """Let the rows of one call of an encoder use their variants' weights."""


@torch.inference_mode()
def encode_requests(
    requests: Sequence[ImageRequest],
    experts: Mapping[Expert, LoadedExpert],
    adapted: Adapted | None = None,
    prompts: PromptCache | None = None,
) -> list[RequestConditions | DiptychError]:
    """Return the conditions of each request, or why it has none.

    Stages that share their text encoders are encoded in one call, which computes equal texts
    once, and none that ``prompts`` has.
    """
    stages: list[_Stage] = []
    errors: dict[int, DiptychError] = {}
    for index, request in enumerate(requests):
        too_long: dict[str | None, PromptTooLong] = {}
        try:
            stages += [
                _plan_stage(
                    request,
                    index,
                    expert=expert,
                    text=experts[expert].text,
                    too_long=too_long,
                    variant=_variant(adapted, request, expert),
                )
                for expert in stages_of(request)
            ]
        except InvalidRequest as unclear:
            errors[index] = unclear
        if too_long:
            errors[index] = PromptTooLong.all_of(list(too_long.values()))
    stages = [stage for stage in stages if stage.request not in errors]
    found: list[dict[Expert, Conditions]] = [{} for _ in requests]
    counts: list[Counter[bool]] = [Counter() for _ in requests]
    for text in {id(expert.text): expert.text for expert in experts.values()}.values():
        served = [stage for stage in stages if experts[stage.expert].text is text]
        rows = [row for stage in served for row in stage.rows]
        using = None if adapted is None else adapted.using
        encoded = iter(encode_texts(text, rows, using, prompts) if rows else ())
        for stage in served:
            own = [next(encoded) for _ in stage.rows]
            counts[stage.request].update(row.is_cached for row in own)
            request = requests[stage.request]
            time_ids = _time_ids(request, stage, experts[stage.expert])
            found[stage.request][stage.expert] = _stack([row.embeds for row in own], time_ids)
    return [
        errors.get(index)
        or RequestConditions(
            by_expert=found[index],
            num_texts_encoded=counts[index][False],
            num_texts_cached=counts[index][True],
        )
        for index in range(len(requests))
    ]


def gather_conditions(images: Sequence[Conditions], guided: Sequence[int]) -> Conditions:
    """Return the rows of a tick: every image with its prompt, then ``guided`` ones without."""
    rows = [(image, 0) for image in images] + [(images[index], 1) for index in guided]
    return Conditions(
        hidden=torch.stack([image.hidden[row] for image, row in rows]),
        pooled=torch.stack([image.pooled[row] for image, row in rows]),
        time_ids=torch.stack([image.time_ids[row] for image, row in rows]),
    )


def _plan_stage(
    request: ImageRequest,
    index: int,
    *,
    expert: Expert,
    text: TextEncoders,
    too_long: dict[str | None, PromptTooLong],
    variant: TextVariant | None,
) -> _Stage:
    """Return a stage whose texts fill the same number of windows.

    A text that is too long, where the request says not to cut it, is added to ``too_long``; of
    experts that read the same one, the first names it.
    """
    settings = stages_of(request)[expert]
    texts: list[tuple[str, str | None]] = [("prompt", settings.prompt)]
    if settings.guidance_scale > 1.0:
        texts.append(("negative_prompt", settings.negative_prompt))
    rows = [
        PromptRow(
            text=value,
            field=f"{expert}.{name}",
            long_prompt=request.long_prompt.value,
            variant=variant,
        )
        for name, value in texts
    ]
    num_windows = 1
    for row in rows:
        try:
            num_windows = max(num_windows, text.num_windows(row))
        except PromptTooLong as error:
            too_long.setdefault(row.text, error)
    return _Stage(
        request=index,
        expert=expert,
        settings=settings,
        rows=tuple(replace(row, min_windows=num_windows) for row in rows),
    )


def _variant(adapted: Adapted | None, request: ImageRequest, expert: Expert) -> TextVariant | None:
    if adapted is None or not request.adapters:
        return None
    return adapted.text_variant(request, expert)


def _time_ids(
    request: ImageRequest, stage: _Stage, expert: LoadedExpert
) -> list[tuple[float, ...]]:
    """Return the micro-conditions of a stage's rows; only the aesthetic score tells them apart."""
    size = (request.height, request.width)
    scores = (stage.settings.aesthetic_score, stage.settings.negative_aesthetic_score)
    return [
        expert.family.time_ids(
            original_size=request.original_size or size,
            crop_top_left=request.crop_top_left,
            target_size=request.target_size or size,
            aesthetic_score=score,
        )
        for score in scores[: len(stage.rows)]
    ]


def _stack(embeds: Sequence[PromptEmbeds], time_ids: list[tuple[float, ...]]) -> Conditions:
    hidden = torch.cat([row.hidden for row in embeds])
    return Conditions(
        hidden=hidden,
        pooled=torch.cat([row.pooled for row in embeds]),
        time_ids=torch.tensor(time_ids, dtype=torch.float32, device=hidden.device),
    )

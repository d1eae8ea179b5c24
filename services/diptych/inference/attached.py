"""The adapters on one device: banks beside the experts' networks, and who uses which lines."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from diptych.adapters.adapter import Adapter, LearnedToken
from diptych.adapters.bank import Bank, Packed
from diptych.adapters.binding import ScaledAdapter, bind, updates_of
from diptych.adapters.injection import inject
from diptych.adapters.naming import Component, Stage
from diptych.adapters.row_lines import Lines, RowUses
from diptych.adapters.scales import BlockLayout, scale_by_module
from diptych.errors import FieldViolation, InvalidRequest
from diptych.inference.adapter_units import Unit, scale_on, unit_name, unit_of, units_of
from diptych.inference.ports import Prepared
from diptych.inference.routing import stages_of
from diptych.inference.trajectory import AdapterUse, Expert, ImageRequest
from diptych.models.experts import Expert as LoadedExpert
from diptych.models.text_encoders import TextEncoder, TextVariant

__all__ = ["AttachedAdapters"]

Network = tuple[Expert, str]
"""An expert's ``unet``, ``text_encoder`` or ``text_encoder_2``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Bound:
    """A unit in host memory."""

    packed: Mapping[Network, Packed]
    adapters: tuple[Adapter, ...]
    """Without their targets, by the order of the unit's members: stages and tokens."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Resident:
    """A unit on the device."""

    lines: Mapping[Network, Lines]
    adapters: tuple[Adapter, ...]


class AttachedAdapters:
    """Owns the banks of the experts' networks.

    ``bind`` is safe on any thread; all else belongs to the engine's.
    """

    def __init__(self, experts: Mapping[Expert, LoadedExpert], *, num_lines: int) -> None:
        self._banks: dict[Network, Bank] = {}
        self._text_banks: dict[TextEncoder, Bank] = {}
        self._layouts: dict[Expert, BlockLayout] = {}
        self._resident: dict[Unit, _Resident] = {}
        self._stream: torch.cuda.Stream | None = None
        for expert, loaded in experts.items():
            if loaded.unet.device.type == "cuda":
                self._stream = torch.cuda.Stream(loaded.unet.device)  # type: ignore[no-untyped-call]
            # Line 0 of a bank is never written.
            self._banks[expert, "unet"] = inject(loaded.unet.module, num_lines=num_lines + 1)
            self._layouts[expert] = BlockLayout.from_names(self.bank(expert).layers)
            for encoder in loaded.text.encoders:
                if encoder not in self._text_banks:
                    # An encoder may serve two experts, at two scales.
                    lines = len(experts) * num_lines + 1
                    self._text_banks[encoder] = _inject_text(encoder, lines)
                self._banks[expert, encoder.name] = self._text_banks[encoder]

    def bank(self, expert: Expert) -> Bank:
        """Return the bank of an expert's UNet."""
        return self._banks[expert, "unet"]

    def bind(self, uses: Sequence[AdapterUse], adapters: Sequence[Adapter]) -> Prepared:
        """Return the adapters of one unit in the banks' own format.

        Raises:
            AdapterMismatch: One has a layer that an expert it is for has not, or of another shape.
            AdapterInvalid: Their updates are not finite in a network's dtype.
            InvalidRequest: Their ranks or norms cannot be combined.
        """
        packed: dict[Network, Packed] = {}
        for (expert, part), bank in self._banks.items():
            scaled = [
                self._scaled(use, adapter, (expert, part))
                for use, adapter in zip(uses, adapters, strict=True)
            ]
            with self._beside_ticks():
                branches = bind(scaled, partial(_weight_of, bank))
            if branches:
                packed[expert, part] = bank.pack(
                    {_own(bank, module): branch for module, branch in branches.items()},
                    source=", ".join(use.name for use in uses),
                )
        kept = tuple(map(_without_targets, adapters))
        token_bytes = sum(map(_token_bytes, kept))
        return Prepared(
            num_lines=max((own.num_lines for own in packed.values()), default=0),
            size_bytes=token_bytes + sum(own.size_bytes for own in packed.values()),
            value=_Bound(packed=MappingProxyType(packed), adapters=kept),
            token_bytes=token_bytes,
        )

    def attach(self, unit: Unit, prepared: Prepared) -> None:
        """Write a unit's lines, all or none."""
        bound = prepared.value
        assert isinstance(bound, _Bound)
        lines: dict[Network, Lines] = {}
        try:
            for network, packed in bound.packed.items():
                lines[network] = self._banks[network].write(packed)
        except BaseException:
            self._free(lines)
            raise
        self._resident[unit] = _Resident(lines=MappingProxyType(lines), adapters=bound.adapters)

    def detach(self, unit: Unit) -> None:
        """Free a unit's lines."""
        self._free(self._resident.pop(unit).lines)

    def unet_uses(self, request: ImageRequest, expert: Expert) -> RowUses:
        """Return the lines that images of ``request`` use in an expert's UNet."""
        return self._uses(request, expert, "unet")

    def text_variant(self, request: ImageRequest, expert: Expert) -> TextVariant | None:
        """Return what the adapters of ``request`` make of its texts, None for nothing.

        Raises:
            InvalidRequest: Two of them have a token of the same text, and a prompt has it.
        """
        parts = [part for owner, part in self._banks if owner is expert and part != "unet"]
        weights = {part: self._uses(request, expert, part) for part in parts}
        tokens = self._tokens(request, expert)
        if not tokens and not any(weights.values()):
            return None
        by_encoder = {
            part: {text: found[part] for text, found in tokens.items() if part in found}
            for part in parts
        }
        return TextVariant(
            tokens=by_encoder, weights=weights, identity=self._identity(request, expert, parts)
        )

    def using(
        self, encoder: TextEncoder, variants: Sequence[TextVariant | None]
    ) -> AbstractContextManager[None]:
        """Let the rows of one call of ``encoder`` use their variants' lines."""
        bank = self._text_banks[encoder]
        rows: list[RowUses] = []
        for variant in variants:
            weights = {} if variant is None else variant.weights
            assert isinstance(weights, dict)
            rows.append(weights.get(encoder.name, ()))
        return bank.using(bank.select(rows))

    def _beside_ticks(self) -> AbstractContextManager[object]:
        """Return a context whose work on a device does not wait for ticks; weights never change."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _scaled(self, use: AdapterUse, adapter: Adapter, network: Network) -> ScaledAdapter:
        """Return an adapter's part for one network at the scale that its copy holds."""
        expert, part = network
        component, stage = Component(part), Stage(str(expert))
        (member,) = unit_of(use).members
        held = replace(use, scale=1.0 if member.scale is None else use.scale, parts=member.parts)
        return ScaledAdapter(
            name=use.name,
            updates=updates_of(adapter, component, stage=stage),
            scale_of=scale_by_module(held, component, stage=stage, layout=self._layouts[expert]),
        )

    def _uses(self, request: ImageRequest, expert: Expert, part: str) -> RowUses:
        found = []
        encoder = None if part == "unet" else part
        for unit, uses in units_of(request).items():
            lines = self._resident[unit].lines.get((expert, part))
            scale = scale_on(uses[0], expert, encoder)
            if lines is not None and scale != 0.0:
                found.append((lines, scale))
        return tuple(found)

    def _identity(
        self, request: ImageRequest, expert: Expert, parts: Sequence[str]
    ) -> tuple[str, ...]:
        """Name all that changes the weights of an expert's text encoders, in the order it adds up.

        An adapter may hold another update for each expert, so the expert is part of the names.
        """
        return tuple(
            f"{expert}.{part} {unit_name(unit)} @ {scale!r}"
            for unit, uses in units_of(request).items()
            for part in parts
            if (expert, part) in self._resident[unit].lines
            and (scale := scale_on(uses[0], expert, part)) != 0.0
        )

    def _tokens(self, request: ImageRequest, expert: Expert) -> dict[str, Mapping[str, Tensor]]:
        """Return vectors by token's text and encoder."""
        owners: dict[str, str] = {}
        found: dict[str, Mapping[str, Tensor]] = {}
        for unit, uses in units_of(request).items():
            for use, adapter in zip(uses, self._resident[unit].adapters, strict=True):
                if adapter.made_for.stage not in (Stage(str(expert)), Stage.BOTH):
                    continue
                for text, token in adapter.tokens.items():
                    key = text.casefold()
                    if key in owners and _occurs(key, request, expert):
                        raise _ambiguous(text, owners[key], use.name)
                    owners[key] = use.name
                    found[text] = {str(part): vectors for part, vectors in token.vectors.items()}
        return found

    def _free(self, lines: Mapping[Network, Lines]) -> None:
        for network, own in lines.items():
            self._banks[network].free(own)


def _without_targets(adapter: Adapter) -> Adapter:
    """Return what of an adapter is needed beside its lines, in memory of its own."""
    tokens = {
        text: LearnedToken(
            vectors={part: vectors.clone() for part, vectors in token.vectors.items()}
        )
        for text, token in adapter.tokens.items()
    }
    return Adapter(tokens=MappingProxyType(tokens), made_for=adapter.made_for)


def _token_bytes(adapter: Adapter) -> int:
    vectors = [own for token in adapter.tokens.values() for own in token.vectors.values()]
    return sum(own.numel() * own.element_size() for own in vectors)


def _inject_text(encoder: TextEncoder, num_lines: int) -> Bank:
    # Encoders are not compiled: what is grouped by rank is faster.
    return inject(encoder.module, num_lines=num_lines, fixed_shapes=False)


def _weight_of(bank: Bank, module: str) -> Tensor | None:
    return bank.weight_of(_own(bank, module))


def _own(bank: Bank, module: str) -> str:
    """Return what a bank calls a module: one class of encoders leaves a prefix out."""
    return module if module in bank.layers else module.removeprefix("text_model.")


def _occurs(token: str, request: ImageRequest, expert: Expert) -> bool:
    """Return whether a text of an expert has ``token``, which is in lower case."""
    stage = stages_of(request)[expert]
    texts = (stage.prompt, stage.negative_prompt or "")
    return any(token in text.casefold() for text in texts)


def _ambiguous(token: str, one: str, other: str) -> InvalidRequest:
    description = f"{one} and {other} both have a token {token!r}, which a prompt names"
    return InvalidRequest([FieldViolation(field="adapters", description=description)])

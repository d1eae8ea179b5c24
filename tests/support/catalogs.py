"""A catalogue of adapters in memory, without tensors: it gives what it is told to."""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from diptych.adapters.card import AdapterCard, Kind
from diptych.adapters.listing import Filter
from diptych.adapters.merge.report import LayerReport, MergeReport, RenamedToken
from diptych.adapters.naming import Stage
from diptych.digest import Digest
from diptych.errors import AdapterNotFound, DiptychError
from diptych.inference.orders import (
    AdapterWish,
    CatalogPage,
    ExportedFile,
    GoOn,
    ImportOrder,
    MergeOrder,
    MergeOutcome,
    Shown,
)
from diptych.inference.trajectory import AdapterUse, Expert

__all__ = ["NOON", "FakeCatalog", "a_card", "an_adapter"]

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def a_card(content: bytes = b"huggy", **fields: object) -> AdapterCard:
    """Return the card of an adapter whose bundle is ``content``."""
    facts: dict[str, object] = {
        "digest": Digest.of_bytes(content),
        "size_bytes": len(content),
        "created_at": NOON,
        "source": "huggy.safetensors",
        "stage": Stage.BASE,
        "kinds": frozenset({Kind.LORA}),
        "max_rank": 4,
        "num_targets": 3,
        "family": "nano",
    }
    return AdapterCard(**facts | fields)  # type: ignore[arg-type]


def an_adapter(name: str = "huggy", content: bytes = b"huggy", **fields: object) -> Shown:
    """Return a named adapter."""
    card = a_card(content, **fields)
    return Shown(name=name, tag="latest", card=card, since=NOON, is_here=True)


class FakeIncoming:
    """Gathers an upload in memory."""

    def __init__(self, catalog: "FakeCatalog", order: ImportOrder) -> None:
        self._catalog, self._order = catalog, order
        self._data = bytearray()

    def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._data += piece

    def finish(self, go_on: GoOn) -> Shown:
        """Name what came."""
        go_on()
        return self._catalog.add(self._order.name, bytes(self._data))

    def discard(self) -> None:
        """Note it."""
        self._catalog.discarded.set()


class FakeCatalog:
    """Names by dictionary; ``refusal`` is what long work raises."""

    def __init__(self) -> None:
        self.adapters: dict[str, Shown] = {}
        self.orders: list[ImportOrder | MergeOrder] = []
        self.wishes: list[AdapterWish] = []
        self.tenants: list[str] = []
        self.refusal: DiptychError | None = None
        self.ordered = threading.Event()
        self.discarded = threading.Event()
        self.before_merge: Callable[[GoOn], None] = lambda _: None

    def add(self, name: str, content: bytes) -> Shown:
        """Name an adapter."""
        self.adapters[name] = an_adapter(name, content)
        return self.adapters[name]

    def receive(self, order: ImportOrder) -> FakeIncoming:
        """Begin to take in an upload."""
        self._note(order)
        return FakeIncoming(self, order)

    def fetch(self, order: ImportOrder, go_on: GoOn) -> Shown:
        """Name what lies at a uri."""
        self._note(order)
        go_on()
        return self.add(order.name, str(order.source).encode())

    def get(self, reference: str, *, tenant: str) -> Shown:
        """Return a name's adapter."""
        self.tenants.append(tenant)
        if reference not in self.adapters:
            raise AdapterNotFound(reference)
        return self.adapters[reference]

    def page(self, where: Filter, *, tenant: str, page_size: int, page_token: str) -> CatalogPage:
        """Return one adapter per page."""
        names = sorted(name for name in self.adapters if name.startswith(where.name_prefix))
        at = int(page_token or 0)
        token = str(at + 1) if at + 1 < len(names) else ""
        shown = tuple(self.adapters[name] for name in names[at : at + 1])
        return CatalogPage(adapters=shown, next_page_token=token)

    def remove(self, reference: str, *, tenant: str, expected: Digest | None) -> None:
        """Forget a name."""
        del self.adapters[reference]

    def merge(
        self, order: MergeOrder, progress: Callable[[int, int], None], go_on: GoOn
    ) -> MergeOutcome:
        """Tell of two steps, then name the result."""
        self._note(order)
        progress(1, 2)
        self.before_merge(go_on)
        go_on()
        layers = [_layer("conv_in", 1.0), _layer("conv_out", 4.0)]
        renamed = (RenamedToken(position=1, text="<s0>", renamed_to="<s0-2>"),)
        return MergeOutcome(
            adapter=self.add(order.name, b"merged"),
            report=MergeReport(layers=layers, renamed=renamed),
            sources=order.sources,
        )

    def export(
        self, reference: str, target_format: str, *, tenant: str
    ) -> Iterator[ExportedFile | bytes]:
        """Yield a file that tells what was asked for."""
        shown = self.get(reference, tenant=tenant)
        data = f"{shown.name} as {target_format}".encode()
        sha256 = bytes.fromhex(Digest.of_bytes(data).hex)
        yield ExportedFile(path="adapter.safetensors", size_bytes=len(data), sha256=sha256)
        yield data[:5]
        yield data[5:]

    def check(self, reference: str, *, tenant: str, force: bool) -> AdapterUse:
        """Return a use of a name's adapter."""
        shown = self.get(reference, tenant=tenant)
        return AdapterUse(digest=str(shown.card.digest), name=reference, tenant=tenant, force=force)

    def resolve(
        self, wishes: Sequence[AdapterWish], *, tenant: str, experts: frozenset[Expert]
    ) -> tuple[AdapterUse, ...]:
        """Return a use per wish."""
        self.wishes += wishes
        return tuple(
            AdapterUse(
                digest=str(self.get(wish.reference, tenant=tenant).card.digest),
                name=wish.reference,
                scale=wish.scale,
                parts=wish.parts,
                tenant=tenant,
                experts=experts,
            )
            for wish in wishes
        )

    def _note(self, order: ImportOrder | MergeOrder) -> None:
        self.orders.append(order)
        self.ordered.set()
        if self.refusal is not None:
            raise self.refusal


def _layer(module: str, residual_energy: float) -> LayerReport:
    return LayerReport(
        component="unet",
        module=module,
        rank=4,
        reference_energy=100.0,
        residual_energy=residual_energy,
        truncation=0.0,
    )

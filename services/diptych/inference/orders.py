"""What callers ask of a server's catalogue of adapters, as plain values, and who answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from diptych.adapters.card import AdapterCard
from diptych.adapters.listing import Filter
from diptych.adapters.merge.report import MergeReport
from diptych.adapters.merge.spec import MergeSpec
from diptych.adapters.naming import DEFAULT_TAG, DEFAULT_TENANT, Stage
from diptych.digest import Digest
from diptych.inference.trajectory import AdapterUse, Expert

__all__ = [
    "ZIP",
    "AdapterWish",
    "Catalog",
    "CatalogPage",
    "ExportedFile",
    "GoOn",
    "ImportOrder",
    "Incoming",
    "MergeOrder",
    "MergeOutcome",
    "Shown",
    "Upload",
]

ZIP: Final = "zip"
"""The method of a merge that trains, on prompts, instead of computing."""

GoOn = Callable[[], None]
"""Called between steps of long work; raises when nobody waits for its end any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterWish:
    """One adapter of a request, before anybody looked up what its name means."""

    reference: str
    """``name``, ``name:tag`` or a digest."""
    field: str
    """Where the request says so, for messages."""
    scale: float = 1.0
    parts: tuple[tuple[str, float], ...] = ()
    """As ``AdapterUse.parts``."""
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Bytes to come."""

    file_name: str
    size_bytes: int
    sha256: bytes = b""
    """Empty: not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOrder:
    """What is to be taken in, and as what."""

    name: str
    source: Upload | str
    """An upload, or the uri to fetch it from."""
    tag: str = DEFAULT_TAG
    tenant: str = DEFAULT_TENANT
    family: str | None = None
    stage: Stage | None = None
    trigger_words: tuple[str, ...] = ()
    replace: bool = False
    expected: Digest | None = None
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOrder:
    """Which adapters to merge, how, and what to call the result."""

    sources: tuple[str, ...]
    """References."""
    spec: MergeSpec
    name: str
    tag: str = DEFAULT_TAG
    tenant: str = DEFAULT_TENANT
    replace: bool = False
    force: bool = False
    prompts: tuple[str, ...] = ()
    """Of ``zip``: one per source."""
    num_steps: int | None = None
    """Of ``zip``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An adapter as a caller sees it; ``name`` and ``tag`` are empty if asked for by digest."""

    name: str
    tag: str
    card: AdapterCard
    since: datetime
    """When the name began to point there, or the bytes came."""
    is_here: bool
    """Whether this machine's disk has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogPage:
    """Some names in their order; the token is empty with the last of them."""

    adapters: tuple[Shown, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOutcome:
    """The adapter that a merge made, and how it went."""

    adapter: Shown
    report: MergeReport
    sources: tuple[str, ...]
    """References, in the order of the report's positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """The next file of an export begins."""

    path: str
    """In the export's folder, parts joined by ``/``."""
    size_bytes: int
    sha256: bytes


class Incoming(Protocol):
    """An upload under way; used by one call, one method at a time."""

    def write(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            InvalidRequest: They are more than announced.
            StoreFull: There is no room.
        """

    def finish(self, go_on: GoOn) -> Shown:
        """Read what came, check it and give it its name; raises what ``Catalog.fetch`` does."""

    def discard(self) -> None:
        """Leave nothing behind; does no harm after ``finish``."""


class Catalog(Protocol):
    """The adapters of every tenant; its methods block, and may be called from many threads."""

    def receive(self, order: ImportOrder) -> Incoming:
        """Begin to take in an upload.

        Raises:
            InvalidRequest: It announces more than may come.
        """

    def fetch(self, order: ImportOrder, go_on: GoOn) -> Shown:
        """Take in what lies at a uri.

        Raises:
            InvalidRequest: The uri is none that this server reads.
            AdapterInvalid: It is no adapter.
            AdapterMismatch: It fits no expert of this server.
            NameTaken: The name points elsewhere.
            NameMoved: The name does not point where the caller thinks.
            StoreFull: There is no room.
        """

    def get(self, reference: str, *, tenant: str) -> Shown:
        """Return what ``reference`` means.

        Raises:
            AdapterNotFound: The tenant has no such adapter.
        """

    def page(self, where: Filter, *, tenant: str, page_size: int, page_token: str) -> CatalogPage:
        """Return a page of a tenant's names.

        Raises:
            InvalidRequest: The token is of another listing.
        """

    def remove(self, reference: str, *, tenant: str, expected: Digest | None) -> None:
        """Take a name away.

        Raises:
            AdapterNotFound: There is no such name.
            NameMoved: It points elsewhere.
        """

    def merge(
        self, order: MergeOrder, progress: Callable[[int, int], None], go_on: GoOn
    ) -> MergeOutcome:
        """Merge adapters into a new one; what ``go_on`` raises ends it without a trace.

        Raises:
            InvalidRequest: They cannot be merged like that.
            AdapterNotFound: One of them is not there.
            AdapterMismatch: They were made for unlike models.
        """

    def export(
        self, reference: str, target_format: str, *, tenant: str
    ) -> Iterator[ExportedFile | bytes]:
        """Yield an adapter's files: for each what it is, then its bytes in pieces.

        Raises:
            AdapterNotFound: The tenant has no such adapter.
            ConversionUnsupported: The format cannot hold something of it.
        """

    def check(self, reference: str, *, tenant: str, force: bool) -> AdapterUse:
        """Return the use of one adapter at scale 1 by all experts that it acts on.

        Raises:
            AdapterNotFound: The tenant has no such adapter.
            AdapterMismatch: It fits no expert of this server.
        """

    def resolve(
        self, wishes: Sequence[AdapterWish], *, tenant: str, experts: frozenset[Expert]
    ) -> tuple[AdapterUse, ...]:
        """Return what a request that runs ``experts`` does with its adapters.

        Those that act on other experts only are left out.

        Raises:
            InvalidRequest: Two wishes mean the same adapter.
            AdapterNotFound: The tenant has no such adapter.
            AdapterMismatch: One was made for another model.
        """

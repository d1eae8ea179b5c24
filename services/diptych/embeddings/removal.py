"""Taking entries out of packs on purpose: some keys, or the packs unused for longest."""

from collections.abc import Iterable

from diptych.digest import Digest
from diptych.embeddings.pack import PackRef
from diptych.embeddings.pack_store import PackStore

__all__ = ["delete_entries", "evict_packs"]


def delete_entries(store: PackStore, keys: Iterable[Digest]) -> int:
    """Remove entries, all copies; return how many of ``keys`` there were.

    A pack that holds others too is written anew without them before it goes.

    Raises:
        StoreFull: There is no room for such a pack.
        SourceUnavailable: The store does not answer.
    """
    store.flush()
    store.refresh()
    wanted = {bytes.fromhex(key.hex) for key in keys}
    gone: set[bytes] = set()
    for ref in store.refs():
        rows = store.packs.rows(ref)
        if rows is None:
            continue
        held = {key.tobytes() for key in rows["key"]} & wanted
        if not held:
            continue
        kept = rows[[key.tobytes() not in wanted for key in rows["key"]]]
        if len(kept):
            found = zip(kept["key"], store.read_rows(ref, kept), strict=True)
            store.write_pack({key.tobytes(): data for key, data in found if data is not None})
        store.remove([ref])
        gone |= held
    return len(gone)


def evict_packs(store: PackStore, limit_bytes: int) -> list[PackRef]:
    """Remove packs, those unused for longest first, until the others fit; return them.

    For packs that are a cache of others. Raises ``SourceUnavailable``.
    """
    store.refresh()
    refs = sorted(store.refs(), key=store.packs.used_s)
    excess = sum(ref.size_bytes for ref in refs) - limit_bytes
    gone: list[PackRef] = []
    while excess > 0:
        gone.append(refs[len(gone)])
        excess -= gone[-1].size_bytes
    store.remove(gone)
    return gone

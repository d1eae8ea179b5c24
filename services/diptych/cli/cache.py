"""``diptych cache``: what the embedding cache holds, whether it is whole, and what may go.

Without ``--server`` the commands open the store that the settings name, here or in a bucket, and
need no networks; any number of services may be using it meanwhile.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from diptych.cli.embedded import client_config
from diptych.cli.options import AsJson, Server, Timeout, TokenFile
from diptych.cli.report import EXIT_FAILED, Report, reporting
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import CacheStats, Evicted
from diptych.embedding_cache.places import store_config
from diptych.embedding_cache.settings import load_settings
from diptych.embeddings.pack_store import PackStore
from diptych.embeddings.tiers import open_packs
from diptych.embeddings.upkeep import GcReport, gc, verify
from diptych.errors import FieldViolation, InvalidRequest
from diptych.rpc.auth import DEFAULT_TENANT

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Embeddings: what is kept, checked and let go.")

FLAGS: Final[Mapping[str, str]] = {
    "cache.dir": "--dir",
    "cache.store": "--store",
    "folder": "--dir",
    "s3_uri": "--store",
    "unneeded": "--older-than, --budget",
}
UNITS_S: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
UNITS_BYTES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
AMOUNT: Final = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([a-z]?)(?:ib|b)?")

Directory = Annotated[
    Path | None, typer.Option("--dir", help="Folder of the embeddings; the settings' otherwise.")
]
Store = Annotated[
    str | None, typer.Option("--store", help="s3://BUCKET/PREFIX; the settings' otherwise.")
]
Tenant = Annotated[str, typer.Option("--tenant", help="Whose embeddings.")]


@app.command("stats")
def stats(
    *,
    directory: Directory = None,
    store: Store = None,
    tenant: Tenant = DEFAULT_TENANT,
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Show what the cache holds; with --server also what it did since it started."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        if server is not None:
            with EmbeddingCacheClient(client_config(server, token_file)) as client:
                _show_served(report, client.stats(timeout_s=timeout))
            return
        with _packs(directory, store, tenant) as packs:
            packs.refresh()
            _show(report, asdict(packs.stats()))


@app.command("verify")
def verify_packs(
    *,
    directory: Directory = None,
    store: Store = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: AsJson = False,
) -> None:
    """Read every embedding and set aside what is damaged; it is encoded again when it is asked for.

    Ends with status 1 if anything was damaged.
    """
    with reporting(as_json=as_json, flags=FLAGS) as report:
        with _packs(directory, store, tenant) as packs, report.progress() as bar:
            packs.refresh()
            task = bar.add_task("reading", total=packs.stats().num_entries)
            found = verify(packs, advance=lambda number: bar.advance(task, number))
        _show(report, asdict(found) | {"is_whole": found.is_whole})
        if not found.is_whole:
            raise typer.Exit(EXIT_FAILED)


@app.command("gc")
def collect(
    *,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", help="Only what is older: 90s, 12h, 7d; any age without."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Oldest first, until this is left: 500M, 20G, 1T."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; otherwise only what would go is told.")
    ] = False,
    directory: Directory = None,
    store: Store = None,
    tenant: Tenant = DEFAULT_TENANT,
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Tell what no dataset and no pin needs, and with --yes let it go."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        age_s = None if older_than is None else _amount("--older-than", older_than, UNITS_S)
        left = None if budget is None else int(_amount("--budget", budget, UNITS_BYTES))
        if server is not None:
            with EmbeddingCacheClient(client_config(server, token_file)) as client:
                evicted = client.evict_unneeded(
                    older_than_s=None if left == 0 else age_s,
                    budget_bytes=left or 0,
                    dry_run=not yes,
                    timeout_s=timeout,
                )
            _show_evicted(report, evicted, is_dry_run=not yes)
            return
        with _packs(directory, store, tenant) as packs, report.waiting("looking for what may go"):
            found = gc(packs, older_than_s=age_s, budget_bytes=left, is_dry_run=not yes)
        _show_collected(report, found)


@contextmanager
def _packs(directory: Path | None, store: str | None, tenant: str) -> Iterator[PackStore]:
    """Give the packs that the settings name, or the flags.

    Raises:
        InvalidRequest: There are none.
    """
    given = {"dir": directory, "store": store}
    own = {name: value for name, value in given.items() if value is not None}
    config = store_config(load_settings(arguments={"cache": own}), tenant=tenant)
    is_here = config.folder is not None and config.folder.is_dir()
    if config.s3_uri is None and not is_here:
        problem = f"{config.folder} is no folder of embeddings"
        raise InvalidRequest([FieldViolation(field="folder", description=problem)])
    packs = open_packs(config)
    assert packs is not None
    try:
        yield packs
    finally:
        packs.close()


def _amount(flag: str, text: str, units: Mapping[str, float]) -> float:
    """Return what ``text`` says in seconds or bytes.

    Raises:
        InvalidRequest: It says nothing.
    """
    found = AMOUNT.fullmatch(text.strip().lower())
    if found is None or found[2] not in units:
        problem = f"{text[:40]!r} is no number with one of {', '.join(filter(None, units))}"
        raise InvalidRequest([FieldViolation(field=flag, description=problem)])
    return float(found[1]) * units[found[2]]


def _show(report: Report, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        report.say(f"{name.replace('_', ' '):24} {_shown(name, value)}")
    report.answer(values)


def _show_served(report: Report, found: CacheStats) -> None:
    table = Table("tier", "entries", "bytes", "limit", "hits", "misses", "evictions", box=None)
    for tier in found.tiers:
        table.add_row(
            tier.tier,
            f"{tier.num_entries:,}",
            _size(tier.size_bytes),
            _size(tier.limit_bytes) if tier.limit_bytes else "",
            f"{tier.num_hits:,}",
            f"{tier.num_misses:,}",
            f"{tier.num_evictions:,}",
        )
    if not report.as_json:
        report.out.print(table)
    for one in found.encodings:
        report.say(
            f"encoded {one.num_encoded:,} of kind {one.kind} in {one.num_batches:,} batches, "
            f"{one.encode_s:.1f} s"
        )
    report.say(f"{found.num_roots} datasets and pins, {found.num_damaged} damaged")
    report.answer(asdict(found))


def _show_evicted(report: Report, found: Evicted, *, is_dry_run: bool) -> None:
    verb = "would go" if is_dry_run else "went"
    report.say(f"{found.num_evicted:,} embeddings, {_size(found.evicted_bytes)} {verb}")
    report.say(f"{found.num_kept:,} embeddings, {_size(found.kept_bytes)} stay")
    report.answer(asdict(found) | {"is_dry_run": is_dry_run})


def _show_collected(report: Report, found: GcReport) -> None:
    verb = "would go" if found.is_dry_run else "went"
    report.say(f"{found.num_collected:,} embeddings, {_size(found.collected_bytes)} {verb}")
    report.say(f"{found.num_copies:,} copies, {_size(found.copies_bytes)} {verb}")
    report.say(
        f"{found.num_packs_rewritten} packs rewritten, {found.num_packs_young} left alone: "
        "written less than an hour ago"
    )
    report.say(f"{_size(found.kept_bytes)} stay, {found.num_roots} datasets and pins need theirs")
    if found.is_dry_run:
        report.say("nothing was changed; --yes does it")
    report.answer(asdict(found))


def _shown(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return _size(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"

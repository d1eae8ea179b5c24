"""Checkpoints by the name a user gives: a folder, one file, a Hugging Face id or ``s3://``."""

import logging
import queue
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    InferenceTimeoutError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from diptych.errors import CheckpointInvalid, ModelNotFound, PickleRefused, SourceUnavailable
from diptych.home_paths import at_home
from diptych.models.folder import open_folder
from diptych.models.parts import Checkpoint
from diptych.models.single_file import CLIP_REPOSITORY, CLIP_REVISION, open_single_file
from diptych.models.trained_experts import DEFAULT_TENANT, PREFIX, find_expert
from diptych.storage.mirror import mirror
from diptych.storage.s3 import S3Config, S3Store
from diptych.storage.tensor_header import PICKLE_SUFFIXES

__all__ = ["SourceConfig", "locate", "locate_part", "open_checkpoint"]

_log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
_S3_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]+)/(?P<prefix>.+)")
_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_HUB_PATTERNS = (
    "model_index.json",
    *(f"{part}/*.{suffix}" for part in _PARTS for suffix in ("json", "txt", "safetensors")),
)
_PART_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
_PROBE_TIMEOUT_S = 10.0
"""For the hub's first answer, however long its name takes to resolve."""
_TRANSPORT_ERROR: type[Exception] = InferenceTimeoutError.__mro__[1]
"""The HTTP library's own error; releases of the hub differ in which library that is."""
_HUB_FP16_FILES = ("*.fp16.safetensors", "*.fp16-*.safetensors", "*.non_ema.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """How sources outside this machine are reached and where their files are kept."""

    cache_dir: Path
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id that carries none itself; None is ``main``."""
    tokenizer_dir: Path | None = None
    """Folder of a CLIP tokenizer for single files, which hold none; None fetches CLIP's own."""
    hub_endpoint: str | None = None
    s3: S3Config = field(default_factory=S3Config)
    experts_dir: Path | None = None
    """Where experts that were trained here lie, which ``experts/NAME`` names; None knows none."""
    tenant: str = DEFAULT_TENANT
    """Whose they are."""


def open_checkpoint(source: str, config: SourceConfig) -> Checkpoint:
    """Return the checkpoint that ``source`` names, fetched where needed, with nothing loaded.

    Raises:
        ModelNotFound: nothing has that name.
        SourceUnavailable: the hub or store does not answer.
        CheckpointInvalid: what is there cannot be read safely; PickleRefused for pickles.
    """
    path = locate(source, config)
    if path.is_dir():
        return open_folder(path, source)
    return open_single_file(path, source, tokenizer_dir=lambda: _clip_tokenizer(config))


def locate(source: str, config: SourceConfig) -> Path:
    """Return the local folder or ``.safetensors`` file of ``source``; the bytes are there.

    What begins with ``.``, ``/`` or ``~`` is never taken for a Hugging Face id, and what begins
    with ``experts/`` always for an expert that was trained here, where there can be any.

    Raises:
        ModelNotFound: nothing has that name.
        PickleRefused: the name is a pickle's.
        SourceUnavailable: the hub or store does not answer.
    """
    if Path(source).suffix.lower() in PICKLE_SUFFIXES:
        raise PickleRefused(source, Path(source).name)
    if match := _S3_URL.fullmatch(source):
        return _from_s3(source, match["bucket"], match["prefix"], config)
    if config.experts_dir is not None and source.startswith(PREFIX):
        name = source.removeprefix(PREFIX)
        return find_expert(config.experts_dir, name, tenant=config.tenant)
    path = at_home(source)
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix != ".safetensors":
            raise CheckpointInvalid(source, "is neither a folder nor a .safetensors file")
        return path
    if (match := _HUB_ID.fullmatch(source)) and path.suffix != ".safetensors":
        revision = match["revision"] or config.revision or "main"
        with _either_reading(source):
            return _from_hub(match["id"], revision, config)
    raise ModelNotFound(source)


def locate_part(source: str, config: SourceConfig) -> Path:
    """Return the local folder of ``source``, which holds one model and not a pipeline.

    Raises:
        ModelNotFound: nothing has that name.
        CheckpointInvalid: it is a single file.
        PickleRefused: the name is a pickle's.
        SourceUnavailable: the hub or store does not answer.
    """
    match = _HUB_ID.fullmatch(source)
    if match and not Path(source).exists() and not _is_weights(source):
        revision = match["revision"] or config.revision or "main"
        with _either_reading(source):
            folder = _snapshot(match["id"], revision, config, allow=_PART_FILES)
        _log.info("hub model %s revision %s is commit %s", match["id"], revision, folder.name)
        return folder
    path = locate(source, config)
    if not path.is_dir():
        raise CheckpointInvalid(source, "is a file, expected a folder with config.json")
    return path


def _is_weights(source: str) -> bool:
    return Path(source).suffix.lower() in {".safetensors", *PICKLE_SUFFIXES}


def _from_s3(source: str, bucket: str, prefix: str, config: SourceConfig) -> Path:
    store = S3Store(bucket, config.s3)
    is_file = prefix.endswith(".safetensors")
    prefix = prefix if is_file else f"{prefix.rstrip('/')}/"
    listed = [item for item in store.list_objects(prefix) if not item.key.endswith("/")]
    if is_file:
        listed = [item for item in listed if item.key == prefix]
    if not listed:
        raise ModelNotFound(source, "no object has that prefix")
    wanted = [item for item in listed if Path(item.key).suffix in {".safetensors", ".json", ".txt"}]
    with_weights = {Path(item.key).parent for item in wanted if item.key.endswith(".safetensors")}
    for item in listed:
        path = Path(item.key)
        if path.suffix.lower() in PICKLE_SUFFIXES and path.parent not in with_weights:
            raise PickleRefused(source, item.key.removeprefix(prefix))
    folder = mirror(store, wanted, prefix=prefix, root=config.cache_dir / "s3" / bucket)
    return folder / Path(prefix).name if is_file else folder


def _from_hub(repository: str, revision: str, config: SourceConfig) -> Path:
    """Return a repository's snapshot; fp16 files are fetched only where there are no others."""
    folder = _snapshot(repository, revision, config, ignore=_HUB_FP16_FILES)
    if any(not list((folder / part).glob("*.safetensors")) for part in ("unet", "vae")):
        folder = _snapshot(repository, revision, config)
    _log.info("hub model %s revision %s is commit %s", repository, revision, folder.name)
    return folder


def _clip_tokenizer(config: SourceConfig) -> Path:
    if config.tokenizer_dir is not None:
        return config.tokenizer_dir
    return _snapshot(CLIP_REPOSITORY, CLIP_REVISION, config, allow=_TOKENIZER_FILES)


def _snapshot(
    repository: str,
    revision: str,
    config: SourceConfig,
    *,
    allow: tuple[str, ...] = _HUB_PATTERNS,
    ignore: tuple[str, ...] = (),
) -> Path:
    """Return a repository's files, fetched or, while the hub does not answer, fetched before."""
    with _hub_errors(repository, revision, config):
        is_reachable = _is_reachable(repository, revision, config)
        if not is_reachable:
            _log.warning("hub does not answer for %s; looking in %s", repository, config.cache_dir)
        folder = snapshot_download(
            repository,
            revision=revision,
            cache_dir=config.cache_dir / "hub",
            allow_patterns=list(allow),
            ignore_patterns=list(ignore),
            endpoint=config.hub_endpoint,
            local_files_only=not is_reachable,
        )
    return Path(folder)


def _is_reachable(repository: str, revision: str, config: SourceConfig) -> bool:
    """Ask the hub once, since its own downloads go on asking for half a minute.

    A thread asks: its timeout does not cover the name's resolution, which may take as long.

    Raises:
        RepositoryNotFoundError: The hub has no such repository, or none for this caller.
        RevisionNotFoundError: The repository has no such revision.
        HFValidationError: The repository's name is none.
    """
    answers: queue.SimpleQueue[bool | Exception] = queue.SimpleQueue()

    def ask() -> None:
        api = HfApi(endpoint=config.hub_endpoint)
        try:
            api.repo_info(repository, revision=revision, timeout=_PROBE_TIMEOUT_S)
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            answers.put(error)
        except (_TRANSPORT_ERROR, OSError):
            answers.put(False)
        else:
            answers.put(True)

    threading.Thread(target=ask, name="diptych-hub", daemon=True).start()
    try:
        answer = answers.get(timeout=_PROBE_TIMEOUT_S)
    except queue.Empty:
        return False
    if isinstance(answer, Exception):
        raise answer
    return answer


@contextmanager
def _either_reading(source: str) -> Iterator[None]:
    """Say of a source that is not there how it was read: as a path, then as a Hugging Face id."""
    try:
        yield
    except ModelNotFound as error:
        detail = str(error).removeprefix("model ")
        raise ModelNotFound(
            source, f"no such file or folder; as a Hugging Face id: {detail}"
        ) from error
    except SourceUnavailable as error:
        detail = f"{source!r} is no file or folder here; as a Hugging Face id: {error.detail}"
        raise SourceUnavailable(error.source, detail) from error


@contextmanager
def _hub_errors(repository: str, revision: str, config: SourceConfig) -> Iterator[None]:
    """Turn the hub's errors into this package's."""
    try:
        yield
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelNotFound(f"{repository}@{revision}", str(error).splitlines()[0]) from error
    except LocalEntryNotFoundError as error:
        detail = f"cannot fetch {repository}@{revision}: no answer, and nothing fetched before"
        raise SourceUnavailable(config.hub_endpoint or "huggingface.co", detail) from error
    except (_TRANSPORT_ERROR, OSError) as error:
        detail = f"cannot fetch {repository}@{revision}: {type(error).__name__}"
        raise SourceUnavailable(config.hub_endpoint or "huggingface.co", detail) from error

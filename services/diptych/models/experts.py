"""A base and a refiner that belong together, loaded from the names a user gives."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from diptych.diffusion.schedule import NoiseSchedule
from diptych.errors import CheckpointInvalid, ExpertsMismatch, FieldViolation, SettingInvalid
from diptych.models.autoencoder import Autoencoder, load_autoencoder
from diptych.models.checkpoint import SourceConfig, open_checkpoint
from diptych.models.family import Family, detect_family
from diptych.models.parts import Checkpoint, fingerprint_part
from diptych.models.text_encoders import TextEncoder, TextEncoders, load_text_encoder
from diptych.models.trained_experts import DEFAULT_TENANT
from diptych.models.unet import Unet, load_unet
from diptych.models.vocabulary import load_vocabulary
from diptych.storage.s3 import S3Config

__all__ = [
    "Conditioner",
    "Expert",
    "Experts",
    "LoadOptions",
    "OpenExpert",
    "load_conditioners",
    "load_experts",
    "load_to_train",
    "open_expert",
]

_log = logging.getLogger(__name__)

_TEXT_WINDOW = 77
_SHARED_SCHEDULE = ("prediction_type", "num_train_timesteps")
_SHARED_BETAS = ("rescale_betas_zero_snr", "beta_start", "beta_end", "beta_schedule")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What may be said about checkpoints beyond their names."""

    base_family: str | None = None
    refiner_family: str | None = None
    """Family by name instead of by detection; a checkpoint built otherwise is refused."""
    base_revision: str | None = None
    refiner_revision: str | None = None
    tokenizer_dir: Path | None = None
    hub_endpoint: str | None = None
    s3: S3Config = field(default_factory=S3Config)
    experts_dir: Path | None = None
    """Where experts that were trained here lie; None knows none."""
    tenant: str = DEFAULT_TENANT
    """Whose they are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expert:
    """A UNet that owns an interval of timesteps, and everything needed to condition it."""

    name: str
    """``base`` or ``refiner``."""
    source: str
    family: Family
    schedule: NoiseSchedule
    unet: Unet
    text: TextEncoders
    vae: Autoencoder

    @property
    def fingerprint(self) -> str:
        """Digest of the UNet's configuration and weights."""
        return self.unet.fingerprint


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditioner:
    """What conditions an expert, without the expert: its encoders of texts and of pictures."""

    name: str
    """``base`` or ``refiner``."""
    source: str
    family: Family
    text: TextEncoders
    vae: Autoencoder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Experts:
    """The experts one server hosts: both, or either."""

    base: Expert | None
    refiner: Expert | None

    @property
    def hosted(self) -> tuple[Expert, ...]:
        """Those that are there, base first."""
        return tuple(expert for expert in (self.base, self.refiner) if expert is not None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenExpert:
    """One expert's checkpoint, checked, with nothing loaded."""

    checkpoint: Checkpoint
    family: Family
    schedule: NoiseSchedule


@dataclass(slots=True, kw_only=True)
class _Shared:
    """Modules already loaded, by fingerprint; owned by one call of ``load_experts``."""

    device: torch.device
    dtype: torch.dtype
    vae_dtype: torch.dtype
    keep_rows: bool = True
    encoders: dict[str, TextEncoder] = field(default_factory=dict)
    texts: dict[str, TextEncoders] = field(default_factory=dict)
    vaes: dict[str, Autoencoder] = field(default_factory=dict)


def load_experts(
    base: str | None,
    refiner: str | None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    cache_dir: Path,
    options: LoadOptions | None = None,
) -> Experts:
    """Return the experts that two sources name; either may be None.

    A source is a folder in diffusers' layout, a ``.safetensors`` file in SDXL's original
    layout, a Hugging Face id (``owner/name`` or ``owner/name@revision``) or
    ``s3://bucket/prefix``. Text encoders and autoencoders with equal fingerprints are loaded once.

    Raises:
        ModelNotFound: a source names nothing.
        SourceUnavailable: a hub or store does not answer.
        CheckpointInvalid: files that cannot be read safely, or that do not fit each other.
        ExpertsMismatch: the two cannot share a trajectory.
        SettingInvalid: neither source is given, or an unknown family is.
    """
    opened = _open(base, refiner, cache_dir, options or LoadOptions())
    shared = _Shared(device=torch.device(device), dtype=dtype, vae_dtype=dtype)
    loaded = {name: _load(name, *opened[name], shared=shared) for name in opened}
    return Experts(base=loaded.get("base"), refiner=loaded.get("refiner"))


def load_conditioners(
    base: str | None,
    refiner: str | None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype = torch.float32,
    cache_dir: Path,
    options: LoadOptions | None = None,
) -> tuple[Conditioner, ...]:
    """Return what conditions the experts that two sources name, base first; no UNet is loaded.

    Sources and errors are those of ``load_experts``.
    """
    opened = _open(base, refiner, cache_dir, options or LoadOptions())
    shared = _Shared(device=torch.device(device), dtype=dtype, vae_dtype=vae_dtype)
    found = []
    for name, (checkpoint, family) in opened.items():
        prints = _fingerprints(checkpoint, without=("unet",))
        found.append(
            Conditioner(
                name=name,
                source=checkpoint.source,
                family=family,
                text=_load_text(checkpoint, prints, shared),
                vae=_load_vae(checkpoint, prints, shared),
            )
        )
    return tuple(found)


def open_expert(source: str, *, cache_dir: Path, options: LoadOptions | None = None) -> OpenExpert:
    """Return what one source names; of ``options`` those of the base count.

    Raises what ``load_experts`` does.
    """
    ((checkpoint, family),) = _open(source, None, cache_dir, options or LoadOptions()).values()
    return OpenExpert(checkpoint=checkpoint, family=family, schedule=_schedule(checkpoint, family))


def load_to_train(
    opened: OpenExpert,
    *,
    device: torch.device,
    unet_dtype: torch.dtype,
    text_dtype: torch.dtype | None = None,
) -> tuple[Unet, TextEncoders | None]:
    """Return an expert's UNet, and its text encoders where they have a dtype, to be trained.

    They are made of torch's own layers and shared with nobody; nothing requires a gradient yet.

    Raises:
        CheckpointInvalid: as ``load_experts``.
    """
    checkpoint = opened.checkpoint
    prints = _fingerprints(checkpoint, without=("vae",))
    text = None
    if text_dtype is not None:
        shared = _Shared(device=device, dtype=text_dtype, vae_dtype=text_dtype, keep_rows=False)
        text = _load_text(checkpoint, prints, shared)
    unet = load_unet(
        checkpoint.parts["unet"],
        device=device,
        dtype=unet_dtype,
        fingerprint=prints["unet"],
        keep_rows=False,
    )
    return unet, text


def _open(
    base: str | None, refiner: str | None, cache_dir: Path, options: LoadOptions
) -> dict[str, tuple[Checkpoint, Family]]:
    """Return the checkpoints that are named and their families, checked against each other."""
    if base is None and refiner is None:
        description = "neither base nor refiner is given"
        raise SettingInvalid([FieldViolation(field="base", description=description)])
    wanted = (
        ("base", base, options.base_revision, options.base_family),
        ("refiner", refiner, options.refiner_revision, options.refiner_family),
    )
    opened: dict[str, tuple[Checkpoint, Family]] = {}
    for name, source, revision, family in wanted:
        if source is not None:
            checkpoint = open_checkpoint(source, _source_config(options, cache_dir, revision))
            opened[name] = (checkpoint, _family(checkpoint, family))
    if len(opened) > 1:
        _check_pair(opened["base"], opened["refiner"])
    return opened


def _source_config(options: LoadOptions, cache_dir: Path, revision: str | None) -> SourceConfig:
    return SourceConfig(
        cache_dir=cache_dir,
        revision=revision,
        tokenizer_dir=options.tokenizer_dir,
        hub_endpoint=options.hub_endpoint,
        s3=options.s3,
        experts_dir=options.experts_dir,
        tenant=options.tenant,
    )


def _family(checkpoint: Checkpoint, override: str | None) -> Family:
    parts = checkpoint.parts
    family = detect_family(
        checkpoint.source,
        unet=parts["unet"].config,
        text_encoder_2=parts["text_encoder_2"].config,
        scheduler=checkpoint.scheduler,
        has_text_encoder="text_encoder" in parts,
        override=override,
    )
    stated = checkpoint.pipeline.get("requires_aesthetics_score")
    if stated is not None and bool(stated) != family.requires_aesthetics_score:
        problem = f"requires_aesthetics_score {stated} with {family.num_time_ids} time ids"
        raise CheckpointInvalid(checkpoint.source, problem)
    channels = parts["vae"].config.get("latent_channels")
    if channels != family.latent_channels:
        problem = f"UNet has {family.latent_channels} latent channels, VAE {channels}"
        raise CheckpointInvalid(checkpoint.source, problem)
    return family


def _schedule(checkpoint: Checkpoint, family: Family) -> NoiseSchedule:
    config: Mapping[str, object] = checkpoint.scheduler
    if family.timestep_spacing is not None:
        config = {**config, "timestep_spacing": family.timestep_spacing}
    return NoiseSchedule.from_config(config, source=checkpoint.source)


def _check_pair(base: tuple[Checkpoint, Family], refiner: tuple[Checkpoint, Family]) -> None:
    """Check what two experts must share to hand latents over, before any weight is loaded.

    Raises:
        ExpertsMismatch: naming the first field in which they differ.
    """
    facts = [_pair_facts(*base), _pair_facts(*refiner)]
    for name, value in facts[0].items():
        if facts[1][name] != value:
            raise ExpertsMismatch(field=name, base=value, refiner=facts[1][name])


def _pair_facts(checkpoint: Checkpoint, family: Family) -> dict[str, object]:
    schedule = _schedule(checkpoint, family)
    vae = checkpoint.parts["vae"].config
    facts: dict[str, object] = {"edm": schedule.edm}
    facts |= {name: getattr(schedule, name) for name in _SHARED_SCHEDULE}
    if schedule.edm is None:
        facts |= {name: getattr(schedule, name) for name in _SHARED_BETAS}
    facts["latent_channels"] = family.latent_channels
    facts |= {name: vae.get(name) for name in ("scaling_factor", "latents_mean", "latents_std")}
    return facts


def _load(name: str, checkpoint: Checkpoint, family: Family, *, shared: _Shared) -> Expert:
    parts, prints = checkpoint.parts, _fingerprints(checkpoint)
    text = _load_text(checkpoint, prints, shared)
    if text.hidden_dim != family.cross_attention_dim:
        needed = family.cross_attention_dim
        problem = f"text encoders give {text.hidden_dim} channels, UNet takes {needed}"
        raise CheckpointInvalid(checkpoint.source, problem)
    unet = load_unet(
        parts["unet"], device=shared.device, dtype=shared.dtype, fingerprint=prints["unet"]
    )
    _log.info("loaded %s %s: family %s, %s", name, checkpoint.source, family.name, prints["unet"])
    return Expert(
        name=name,
        source=checkpoint.source,
        family=family,
        schedule=_schedule(checkpoint, family),
        unet=unet,
        text=text,
        vae=_load_vae(checkpoint, prints, shared),
    )


def _fingerprints(checkpoint: Checkpoint, without: Sequence[str] = ()) -> dict[str, str]:
    """Return the fingerprint of each part but those ``without``."""
    parts = {name: part for name, part in checkpoint.parts.items() if name not in without}
    with ThreadPoolExecutor(len(parts), thread_name_prefix="fingerprint") as pool:
        return dict(zip(parts, pool.map(fingerprint_part, parts.values()), strict=True))


def _load_vae(checkpoint: Checkpoint, prints: Mapping[str, str], shared: _Shared) -> Autoencoder:
    fingerprint = prints["vae"]
    if fingerprint not in shared.vaes:
        shared.vaes[fingerprint] = load_autoencoder(
            checkpoint.parts["vae"],
            device=shared.device,
            dtype=shared.vae_dtype,
            fingerprint=fingerprint,
        )
    return shared.vaes[fingerprint]


def _load_text(checkpoint: Checkpoint, prints: Mapping[str, str], shared: _Shared) -> TextEncoders:
    encoders: list[TextEncoder] = []
    for part_name in ("text_encoder", "text_encoder_2"):
        if part_name in checkpoint.parts:
            part = checkpoint.parts[part_name]
            files = checkpoint.tokenizers[part_name]
            vocabulary = load_vocabulary(files, checkpoint.source, window=_window(part.config))
            key = f"{prints[part_name]}+{vocabulary.fingerprint}"
            if key not in shared.encoders:
                shared.encoders[key] = load_text_encoder(
                    part,
                    vocabulary,
                    device=shared.device,
                    dtype=shared.dtype,
                    fingerprint=key,
                    keep_rows=shared.keep_rows,
                )
            encoders.append(shared.encoders[key])
    zeros = bool(checkpoint.pipeline.get("force_zeros_for_empty_prompt", True))
    text = TextEncoders(encoders, zeros_for_none=zeros)
    return shared.texts.setdefault(text.fingerprint, text)


def _window(config: Mapping[str, object]) -> int:
    window = config.get("max_position_embeddings", _TEXT_WINDOW)
    return window if isinstance(window, int) else _TEXT_WINDOW

"""From settings to an engine: where experts, executor and decoder are put together."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from diptych.adapters.adapter import Adapter
from diptych.adapters.merge.merging import Merged
from diptych.adapters.merge.zipping import ZipSpec
from diptych.adapters.registry import Registry
from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.diffusion import SOLVERS
from diptych.diffusion.schedule import SIGMA_SCHEDULES, SPACINGS
from diptych.embeddings.memory import MemoryTier
from diptych.inference.adapter_loading import StoreLoader
from diptych.inference.adapter_store import adapters_dir, fetches, open_registry
from diptych.inference.base_weights import BaseWeights, weights_of
from diptych.inference.catalog import AdapterCatalog, CatalogConfig
from diptych.inference.decoder import DeviceDecoder
from diptych.inference.demo_adapters import publish_demo_adapters
from diptych.inference.engine import Engine, EngineConfig
from diptych.inference.executor import DeviceExecutor, ExecutorConfig
from diptych.inference.hosted import Hosted, HostedExpert
from diptych.inference.limits import Limits
from diptych.inference.merging import Zips
from diptych.inference.orders import MergeOrder
from diptych.inference.ports import Observer
from diptych.inference.prompt_cache import (
    LocalPrompts,
    PromptCache,
    PromptTiers,
    ServicePrompts,
    SharedPrompts,
)
from diptych.inference.server import Loaded
from diptych.inference.settings import InferenceSettings, Settings
from diptych.inference.trajectory import Expert
from diptych.inference.zip_merge import zip_merge
from diptych.models.checkpoint import SourceConfig
from diptych.models.experts import Expert as LoadedExpert
from diptych.models.experts import Experts, LoadOptions, load_experts
from diptych.models.placement import choose_device, choose_dtype
from diptych.models.preview_decoder import PreviewDecoder, load_preview_decoder
from diptych.nano.pair import model_source
from diptych.rpc.channel import ChannelConfig
from diptych.storage.s3 import S3Config
from diptych.storage.tiers import HeldFiles, TierStats

__all__ = ["load_engine", "load_pair", "open_engine"]

SAME_LATENTS: Final = frozenset(
    {"sdxl-base", "ssd-1b", "segmind-vega", "sdxl-turbo", "sdxl-lightning", "sdxl-refiner"}
)
"""Families that share SDXL's autoencoder; any other shares its own with itself only."""

PROMPT_PEER_TIMEOUT_S: Final = 0.5
"""How long the engine waits for embeddings of prompts before it encodes them itself."""

ZIP_STEPS: Final = 100
"""Steps of a zip that names none."""

_log = logging.getLogger(__name__)


def load_engine(settings: Settings, observer: Observer) -> Loaded:
    """Load the experts that ``settings`` name; raises what ``load_pair`` does."""
    return open_engine(load_pair(settings), settings, observer)


def open_engine(experts: Experts, settings: Settings, observer: Observer) -> Loaded:
    """Put ``experts`` behind an engine that has not started yet; they are no one else's.

    Raises:
        SettingInvalid: There can be no store of adapters where the settings say.
    """
    own = settings.inference
    hosted, weights = describe(experts, own), _weights(experts)
    registry, files = open_registry(settings)
    if own.base == "nano":
        publish_demo_adapters(registry)
    prompts, close_prompts = _prompts(own, observer)
    executor = DeviceExecutor(
        experts,
        config=ExecutorConfig(max_rows=own.max_rows, adapter_lines=own.adapter_lines),
        prompts=prompts,
    )
    loader = StoreLoader(
        registry, executor.bind, host_bytes=own.adapter_host_bytes, observer=observer
    )
    engine = Engine(
        executor,
        DeviceDecoder(experts.hosted[0].vae, previewer=_load_previewer(settings, experts)),
        loader,
        observer=observer,
        config=EngineConfig(
            num_slots=own.num_slots,
            max_rows=own.max_rows,
            max_waiting=own.max_waiting,
            adapter_lines=own.adapter_lines,
            adapter_slice_s=own.adapter_slice_s,
        ),
    )
    catalog = _catalog(settings, registry, hosted, weights, zips=_zips(experts))
    named = {"base": own.base, "refiner": own.refiner_source()}
    _log.info("loaded", extra={"device": str(experts.hosted[0].unet.device), **named})
    return Loaded(
        engine=engine,
        hosted=hosted,
        catalog=catalog,
        num_slots=own.num_slots,
        tiers=lambda: _tiers(loader, files if own.adapters_store else None),
        close=close_prompts,
    )


def _tiers(loader: StoreLoader, files: HeldFiles | None) -> dict[str, TierStats]:
    """Return what the tiers behind the device did; ``files`` lie in front of a bucket."""
    host = {"host": loader.stats()}
    return host if files is None else host | {"disk": files.stats()}


def load_pair(settings: Settings) -> Experts:
    """Load the experts that ``settings`` name onto their device.

    Raises:
        SettingInvalid: The device is not there, or no expert is named.
        ModelNotFound: A source names nothing.
        CheckpointInvalid: A checkpoint cannot be read safely.
        ExpertsMismatch: Base and refiner cannot share a trajectory.
    """
    own = settings.inference
    device = choose_device(own.device, field="inference.device")
    return load_experts(
        model_source(own.base, "base"),
        model_source(own.refiner_source(), "refiner"),
        device=device,
        dtype=choose_dtype(own.dtype, device),
        cache_dir=settings.home / "models",
        options=LoadOptions(
            base_family=own.base_family,
            refiner_family=own.refiner_family,
            base_revision=own.base_revision,
            refiner_revision=own.refiner_revision,
            tokenizer_dir=own.tokenizer_dir,
            hub_endpoint=own.hub_endpoint,
            s3=S3Config(endpoint_url=own.s3_endpoint),
            experts_dir=settings.home / "experts",
        ),
    )


def _prompts(
    own: InferenceSettings, observer: Observer
) -> tuple[PromptTiers | None, Callable[[], None]]:
    """Return where embeddings of prompts are looked for, None for nowhere, and what ends that."""
    tiers: dict[str, PromptCache] = {}
    with ExitStack() as stack:
        if own.prompt_cache_bytes:
            tiers["memory"] = LocalPrompts(MemoryTier(own.prompt_cache_bytes))
        if own.prompt_cache_peer is not None:
            token = own.prompt_cache_peer_token
            client = EmbeddingCacheClient(
                ClientConfig(
                    channel=ChannelConfig(address=own.prompt_cache_peer, max_attempts=1),
                    token=token.get_secret_value() if token is not None else None,
                )
            )
            stack.callback(client.close)
            shared = SharedPrompts(ServicePrompts(client, timeout_s=PROMPT_PEER_TIMEOUT_S))
            stack.callback(shared.close)
            tiers["service"] = shared
        close = stack.pop_all().close
    return (PromptTiers(tiers, observer) if tiers else None), close


def _catalog(
    settings: Settings,
    registry: Registry,
    hosted: Hosted,
    weights: Mapping[Expert, BaseWeights],
    *,
    zips: Zips,
) -> AdapterCatalog:
    return AdapterCatalog(
        registry,
        hosted=hosted,
        weights=weights,
        fetch=fetches(settings),
        config=CatalogConfig(
            incoming_dir=adapters_dir(settings) / "incoming",
            max_bytes=settings.inference.adapter_max_bytes,
        ),
        zips=zips,
    )


def _zips(experts: Experts) -> Zips:
    """Return what zips adapters on the experts that are served."""

    def zip_adapters(
        adapters: Sequence[Adapter], order: MergeOrder, progress: Callable[[int, int], None]
    ) -> Merged:
        spec = ZipSpec(
            prompts=order.prompts,
            weights=order.spec.weights,
            num_steps=order.num_steps or ZIP_STEPS,
            seed=order.spec.seed,
            rank=order.spec.rank,
            energy=order.spec.energy,
        )
        return zip_merge(adapters, spec, experts=experts, progress=progress).merged

    return zip_adapters


def _weights(experts: Experts) -> dict[Expert, BaseWeights]:
    """Return what adapters may change; taken before anything wraps the layers."""
    return {
        Expert(expert.name): weights_of(
            Expert(expert.name),
            expert.unet.module,
            {encoder.name: encoder.module for encoder in expert.text.encoders},
        )
        for expert in experts.hosted
    }


def _load_previewer(settings: Settings, experts: Experts) -> PreviewDecoder | None:
    """Return the decoder of previews that ``settings`` name, None for the linear projection."""
    own, first = settings.inference, experts.hosted[0]
    if own.preview_decoder is None:
        return None
    return load_preview_decoder(
        own.preview_decoder,
        SourceConfig(
            cache_dir=settings.home / "models",
            hub_endpoint=own.hub_endpoint,
            s3=S3Config(endpoint_url=own.s3_endpoint),
        ),
        latent_channels=first.family.latent_channels,
        device=first.unet.device,
        dtype=first.unet.dtype,
    )


def describe(experts: Experts, own: InferenceSettings) -> Hosted:
    """Return what requests are checked and filled in against."""
    first = experts.hosted[0].family
    limits = own.limits()
    return Hosted(
        version=_version(),
        base=_hosted(experts.base, own.base),
        refiner=_hosted(experts.refiner, own.refiner_source()),
        refinable_families=_refinable(experts),
        solvers=tuple(SOLVERS),
        spacings=tuple(SPACINGS),
        sigma_schedules=SIGMA_SCHEDULES,
        limits=Limits(
            min_side=first.min_size,
            max_side=min(limits.max_side, first.max_size),
            max_pixels=limits.max_pixels,
            size_multiple=first.size_multiple,
            max_steps=limits.max_steps,
            max_images=limits.max_images,
            max_prompt_bytes=limits.max_prompt_bytes,
            max_inline_bytes=limits.max_inline_bytes,
            max_adapters=limits.max_adapters,
        ),
        width=first.default_size,
        height=first.default_size,
        num_steps=first.default_num_steps,
        solver=first.default_solver,
    )


def _hosted(expert: LoadedExpert | None, source: str | None) -> HostedExpert | None:
    if expert is None:
        return None
    return HostedExpert(
        expert=Expert(expert.name),
        family=expert.family.name,
        model=source or expert.source,
        prediction_type="edm" if expert.schedule.edm else expert.schedule.prediction_type,
        guidance_scale=expert.family.default_guidance_scale,
        takes_aesthetic_score=expert.family.requires_aesthetics_score,
        latent_channels=expert.family.latent_channels,
    )


def _refinable(experts: Experts) -> frozenset[str]:
    """Return the families whose latents the refiner understands."""
    if experts.refiner is None:
        return frozenset()
    own = experts.refiner.family.name
    beside = {experts.base.family.name} if experts.base is not None else set[str]()
    kin = SAME_LATENTS if own in SAME_LATENTS else frozenset({own})
    return kin | beside


def _version() -> str:
    try:
        return version("diptych")
    except PackageNotFoundError:
        return "0+source"

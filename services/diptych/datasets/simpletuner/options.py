"""One entry of SimpleTuner's file: options are read once, and each is answered for.

Facts about SimpleTuner are those of its version 4.8.0 (documentation/DATALOADER.md and the code
that it describes; where they differ, the code is followed and the note says so).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from diptych.errors import DatasetInvalid, FieldViolation

__all__ = ["GLOBALS", "OUTCOMES", "Options", "Outcome", "Said"]

Outcome = Literal["honoured", "translated", "differs", "ignored", "refused", "unsupported"]
"""``translated``: said otherwise here, and the same. ``differs``: as near as can be, and the note
says what differs. ``ignored``: changes nothing that is trained on. ``refused``: would destroy data.
``unsupported``: changes training, and cannot be said here."""
OUTCOMES: Final = get_args(Outcome)

GLOBALS: Final = (
    *("resolution", "resolution_type", "aspect_bucket_alignment", "aspect_bucket_rounding"),
    *("minimum_image_size", "maximum_image_size", "target_downsample_size"),
    *("max_upscale_threshold", "caption_strategy", "instance_prompt", "prepend_instance_prompt"),
    *("only_instance_prompt", "caption_dropout_probability", "data_backend_sampling", "seed"),
    *("vae_cache_ondemand", "vae_cache_disable", "text_cache_ondemand", "text_cache_disable"),
    *("masked_loss_probability", "delete_unwanted_images", "delete_problematic_images"),
    "delete_nsfw_images",
)
"""Those of SimpleTuner's own options, beside the file, that say something about datasets."""
MAX_SHOWN: Final = 60
_ABSENT: Final = (None, "")
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off", ""})
_SECRET: Final = ("secret", "access_key", "token")

_BOOKS: Final = "bookkeeping of its files, of which there are none here"
_SPEED: Final = "how fast embeddings are made, not what they are"
_WHERE: Final = "embeddings are kept by content in the one store of the embedding cache"
_CREDENTIALS: Final = "credentials come from the process's surroundings, never from a manifest"
_NEVER_DELETES: Final = "nothing here deletes a user's files; such images are left out and reported"
_KNOWN: Final[Mapping[str, tuple[Outcome, str]]] = {
    **dict.fromkeys(
        (
            *("skip_file_discovery", "preserve_data_backend_cache", "metadata_update_interval"),
            *("scan_for_errors", "vae_cache_scan_behaviour", "hash_filenames", "cache_file_suffix"),
            *("shorten_filenames", "csv_hash_filenames", "csv_shorten_filenames", "ignore_epochs"),
            *("bucket_report", "compress_cache", "auto_generated", "disable_validation", "shuffle"),
        ),
        ("ignored", _BOOKS),
    ),
    **dict.fromkeys(
        (
            *("write_batch_size", "read_batch_size", "text_encoder_batch_size", "vae_batch_size"),
            *("image_processing_batch_size", "max_workers", "aws_max_pool_connections"),
            *("memory_filesystem_path", "memory_filesystem_size", "memory_filesystem_sudo"),
            *("conditioning_image_embed_batch_size", "num_proc", "streaming", "auto_load"),
        ),
        ("ignored", _SPEED),
    ),
    **dict.fromkeys(
        (
            *("cache_dir", "cache_dir_vae", "image_embeds", "conditioning_image_embeds"),
            *("cache_dir_conditioning_image_embeds", "default"),
        ),
        ("ignored", _WHERE),
    ),
    **dict.fromkeys(
        ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "hf_token"),
        ("ignored", _CREDENTIALS),
    ),
    **dict.fromkeys(
        ("delete_unwanted_images", "delete_problematic_images", "delete_nsfw_images"),
        ("refused", _NEVER_DELETES),
    ),
    "timestep_sampling_offset": ("ignored", "for flow matching, which SDXL does not use"),
    "video": ("ignored", "for videos"),
    "audio": ("ignored", "for sound"),
    "conditioning": ("unsupported", "pictures that condition are not generated here"),
    "conditioning_config": ("unsupported", "pictures that condition are not generated here"),
    "grounding": ("unsupported", "boxes and masks of single things are not trained on here"),
    "grounding_data": ("unsupported", "boxes and masks of single things are not trained on here"),
    "slider_strength": ("unsupported", "slider training has no counterpart here"),
    "s2v_datasets": ("unsupported", "for videos with sound"),
    "disable_after_epoch_step": ("unsupported", "a probability that fades has no counterpart here"),
}
"""Options that nothing reads, with what becomes of them."""
_ELSEWHERE: Final = frozenset(
    (
        *("instance_data_dir", "instance_data_root", "aws_bucket_name", "aws_data_prefix"),
        *("aws_endpoint_url", "aws_region_name", "csv_file", "csv_cache_dir", "csv_url_column"),
        *("csv_caption_column", "dataset_name", "split", "revision", "image_column", "huggingface"),
        *("caption_column", "fallback_caption_column", "webshart", "source", "metadata"),
        *("subfolder", "metadata_backend", "parquet", "resolution", "resolution_type"),
        *("minimum_image_size", "maximum_image_size", "target_downsample_size"),
        *("minimum_aspect_ratio", "maximum_aspect_ratio", "max_upscale_threshold", "crop"),
        *("crop_style", "crop_aspect", "crop_aspect_buckets", "caption_strategy"),
        *("disable_multiline_split", "instance_prompt", "prepend_instance_prompt"),
        *("only_instance_prompt", "caption_shuffle", "probability", "repeats", "max_num_samples"),
        *("train_batch_size", "start_epoch", "end_epoch", "start_step", "end_step"),
        *("vae_cache_ondemand", "vae_cache_disable", "vae_cache_clear_each_epoch"),
        *("text_cache_ondemand", "text_cache_disable", "text_embeds", "conditioning_data"),
        *("conditioning_type", "source_dataset_id", "is_regularisation_data"),
        "is_regularization_data",
    )
)
"""Options that are read of the kinds of entries that heed them."""
_OFF: Final[tuple[object, ...]] = (None, "", False, 0, "false", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What became of one option."""

    entry: str
    """Its id, or ``defaults``."""
    option: str
    value: str
    """As it stood, short; secrets are not shown."""
    outcome: Outcome
    detail: str


class Options:
    """An entry's options, with SimpleTuner's global ones behind them; notes go to ``said``."""

    def __init__(
        self,
        entry: str,
        values: Mapping[str, Any],
        defaults: Mapping[str, Any],
        said: list[Said],
    ) -> None:
        self.entry: Final = entry
        self._values, self._defaults, self._all = values, defaults, said
        self._said: dict[str, Said] = {}
        self._read: set[str] = set()
        self._is_dropped = False

    def get(self, option: str, default: Any = None) -> Any:  # noqa: ANN401 - what the file says
        """Return an option's value, the global one's, or ``default``; what is empty is not set."""
        for values in (self._values, self._defaults):
            if option in values:
                self._read.add(option)
                if values[option] not in _ABSENT:
                    return values[option]
        return default

    def own(self, option: str, default: Any = None) -> Any:  # noqa: ANN401
        """Return an option's value whatever the global one is."""
        self._read.add(option)
        value = self._values.get(option)
        return default if value in _ABSENT else value

    def number(self, option: str, default: float | None = None) -> float | None:
        """Return a number, which may be spelt as a text."""
        value = self.get(option, default)
        try:
            return value if value is None else float(value)
        except (TypeError, ValueError):
            raise self._refusal(option, value, "a number") from None

    def count(self, option: str, default: int | None = None) -> int | None:
        """Return a whole number, which may be spelt as a text."""
        value = self.number(option, default)
        if value is not None and not value.is_integer():
            raise self._refusal(option, value, "a whole number")
        return value if value is None else int(value)

    def flag(self, option: str) -> bool:
        """Return whether an option is on; texts are read as SimpleTuner reads them."""
        value = self.get(option, False)
        if isinstance(value, bool | int):
            return bool(value)
        word = value.strip().lower() if isinstance(value, str) else None
        if word not in _TRUE | _FALSE:
            raise self._refusal(option, value, "true or false")
        return word in _TRUE

    def text(self, option: str, default: str | None = None) -> str | None:
        """Return a text."""
        value = self.get(option, default)
        if value is not None and not isinstance(value, str):
            raise self._refusal(option, value, "a text")
        return value

    def choice(self, option: str, choices: Sequence[str], default: str) -> str:
        """Return one of ``choices``."""
        value = self.get(option, default)
        if value not in choices:
            raise self._refusal(option, value, f"one of {', '.join(choices)}")
        return str(value)

    def mapping(self, option: str) -> Mapping[str, Any]:
        """Return an object of options."""
        value = self.get(option, {})
        if not isinstance(value, Mapping):
            raise self._refusal(option, value, "an object")
        return value

    def part(self, option: str) -> "Options":
        """Return the options inside an option; they are answered for as ``option.name``."""
        return Options(f"{self.entry}: {option}", self.mapping(option), {}, self._all)

    def say(self, option: str, outcome: Outcome, detail: str = "") -> None:
        """Note what became of an option that is set here or globally; the last note stays."""
        values = self._values if option in self._values else self._defaults
        self._read.add(option)
        if option in values:
            shown = "***" if any(part in option for part in _SECRET) else _shown(values[option])
            self._said[option] = Said(
                entry=self.entry, option=option, value=shown, outcome=outcome, detail=detail
            )

    def is_read(self, option: str) -> bool:
        """Return whether an option was asked for."""
        return option in self._read

    def finish(self) -> None:
        """Answer for every option that was not answered for."""
        if self._is_dropped:
            return
        for option, value in self._values.items():
            if option in self._said or option.startswith(("_", "$", "//")):
                continue
            if option in self._read:
                self.say(option, "honoured")
            elif option in _ELSEWHERE:
                self.say(option, "ignored", "not heeded of such an entry")
            elif option not in _KNOWN:
                self.say(option, "unsupported", "no option that is known")
            else:
                outcome, detail = _KNOWN[option]
                is_off = _is_off(value)
                self.say(option, "ignored" if is_off else outcome, "is off" if is_off else detail)
        self._all.extend(self._said.values())

    def drop(self, detail: str) -> None:
        """Say that the entry as a whole cannot be said."""
        self._is_dropped = True
        self._all.append(
            Said(entry=self.entry, option="*", value="", outcome="unsupported", detail=detail)
        )

    def _refusal(self, option: str, value: object, expected: str) -> DatasetInvalid:
        problem = f"{_shown(value)} is not {expected}"
        field = f"{self.entry}: {option}"
        return DatasetInvalid([FieldViolation(field=field, description=problem)])


def _is_off(value: object) -> bool:
    if isinstance(value, Mapping):
        return not value or _is_off(value.get("enabled", True))
    return value in _OFF or value == []


def _shown(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."

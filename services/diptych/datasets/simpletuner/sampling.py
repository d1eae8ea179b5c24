"""How often SimpleTuner sees an entry's images and how it keeps embeddings, as a manifest's."""

from typing import Any, Final

from diptych.datasets.simpletuner.options import Options

__all__ = ["cache_of", "sampling_of"]

Part = dict[str, Any]

_OFF: Final = (False, "false")
_MODES: Final = {"ondemand": "on_demand", "disable": "bypass"}


def sampling_of(options: Options) -> Part:
    """Return ``sampling``; an entry that is never drawn is for the caller to disable."""
    found: Part = {}
    repeats = options.count("repeats", 0) or 0
    if repeats > 0:
        found["repeats"] = repeats + 1
    detail = f"repeats: {max(repeats, 0) + 1}; 0 there means seen once"
    options.say("repeats", "translated", detail)
    probability = options.number("probability", 1.0)
    if probability is not None and probability != 1.0 and probability > 0:
        found["probability"] = probability
    for option in ("start_epoch", "start_step", "end_epoch", "end_step"):
        value = options.count(option)
        if value is not None and value > 0 and (option, value) != ("start_epoch", 1):
            found[option] = value
    if (size := options.count("train_batch_size")) is not None:
        found["batch_size"] = size
    if (limit := options.count("max_num_samples")) is not None:
        found["max_samples"] = limit
        options.say("max_num_samples", "differs", "as many, drawn otherwise: other images")
    return found


def cache_of(options: Options, texts: Options | None) -> Part:
    """Return ``cache`` of an entry and its text embeds."""
    found: Part = {}
    for ours, prefix, source in (
        ("images", "vae_cache", options),
        ("prompts", "text_cache", texts),
    ):
        if source is None:
            continue
        for suffix, mode in _MODES.items():
            option = f"{prefix}_{suffix}"
            if source.flag(option):
                found[ours] = mode
                source.say(option, "translated", f"cache.{ours}: {mode}")
    detail = "embeddings are named by what they are of; none has to be cleared to be made anew"
    if options.own("vae_cache_clear_each_epoch") not in _OFF:
        options.say("vae_cache_clear_each_epoch", "ignored", detail)
    return found

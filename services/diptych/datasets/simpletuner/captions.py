"""SimpleTuner's captions, as a manifest's ``captions``."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diptych.datasets.simpletuner.options import Options
from diptych.errors import DatasetInvalid, FieldViolation

__all__ = ["captions_of", "filters_of"]

Part = dict[str, Any]

_STRATEGIES: Final = (
    *("textfile", "filename", "instanceprompt", "parquet", "csv", "huggingface", "webshart"),
)
_SEPARATORS: Final[Mapping[str, str]] = {"comma": ",", "space": " ", "period": "."}
MAX_FILTER_BYTES: Final = 2**20


def captions_of(options: Options, filters: list[Part]) -> Part:
    """Return ``captions``.

    Args:
        options: The entry.
        filters: Those of its text embeds.
    """
    strategy = _strategy(options)
    found: Part = _read_by(options, strategy)
    if strategy == "filename":
        filters = [{"pattern": "_", "replacement": " "}, *filters]
    if filters and strategy != "instanceprompt":
        found["filters"] = filters
    if options.flag("disable_multiline_split"):
        found["split_lines"] = False
        options.say("disable_multiline_split", "translated", "split_lines: false")
    found.update(_prompt(options, strategy))
    if shuffle := _shuffle(options):
        found["shuffle"] = shuffle
    dropout = options.number("caption_dropout_probability")
    if dropout:
        found["dropout"] = dropout
        detail = "dropout; time ids stay as they are, there they became zeros with the caption"
        options.say("caption_dropout_probability", "differs", detail)
    return found


def _strategy(options: Options) -> str:
    kind = options.get("type", "local")
    if kind in {"huggingface", "webshart"} and options.own("caption_strategy") is None:
        strategy = str(kind)
    else:
        strategy = options.choice("caption_strategy", _STRATEGIES, "filename")
    if options.flag("only_instance_prompt"):
        options.say("only_instance_prompt", "translated", "strategy: instance_prompt")
        options.say("caption_strategy", "ignored", "only the instance prompt is used")
        return "instanceprompt"
    return strategy


def _read_by(options: Options, strategy: str) -> Part:
    """Return where captions are read."""
    if strategy == "textfile":
        return {"strategy": "text_file"}
    if strategy == "filename":
        options.say("caption_strategy", "translated", "file_name; a filter makes _ a space")
        return {"strategy": "file_name"}
    if strategy == "instanceprompt":
        return {"strategy": "instance_prompt"}
    if strategy == "webshart":
        detail = "the .txt beside each picture in its tar; Webshart reads its own index"
        options.say("caption_strategy", "differs", detail)
        return {"strategy": "text_file"}
    found: Part = {"strategy": "column"}
    column, fallback = _columns(options, strategy)
    if isinstance(column, list) and len(column) == 1:
        column = column[0]
    if isinstance(column, list) or "." in str(column):
        detail = f"captions are read of one column, and not of {column!r:.60}"
        options.say("caption_column", "unsupported", detail)
        column = column[0] if isinstance(column, list) else column
    found["column"] = str(column)
    if fallback is not None:
        found["fallback_column"] = str(fallback)
    options.say("caption_strategy", "translated", f"strategy: column, {column}")
    return found


def _columns(options: Options, strategy: str) -> tuple[Any, Any]:
    """Return the columns of captions, and of those used where they are empty."""
    if strategy == "parquet":
        table = options.mapping("parquet")
        if not table.get("caption_column"):
            options.say("parquet", "unsupported", "no caption_column is given")
        return table.get("caption_column") or "text", table.get("fallback_caption_column")
    if strategy == "csv":
        return options.get("csv_caption_column", "caption"), None
    inner = options.mapping("huggingface")
    column = options.own("caption_column") or inner.get("caption_column") or "caption"
    return column, options.own("fallback_caption_column") or inner.get("fallback_caption_column")


def _prompt(options: Options, strategy: str) -> Part:
    prompt = options.get("instance_prompt")
    is_prepended = options.flag("prepend_instance_prompt") and strategy != "instanceprompt"
    if isinstance(prompt, list):
        if len(prompt) > 1:
            options.say("instance_prompt", "unsupported", "one prompt; the first stands for all")
        prompt = prompt[0] if prompt else None
    if not is_prepended:
        options.say("prepend_instance_prompt", "ignored", "is off, or there is nothing else")
    if strategy != "instanceprompt" and not is_prepended:
        options.say("instance_prompt", "ignored", "captions are used, and it is not prepended")
        return {}
    found: Part = {} if prompt is None else {"instance_prompt": str(prompt)}
    if is_prepended:
        found["prepend_instance_prompt"] = True
    return found


def _shuffle(options: Options) -> Part | None:
    shuffle = options.part("caption_shuffle")
    is_on = shuffle.flag("enable")
    if not options.mapping("caption_shuffle"):
        return None
    if not is_on:
        options.say("caption_shuffle", "ignored", "is off")
        return None
    split_on = shuffle.choice("split_on", tuple(_SEPARATORS), "comma")
    seed = shuffle.count("seed")
    if seed is None:
        seed = options.count("seed", 0)
    found = {
        "num_variants": shuffle.count("count", 1),
        "separator": _SEPARATORS[split_on],
        "num_kept": shuffle.count("position_start", 0),
        "include_original": shuffle.get("include_original", True) is not False,
        "seed": seed,
    }
    shuffle.say("seed", "differs", "names orders for good as there; they are others")
    shuffle.finish()
    options.say("caption_shuffle", "translated", "captions.shuffle")
    return found


def filters_of(options: Options, base: Path) -> list[Part]:
    """Return ``captions.filters`` of an entry of text embeds.

    Raises:
        DatasetInvalid: Its file cannot be read, or holds no list of texts.
    """
    given = options.own("caption_filter_list")
    if isinstance(given, str):
        given = _read_list(options, base / given)
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise _refusal(options, "is no list of texts")
    found = [part for one in given if one for part in _filter(one)]
    detail = "captions.filters, before a prompt is prepended; there after it"
    if any(one.startswith("s/") and one.count("/") == 3 for one in given):
        detail += "; s/a/b/ replaces as its manual says, its code knows s/a/b alone"
    options.say("caption_filter_list", "differs", detail)
    return found


def _filter(text: str) -> list[Part]:
    """Return what one line of a filter list does: replace, or remove as text and as pattern."""
    parts = text.split("/")
    if parts[0] == "s" and (len(parts) == 3 or (len(parts) == 4 and not parts[3])):
        return [{"pattern": parts[1], "replacement": parts[2]}]
    try:
        is_itself = re.fullmatch(text, text) is not None
    except re.error:
        return [{"pattern": re.escape(text)}]
    return [{"pattern": text}] if is_itself else [{"pattern": re.escape(text)}, {"pattern": text}]


def _read_list(options: Options, path: Path) -> object:
    try:
        data = path.read_bytes()[:MAX_FILTER_BYTES].decode()
        return json.loads(data) if path.suffix == ".json" else data.splitlines()
    except (OSError, ValueError) as error:
        raise _refusal(options, f"{path} cannot be read: {error}") from error


def _refusal(options: Options, problem: str) -> DatasetInvalid:
    field = f"{options.entry}: caption_filter_list"
    return DatasetInvalid([FieldViolation(field=field, description=problem)])

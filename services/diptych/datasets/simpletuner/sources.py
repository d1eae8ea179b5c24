"""Where SimpleTuner's entries read images, as sources of a manifest."""

from pathlib import Path
from typing import Any

from diptych.datasets.simpletuner.options import Options, Outcome
from diptych.home_paths import at_home

__all__ = ["source_of"]

Source = dict[str, Any]


def source_of(options: Options, base: Path) -> Source | None:
    """Return the source that an entry names, None where there is no such source here.

    Args:
        options: The entry.
        base: What relative paths begin at: where SimpleTuner was started.
    """
    kind = options.choice(
        "type", ("local", "aws", "csv", "huggingface", "webshart", "memory"), "local"
    )
    if kind == "local":
        return _folder(options, base)
    if kind == "aws":
        return _bucket(options)
    if kind == "csv":
        return _table(options, base)
    if kind == "huggingface":
        return _hub(options)
    if kind == "webshart":
        return _tars(options, base)
    options.say("type", "unsupported", "memory holds caches, and not images")
    return None


def _folder(options: Options, base: Path) -> Source | None:
    path = options.text("instance_data_dir") or options.text("instance_data_root")
    if path is None:
        options.say("instance_data_dir", "unsupported", "no folder is named")
        return None
    folder = base / at_home(path)
    found: Source = {"type": "folder", "path": str(folder), "links": "follow"}
    metadata = _metadata(options)
    if metadata is not None:
        metadata["path"] = str(base / metadata["path"])
        found["metadata"] = metadata
    return found


def _bucket(options: Options) -> Source | None:
    bucket = options.text("aws_bucket_name")
    if bucket is None:
        options.say("type", "unsupported", "no aws_bucket_name is given")
        return None
    prefix = (options.text("aws_data_prefix") or options.text("instance_data_dir") or "").strip("/")
    found: Source = {"type": "s3", "bucket": bucket, "prefix": prefix}
    for ours, theirs in (("endpoint_url", "aws_endpoint_url"), ("region", "aws_region_name")):
        if value := options.text(theirs):
            found[ours] = value
    options.say("type", "translated", "type: s3")
    metadata = _metadata(options)
    if metadata is not None:
        metadata["path"] = (
            metadata["path"].removeprefix(f"{prefix}/") if prefix else metadata["path"]
        )
        options.say("parquet", "translated", "metadata, its path relative to the prefix")
        found["metadata"] = metadata
    return found


def _metadata(options: Options) -> Source | None:
    """Return the table beside the images."""
    backend = options.choice("metadata_backend", ("discovery", "json", "parquet"), "discovery")
    uses_captions = options.get("caption_strategy") == "parquet"
    if backend != "parquet" and not uses_captions:
        if options.mapping("parquet"):
            options.say("parquet", "ignored", "neither captions nor sizes are read from it")
        return None
    options.say("metadata_backend", "translated", "sizes are read of the images themselves")
    table = options.part("parquet")
    path = table.text("path")
    if path is None or path.endswith(".json"):
        detail = "no path is given" if path is None else "a table ends in .parquet, .jsonl or .csv"
        options.say("parquet", "unsupported", detail)
        return None
    found: Source = {
        "path": path,
        "file_column": table.text("filename_column") or "id",
        "has_extension": table.flag("identifier_includes_extension"),
    }
    for column in ("width_column", "height_column"):
        if name := table.text(column):
            found[column] = name
            table.say(column, "translated", "compared with the images, which are believed")
    for column in ("caption_column", "fallback_caption_column"):
        table.text(column)
    if table.get("bbox_column") is not None:
        table.say("bbox_column", "unsupported", "boxes are not trained on here")
    table.finish()
    options.say("parquet", "translated", "source.metadata and captions.column")
    return found


def _table(options: Options, base: Path) -> Source | None:
    path = options.text("csv_file")
    if path is None:
        options.say("type", "unsupported", "no csv_file is given")
        return None
    found: Source = {
        "type": "table",
        "path": str(base / path),
        "image_column": options.text("csv_url_column") or "url",
    }
    if cache := options.text("csv_cache_dir"):
        found["cache"] = str(base / cache)
        options.say("csv_cache_dir", "translated", "source.cache; files there are fetched again")
    options.text("csv_caption_column")
    options.say("type", "translated", "type: table")
    return found


def _hub(options: Options) -> Source | None:
    inner = options.part("huggingface")
    options.choice("metadata_backend", ("huggingface",), "huggingface")
    found: Source = {"type": "huggingface"}
    for ours, theirs in (
        *(("dataset", "dataset_name"), ("split", "split"), ("revision", "revision")),
        ("image_column", "image_column"),
    ):
        values = [one.text(theirs) for one in (options, inner)]
        if value := values[0] or values[1]:
            found[ours] = value
    if "dataset" not in found:
        options.say("type", "unsupported", "no dataset_name is given")
        return None
    for column in ("caption_column", "fallback_caption_column", "description_column"):
        inner.get(column)
    rows = ("filter_func", "composite_image_config", "composite_config", "bbox_column")
    _say_of_both((options, inner), rows, "unsupported", "rows are neither filtered nor cut apart")
    columns = ("width_column", "height_column", "quality_column", "video_column", "file_extension")
    _say_of_both((options, inner), columns, "ignored", "sizes are read of the images themselves")
    inner.finish()
    if options.mapping("huggingface"):
        options.say("huggingface", "translated", "source and captions")
    return found


def _tars(options: Options, base: Path) -> Source:
    inner = options.part("webshart")
    options.choice("metadata_backend", ("webshart",), "webshart")
    source = str(options.own("source") or inner.own("source") or "")
    detail = "captions are read of the tars themselves, not of Webshart's own index"
    _say_of_both((options, inner), ("metadata", "subfolder"), "unsupported", detail)
    for key in ("shard_cache_gb", "parallel_downloads", "buffer_size", "max_file_size"):
        inner.own(key)
        inner.say(key, "ignored", "how fast shards are fetched")
    path = base / source
    if not source or not path.exists():
        options.say("source", "unsupported", "tars are read of local folders only")
    inner.finish()
    options.say("type", "translated", "type: webdataset")
    return {"type": "webdataset", "path": str(path)}


def _say_of_both(
    both: tuple[Options, Options], keys: tuple[str, ...], outcome: Outcome, detail: str
) -> None:
    """Say what becomes of options that may stand in an entry or in a part of it."""
    for options in both:
        for key in keys:
            if options.own(key) is not None:
                options.say(key, outcome, detail)

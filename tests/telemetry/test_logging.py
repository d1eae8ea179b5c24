"""Log lines are JSON, carry the request they are about, and leak nothing."""

import io
import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest

from diptych.telemetry.logging import bind, bound_fields, configure_logging

LOG = logging.getLogger("diptych.tests")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging("info", stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    root.setLevel(level)


def last_line(stream: io.StringIO) -> dict[str, object]:
    line: dict[str, object] = json.loads(stream.getvalue().splitlines()[-1])
    return line


def test_line_is_one_json_object_with_time_level_logger_and_message(stream: io.StringIO) -> None:
    LOG.info("painted %d images", 2)
    line = last_line(stream)
    assert str(line.pop("time")).endswith("+00:00")
    assert line == {"level": "info", "logger": "diptych.tests", "message": "painted 2 images"}


def test_attributes_that_libraries_keep_to_themselves_are_not_told(stream: io.StringIO) -> None:
    record = logging.makeLogRecord({"msg": "hello", "levelno": logging.INFO, "told": 2})
    record._ray_timestamp_ns = 1  # where Ray is loaded, it marks every record so
    LOG.handle(record)
    line = last_line(stream)
    assert (line["told"], "_ray_timestamp_ns" in line) == (2, False)


def test_line_carries_bound_fields(stream: io.StringIO) -> None:
    with bind(request_id="r1"), bind(tenant="t"):
        LOG.info("hello")
    line = last_line(stream)
    assert (line["request_id"], line["tenant"]) == ("r1", "t")


def test_binding_ends_with_its_block() -> None:
    with bind(request_id="r1"):
        pass
    assert bound_fields() == {}


def test_prompt_is_written_as_its_length_only(stream: io.StringIO) -> None:
    LOG.info("hello", extra={"prompt": "a secret cat"})
    assert last_line(stream)["prompt"] == "<12 characters>"


def test_array_is_written_as_its_type_only(stream: io.StringIO) -> None:
    LOG.info("hello", extra={"latents": np.zeros(4)})
    assert last_line(stream)["latents"] == "<ndarray>"


def test_long_value_is_cut(stream: io.StringIO) -> None:
    LOG.info("hello", extra={"model": "x" * 5000})
    assert len(str(last_line(stream)["model"])) < 2100


def test_line_break_in_a_message_stays_in_one_line(stream: io.StringIO) -> None:
    LOG.info('two\nlines {"level": "fake"}')
    assert len(stream.getvalue().splitlines()) == 1


def test_field_cannot_replace_the_message(stream: io.StringIO) -> None:
    with bind(level="fake"):
        LOG.info("hello")
    assert last_line(stream)["level"] == "info"


def test_exception_brings_its_traceback(stream: io.StringIO) -> None:
    try:
        int("broken")
    except ValueError:
        LOG.exception("failed")
    assert "ValueError: invalid literal" in str(last_line(stream)["traceback"])


def test_configuring_twice_writes_each_line_once(stream: io.StringIO) -> None:
    configure_logging("info", stream)
    LOG.info("hello")
    assert len(stream.getvalue().splitlines()) == 1


def test_lower_level_is_not_written(stream: io.StringIO) -> None:
    LOG.debug("hello")
    assert stream.getvalue() == ""

"""Every call carries its deadline, its name and its caller."""

import dataclasses
import math

from diptych.clients.config import MAX_TIMEOUT_S, ClientConfig, call_options
from diptych.rpc.auth import TENANT_KEY
from diptych.rpc.channel import ChannelConfig
from diptych.rpc.interceptors import REQUEST_ID_KEY

CONFIG = ClientConfig(channel=ChannelConfig(address="localhost:1"), token="secret", timeout_s=7.0)


def test_call_without_a_deadline_has_the_clients() -> None:
    assert call_options(CONFIG, "r", None)["timeout"] == 7.0


def test_endless_call_has_the_longest_deadline_there_is() -> None:
    assert call_options(CONFIG, "r", math.inf)["timeout"] == MAX_TIMEOUT_S


def test_metadata_names_call_and_caller() -> None:
    metadata = dict(call_options(CONFIG, "r", None)["metadata"])
    assert metadata == {REQUEST_ID_KEY: "r", "authorization": "Bearer secret"}


def test_metadata_names_whom_a_call_is_for() -> None:
    config = dataclasses.replace(CONFIG, tenant="studio")
    assert dict(call_options(config, "r", None)["metadata"])[TENANT_KEY] == "studio"

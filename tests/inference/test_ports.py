"""The device implements what the engine asks for."""

import pytest
from typing_extensions import get_protocol_members

from diptych.inference.decoder import DeviceDecoder
from diptych.inference.executor import DeviceExecutor
from diptych.inference.ports import Decoder, Executor


@pytest.mark.parametrize(("port", "device"), [(Executor, DeviceExecutor), (Decoder, DeviceDecoder)])
def test_a_device_has_every_method_of_its_port(port: type, device: type) -> None:
    assert get_protocol_members(port) <= set(dir(device))

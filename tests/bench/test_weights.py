"""A single bit of a single weight changes the digest; another class of a module the layout."""

import torch

from diptych.bench.serving import Serving
from diptych.bench.weights import digest_of_weights, layout_of_modules


def test_a_changed_weight_is_seen(server: Serving) -> None:
    before = digest_of_weights(server.experts)
    weight = server.experts.hosted[0].unet.module.conv_in.bias
    with torch.no_grad():
        held = weight.clone()
        weight[0] += 1e-3
        changed = digest_of_weights(server.experts)
        weight.copy_(held)
    assert changed != before == digest_of_weights(server.experts)


def test_a_changed_module_is_seen(server: Serving) -> None:
    class Other(torch.nn.SiLU):
        """Another class."""

    before, unet = layout_of_modules(server.experts), server.experts.hosted[0].unet.module
    held, unet.conv_act = unet.conv_act, Other()
    changed = layout_of_modules(server.experts)
    unet.conv_act = held
    assert changed != before == layout_of_modules(server.experts)

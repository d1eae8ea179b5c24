"""One copy of a LoRA serves every scale; DoRAs of one request are bound together."""

from diptych.inference.adapter_units import scale_on, unit_of, units_of
from diptych.inference.trajectory import Expert
from support.fake_device import request, use


def test_a_lora_is_one_unit_at_any_scale() -> None:
    parts = (("refiner", 0.5), ("text_encoder", 0.2))
    assert unit_of(use("a", scale=0.5)) == unit_of(use("a", scale=0.7, parts=parts))


def test_factors_on_blocks_make_another_unit() -> None:
    assert unit_of(use("a")) != unit_of(use("a", parts=(("unet.down", 0.5),)))


def test_dora_is_another_unit_at_another_scale() -> None:
    assert unit_of(use("a", scale=0.5, dora=True)) != unit_of(use("a", scale=0.7, dora=True))


def test_doras_of_one_request_are_one_unit() -> None:
    uses = (use("b", dora=True), use("c"), use("a", dora=True))
    found = units_of(request("x", adapters=uses))
    assert sorted([own.name for own in group] for group in found.values()) == [["a", "b"], ["c"]]


def test_the_order_of_adapters_makes_no_difference() -> None:
    uses = (use("a", dora=True), use("b", dora=True), use("c"))
    assert (
        units_of(request("x", adapters=uses)).keys()
        == units_of(request("x", adapters=uses[::-1])).keys()
    )


def test_scale_is_the_callers_times_the_parts() -> None:
    own = use("a", scale=0.5, parts=(("refiner", 0.5), ("text_encoder", 0.2), ("unet", 0.1)))
    assert [
        scale_on(own, Expert.BASE),
        scale_on(own, Expert.REFINER),
        scale_on(own, Expert.BASE, "text_encoder"),
        scale_on(own, Expert.REFINER, "text_encoder_2"),
    ] == [0.5, 0.25, 0.1, 0.25]


def test_doras_copy_holds_its_scale() -> None:
    assert scale_on(use("a", scale=0.5, dora=True), Expert.BASE) == 1.0

"""Orders are plain values with the defaults of the protocol."""

from diptych.inference.orders import AdapterWish, ImportOrder


def test_import_goes_to_the_default_tenants_latest() -> None:
    order = ImportOrder(name="huggy", source="hf://owner/huggy")
    assert (order.tag, order.tenant, order.replace, order.force) == (
        "latest",
        "default",
        False,
        False,
    )


def test_wish_acts_as_it_is() -> None:
    assert AdapterWish(reference="huggy", field="adapters[0]").scale == 1.0

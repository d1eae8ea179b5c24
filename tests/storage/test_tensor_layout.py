"""The layout is what safetensors reads."""

from safetensors.numpy import load

from diptych.storage.tensor_layout import lay_out

DESCRIBED = {"b": ("F32", (2,)), "a": ("F16", (3,)), "c": ("F32", (1, 1))}


def test_widest_numbers_come_first_then_names() -> None:
    assert lay_out(DESCRIBED, {})[1] == ["b", "c", "a"]


def test_safetensors_reads_it() -> None:
    header, order = lay_out(DESCRIBED, {"format": "pt"})
    found = load(header + bytes(18))
    assert {name: found[name].shape for name in order} == {k: v[1] for k, v in DESCRIBED.items()}


def test_data_is_aligned() -> None:
    assert len(lay_out(DESCRIBED, {"some": "text"})[0]) % 8 == 0


def test_order_of_arguments_does_not_matter() -> None:
    assert lay_out(DESCRIBED, {}) == lay_out(dict(reversed(DESCRIBED.items())), {})

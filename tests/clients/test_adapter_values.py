"""Calls about adapters leave open what the server decides."""

from diptych.clients.adapter_values import AdapterFilter, ImportCall, MergeCall


def test_import_takes_what_the_file_says() -> None:
    call = ImportCall(name="huggy", source=b"")
    assert (call.tag, call.family, call.stage, call.force) == ("", "", None, False)


def test_merge_leaves_options_to_its_method() -> None:
    call = MergeCall(sources={"a": 1.0}, method="linear", name="m")
    assert {call.space, call.density, call.rank, call.energy, call.election} == {None}


def test_filter_lets_everything_through() -> None:
    assert AdapterFilter() == AdapterFilter(name_prefix="", family="", stage=None, kind="")

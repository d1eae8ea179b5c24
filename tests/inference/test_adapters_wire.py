"""AdapterService's messages become values, or all their violations at once."""

import math

import pytest

from diptych.adapters.adapter import MAX_RANK
from diptych.adapters.card import Kind
from diptych.adapters.naming import Stage
from diptych.digest import Digest
from diptych.errors import InvalidRequest
from diptych.inference.adapters_wire import (
    adapter_info,
    export_format,
    import_order,
    listing_of,
    merge_order,
    named_reference,
)
from diptych.inference.limits import Limits
from diptych.inference.orders import MergeOrder, Upload
from diptych.v1 import adapters_pb2 as pb
from support.catalogs import NOON, an_adapter

SOURCES = [pb.MergeSource(adapter="a"), pb.MergeSource(adapter="b", weight=0.5)]


def merging(**fields: object) -> MergeOrder:
    facts: dict[str, object] = {"sources": SOURCES, "method": "ties", "name": "both"}
    message = pb.MergeAdaptersRequest(**facts | fields)  # type: ignore[arg-type]
    return merge_order(message, Limits(), tenant="default")


def refused(**fields: object) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        merging(**fields)
    return [violation.field for violation in caught.value.violations]


def test_limit_of_ranks_is_the_formats() -> None:
    assert Limits().max_adapter_rank == MAX_RANK


def test_import_takes_what_its_header_says() -> None:
    header = pb.ImportAdapterHeader(
        name="huggy",
        stage=pb.ADAPTER_STAGE_BOTH,
        expected_digest=f"sha256:{'0' * 64}",
        upload=pb.AdapterUpload(file_name="h.safetensors", size_bytes=3),
    )
    order = import_order(header, tenant="acme")
    assert (order.tag, order.tenant, order.stage, order.expected, order.source) == (
        "latest",
        "acme",
        Stage.BOTH,
        Digest(hex="0" * 64),
        Upload(file_name="h.safetensors", size_bytes=3),
    )


def test_import_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        import_order(pb.ImportAdapterHeader(request_id="x"), tenant="default")
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["header.request_id", "header.name", "header.source"]


def test_unlike_trigger_words_are_refused() -> None:
    header = pb.ImportAdapterHeader(name="a", uri="hf://a/b", trigger_words=["x" * 300])
    with pytest.raises(InvalidRequest, match="trigger_words"):
        import_order(header, tenant="default")


def test_absent_weight_is_one() -> None:
    assert merging().spec.weights == (1.0, 0.5)


def test_absent_density_is_a_half_where_there_is_one() -> None:
    assert (merging().spec.density, merging(method="linear").spec.density) == (0.5, None)


@pytest.mark.parametrize("density", [0.0, 1.5, -1.0, math.nan])
def test_density_outside_its_range_is_refused(density: float) -> None:
    assert refused(density=density) == ["density"]


def test_weight_that_is_no_number_is_refused() -> None:
    sources = [SOURCES[0], pb.MergeSource(adapter="b", weight=math.nan)]
    assert refused(sources=sources) == ["sources[1].weight"]


def test_option_that_the_method_ignores_is_refused() -> None:
    assert refused(method="linear", density=0.5, slerp_t=0.5) == ["density", "slerp_t"]


def test_every_violation_of_a_merge_is_told() -> None:
    sources = [pb.MergeSource(adapter=""), pb.MergeSource(adapter="?")]
    assert refused(sources=sources, name="", method="magic", space=9) == [
        "name",
        "sources[0].adapter",
        "sources[1].adapter",
        "space",
        "method",
    ]


def test_zip_takes_a_prompt_per_source() -> None:
    order = merging(method="zip", prompts=["a moon", "at night"], num_steps=50)
    assert (order.prompts, order.num_steps) == (("a moon", "at night"), 50)


def test_zip_with_what_it_has_no_use_for_is_refused() -> None:
    fields = refused(method="zip", prompts=["one"], num_steps=0, density=0.5, space=2)
    assert fields == ["prompts", "num_steps", "space", "density"]


def test_prompts_without_zip_are_refused() -> None:
    assert refused(prompts=["a", "b"]) == ["prompts"]


def test_listing_is_about_what_is_set() -> None:
    where = listing_of(pb.ListAdaptersRequest(name_prefix="h", kind="dora"))
    assert (where.name_prefix, where.family, where.stage, where.kind) == (
        "h",
        None,
        None,
        Kind.DORA,
    )


def test_negative_page_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="page_size"):
        listing_of(pb.ListAdaptersRequest(page_size=-1))


def test_deleting_expects_a_digest_if_told_to() -> None:
    digest = f"sha256:{'1' * 64}"
    message = pb.DeleteAdapterRequest(adapter="huggy:v2", expected_digest=digest)
    assert named_reference(message) == ("huggy:v2", Digest(hex="1" * 64))


def test_export_without_a_format_is_a_bundle() -> None:
    assert export_format(pb.ExportAdapterRequest(adapter="huggy")) == "bundle"


def test_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="format"):
        export_format(pb.ExportAdapterRequest(format=99))  # type: ignore[arg-type]


def test_what_a_file_did_not_say_is_absent() -> None:
    info = adapter_info(an_adapter(), pb.AdapterResidency())
    assert not info.HasField("zero_snr")
    assert not info.HasField("first_timestep")


def test_what_a_file_said_is_shown() -> None:
    shown = an_adapter(zero_snr=True, timestep_range=(0, 349), tokens={"<s1>": 1, "<s0>": 2})
    info = adapter_info(shown, pb.AdapterResidency())
    assert (info.zero_snr, info.last_timestep, list(info.tokens)) == (True, 349, ["<s0>", "<s1>"])
    assert info.create_time.ToDatetime(NOON.tzinfo) == NOON

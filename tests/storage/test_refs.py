"""Every ref store lets one of two writers win, and tells the other."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from diptych.errors import InvalidRequest
from diptych.storage.refs import MAX_VALUE_BYTES, Ref, RefStore, check_value


def written(refs: RefStore, key: str, value: bytes, expected: str | None = None) -> Ref:
    ref = refs.write(key, value, expected=expected)
    assert ref is not None
    return ref


def count(refs: RefStore, num_times: int) -> None:
    """Add one to a number ``num_times``, beginning again whenever another was first."""
    for _ in range(num_times):
        while True:
            ref = refs.read("n")
            value = int(ref.value) + 1 if ref else 1
            if refs.write("n", b"%d" % value, expected=ref.version if ref else None):
                break


def test_gives_back_what_was_written(refs: RefStore) -> None:
    ref = written(refs, "a/b:c", b"1")
    assert refs.read("a/b:c") == ref


def test_has_no_value_at_first(refs: RefStore) -> None:
    assert refs.read("a") is None


def test_a_name_is_created_once(refs: RefStore) -> None:
    first = written(refs, "a", b"1")
    assert refs.write("a", b"2", expected=None) is None
    assert refs.read("a") == first


def test_writes_over_the_version_it_knows(refs: RefStore) -> None:
    first = written(refs, "a", b"1")
    second = written(refs, "a", b"2", first.version)
    assert refs.read("a") == second


def test_does_not_write_over_another_version(refs: RefStore) -> None:
    first = written(refs, "a", b"1")
    written(refs, "a", b"2", first.version)
    assert refs.write("a", b"3", expected=first.version) is None
    assert refs.delete("a", expected=first.version) is False


def test_does_not_write_over_what_is_gone(refs: RefStore) -> None:
    first = written(refs, "a", b"1")
    assert refs.delete("a", expected=first.version)
    assert refs.write("a", b"2", expected=first.version) is None
    assert refs.read("a") is None


def test_a_name_that_is_gone_can_be_created(refs: RefStore) -> None:
    first = written(refs, "a", b"1")
    refs.delete("a", expected=first.version)
    assert refs.read("a") is None
    assert refs.listing("", limit=9) == []
    assert written(refs, "a", b"2").value == b"2"


def test_lists_after_a_key_in_order(refs: RefStore) -> None:
    for number in (3, 1, 2, 10):
        written(refs, f"n/x{number}", b"1")
    written(refs, "n/y/z", b"1")
    keys = [stamp.key for stamp in refs.listing("n/x", after="n/x1", limit=2)]
    assert keys == ["n/x10", "n/x2"]


def test_a_listing_tells_the_version(refs: RefStore) -> None:
    ref = written(refs, "n/a", b"1")
    assert [stamp.version for stamp in refs.listing("n/", limit=2)] == [ref.version]


def test_lists_more_than_a_page_of_the_store(refs: RefStore) -> None:
    for number in range(9):
        written(refs, f"n/{number}", b"1")
    assert len(refs.listing("n/", limit=100)) == 9


def test_of_many_writers_none_is_lost(refs: RefStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(count, refs, 4) for _ in range(4)]:
            done.result()
    found = refs.read("n")
    assert found is not None
    assert found.value == b"16"


@pytest.mark.parametrize("value", [b"", b"x" * (MAX_VALUE_BYTES + 1)])
def test_refuses_a_value_of_no_or_too_many_bytes(value: bytes) -> None:
    with pytest.raises(InvalidRequest, match="are not within 1 and"):
        check_value(value)


def test_no_store_takes_a_value_of_no_bytes(refs: RefStore) -> None:
    with pytest.raises(InvalidRequest):
        refs.write("a", b"", expected=None)

"""An import reads what the policy allows, within its limits, and leaves nothing behind."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.adapters.sources import Fetched, SourcePolicy, fetch
from diptych.errors import (
    AdapterInvalid,
    AdapterNotFound,
    InvalidRequest,
    PickleRefused,
    RequestCancelled,
    SourceUnavailable,
    StoreFull,
)
from support.buckets import BUCKET, Bucket, s3_bucket, s3_config, s3_server
from support.full_disk import files_no_larger_than
from support.hub import COMMIT, Hub, hub

DATA = bytes(range(256)) * 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an import folder with one file, one folder and links."""
    folder = tmp_path / "imports"
    (folder / "peft" / "unet").mkdir(parents=True)
    (folder / "huggy.safetensors").write_bytes(DATA)
    (folder / "peft" / "unet" / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "peft" / "unet" / "adapter_config.json").write_bytes(b"{}")
    (folder / "peft" / "training_args.bin").write_bytes(b"pickle")
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    (folder / "link.safetensors").symlink_to(folder / "huggy.safetensors")
    (folder / "out.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "outside").symlink_to(tmp_path)
    return folder


@pytest.fixture
def policy(root: Path) -> SourcePolicy:
    return SourcePolicy(import_root=root)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def running() -> Iterator[Hub]:
    with hub() as made:
        made.files = {"a.safetensors": DATA, "README.md": b"text"}
        yield made


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[Bucket, str]]:
    with s3_server() as url:
        made = s3_bucket(url)
        made.client.put_object(Bucket=BUCKET, Key="in/a.safetensors", Body=DATA)
        yield made, url


def on_hub(running: Hub) -> SourcePolicy:
    return SourcePolicy(allows_hub=True, hub_endpoint=f"http://{running.address}")


def refusal(uri: str, cache: Path, policy: SourcePolicy) -> str:
    with pytest.raises(InvalidRequest) as caught, fetch(uri, cache, policy):
        pass
    return str(caught.value)


def files(fetched: Fetched) -> dict[str, bytes]:
    return {
        path.relative_to(fetched.path).as_posix(): path.read_bytes()
        for path in fetched.path.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("uri", ["huggy.safetensors", "file://huggy.safetensors"])
def test_fetches_a_file(cache: Path, policy: SourcePolicy, uri: str) -> None:
    with fetch(uri, cache, policy) as fetched:
        assert fetched.path.read_bytes() == DATA
        assert (fetched.path.name, fetched.source) == ("huggy.safetensors",) * 2


def test_a_link_that_stays_inside_is_followed(cache: Path, policy: SourcePolicy) -> None:
    with fetch("link.safetensors", cache, policy) as fetched:
        assert fetched.path.read_bytes() == DATA


def test_fetches_a_folder_without_its_pickles(cache: Path, policy: SourcePolicy) -> None:
    with fetch("peft", cache, policy) as fetched:
        assert files(fetched) == {
            "unet/adapter_model.safetensors": b"weights",
            "unet/adapter_config.json": b"{}",
        }


def test_what_was_fetched_is_gone_afterwards(cache: Path, policy: SourcePolicy) -> None:
    with fetch("huggy.safetensors", cache, policy):
        assert len(list(cache.iterdir())) == 1
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "path",
    [
        *("out.safetensors", "outside/secret.safetensors", "../secret.safetensors"),
        *("peft/../../secret.safetensors", "outside", "none.safetensors", "a\0b", "x" * 10_000),
    ],
)
def test_nothing_outside_the_root_is_found(cache: Path, policy: SourcePolicy, path: str) -> None:
    with pytest.raises(AdapterNotFound), fetch(path, cache, policy):
        pass


def test_an_absolute_path_outside_the_root_is_not_found(
    cache: Path, policy: SourcePolicy, tmp_path: Path
) -> None:
    with (
        pytest.raises(AdapterNotFound),
        fetch(str(tmp_path / "secret.safetensors"), cache, policy),
    ):
        pass


def test_a_folder_offers_no_link_that_leads_out(cache: Path, policy: SourcePolicy) -> None:
    with fetch(".", cache, policy) as fetched:
        assert sorted(files(fetched)) == ["huggy.safetensors", "link.safetensors"]


def test_the_owner_may_read_any_path(cache: Path, tmp_path: Path, root: Path) -> None:
    del root
    path = str(tmp_path / "secret.safetensors")
    with fetch(path, cache, SourcePolicy.of_owner()) as fetched:
        assert fetched.path.read_bytes() == b"secret"


@pytest.mark.parametrize("name", ["old.ckpt", "s3://b/old.pt", "hf://a/b/old.bin", "old.PTH"])
def test_refuses_a_pickle_by_its_name(cache: Path, name: str) -> None:
    with pytest.raises(PickleRefused), fetch(name, cache, SourcePolicy()):
        pass
    assert not cache.exists()


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("huggy.safetensors", "paths are not allowed here"),
        ("s3://bucket/key.safetensors", "is not below a prefix"),
        ("hf://owner/name", "hub repositories are not allowed"),
        ("https://here/a.safetensors", "https addresses are not allowed"),
        ("http://here/a.safetensors", "is no path"),
        ("ftp://here/a.safetensors", "is no path"),
        ("s3://", "is no path"),
        ("hf://owner", "is no path"),
    ],
)
def test_allows_nothing_by_itself(cache: Path, uri: str, reason: str) -> None:
    assert reason in refusal(uri, cache, SourcePolicy())


def test_refuses_more_than_the_limit_as_it_comes(cache: Path, policy: SourcePolicy) -> None:
    small = replace(policy, max_bytes=len(DATA) - 1)
    with (
        pytest.raises(AdapterInvalid, match="has more than 255999 bytes"),
        fetch("huggy.safetensors", cache, small),
    ):
        pass
    assert list(cache.iterdir()) == []


def test_refuses_more_than_the_limit_as_it_is_listed(cache: Path, running: Hub) -> None:
    small = replace(on_hub(running), max_bytes=len(DATA) - 1)
    with pytest.raises(AdapterInvalid), fetch("hf://owner/name", cache, small):
        pass
    assert len(running.paths) == 1


def test_gives_up_when_the_time_is_up(cache: Path, policy: SourcePolicy) -> None:
    late = replace(policy, timeout_s=0)
    with (
        pytest.raises(SourceUnavailable, match="took longer than 0 s"),
        fetch("huggy.safetensors", cache, late),
    ):
        pass
    assert list(cache.iterdir()) == []


def test_an_import_that_is_cancelled_leaves_nothing(cache: Path, policy: SourcePolicy) -> None:
    def cancelled() -> None:
        raise RequestCancelled("import")

    with (
        pytest.raises(RequestCancelled),
        fetch("huggy.safetensors", cache, policy, check=cancelled),
    ):
        pass
    assert list(cache.iterdir()) == []


def test_a_full_disk_leaves_nothing(cache: Path, policy: SourcePolicy) -> None:
    with (
        files_no_larger_than(2**16),
        pytest.raises(StoreFull),
        fetch("huggy.safetensors", cache, policy),
    ):
        pass
    assert list(cache.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(cache: Path, policy: SourcePolicy) -> None:
    (cache / "fetch-abc").mkdir(parents=True)
    with fetch("huggy.safetensors", cache, policy), fetch("peft", cache, policy):
        assert len(list(cache.iterdir())) == 2
        assert not (cache / "fetch-abc").exists()


def test_fetches_from_the_hub_and_says_the_commit(cache: Path, running: Hub) -> None:
    with fetch("hf://owner/name/a.safetensors@main", cache, on_hub(running)) as fetched:
        assert fetched.path.read_bytes() == DATA
        assert fetched.source == f"hf://owner/name/a.safetensors@{COMMIT}"


def test_fetches_only_weights_from_the_hub(cache: Path, running: Hub) -> None:
    with fetch("hf://owner/name", cache, on_hub(running)) as fetched:
        assert files(fetched) == {"a.safetensors": DATA}
    assert not [path for path in running.paths if "README" in path]


@pytest.mark.parametrize("sent", [DATA[:-1] + b"!", DATA[:-1]])
def test_other_bytes_than_the_hub_listed_are_refused(
    cache: Path, running: Hub, sent: bytes
) -> None:
    running.sent["a.safetensors"] = sent
    with (
        pytest.raises(SourceUnavailable, match="are not what was listed"),
        fetch("hf://owner/name", cache, on_hub(running)),
    ):
        pass
    assert list(cache.iterdir()) == []


def test_fetches_from_a_bucket(
    cache: Path, bucket: tuple[Bucket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    policy = SourcePolicy(s3_prefixes=(f"s3://{BUCKET}/in/",), s3=s3_config(bucket[1]))
    uri = f"s3://{BUCKET}/in/a.safetensors"
    with fetch(uri, cache, policy) as fetched:
        assert (fetched.path.read_bytes(), fetched.source) == (DATA, uri)
    assert "is not below a prefix" in refusal(f"s3://{BUCKET}/out/x.safetensors", cache, policy)

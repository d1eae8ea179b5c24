"""Manifests as users write them, right and wrong."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.datasets.manifest import parse_manifest, read_manifest, write_manifest
from diptych.datasets.places import Places
from diptych.datasets.source_spec import (
    FolderSource,
    HuggingFaceSource,
    MetadataSpec,
    S3Source,
    TableSource,
    WebDatasetSource,
)
from diptych.datasets.spec import (
    BucketsSpec,
    CaptionFilter,
    CaptionsSpec,
    CropSpec,
    DatasetSpec,
    Manifest,
    MasksSpec,
    ShuffleSpec,
    SizeSpec,
)
from diptych.errors import DatasetInvalid

WRONG = """\
version: 2
dataset: []
datasets:
  - id: a b
    source: {type: folder, path: x, patth: y}
    size:
      resolution: "1024"
      maximum: 4
    captions:
      filters: [{pattern: "("}]
  - id: fine
    source: {type: ftp}
    sampling:
      repeats: 0
  - source: {path: x}
"""


def refused(text: str, places: Places | None = None) -> list[str]:
    with pytest.raises(DatasetInvalid) as caught:
        parse_manifest(text.encode(), folder=Path("/data"), places=places or Places())
    return [f"{found.field}: {found.description}" for found in caught.value.violations]


def test_everything_wrong_is_named_at_once_with_its_line() -> None:
    found = refused(WRONG)
    expected = [
        "version: line 1:",
        "dataset: line 2: no such key here",
        "datasets[0].id: line 4:",
        "datasets[0].source.patth: line 5: no such key here",
        "datasets[0].size.resolution: line 7: must be a number, got '1024'",
        "datasets[0].captions.filters[0]: line 10: '(' is no regular expression",
        "datasets[1].source: line 12:",
        "datasets[1].sampling.repeats: line 14: must be at least 1, got 0",
        "datasets[2].id: line 15: is missing",
        "datasets[2].source: line 15: type is missing",
    ]
    assert [[one for one in found if one.startswith(start)] != [] for start in expected] == (
        [True] * len(expected)
    ), found
    assert len(found) == len(expected)


def test_two_datasets_of_one_id_are_refused() -> None:
    one = "- {id: a, source: {type: folder, path: x}}"
    assert refused(f"datasets:\n{one}\n{one}\n- {{id: a}}\n") == [
        "datasets[1].id: line 3: 'a' is datasets[0]'s",
        "datasets[2].id: line 4: 'a' is datasets[0]'s",
        "datasets[2].source: line 4: is missing",
    ]


@given(st.binary(max_size=40), st.integers(0, len(WRONG)), st.integers(0, 20))
def test_whatever_a_file_holds_it_is_a_manifest_or_refused(
    noise: bytes, place: int, num_cut: int
) -> None:
    data = WRONG.encode()[:place] + noise + WRONG.encode()[place + num_cut :]
    for text in (data, noise):
        with pytest.raises(DatasetInvalid):
            parse_manifest(text, folder=Path("/data"))


@pytest.mark.parametrize("text", ["[]", "7", "null", "{}", "datasets: 3"])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    assert len(refused(text)) == 1


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    value = {"datasets": [{"id": "a", "source": {"type": "folder", "path": "x"}}]}
    (tmp_path / "a.json").write_text(json.dumps(value, indent="\t"))
    (tmp_path / "a.yaml").write_text("datasets:\n- {id: a, source: {type: folder, path: x}}\n")
    assert read_manifest(tmp_path / "a.json") == read_manifest(tmp_path / "a.yaml")


def test_paths_begin_at_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("datasets: [{id: a, source: {type: folder, path: x/y}}]")
    assert read_manifest(tmp_path / "a.yaml").datasets[0].source == FolderSource(
        path=str(tmp_path / "x" / "y")
    )


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match="No such file"):
        read_manifest(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "source",
    [
        "{type: folder, path: ../other}",
        "{type: folder, path: /etc}",
        "{type: folder, path: x, metadata: {path: ../../a.csv}}",
        "{type: table, path: x/a.csv, base: /}",
        "{type: table, path: x/a.csv, cache: /tmp}",
        "{type: webdataset, path: '/srv/*.tar'}",
        "{type: huggingface, dataset: ../other}",
        "{type: huggingface, dataset: owner/name}",
        "{type: s3, bucket: others}",
    ],
)
def test_a_server_reads_only_where_it_may(source: str) -> None:
    places = Places(roots=(Path("/data"),), buckets=("ours",), hub=False)
    text = f"datasets:\n- {{id: a, source: {{type: folder, path: x}}}}\n- id: b\n  source: {source}"
    (found,) = refused(text, places)
    assert found.startswith("datasets[1].source.")
    assert "line 4: " in found


ALL = Manifest(
    draw="uniform",
    seed=3,
    datasets=(
        DatasetSpec(
            id="folder",
            source=FolderSource(path="/data/x", metadata=MetadataSpec(path="a.csv")),
            captions=CaptionsSpec(
                strategy="column",
                filters=(CaptionFilter(pattern="a(.)", replacement=r"b\1: 'x'"),),
                shuffle=ShuffleSpec(num_kept=1),
                instance_prompt="ünï: [prompt]",
            ),
            size=SizeSpec(resolution=0.5, unit="megapixels", maximum=2.0, target=1.0),
            buckets=BucketsSpec(sizes=((1024, 1024), (832, 1216))),
            crop=CropSpec(aspect="closest", aspects=(1.0, 0.5)),
            masks=MasksSpec(source=FolderSource(path="/data/masks"), binary=True),
        ),
        DatasetSpec(id="hf", kind="eval", source=HuggingFaceSource(dataset="owner/name")),
        DatasetSpec(id="table", source=TableSource(path="/data/a.parquet", cache="/data/c")),
        DatasetSpec(id="tars", disabled=True, source=WebDatasetSource(path="/data/*.tar")),
        DatasetSpec(id="s3", kind="regularisation", source=S3Source(bucket="pictures")),
    ),
)


def test_what_is_written_is_read_back() -> None:
    assert parse_manifest(write_manifest(ALL).encode(), folder=Path("/other")) == ALL


PRINTABLE = st.characters(exclude_categories=["C", "Zl", "Zp"])


@given(
    st.text(PRINTABLE, min_size=1, max_size=8)
    | st.sampled_from(["1e3", ".5", "no", "1e-3", "0x1f", "~"])
)
def test_any_text_is_read_back_as_it_was(text: str) -> None:
    captions = CaptionsSpec(strategy="instance_prompt", instance_prompt=text)
    one = DatasetSpec(id="a", source=FolderSource(path="/x"), captions=captions)
    manifest = Manifest(datasets=(one,))
    assert parse_manifest(write_manifest(manifest).encode(), folder=Path("/")) == manifest


def test_defaults_are_not_written() -> None:
    one = DatasetSpec(id="a", source=FolderSource(path="/x"))
    assert write_manifest(Manifest(datasets=(one,))).splitlines() == [
        "version: 1",
        "datasets:",
        "- id: a",
        "  source:",
        "    path: /x",
        "    type: folder",
    ]


def test_the_manifest_in_the_documents_is_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    manifest = parse_manifest(block.encode(), folder=Path("/data"))
    assert [one.id for one in manifest.datasets] == ["huggy", "people", "held-out"]

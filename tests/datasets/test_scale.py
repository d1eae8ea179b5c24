"""A hundred thousand images are indexed and planned within a minute and a gibibyte."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.made_pictures import picture_bytes

NUM_IMAGES = 100_000
PROGRAM = """
import json, resource, sys, time
from pathlib import Path
from diptych.datasets.expansion import Expansion
from diptych.datasets.facts_cache import FactsCache
from diptych.datasets.manifest import parse_manifest
from diptych.datasets.plan import make_plans

folder = Path(sys.argv[1])
text = b"datasets: [{id: many, source: {type: folder, path: in}}]"
manifest = parse_manifest(text, folder=folder)
found = {}
with FactsCache(folder / "facts.sqlite") as cache:
    for name in ("first", "again"):
        begin, spent = time.monotonic(), time.process_time()
        index = Expansion(cache=cache).index(manifest)
        plans = make_plans(index, batch_size=4)
        found[name] = {"wall_s": time.monotonic() - begin, "cpu_s": time.process_time() - spent}
found["images"], found["planned"] = index.num_images, len(plans["many"])
found["index_bytes"] = index.datasets["many"].size_bytes
found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(found))
"""


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a folder with a hundred thousand pictures and captions, all of them unlike."""
    pictures = [
        picture_bytes(seed, width=24 + 8 * seed, height=32, suffix=".jpg") for seed in range(7)
    ]
    for start in range(0, NUM_IMAGES, 1000):
        folder = tmp_path / "in" / f"{start:06}"
        folder.mkdir(parents=True)
        for number in range(start, start + 1000):
            (folder / f"{number}.jpg").write_bytes(pictures[number % 7] + str(number).encode())
            (folder / f"{number}.txt").write_text(f"picture {number}, a tag, another tag\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_thousand_images_take_less_than_a_minute_and_a_gibibyte(
    many: Path,
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(many)], check=True, capture_output=True, text=True
    )
    found = json.loads(ran.stdout)
    sys.stdout.write(ran.stdout)
    assert found["images"] == found["planned"] == NUM_IMAGES
    assert found["first"]["cpu_s"] < 60.0
    assert found["again"]["cpu_s"] < 30.0
    assert found["peak_bytes"] < 2**30

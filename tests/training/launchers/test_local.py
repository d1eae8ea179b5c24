"""Workers are started with what they are given, and nothing of them outlives a kill."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.errors import InvalidRequest
from diptych.training.attempt_files import write_task
from diptych.training.launchers import local
from diptych.training.launchers.local import LocalLauncher, LocalProcess, worker_command
from diptych.training.task import AttemptFolder, WorkerTask

TASK = WorkerTask(
    job_id="j",
    tenant="t",
    attempt=1,
    spec="{}",
    home="/h",
    cache_address="127.0.0.1:1",
    grace_s=12.5,
)
SLEEPS = "import threading; threading.Event().wait()"
SAYS_AND_SLEEPS = f"print('here', flush=True); {SLEEPS}"

Start = Callable[..., LocalProcess]


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    folder = AttemptFolder(job_dir=tmp_path, attempt=1)
    write_task(folder, TASK)
    return folder


@pytest.fixture
def start(folder: AttemptFolder) -> Iterator[Start]:
    """Start programs that are killed in the end."""
    started: list[LocalProcess] = []

    def begin(
        program: str, environment: dict[str, str] | None = None, task: WorkerTask = TASK
    ) -> LocalProcess:
        launcher = LocalLauncher(environment=environment or {}, worker=["-S", "-c", program])
        process = launcher.start(folder, task, num_devices=1, num_nodes=1)
        assert isinstance(process, LocalProcess)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()


def waited(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Return whether ``condition`` came true in time."""
    ticks = int(timeout_s / 0.02)
    return any(condition() or threading.Event().wait(0.02) for _ in range(ticks))


def is_running(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_output_goes_to_the_log(start: Start, folder: AttemptFolder) -> None:
    start("import sys; print('out'); sys.stdout.flush(); sys.stderr.write('err')")
    assert waited(lambda: folder.log.read_text() == "out\nerr")


def test_exit_status_is_told(start: Start) -> None:
    process = start("raise SystemExit(7)")
    assert waited(lambda: not process.is_alive())
    assert process.returncode == 7


def test_worker_sees_the_given_variables_alone(
    start: Start, folder: AttemptFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "1")
    start("import os; print(sorted(os.environ))", {"ONE": "1", "LC_ALL": "C"})
    assert waited(lambda: "ONE" in folder.log.read_text())
    assert "SECRET" not in folder.log.read_text()


@pytest.mark.parametrize(
    ("spec", "seen"), [('{"run": {"compile": true}}', "None\n"), ('{"run": {}}', "1\n")]
)
def test_only_a_job_that_compiles_may_load_the_compiler(
    start: Start, folder: AttemptFolder, spec: str, seen: str
) -> None:
    program = "import os; print(os.environ.get('TORCHDYNAMO_DISABLE'))"
    start(program, task=replace(TASK, spec=spec))
    assert waited(lambda: folder.log.read_text() == seen)


def test_worker_is_the_leader_of_a_session(start: Start) -> None:
    process = start(SLEEPS)
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid


def test_leash_ends_with_the_owners_end_of_it(start: Start) -> None:
    process = start("import sys; sys.stdin.read(); raise SystemExit(4)")
    assert process.is_alive()
    process.close()
    assert waited(lambda: process.returncode == 4)


def test_term_can_be_heeded(start: Start, folder: AttemptFolder) -> None:
    handler = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); "
    process = start(handler + SAYS_AND_SLEEPS)
    assert waited(lambda: folder.log.read_text() == "here\n")
    process.terminate()
    assert waited(lambda: process.returncode == 5)


def test_kill_ends_one_that_heeds_nothing(start: Start, folder: AttemptFolder) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    process = start(deaf + SAYS_AND_SLEEPS)
    assert waited(lambda: folder.log.read_text() == "here\n")
    process.terminate()
    process.kill()
    assert process.returncode == -9


def test_kill_ends_children_in_sessions_of_their_own(start: Start, folder: AttemptFolder) -> None:
    child = f"[sys.executable, '-S', '-c', {SLEEPS!r}]"
    program = f"import subprocess, sys; p = subprocess.Popen({child}, start_new_session=True); "
    process = start(program + f"print(p.pid, flush=True); {SLEEPS}")
    assert waited(lambda: folder.log.read_text().endswith("\n"))
    pid = int(folder.log.read_text())
    assert is_running(pid)
    process.kill()
    assert waited(lambda: not is_running(pid))


def test_kill_ends_what_a_dead_worker_left_in_its_group(
    start: Start, folder: AttemptFolder
) -> None:
    child = f"[sys.executable, '-S', '-c', {SLEEPS!r}]"
    process = start(
        f"import subprocess, sys; print(subprocess.Popen({child}).pid, flush=True); sys.exit(3)"
    )
    assert waited(lambda: not process.is_alive())
    pid = int(folder.log.read_text())
    assert is_running(pid)
    process.kill()
    assert waited(lambda: not is_running(pid))


def test_killing_twice_is_harmless(start: Start) -> None:
    process = start(SLEEPS)
    process.kill()
    process.kill()
    assert process.returncode == -9


def test_other_machines_are_refused(folder: AttemptFolder) -> None:
    with pytest.raises(InvalidRequest, match="2 nodes"):
        LocalLauncher(environment={}).start(folder, TASK, num_devices=1, num_nodes=2)


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return what stands for ``/dev``."""
    folder = tmp_path / "dev"
    (folder / "dri").mkdir(parents=True)
    monkeypatch.setattr(local, "DEVICES", folder)
    return folder


def test_a_cpu_has_as_many_devices_as_cores(devices: Path) -> None:
    launcher = LocalLauncher(environment={})
    cores = len(os.sched_getaffinity(0))
    assert [launcher.num_devices(one) for one in ("cpu", "auto")] == [cores, cores]
    assert launcher.num_devices("cuda") is None  # it may be there all the same


@pytest.mark.parametrize(
    ("files", "variables", "count"),
    [
        (("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"), {}, 2),
        (("nvidia0", "nvidia1"), {"CUDA_VISIBLE_DEVICES": "1"}, 1),
        (("kfd", "dri/renderD128", "dri/renderD129"), {}, 2),
    ],
)
def test_gpus_are_counted_without_torch(
    devices: Path, files: tuple[str, ...], variables: dict[str, str], count: int
) -> None:
    for name in files:
        (devices / name).touch()
    launcher = LocalLauncher(environment=variables)
    assert [launcher.num_devices(one) for one in ("auto", "cuda", "cuda:0")] == [count, count, 1]
    assert launcher.num_devices("cpu") == len(os.sched_getaffinity(0))


def test_gpus_that_are_all_hidden_are_none(devices: Path) -> None:
    (devices / "nvidia0").touch()
    launcher = LocalLauncher(environment={"CUDA_VISIBLE_DEVICES": ""})
    assert launcher.num_devices("cuda") is None
    assert launcher.num_devices("auto") == len(os.sched_getaffinity(0))


def test_one_device_is_one_process(folder: AttemptFolder) -> None:
    command = worker_command(["-m", "a.worker"], folder, TASK, num_devices=1)
    assert command == [sys.executable, "-m", "a.worker", str(folder.path)]


@pytest.mark.slow
def test_several_devices_are_as_many_ranks(folder: AttemptFolder, tmp_path: Path) -> None:
    program = tmp_path / "rank.py"
    # In one write: two processes share the pipe.
    said = "'rank {RANK} {WORLD_SIZE}\\n'.format(**os.environ).encode()"
    program.write_text(f"import os; os.write(1, {said})")
    command = worker_command([str(program)], folder, TASK, num_devices=2)
    assert command[command.index("--shutdown-timeout") + 1] == "13"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 2",
        "rank 1 2",
    ]

"""``diptych train``: hand in fine-tunes, look at them, watch them, stop them, go on with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Column, Table

from diptych.cli.embedded import client_config
from diptych.cli.options import AsJson, Timeout, TokenFile
from diptych.cli.report import Report, reporting
from diptych.cli.serve import EVERY_INTERFACE
from diptych.cli.train_check import foretell, show_estimate
from diptych.cli.train_watch import follow
from diptych.cli.train_words import as_mapping, progress_text, result_lines, state_text
from diptych.clients.training import TrainingClient
from diptych.clients.training_values import JobCall, ListCall, TrainingJob
from diptych.errors import FieldViolation, InvalidRequest, JobInvalid, SettingInvalid
from diptych.training.settings import load_settings

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Fine-tunes as jobs that last.")

COLUMNS: Final = ("name", "state", "priority", "created", "attempts")
ID_WIDTH: Final = 16
"""A job's id is shown whole, however narrow the terminal: it is what other commands take."""
FLAGS: Final = {
    "images_per_s": "--images-per-s",
    "job": "FILE",
    "job_id": "ID",
    "states": "--state",
    "watch": "--watch",
    "priority": "--priority",
    "request_id": "--request-id",
}

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A job, YAML or JSON.", show_default=False)
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A job's id.", show_default=False)]
JobServer = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="HOST:PORT of a training service that has files of its own; otherwise this machine's, "
        "as the settings have it: 127.0.0.1:50053, or DIPTYCH_TRAINING_HOST and _PORT.",
        rich_help_panel="Where",
    ),
]


@app.command("submit")
def submit(
    file: FileArgument,
    *,
    watch_it: Annotated[
        bool, typer.Option("--watch", help="Follow the job until it has ended.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only check the job and tell what it would take."),
    ] = False,
    images_per_s: Annotated[
        float | None,
        typer.Option(
            "--images-per-s", min=1e-9, help="Measured speed, for --dry-run to tell time."
        ),
    ] = None,
    priority: Annotated[
        int, typer.Option("--priority", help="Higher ones start first, -100 to 100.")
    ] = 0,
    request_id: Annotated[
        str, typer.Option("--request-id", help="A UUID; the same one again is the same job.")
    ] = "",
    server: JobServer = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Hand in a job.

    Paths in the file begin beside it. With --server they are the server's, below its dataset_dir.
    """
    with reporting(as_json=as_json, flags=FLAGS) as report:
        _refuse_unheeded(
            images_per_s=images_per_s is not None and not (dry_run and server is None),
            watch=watch_it and dry_run,
        )
        if dry_run and server is None:
            _foretell(report, file, images_per_s)
            return
        call = JobCall(spec=_text(file, server), priority=priority, request_id=request_id)
        with _client(server, token_file) as client:
            created = client.create(call, dry_run=dry_run, timeout_s=timeout)
            if created.job is None:
                report.answer({"estimate": show_estimate(report, created.estimate)})
                return
            report.answer(as_mapping(created))
            report.say(f"{escape(created.job.job_id)}  {escape(state_text(created.job))}")
            if watch_it:
                follow(report, client, created.job.job_id)


@app.command("list")
def list_jobs(
    *,
    state: Annotated[
        list[str] | None, typer.Option("--state", help="queued, running, ...; repeatable.")
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="Names that begin with this.")] = "",
    server: JobServer = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        call = ListCall(states=tuple(state or ()), name_prefix=prefix)
        with _client(server, token_file) as client:
            jobs = list(client.list_jobs(call, timeout_s=timeout))
        report.answer({"jobs": [as_mapping(job) for job in jobs]})
        table = Table(Column("id", no_wrap=True, min_width=ID_WIDTH), *COLUMNS, box=None)
        for job in jobs:
            created = f"{job.created_at:%Y-%m-%d %H:%M}"
            counts = (str(job.priority), created, str(job.attempt))
            table.add_row(escape(job.job_id), escape(job.name), state_text(job), *counts)
        if not as_json:
            report.out.print(table)


@app.command("show")
def show(
    job_id: IdArgument,
    *,
    server: JobServer = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Show one job."""
    with reporting(as_json=as_json, flags=FLAGS) as report, _client(server, token_file) as client:
        _show(report, client.get(job_id, timeout_s=timeout))


@app.command("watch")
def watch(
    job_id: IdArgument,
    *,
    after: Annotated[
        int, typer.Option("--after", min=0, help="Number of the last event that is known.")
    ] = 0,
    server: JobServer = None,
    token_file: TokenFile = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each event as a line of JSON.")
    ] = False,
) -> None:
    """Follow a job until it has ended; status 1 tells that it failed or was cancelled."""
    with reporting(as_json=as_json, flags=FLAGS) as report, _client(server, token_file) as client:
        follow(report, client, job_id, after=after)


@app.command("cancel")
def cancel(
    job_id: IdArgument,
    *,
    server: JobServer = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """End a job after its next step, with a checkpoint from which it may go on."""
    with reporting(as_json=as_json, flags=FLAGS) as report, _client(server, token_file) as client:
        _show(report, client.cancel(job_id, timeout_s=timeout))


@app.command("pause")
def pause(
    job_id: IdArgument,
    *,
    server: JobServer = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Stop a job after its next step until it is resumed."""
    with reporting(as_json=as_json, flags=FLAGS) as report, _client(server, token_file) as client:
        _show(report, client.pause(job_id, timeout_s=timeout))


@app.command("resume")
def resume(
    job_id: IdArgument,
    *,
    watch_it: Annotated[
        bool, typer.Option("--watch", help="Follow the job until it has ended.")
    ] = False,
    server: JobServer = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a paused, failed or cancelled job from its last checkpoint."""
    with reporting(as_json=as_json, flags=FLAGS) as report, _client(server, token_file) as client:
        job = client.resume(job_id, timeout_s=timeout)
        _show(report, job)
        if watch_it:
            follow(report, client, job_id, after=job.last_event)


@app.command("delete")
def delete(
    job_id: IdArgument,
    *,
    server: JobServer = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Remove an ended or paused job, its events and checkpoints; what it made stays."""
    with reporting(as_json=as_json, flags=FLAGS) as report, _client(server, token_file) as client:
        client.delete(job_id, timeout_s=timeout)
        report.answer({"deleted": job_id})
        report.say(f"{escape(job_id)} is gone")


def _refuse_unheeded(*, images_per_s: bool, watch: bool) -> None:
    """Refuse options that would do nothing; each argument tells whether that one would."""
    found = []
    if images_per_s:
        problem = "is heeded by --dry-run without --server alone"
        found.append(FieldViolation(field="images_per_s", description=problem))
    if watch:
        problem = "there is no job to follow after --dry-run"
        found.append(FieldViolation(field="watch", description=problem))
    if found:
        raise InvalidRequest(found)


@contextmanager
def _client(server: str | None, token_file: Path | None) -> Iterator[TrainingClient]:
    with TrainingClient(client_config(server or _local(), token_file)) as client:
        yield client


def _local() -> str:
    """Return where ``diptych up`` and ``diptych serve training`` listen with these settings.

    Raises:
        SettingInvalid: They take a free port, which only they know.
    """
    own = load_settings().training
    if own.port == 0:
        problem = "is 0, any free one: --server says where the service listens"
        raise SettingInvalid([FieldViolation(field="training.port", description=problem)])
    return f"{'127.0.0.1' if own.host in EVERY_INTERFACE else own.host}:{own.port}"


def _text(file: Path, server: str | None) -> str:
    """Return the text to send, once it is found right as far as that can be told here.

    Raises:
        JobInvalid: It is not.
    """
    from diptych.training.rules import check
    from diptych.training.spec_text import inlined, parse_job, to_json

    try:
        data = file.read_bytes()
    except OSError as error:
        problem = f"cannot read {str(file)!r:.200}: {error.strerror}"
        raise JobInvalid([FieldViolation(field="job", description=problem)]) from error
    spec = parse_job(data, folder=file.parent)
    check(spec)
    return to_json(spec) if server is None else inlined(data, folder=file.parent)


def _foretell(report: Report, file: Path, images_per_s: float | None) -> None:
    from diptych.training.spec_text import read_job

    found = foretell(report, read_job(file), images_per_s=images_per_s)
    report.say(f"{'images':<22}{found.num_images:,}")
    estimate = show_estimate(report, found.estimate)
    for one in found.remarks:
        report.say(f"[yellow]warning:[/] {escape(one.message)} ({one.reason})")
    remarks: list[dict[str, Any]] = [as_mapping(one) for one in found.remarks]
    report.answer({"num_images": found.num_images, "estimate": estimate, "warnings": remarks})


def _show(report: Report, job: TrainingJob) -> None:
    report.answer(as_mapping(job))
    report.say(f"{escape(job.job_id)}  [bold]{escape(job.name)}[/]  {escape(state_text(job))}")
    if job.progress is not None and not job.has_ended:
        report.say(escape(progress_text(job.progress)))
    if job.fault is not None and job.state != "succeeded":
        report.say(f"[red]{escape(job.fault.reason)}[/] {escape(job.fault.message)}")
    if job.num_faults:
        report.say(f"[dim]{job.num_faults} faults, attempt {job.attempt}[/]")
    for line in result_lines(job.result) if job.result is not None else ():
        report.say(escape(line))

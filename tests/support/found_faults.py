"""What became of jobs that nobody disturbed."""

from diptych.bench.training_faults import FaultsFound

__all__ = ["found"]


def found(**counts: int) -> FaultsFound:
    """Return that all is well but for ``counts``."""
    harms = {"lost": 0, "overlapped": 0, "ended_otherwise": 0, "misnumbered": 0, "unlike": 0}
    return FaultsFound(
        num_jobs=3,
        ledger="SQLite",
        workers="stand-in",
        seconds=1.0,
        asked={"end": 3},
        kills={"worker": 2},
        num_attempts=5,
        **(harms | counts),
    )

"""What is trained is what the loop asks for."""

from pathlib import Path
from typing import Any

import torch

from diptych.training.trainables.trainable import Trainable
from support.trained import batch_of, load
from support.trained_jobs import job


def predicted(trainable: Trainable) -> torch.Tensor:
    """Return a prediction of anything that the loop can train."""
    return trainable.predict(*batch_of())


def test_an_expert_can_be_trained(small: dict[str, Any], tmp_path: Path) -> None:
    trained = load(job(**small), tmp_path)
    assert predicted(trained).shape == (2, 4, 8, 8)

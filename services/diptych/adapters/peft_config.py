"""What a PEFT configuration says of scales: alpha by module, and what cannot be served.

A pattern's key is a regular expression to PEFT. Here it is a module's name or the end of one, as
every trainer writes it; an expression out of a stranger's file is not run.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from diptych.adapters.adapter import LowRank
from diptych.storage.tensor_header import Refuse

__all__ = ["PeftConfig", "config_of", "parse_config"]

_N = TypeVar("_N", int, float)
_NAME: Final = re.compile(r"\^?[\w.]+", re.ASCII)
_UNSERVED: Final = (
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
"""Settings that, when on, make an adapter more than low-rank updates of weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftConfig:
    """The scales of one component's updates."""

    alpha: float
    alpha_pattern: Mapping[str, tuple[int, float]]
    """Place in the file and alpha, by a module's name or its end after a dot; ``^`` begins it."""
    use_rslora: bool

    def alpha_of(self, module: str, rank: int) -> float:
        """Return the alpha of ``module`` whose ratio to ``rank`` is its scale."""
        parts = module.split(".")
        names = {".".join(parts[start:]) for start in range(len(parts))}
        names |= {f"^{module}", f"^{module.removeprefix('text_model.')}"}
        matching = names & self.alpha_pattern.keys()
        # PEFT takes the first that matches, in the order of the file.
        first = min((self.alpha_pattern[name] for name in matching), default=(0, self.alpha))
        alpha = first[1]
        return alpha * math.sqrt(rank) if self.use_rslora else alpha


def parse_config(values: Mapping[str, object], refuse: Refuse) -> PeftConfig:
    """Return what the fields of a LoraConfig say; those that only training needs are not read.

    Raises:
        DiptychError: ``refuse``'s, when it is of another method than LoRA, has a setting on that
            is not served, or a field is not of its kind; it is named.
    """
    method = values.get("peft_type") or "LORA"
    if method != "LORA":
        raise refuse(f"is of PEFT's method {method!r:.80}; only LORA is read")
    for name in _UNSERVED:
        if values.get(name):
            raise refuse(f"has PEFT's {name} on, which is not served")
    pattern = values.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        raise refuse(f"has alpha_pattern {pattern!r:.80}, expected a map")
    return PeftConfig(
        alpha=_number("lora_alpha", values.get("lora_alpha", 8), refuse),
        alpha_pattern={
            _name(key, refuse): (place, _number("alpha_pattern", value, refuse))
            for place, (key, value) in enumerate(pattern.items())
        },
        use_rslora=bool(values.get("use_rslora")),
    )


def config_of(low_ranks: Mapping[str, LowRank]) -> dict[str, object]:
    """Return the fields of a LoraConfig that say ranks and alphas of modules by their name."""
    ranks = {module: low_rank.rank for module, low_rank in low_ranks.items()}
    alphas = {module: float(low_rank.alpha) for module, low_rank in low_ranks.items()}
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {module: own for module, own in alphas.items() if own != alpha},
        "target_modules": sorted(low_ranks),
        "use_dora": any(low_rank.magnitude is not None for low_rank in low_ranks.values()),
        "use_rslora": False,
    }


def _most_common(values: Iterable[_N]) -> _N:
    """Return the value there is most of, the least of several."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _name(key: str, refuse: Refuse) -> str:
    name = key.removesuffix("$").replace("\\.", ".")
    if not _NAME.fullmatch(name):
        raise refuse(f"has alpha_pattern {key!r:.80}, expected a module's name or its end")
    return name


def _number(name: str, value: object, refuse: Refuse) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30:
        raise refuse(f"has {name} {value!r:.80}, expected a number")
    return float(value)

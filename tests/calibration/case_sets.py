"""Which cases there are: the forty, the further ones, and all."""

from __future__ import annotations

from .case import Case
from .cases import CASES
from .further_cases import FURTHER_CASES

CASE_SETS: dict[str, tuple[Case, ...]] = {
    "forty": CASES,
    "further": FURTHER_CASES,
    "all": CASES + FURTHER_CASES,
}
ALL_CASES = CASE_SETS["all"]

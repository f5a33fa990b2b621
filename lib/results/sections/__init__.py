"""What each section's results hold: one type a section, from which `schema/sections.json` is made.

A key stands in every run's results unless it is `NotRequired`; `None` is a figure that was looked for and could not be
had. An interval is `[low, high]`, 95 %, an end of None being unbounded. Changes and shares are fractions unless the
name says otherwise. After a change, `python -m lib.results.describe` writes the schema anew.
"""

from typing import TypedDict

from lib.results.sections.conclusions import Conclusions
from lib.results.sections.open_questions import R2, R3, R4
from lib.results.sections.phase3 import P1, P2, P3, P4, K
from lib.results.sections.robustness import S1, S2
from lib.results.sections.setup import Setup
from lib.results.sections.validation import V1, V2, V3, V4, V5, Phases


class Results(TypedDict, total=False):
    """`{section: data}`; a section that is not there was not measured."""

    setup: Setup
    phases: Phases
    V1: V1
    V2: V2
    V3: V3
    V4: V4
    V5: V5
    P1: P1
    P2: P2
    P3: P3
    P4: P4
    K: K
    R2: R2
    R3: R3
    R4: R4
    S1: S1
    S2: S2
    conclusions: Conclusions

"""The small vocabulary of types that config classes are written in.

Each name carries its rule as `annotated_types` metadata; `fedlearn.config`
checks the rules when it loads a config. No behaviour lives here.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, MinLen

Count = Annotated[int, Gt(0)]
"""An integer of at least one."""

Natural = Annotated[int, Ge(0)]
"""An integer of at least zero."""

Positive = Annotated[float, Gt(0)]
"""A number above zero."""

NonNegative = Annotated[float, Ge(0)]
"""A number of at least zero."""

Rate = Annotated[float, Gt(0), Le(1)]
"""A fraction in (0, 1]."""

Portion = Annotated[float, Ge(0), Lt(1)]
"""A fraction in [0, 1)."""

Probability = Annotated[float, Gt(0), Lt(1)]
"""A fraction in (0, 1), such as a delta."""

Name = Annotated[str, MinLen(1)]
"""A text that is not empty."""

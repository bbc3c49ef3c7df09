"""How much a model was used lately."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Seconds after which what was drawn counts half.
HALF_LIFE = 600.0


@dataclass
class Demand:
    """GPU-seconds that were drawn, half of them forgotten every ``HALF_LIFE``. Times in seconds, on one clock."""

    seconds: float = 0.0
    as_of: float = 0.0

    def add(self, seconds: float, now: float) -> None:
        self.seconds, self.as_of = self.at(now) + seconds, now

    def at(self, now: float) -> float:
        """Worked example: 8 GPU-seconds are 2 after 20 minutes."""
        return self.seconds * math.exp2(-max(0.0, now - self.as_of) / HALF_LIFE)

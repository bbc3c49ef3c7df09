"""How long the requests of a pool may wait."""

from typing import Literal

Tier = Literal["interactive", "batch"]

"""One JSON object per line on standard output. Never a prompt, never a token."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def log(event: str, **fields: Any) -> None:
    """Fields that are None are left out. ``time`` is seconds since 1970."""
    line = {"time": round(time.time(), 3), "event": event, **fields}
    text = json.dumps({name: value for name, value in line.items() if value is not None}, default=str)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

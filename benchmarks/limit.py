"""The time limit of a suite."""

import math
import time

SPARED = 5  # seconds of it, for ending processes and writing the rest of the report


class Limit:
    """A time limit in minutes; by default there is none."""

    def __init__(self, minutes: float = math.inf):
        """Starts the clock."""
        self.message = f"not measured: the {minutes:g} minutes were over"
        self._end = time.monotonic() + 60 * minutes - SPARED

    def left(self) -> float:
        """Returns the seconds until the limit; zero or negative after it."""
        return self._end - time.monotonic()

    def part(self, share: float) -> "Limit":
        """Returns the limit for a task that may take this share of the remaining time."""
        part = Limit()
        part.message, part._end = self.message, self._end - (1 - share) * max(0.0, self.left())
        return part if math.isfinite(self._end) else self

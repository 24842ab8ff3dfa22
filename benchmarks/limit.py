"""The time that a suite may take."""

import math
import time

SPARED = 5  # seconds of it, to end processes and write the rest of the report


class Limit:
    """The end of a number of minutes, or of a part of them; by default there is none."""

    def __init__(self, minutes: float = math.inf):
        """Starts the clock."""
        self.told = f"not measured: the {minutes:g} minutes were over"
        self._end = time.monotonic() + 60 * minutes - SPARED

    def left(self) -> float:
        """Seconds until the end; not positive after it."""
        return self._end - time.monotonic()

    def part(self, share: float) -> "Limit":
        """The limit of what may take this share of the time that is left."""
        part = Limit()
        part.told, part._end = self.told, self._end - (1 - share) * max(0.0, self.left())
        return part if math.isfinite(self._end) else self

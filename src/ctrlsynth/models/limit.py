"""How many requests may be in flight at one server: additive increase, multiplicative decrease."""

from __future__ import annotations

START = 8
STABLE = 2.0
"""Growth stops while a token costs more than this many times the server time that it cost at best."""
_MEMORY = 0.1
"""The weight of the newest answer in the running mean."""
_FORGET = 1.005
"""What was best is taken for this much dearer with every answer: the first answers may have been short ones,
and work changes."""


class Limit:
    """At most `most`, at least 1; begins at `START`.

    Every answer that comes while all places are taken adds one place, so a round of answers doubles the
    limit, until the first sign of overload; from then on a round adds one place. A 429 or a timeout halves
    it, once a round: the requests that were in flight at the same time say the same thing. Between the two it
    stands still while answers become dear: `seconds / tokens / in flight` is the server's time a token, which
    does not rise as long as more requests at once give more tokens a second."""

    def __init__(self, most: int, start: int = START) -> None:
        self._most = most
        self._value = float(min(start, most))
        self._doubling = True
        self._mean: float | None = None
        self._best = float("inf")
        self.round = 0

    @property
    def now(self) -> int:
        """Places, taken and free."""
        return int(self._value)

    def good(self, seconds: float, tokens: int, busy: int) -> None:
        """An answer came after `seconds`, while `busy` requests, itself among them, were in flight."""
        if busy < self.now:
            return  # nobody was waiting: more places would be of no use, and the time says little
        cost = seconds / tokens / busy
        self._mean = cost if self._mean is None else self._mean + _MEMORY * (cost - self._mean)
        self._best = min(self._best * _FORGET, self._mean)
        if self._mean > STABLE * self._best:
            self._doubling = False
            return
        self._value = min(self._most, self._value + (1 if self._doubling else 1 / self._value))

    def halve(self, round_: int) -> None:
        """Overload, told of a request that began in round `round_`."""
        if round_ == self.round:
            self.round += 1
            self._doubling = False
            self._value = max(1.0, self._value / 2)

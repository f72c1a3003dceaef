"""A limited amount that requests share: memory, places in the queue, pixels being decoded."""

import threading
import time


class Budget:
    """An amount that threads take from and give back to."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._given_back = threading.Condition()

    def take(self, amount: int, wait_s: float = 0.0) -> bool:
        """Takes the amount; False if it does not become free within `wait_s` seconds."""
        deadline = time.monotonic() + wait_s
        with self._given_back:
            while self._taken + amount > self.limit:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._given_back.wait(left_s):
                    return False
            self._taken += amount
            return True

    def give_back(self, amount: int) -> None:
        """Frees an amount that was taken."""
        with self._given_back:
            self._taken -= amount
            self._given_back.notify_all()

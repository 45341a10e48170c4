"""Where a run's time goes."""

import time


class Clock:
    """Context manager: adds a block's seconds to `run.seconds[name]`; `lap()` adds those so far."""

    def __init__(self, run, name):
        self.run, self.name = run, name

    def __enter__(self):
        self.start = time.time()
        return self

    def lap(self):
        seconds, now = self.run.seconds, time.time()
        seconds[self.name] = seconds.get(self.name, 0.0) + now - self.start
        self.start = now

    def __exit__(self, *_):
        self.lap()

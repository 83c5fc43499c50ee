"""The latency that a comparison shows."""

import numpy as np

from graft.service.inference import engine_speed
from graft.service.inference.engine import Outputs


class Clock:
    """An engine whose calls take as long as planned, in seconds, and the clock that they are measured with."""

    def __init__(self, seconds: list[float]) -> None:
        self.now, self.shapes = 0.0, []
        self._seconds = iter(seconds)

    def __call__(self, batch: np.ndarray) -> Outputs:
        self.shapes.append(batch.shape)
        self.now += next(self._seconds)
        return Outputs(np.zeros((1, 2), np.float32), np.zeros((1, 4), np.float32))


def test_latency_is_the_median_of_single_images_after_the_warm_up(monkeypatch):
    n_slow = engine_speed.LATENCY_CALLS // 2
    calls = [9.0] * engine_speed.WARM_UP_CALLS + [0.5] * n_slow + [0.007] * (engine_speed.LATENCY_CALLS - n_slow)
    clock = Clock(calls)
    monkeypatch.setattr(engine_speed.time, "perf_counter", lambda: clock.now)
    assert abs(engine_speed.latency(clock, 32) - 0.007) < 1e-9
    assert set(clock.shapes) == {(1, 32, 32, 3)}

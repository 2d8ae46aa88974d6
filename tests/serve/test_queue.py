from __future__ import annotations

import threading

from condiff.serve import Latest


def test_a8_a_fast_producer_loses_frames_and_never_order_or_memory():
    """A producer three times as fast: one frame waits at most, numbers only rise, and what is made is the newest."""
    slot, taken, offered = Latest(), [], 0
    for _ in range(50):
        for _ in range(3):
            slot.put(offered)
            assert len(slot) == 1
            offered += 1
        taken.append(slot.take(0.0))
    assert taken == list(range(2, 150, 3))
    assert slot.dropped == 100
    assert slot.take(0.0) is None


def test_taking_waits_for_something_and_closing_wakes():
    slot, found = Latest(), []
    thread = threading.Thread(target=lambda: found.extend([slot.take(30.0), slot.take(30.0)]))
    thread.start()
    slot.put("frame")
    while not found and slot:
        pass
    slot.close()
    thread.join(10.0)
    assert found == ["frame", None]
    assert slot.put("late")
    assert len(slot) == 0

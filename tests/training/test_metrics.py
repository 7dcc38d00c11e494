"""Laws of the rates that a run reports."""

import time

from moco.training.metrics import Progress


def test_pauses_and_what_follows_the_end_do_not_count():
    with Progress(10, 0, show=False) as progress:
        progress.advance(10)
        with progress.pause():
            time.sleep(0.2)
        progress.stop()
        seconds = progress.seconds
        time.sleep(0.2)
        assert seconds == progress.seconds < 0.15
        assert progress.last_pause >= 0.2
    assert seconds == progress.seconds


def test_waiting_is_a_share_of_the_training():
    with Progress(10, 0, show=False) as progress:
        time.sleep(0.03)
        with progress.waiting():
            time.sleep(0.02)
        progress.advance(10)
    assert 0 < progress.data_wait <= 0.5

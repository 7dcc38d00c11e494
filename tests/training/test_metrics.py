"""Laws of the rates that a run reports."""

import time

from moco.training.metrics import Progress


def test_pauses_and_what_follows_the_end_do_not_count():
    progress = Progress(10, 0, show=False)
    progress.advance(10, 0.0)
    with progress.pause():
        time.sleep(0.2)
    progress.stop()
    seconds = progress.seconds
    time.sleep(0.2)
    assert seconds == progress.seconds < 0.15
    progress.stop()
    assert seconds == progress.seconds
    progress.close()


def test_waiting_is_a_share_of_the_training():
    progress = Progress(10, 0, show=False)
    time.sleep(0.05)
    progress.advance(10, 0.025)
    progress.stop()
    assert 0 < progress.data_wait <= 0.5
    progress.close()

"""Pauses between tries."""

import email.utils
import time

from rjpeg._backoff import Backoff, retry_after


def test_pauses_double_up_to_a_limit_and_begin_again_after_a_success():
    backoff = Backoff(0.25, 10.0)
    assert [backoff.next() for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    backoff.reset()
    assert backoff.next() == 0.25


def test_pauses_stay_finite_for_ever():
    backoff = Backoff(0.25, 10.0)
    assert {backoff.next() for _ in range(100_000)} <= {0.25, 0.5, 1, 2, 4, 8, 10}


def test_a_limit_for_one_failure_holds_for_that_one():
    backoff = Backoff(1.0, 4.0)
    assert [backoff.next(maximum=60.0) for _ in range(5)] == [1, 2, 4, 8, 16]
    assert [backoff.next(), backoff.next()] == [4, 4]


def test_chance_takes_away_a_share_of_a_pause():
    backoff = Backoff(8.0, 8.0, jitter=0.5)
    pauses = [backoff.next() for _ in range(200)]
    assert all(4 <= pause <= 8 for pause in pauses)
    assert len(set(pauses)) > 100


def test_retry_after_is_a_number_or_a_date_and_never_more_than_a_minute():
    now = time.time()
    date, later = (email.utils.formatdate(now + seconds, usegmt=True) for seconds in (0, 30))
    assert retry_after("0", date) == 0
    assert retry_after(" 12 ", "") == 12
    assert retry_after("1" * 5000, date) == 60
    assert retry_after(later, date) == 30
    assert retry_after(date, later) == 0
    for nothing in ("", "-1", "1.5", "soon", "\u0663", later):
        assert retry_after(nothing, "") is None

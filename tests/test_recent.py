"""Answers that are made once for all who ask within a second."""

import threading
import time
from functools import partial

from web.message import Answer, json_answer
from web.recent import KEEP_SEC, Recent


def test_an_answer_is_made_once_a_second_for_each_question() -> None:
    """Asked again it is the same; another question, or a second later, it is made anew."""
    now = [0.0]
    recent = Recent(lambda: now[0])
    made: list[str] = []

    def make(key: str) -> Answer:
        made.append(key)
        return json_answer(200, {"made": len(made)})

    asked = [recent.answer(key, partial(make, key)) for key in ("a", "a", "b", "a")]
    assert made == ["a", "b"]
    assert asked[0] is asked[1] is asked[3]
    now[0] = KEEP_SEC
    recent.answer("a", partial(make, "a"))
    assert made == ["a", "b", "a"]


def test_many_who_ask_at_once_wait_for_one() -> None:
    """Fifty threads, one making: never two at a time."""
    recent = Recent(time.monotonic)
    made: list[int] = []

    def make() -> Answer:
        made.append(1)
        time.sleep(0.05)
        return json_answer(200, {})

    threads = [threading.Thread(target=recent.answer, args=("a", make)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1

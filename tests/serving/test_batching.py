import asyncio
import threading

from reward_harness.rewards.base import BaseRM, Failed, Item, Scored, conversation_of
from reward_harness.serving.batching import Scorer


class Slow(BaseRM):
    """Waits for a signal in its first batch; scores the length of the response."""

    pace = "batched"

    def __init__(self):
        self.go = threading.Event()
        self.started = threading.Event()
        self.sizes: list[int] = []

    def score_batch_results(self, batch, batch_size=32, progress=False):
        self.sizes.append(len(batch))
        self.started.set()
        assert self.go.wait(10)
        if any(c[-1]["content"] == "break" for c in batch):
            raise ValueError("broken")
        return [Scored(float(len(c[-1]["content"]))) for c in batch]


def items(*texts: str) -> list[Item]:
    return [Item(conversation_of("?", text)) for text in texts]


async def test_what_waits_is_scored_together_and_each_gets_its_own():
    rm = Slow()
    scorer = Scorer(rm)
    first = asyncio.create_task(scorer.score(items("a")))
    await asyncio.to_thread(rm.started.wait, 10)
    others = [asyncio.create_task(scorer.score(items("b" * n, "c" * n))) for n in range(2, 12)]
    await asyncio.sleep(0.05)
    rm.go.set()
    assert await first == [Scored(1.0)]
    assert await asyncio.gather(*others) == [[Scored(float(n))] * 2 for n in range(2, 12)]
    assert rm.sizes == [1, 20]
    scorer.close()


async def test_a_batch_is_bounded():
    rm = Slow()
    scorer = Scorer(rm, max_items=4)
    first = asyncio.create_task(scorer.score(items("a")))
    await asyncio.to_thread(rm.started.wait, 10)
    others = [asyncio.create_task(scorer.score(items("b"))) for _ in range(10)]
    await asyncio.sleep(0.05)
    rm.go.set()
    await asyncio.gather(first, *others)
    assert rm.sizes == [1, 4, 4, 2]
    scorer.close()


async def test_a_reward_that_raises_fails_its_batch_and_the_worker_lives_on():
    rm = Slow()
    rm.go.set()
    scorer = Scorer(rm)
    broken = await scorer.score(items("break"))
    assert isinstance(broken[0], Failed) and "broken" in broken[0].error
    assert await scorer.score(items("abc")) == [Scored(3.0)]
    scorer.close()


async def test_close_finishes_what_was_accepted_and_takes_nothing_more():
    rm = Slow()
    scorer = Scorer(rm)
    accepted = asyncio.create_task(scorer.score(items("abc")))
    await asyncio.to_thread(rm.started.wait, 10)
    closing = asyncio.create_task(asyncio.to_thread(scorer.close))
    await asyncio.sleep(0.02)
    late = await scorer.score(items("x"))
    rm.go.set()
    await closing
    assert await accepted == [Scored(3.0)]
    assert isinstance(late[0], Failed) and late[0].retriable


async def test_a_request_that_is_cancelled_does_not_stop_the_others():
    rm = Slow()
    scorer = Scorer(rm)
    first = asyncio.create_task(scorer.score(items("a")))
    await asyncio.to_thread(rm.started.wait, 10)
    gone, kept = (asyncio.create_task(scorer.score(items(t))) for t in ("bb", "ccc"))
    await asyncio.sleep(0.02)
    gone.cancel()
    rm.go.set()
    assert await kept == [Scored(3.0)]
    assert await first == [Scored(1.0)]
    scorer.close()

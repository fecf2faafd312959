"""The model's thread and its queue: batches, bounds, deadlines, errors, and its end."""

import queue
import threading
import time

import pytest

from mufin_jax.serving.engine import Busy, Ended, Engine, Expired, Job

PATIENCE = 10.0


class Model:
    """Answers each job with what it asked; a gate holds the first batch back."""

    def __init__(self):
        self.batches: list[list[object]] = []
        self.gate, self.entered = threading.Event(), threading.Event()

    def work(self, jobs):
        self.batches.append([job.asked for job in jobs])
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        if any(job.asked == "bad" for job in jobs):
            raise ValueError("bad")
        return [f"answer to {job.asked}" for job in jobs]

    def other(self, jobs):
        return self.work(jobs)


class Waiting:
    """What a job's client sees."""

    def __init__(self):
        self.left, self._answers = False, queue.Queue()

    def deliver(self, answer):
        self._answers.put(answer)

    def answer(self):
        return self._answers.get(timeout=PATIENCE)

    @property
    def empty(self):
        return self._answers.empty()


def job(model, asked, client=None, items=1, key=None, seconds=PATIENCE, work=None):
    client = client or Waiting()
    deadline = time.monotonic() + seconds
    work = work or model.work
    return client, Job(
        work, key, items, asked, deadline, client.deliver, lambda: client.left
    )  # fmt: skip


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def engine():
    engine = Engine(most=4, queue=8)
    engine.start()
    yield engine
    engine.close(PATIENCE)


def hold(engine, model):
    """Keep the model busy with one job, so that what comes next waits."""
    client, first = job(model, "first")
    engine.submit(first)
    assert model.entered.wait(PATIENCE)
    return client


def submit(engine, model, *asked, **options):
    clients = []
    for one in asked:
        client, made = job(model, one, **options)
        engine.submit(made)
        clients.append(client)
    return clients


def test_what_waits_while_the_model_is_busy_is_answered_together_up_to_the_largest_batch(
    engine, model
):
    first = hold(engine, model)
    clients = submit(engine, model, *range(6))
    assert engine.waiting == 6
    model.gate.set()
    assert first.answer() == "answer to first"
    assert [client.answer() for client in clients] == [f"answer to {one}" for one in range(6)]
    assert model.batches == [["first"], [0, 1, 2, 3], [4, 5]]
    assert engine.waiting == 0


def test_a_job_that_comes_alone_does_not_wait_for_others(engine, model):
    model.gate.set()
    begin = time.monotonic()
    (client,) = submit(engine, model, "alone")
    assert client.answer() == "answer to alone"
    assert time.monotonic() - begin < 0.4  # no timer, and less than a beat


def test_only_jobs_of_one_kind_and_key_go_together_and_the_oldest_goes_first(engine, model):
    hold(engine, model)
    clients = submit(engine, model, "a", key=1) + submit(engine, model, "b", key=2)
    clients += submit(engine, model, "c", key=1, work=model.other)
    clients += submit(engine, model, "d", key=1)
    model.gate.set()
    assert [client.answer() for client in clients] == [f"answer to {one}" for one in "abcd"]
    assert model.batches[1:] == [["a", "d"], ["b"], ["c"]]


def test_items_count_and_not_jobs(engine, model):
    hold(engine, model)
    clients = submit(engine, model, "a", items=3) + submit(engine, model, "b", items=3)
    clients += submit(engine, model, "c", items=1)
    with pytest.raises(Busy):
        submit(engine, model, "d", items=2)
    model.gate.set()
    assert all(client.answer() for client in clients)
    assert model.batches[1:] == [["a", "c"], ["b"]]


def test_a_full_queue_rejects_with_the_time_in_which_it_will_have_room():
    now = [0.0]
    engine, model = Engine(most=4, queue=4, clock=lambda: now[0]), Model()
    engine.start()

    def work(jobs):
        model.entered.set()
        assert model.gate.wait(PATIENCE)
        now[0] += 2.0  # two seconds an item
        return [None for _ in jobs]

    try:
        first, made = job(model, "first", work=work, seconds=1e9)
        engine.submit(made)
        model.gate.set()
        first.answer()
        model.gate.clear()
        model.entered.clear()
        engine.submit(job(model, "busy", work=work, seconds=1e9)[1])
        assert model.entered.wait(PATIENCE)
        engine.submit(job(model, "wait", items=4, work=work, seconds=1e9)[1])
        with pytest.raises(Busy) as full:
            engine.submit(job(model, "late", items=3, work=work, seconds=1e9)[1])
        assert full.value.retry_after == 6
        assert engine.waiting == 4
    finally:
        model.gate.set()
        assert engine.close(PATIENCE)


def test_a_client_that_has_left_costs_no_work(engine, model):
    hold(engine, model)
    left, kept = submit(engine, model, "left", "kept")
    left.left = True
    model.gate.set()
    assert kept.answer() == "answer to kept"
    assert model.batches[1:] == [["kept"]] and left.empty


def test_a_job_whose_deadline_has_passed_costs_no_work(engine, model):
    hold(engine, model)
    (late,) = submit(engine, model, "late", seconds=0.0)
    (kept,) = submit(engine, model, "kept")
    model.gate.set()
    assert isinstance(late.answer(), Expired)
    assert kept.answer() == "answer to kept" and model.batches[1:] == [["kept"]]


def test_an_error_is_the_answer_of_its_own_job_alone_and_the_thread_lives(engine, model):
    hold(engine, model)
    good, bad, other = submit(engine, model, "good", "bad", "other")
    model.gate.set()
    assert good.answer() == "answer to good" and other.answer() == "answer to other"
    assert isinstance(bad.answer(), ValueError)
    (after,) = submit(engine, model, "after")
    assert after.answer() == "answer to after" and engine.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_answers_those_who_wait_and_accepts_nobody(engine, model):
    def deadly(jobs):
        assert model.gate.wait(PATIENCE)
        raise SystemExit  # not an Exception: nothing outlives it

    dying, made = job(model, "x", work=deadly)
    engine.submit(made)
    while engine.waiting:
        time.sleep(0.01)
    (waits,) = submit(engine, model, "waits")
    model.gate.set()
    assert isinstance(dying.answer(), Ended) and isinstance(waits.answer(), Ended)
    engine._thread.join(PATIENCE)
    assert not engine.alive
    with pytest.raises(Ended):
        submit(engine, model, "late")


def test_an_idle_thread_beats_and_one_that_hangs_does_not(engine, model):
    before = engine.beat
    while engine.beat == before:
        time.sleep(0.05)
    hold(engine, model)
    before = engine.beat
    time.sleep(1.2)
    assert engine.beat == before
    model.gate.set()


def test_closing_finishes_what_waits_and_accepts_nothing_more(model):
    engine = Engine(most=4, queue=8)
    engine.start()
    hold(engine, model)
    (client,) = submit(engine, model, "waits")
    model.gate.set()
    assert engine.close(PATIENCE)
    assert client.answer() == "answer to waits" and not engine.alive
    with pytest.raises(Ended):
        submit(engine, model, "late")


def test_each_batch_is_observed_with_what_its_jobs_waited():
    now, seen, model = [10.0], [], Model()
    engine = Engine(most=4, queue=8, clock=lambda: now[0], observe=seen.append)

    def work(jobs):
        now[0] += 3.0
        return [None for _ in jobs]

    clients = []
    for asked in "ab":
        client, made = job(model, asked, work=work, seconds=1e9, items=2)
        made.queued = 0.0
        clients.append((client, made))
    engine.start()
    for client, made in clients:
        engine.submit(made)
        client.answer()
    assert engine.close(PATIENCE)
    assert [(batch.items, batch.seconds) for batch in seen] == [(2, 3.0), (2, 3.0)]
    assert [batch.waited for batch in seen] == [(0.0,), (0.0,)]

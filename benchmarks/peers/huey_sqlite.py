"""huey on SQLite with fsync: enqueue, then drain with ten worker threads; argument: the file."""

from __future__ import annotations

import logging
import sys
import threading
import time

from huey import SqliteHuey

_JOBS = 3000
logging.disable(logging.CRITICAL)
huey = SqliteHuey(filename=sys.argv[1], fsync=True)
done = threading.Semaphore(0)


@huey.task()
def noop(n: int) -> int:
    """Do nothing."""
    done.release()
    return n


def main() -> None:
    """Measure and print."""
    for n in range(_JOBS):
        noop(n)
    consumer = huey.create_consumer(
        workers=10, worker_type="thread", initial_delay=0.01, backoff=1.0, max_delay=0.01
    )
    started = time.perf_counter()
    consumer.start()
    for _ in range(_JOBS):
        done.acquire()
    print(_JOBS / (time.perf_counter() - started), flush=True)
    consumer.stop()


if __name__ == "__main__":
    main()

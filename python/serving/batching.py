"""One thread that computes the lists of all requests that have arrived since its last turn."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .catalogue import Catalogue, Query, Ranked
from .limits import Refusal

Result = list[Ranked] | BaseException


@dataclass(slots=True, eq=False)
class Job:
    """The queries of one request, and the catalogue that their indices belong to. prepare: what is computed before they
    can be ranked, such as the embeddings of new users. It is done for each request alone, so that the result does not
    depend on other requests."""

    catalogue: Catalogue
    queries: Sequence[Query]
    answer: asyncio.Future[list[Ranked]]
    prepare: Callable[[], None] | None = None


class Batcher:
    """Computes jobs in batches. Under load a batch is what arrived during the one before, so that one pass over the
    items serves many requests; a single request does not wait for others.

    most: lists of a batch. waiting: lists that may wait or be computed; `submit` refuses more. observe: is called with
    the number of lists of every batch, by the worker thread.
    """

    def __init__(self, most: int = 256, waiting: int = 4096, observe: Callable[[int], None] = lambda n: None) -> None:
        self.most, self.limit, self.observe = most, waiting, observe
        self.waiting = 0  # changed by the event loop only
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Must be called in the event loop that submits jobs."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="ranking", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Finish the jobs that were submitted, and end the thread."""
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    async def submit(
        self, catalogue: Catalogue, queries: Sequence[Query], prepare: Callable[[], None] | None = None
    ) -> list[Ranked]:
        """The lists of the queries. Raises Refusal if too many lists are waiting, and what `prepare` raises."""
        if self.waiting + len(queries) > self.limit:
            raise Refusal(503, f"{self.waiting} lists are waiting, the maximum is {self.limit}; try again", retry=True)
        job = Job(catalogue, queries, self._loop.create_future(), prepare)
        self.waiting += len(queries)
        self._jobs.put(job)
        return await job.answer

    def _work(self) -> None:
        going_on = True
        while going_on:
            job = self._jobs.get()
            if job is None:
                return
            batch, size = [job], len(job.queries)
            while size < self.most:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    going_on = False
                    break
                batch.append(job)
                size += len(job.queries)
            results = self._compute([job for job in batch if not job.answer.done()])  # some clients may have gone
            self._loop.call_soon_threadsafe(self._deliver, batch, dict(results))

    def _compute(self, batch: Sequence[Job]) -> Iterable[tuple[int, Result]]:
        """(id of the job, its lists or the error). An error in a batch affects only the job that causes it."""
        ready = []
        for job in batch:
            try:
                if job.prepare is not None:
                    job.prepare()
                ready.append(job)
            except Exception as error:
                yield id(job), error
        for catalogue in {id(job.catalogue): job.catalogue for job in ready}.values():
            yield from self._ranked(catalogue, [job for job in ready if job.catalogue is catalogue])

    def _ranked(self, catalogue: Catalogue, jobs: Sequence[Job]) -> Iterable[tuple[int, Result]]:
        try:
            lists = catalogue.rank([query for job in jobs for query in job.queries])
            self.observe(len(lists))
        except Exception as error:
            if len(jobs) == 1:
                yield id(jobs[0]), error
            else:
                for job in jobs:
                    yield from self._ranked(catalogue, [job])
            return
        first = 0
        for job in jobs:
            yield id(job), lists[first : first + len(job.queries)]
            first += len(job.queries)

    def _deliver(self, batch: Sequence[Job], results: dict[int, Result]) -> None:
        for job in batch:
            self.waiting -= len(job.queries)
            result = results.get(id(job))
            if job.answer.done() or result is None:
                continue
            if isinstance(result, BaseException):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(result)

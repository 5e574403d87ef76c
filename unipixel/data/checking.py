"""Every record of a dataset read, media and masks and all, by several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from unipixel.data.reading import read
from unipixel.data.records import Record
from unipixel.errors import UnipixelError

CHUNK = 32
"""Records that a process reads at a time; neighbours often show one picture, which is then decoded once."""
MAX_PROCESSES = 8


def check_records(
    records: Sequence[Record], *, processes: int | None = None, progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """Read all records.

    Args:
        processes: by default one per CPU, and only this one for few records.
        progress: called with the number of records that were read since the last call.

    Returns:
        The reason by record (`Record.source`) of each that cannot be read, in the order of the records.
    """
    chunks = [records[start : start + CHUNK] for start in range(0, len(records), CHUNK)]
    if processes is None:
        processes = min(MAX_PROCESSES, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    found: dict[str, str] = {}
    for size, faults in _check_chunks(chunks, min(processes, len(chunks) // 4)):
        found |= faults
        if progress is not None:
            progress(size)
    return {record.source: found[record.source] for record in records if record.source in found}


def _check_chunks(chunks: Sequence[Sequence[Record]], processes: int) -> Iterator[tuple[int, dict[str, str]]]:
    if processes < 2:
        yield from ((len(chunk), find_faults(chunk)) for chunk in chunks)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(find_faults, chunk): len(chunk) for chunk in chunks}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def find_faults(records: Sequence[Record]) -> dict[str, str]:
    """What is wrong with some records, by `Record.source`; those that are right are not in it."""
    faults: dict[str, str] = {}
    decoded: dict[object, str] = {}
    for record in records:
        try:
            sample = read(record)
            shown = (record.root, record.frame_names or sample.media.source)
            if shown not in decoded:
                decoded[shown] = ""
                try:
                    for _ in sample.media:
                        pass
                except UnipixelError as error:
                    decoded[shown] = str(error)
                finally:
                    sample.media.close()
            if decoded[shown]:
                faults[record.source] = decoded[shown]
        except UnipixelError as error:
            faults[record.source] = str(error)
    return faults

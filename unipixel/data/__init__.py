"""Datasets: files on disk, read into `Sample`s with media and masks, without tokenizer, model or randomness.

    from unipixel import data

    records = data.open_index("refcoco", "path/to/root", "val")        # reads annotation files only
    sample = data.read(records[0])                                     # media, masks, queries

`DATASETS` is the catalogue. Each family of datasets is one module of `unipixel.data.readers`: its docstring says what
is read and which defects are handled how, ``read_records`` and ``read_sample`` read it, and ``DATASETS`` are its rows.
The names below are resolved on first use: who reads one kind of file does not load the readers of all datasets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unipixel.data.catalogue import DATASETS, find_dataset, open_index, parse_name, read
    from unipixel.data.records import Dataset, Record

__all__ = ["DATASETS", "Dataset", "Record", "find_dataset", "open_index", "parse_name", "read"]


def __getattr__(name: str) -> Any:
    """Load a name of the catalogue on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'unipixel.data' has no attribute {name!r}")
    home = "records" if name in ("Dataset", "Record") else "catalogue"
    value = globals()[name] = getattr(import_module(f"unipixel.data.{home}"), name)
    return value

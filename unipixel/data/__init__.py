"""Datasets: files on disk, read into `Sample`s with media and masks, without tokenizer, model or randomness.

    from unipixel import data

    records = data.open_index("refcoco", "path/to/root", "val")        # reads annotation files only
    sample = data.read(records[0])                                     # media, masks, queries

`DATASETS` is the catalogue. Each family of datasets is one module of `unipixel.data.readers`: its docstring says what
is read and which defects are handled how, ``read_records`` and ``read_sample`` read it, and ``DATASETS`` are its rows.
"""

from unipixel.data.catalogue import DATASETS, find_dataset, open_index, parse_name, read
from unipixel.data.records import Dataset, Record

__all__ = ["DATASETS", "Dataset", "Record", "find_dataset", "open_index", "parse_name", "read"]

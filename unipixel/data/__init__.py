"""Datasets: files on disk, read into `Sample`s with media and masks, without tokenizer, model or randomness.

    from unipixel import data

    records = data.open_index("refcoco", "path/to/root", "val")        # reads annotation files only
    sample = data.read(records[0])                                     # media, masks, queries

`DATASETS` is the catalogue. Each family of datasets has a module with two functions, ``index`` and ``sample``; its
docstring says what is read, from where, under which licence, and which defects of the dataset are handled how.
"""

from unipixel.data.catalogue import DATASETS
from unipixel.data.reading import find_dataset, open_index, parse_name, read
from unipixel.data.records import Dataset, Record

__all__ = ["DATASETS", "Dataset", "Record", "find_dataset", "open_index", "read", "parse_name"]

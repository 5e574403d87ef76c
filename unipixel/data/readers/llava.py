"""LLaVA's and VideoGPT+'s instructions: conversations about whole pictures and videos, and some about neither.

Layout::

    general/llava_v1_5_mix665k_with_videogpt_plus_576k.json
    llava_instruct/<image>        coco/, gqa/, ocr_vqa/, textvqa/, vg/
    videogpt_plus/<video>

Rows; one record each, whose queries are to be asked in order::

    {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations":
       [{"from": "human", "value": "<image>\\nWhat are the colors of the bus?"}, {"from": "gpt", "value": "..."}, ...]}
    {"id": "...", "video": "activitynet/v_x.mp4", "conversations": [...]}
    {"id": "...", "conversations": [...]}                                     text only

Known defects and how they are handled: ids are not unique, so records are named by row; ``<image>`` and ``<video>``
before or behind the first question are taken off; a conversation that an assistant opens loses that line; pairs with
an empty side are left out, and rows without any pair or whose speakers do not alternate. Rows of text only have the
type ``text`` and become samples without media (`Sample.is_text_only`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipixel.data.files import get_field, read_json
from unipixel.data.frames import open_picture, read_clip
from unipixel.data.records import Dataset, DataType, Record, count_words
from unipixel.errors import DatasetError
from unipixel.sample import Query, Sample

FILE = "general/llava_v1_5_mix665k_with_videogpt_plus_576k.json"


def read_records(root: Path, dataset: str, split: str) -> list[Record]:
    """One record per usable row; see the module's docstring for those that are left out.

    Raises:
        DatasetError: the annotation file is missing, damaged, or not in its documented layout.
    """
    records = []
    for number, row in enumerate(read_json(root / FILE, f"{dataset}/{split}", list)):
        where = f"{dataset}/{split} row {number} of {Path(FILE).name}"
        pairs = _pair_turns(get_field(row, "conversations", where, list), where)
        if not pairs:
            continue
        data_type, path = _find_media(row, where)
        records.append(
            Record(
                dataset=dataset,
                split=split,
                id=str(number),
                data_type=data_type,
                root=root,
                frame_names=(path,) if data_type == "image" else None,
                raw=(path, pairs),
                words=count_words(pairs[0][1]),  # the first answer alone, as the released training counts
            )
        )
    return records


def read_sample(record: Record, frames: Sequence[int] | None = None) -> Sample:
    """One conversation about a picture, a video, or neither.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    path, pairs = record.raw
    queries = tuple(Query(kind="conversation", text=question, answer=answer) for question, answer in pairs)
    if record.data_type == "text":
        return Sample(queries=queries, source=record.source)
    if record.data_type == "image":
        media = open_picture(record, frames)
    else:
        media, _ = read_clip(record, record.root / path, None, frames, None)
    return Sample(media=media, queries=queries, source=record.source)


def _find_media(row: Any, where: str) -> tuple[DataType, str]:
    """What a row is about, and its path relative to the ``data`` folder."""
    if "image" in row and "video" in row:
        raise DatasetError(f"{where}: the row has both an image and a video; it should have one of them or neither")
    if "image" in row:
        return "image", f"llava_instruct/{get_field(row, 'image', where, str)}"
    if "video" in row:
        return "video", f"videogpt_plus/{get_field(row, 'video', where, str)}"
    return "text", ""


def _pair_turns(turns: list[Any], where: str) -> tuple[tuple[str, str], ...]:
    """Questions and answers; none if the speakers do not alternate."""
    if turns and get_field(turns[0], "from", where) == "gpt":
        turns = turns[1:]
    turns = turns[: len(turns) // 2 * 2]
    texts = [get_field(turn, "value", where, str) for turn in turns]
    if any(get_field(turn, "from", where) != ("human", "gpt")[k % 2] for k, turn in enumerate(turns)) or not texts:
        return ()
    for tag in ("<image>", "<video>"):
        texts[0] = texts[0].removeprefix(f"{tag}\n").removesuffix(f"\n{tag}")
        texts[0] = texts[0].removeprefix(tag).removesuffix(tag)
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return tuple((question, answer) for question, answer in pairs if question.strip() and answer.strip())


DATASETS = {
    "llava_instruct_665k_videogpt_plus_576k": Dataset(
        title="LLaVA-1.5 and VideoGPT+ instructions",
        paper="arXiv 2310.03744, 2406.09418",
        licence="CC BY 4.0 (LLaVA texts, GPT-4 terms); VideoGPT+ none stated; media of their sources",
        home="huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K and MBZUAI/VideoGPT-plus_Training_Dataset; "
        "the joined file: UniPixel's data release",
        teaches="general instructions",
        splits=("train",),
        files={"train": (FILE, "llava_instruct", "videogpt_plus")},
        index=read_records,
        sample=read_sample,
    )
}

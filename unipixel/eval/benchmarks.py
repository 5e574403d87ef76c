"""Every benchmark that can be run: its data, its protocol, and what UniPixel published.

Published figures are of two kinds, and every report says which: those of the released checkpoints, from their
repository (the 7B is the one released in October 2025), and those of the paper's tables (arXiv 2509.18094), whose
checkpoints need not be the released ones. The latter were read from notes on the paper, not from the authors' files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from unipixel.data.differences import find_differences
from unipixel.eval.captions import Captions
from unipixel.eval.choices import Choices
from unipixel.eval.expression_masks import (
    CategorizedVideoMasks,
    ClassicDavis,
    Davis,
    ReasoningMasks,
    ReferringMasks,
    Revos,
    UploadedVideoMasks,
    VideoMasks,
)
from unipixel.eval.pixelqa import PixelQA
from unipixel.eval.prompted_masks import ClipsByText, ClipsFromMask, PhotoBoxes, PhotoPersons, PhotoPoints
from unipixel.eval.protocols import BenchmarkProtocol
from unipixel.eval.stickers import STICKER_TASKS

RELEASES = {"UniPixel-3B": "released 3B", "UniPixel-7B": "released 7B, October 2025"}
PAPER = "paper"


Published = Mapping[str, tuple[float | None, float | None]]
"""Published numbers of UniPixel-3B and UniPixel-7B by the name of the figure; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of a benchmark that is run and reported by itself."""

    data: str
    """Split of the dataset."""
    protocol: BenchmarkProtocol
    published: Published = field(default_factory=dict)
    """Of the released checkpoints, from their repository."""
    in_paper: Published = field(default_factory=dict)
    """From the paper's tables, read from notes on them; figures that are not in ``published``."""
    layout: Literal["", "mevis", "ref_youtube_vos"] = ""
    """Layout of the zip for the server that scores it; empty: it is scored here."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A dataset together with how it is graded."""

    title: str
    dataset: str
    """Key of `unipixel.data.DATASETS`."""
    splits: Mapping[str, Split]
    default: tuple[str, ...]
    """Splits that are run where none is named."""


def list_jf_figures(small: tuple[float, float, float], large: tuple[float, float, float]) -> Published:
    """Published J, F and J&F."""
    return {name: (a, b) for name, a, b in zip(("J", "F", "J&F"), small, large, strict=True)}


def _build_refcoco(title: str, dataset: str, figures: Mapping[str, tuple[float, float, float | None]]) -> Benchmark:
    """A RefCOCO benchmark; ``figures`` are split -> cIoU of both sizes, and the REC accuracy of the large one."""
    splits = {
        name: Split(
            data=name,
            protocol=ReferringMasks(),
            published={"cIoU": (small, large)},
            in_paper={"REC Acc@0.5": (None, rec)} if rec else {},
        )
        for name, (small, large, rec) in figures.items()
    }
    return Benchmark(title=title, dataset=dataset, splits=splits, default=tuple(splits))


def _build_pixelqa_splits() -> dict[str, Split]:
    """PixelQA by its kinds of prompts, free-running and with the pre-filling answer forced."""
    in_paper: dict[str, Published] = {
        "point": {"J&F": (57.2, 42.3), "accuracy": (70.8, 71.4)},
        "box": {},
        "mixed": {"J&F": (49.0, 44.9), "accuracy": (68.5, 71.4)},
    }
    kinds: tuple[Literal["point", "box", "mixed"], ...] = ("point", "box", "mixed")
    splits: dict[str, Split] = {}
    for ending, forced in (("", False), ("_forced", True)):
        for kind in kinds:
            protocol = PixelQA(prompts=kind, forced=forced)
            splits[kind + ending] = Split(data="test", protocol=protocol, in_paper=in_paper[kind])
    return splits


BENCHMARKS: dict[str, Benchmark] = {
    "revos": Benchmark(
        title="ReVOS",
        dataset="revos",
        splits={
            "valid": Split(
                data="valid",
                protocol=Revos(),
                published=list_jf_figures((59.7, 64.4, 62.1), (61.7, 65.7, 63.7)),
                in_paper={"reasoning J&F": (59.6, None)},
            )
        },
        default=("valid",),
    ),
    "mevis": Benchmark(
        title="MeViS",
        dataset="mevis",
        splits={
            "valid_u": Split(
                data="valid_u",
                protocol=VideoMasks(),
                in_paper={"J&F": (59.7, None)},
            ),
            "valid": Split(
                data="valid",
                protocol=UploadedVideoMasks(),
                published=list_jf_figures((50.4, 55.7, 53.1), (53.2, 58.3, 55.8)),
                layout="mevis",
            ),
        },
        default=("valid_u",),
    ),
    "ref_youtube_vos": Benchmark(
        title="Ref-YouTube-VOS",
        dataset="ref_youtube_vos",
        splits={
            "valid": Split(
                data="valid",
                protocol=UploadedVideoMasks(),
                published=list_jf_figures((68.6, 72.3, 70.5), (69.5, 72.4, 71.0)),
                layout="ref_youtube_vos",
            )
        },
        default=("valid",),
    ),
    "ref_davis17": Benchmark(
        title="Ref-DAVIS17",
        dataset="ref_davis17",
        splits={
            "valid": Split(
                data="valid",
                protocol=Davis(),
                published=list_jf_figures((70.7, 77.8, 74.2), (72.7, 80.1, 76.4)),
            ),
            "classic": Split(data="valid", protocol=ClassicDavis()),
        },
        default=("valid",),
    ),
    "ref_sav": Benchmark(
        title="Ref-SAV",
        dataset="ref_sav",
        splits={
            "valid": Split(
                data="valid",
                protocol=VideoMasks(),
                published=list_jf_figures((66.9, 67.6, 67.2), (68.5, 69.6, 69.0)),
            )
        },
        default=("valid",),
    ),
    "groundmore": Benchmark(
        title="GroundMoRe",
        dataset="groundmore",
        splits={
            "test": Split(
                data="test",
                protocol=CategorizedVideoMasks(),
                published=list_jf_figures((36.0, 38.7, 37.4), (36.5, 39.1, 37.8)),
            )
        },
        default=("test",),
    ),
    "refcoco": _build_refcoco(
        "RefCOCO",
        "refcoco",
        {"val": (80.5, 80.8, 92.0), "testA": (82.6, 83.0, 94.4), "testB": (76.9, 77.4, 88.1)},
    ),
    "refcoco+": _build_refcoco(
        "RefCOCO+",
        "refcoco+",
        {"val": (74.3, 75.3, None), "testA": (78.9, 80.1, None), "testB": (68.4, 70.0, None)},
    ),
    "refcocog": _build_refcoco("RefCOCOg", "refcocog", {"val": (76.3, 76.4, None), "test": (77.0, 77.1, None)}),
    "reason_seg": Benchmark(
        title="ReasonSeg",
        dataset="reason_seg",
        splits={
            "val": Split(
                data="val",
                protocol=ReasoningMasks(),
                published={"gIoU": (64.0, 60.5), "cIoU": (56.2, 58.7)},
            ),
            "test": Split(data="test", protocol=ReasoningMasks()),
        },
        default=("val",),
    ),
    "videorefer_bench_d": Benchmark(
        title="VideoRefer-Bench-D",
        dataset="videorefer_bench_d",
        splits={
            "single": Split(data="test", protocol=Captions(regions="single"), published={"average": (3.42, 3.37)}),
            "multi": Split(
                data="test",
                protocol=Captions(regions="multiple"),
                published={"average": (3.44, 3.36)},
                in_paper={"SC": (4.08, None), "AD": (3.13, None), "TD": (3.13, None), "HD": (3.42, None)},
            ),
        },
        default=("single", "multi"),
    ),
    "videorefer_bench_q": Benchmark(
        title="VideoRefer-Bench-Q",
        dataset="videorefer_bench_q",
        splits={
            "single": Split(
                data="test",
                protocol=Choices(style="videorefer", regions="single"),
                published={"accuracy": (72.2, 73.4)},
            ),
            "multi": Split(
                data="test",
                protocol=Choices(style="videorefer", regions="multiple"),
                published={"accuracy": (72.8, 74.1)},
                in_paper={
                    "Basic Questions": (75.3, None),
                    "Sequential Questions": (70.7, None),
                    "Relationship Questions": (62.3, None),
                    "Reasoning Questions": (87.4, None),
                    "Future Predictions": (77.2, None),
                },
            ),
        },
        default=("single", "multi"),
    ),
    "pixelqa": Benchmark(
        title="PixelQA", dataset="videorefer_bench_q", splits=_build_pixelqa_splits(), default=("point", "box", "mixed")
    ),
    "mvbench": Benchmark(
        title="MVBench",
        dataset="mvbench",
        splits={
            "test": Split(
                data="test",
                protocol=Choices(style="mvbench", mean_of_categories=True),
                published={"accuracy": (62.5, 64.3)},
            )
        },
        default=("test",),
    ),
    "videomme": Benchmark(
        title="Video-MME",
        dataset="videomme",
        splits={"test": Split(data="test", protocol=Choices(style="mvbench"))},
        default=("test",),
    ),
    "photos": Benchmark(
        title="Photos",
        dataset="photos",
        splits={
            "box": Split(data="val", protocol=PhotoBoxes()),
            "point": Split(data="val", protocol=PhotoPoints()),
            "person": Split(data="val", protocol=PhotoPersons()),
        },
        default=("box", "point", "person"),
    ),
    "davis_clips": Benchmark(
        title="DAVIS clips",
        dataset="davis_clips",
        splits={
            "given": Split(data="val", protocol=ClipsFromMask()),
            "text": Split(data="val", protocol=ClipsByText()),
        },
        default=("given", "text"),
    ),
    "stickers": Benchmark(
        title="Stickers",
        dataset="stickers",
        splits={name: Split(data="val", protocol=task) for name, task in STICKER_TASKS.items()},
        default=tuple(STICKER_TASKS),
    ),
}
"""Name -> benchmark."""


def select_splits(name: str) -> list[tuple[str, str]]:
    """The (benchmark, split) pairs that ``NAME`` or ``NAME/SPLIT`` stands for.

    Raises:
        ValueError: there is no such benchmark or split.
    """
    title, _, split = name.partition("/")
    if title not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {title!r}; there are {', '.join(BENCHMARKS)}")
    splits = BENCHMARKS[title].splits
    if split and split not in splits:
        raise ValueError(f"{title} has no split {split!r}; it has {', '.join(splits)}")
    return [(title, split)] if split else [(title, one) for one in BENCHMARKS[title].default]


def get_protocol(name: str, split: str, protocol: str) -> BenchmarkProtocol:
    """The protocol of a split.

    Args:
        protocol: ``"correct"`` or ``"original"``.

    Raises:
        ValueError: another protocol.
    """
    if protocol not in ("correct", "original"):
        raise ValueError(f"the protocol is {protocol!r}; it must be 'correct' or 'original'")
    found = BENCHMARKS[name].splits[split].protocol
    # where the two do not differ there is one protocol, and one set of predictions
    return replace(found, original=protocol == "original" and bool(find_differences(name, split)))

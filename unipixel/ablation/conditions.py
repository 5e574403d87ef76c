"""What each ablation compares, row by row as in the paper, with the paper's figures.

Published figures are those of the 3B model (UniPixel, arXiv 2509.18094), read from notes on its tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unipixel.model.config import Recall

PIXELQA_MASKS, PIXELQA_CHOICES = "PixelQA J&F", "PixelQA accuracy"
REVOS, REFERRING = "ReVOS J&F", "VideoRefer-Q accuracy"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One row: what is trained, and how it differs from the whole method."""

    published: Mapping[str, float] = field(default_factory=dict)
    """The paper's figures by name."""
    answers: bool = True
    """Learns to answer questions about objects."""
    segments: bool = True
    """Learns to segment."""
    recall: Recall = "memory"
    hidden_tokens: int = 2
    time_code: bool = True
    propagate: bool = True
    stages: tuple[str, ...] = ("refer", "segment", "joint")
    """Stages that are trained, in order; the last one is always the joint one."""

    @property
    def fields(self) -> dict[str, object]:
        """The fields of a recipe that make its model the condition's."""
        return {
            "hidden_tokens": self.hidden_tokens,
            "time_code": self.time_code,
            "propagate": self.propagate,
            "recall": self.recall,
        }


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A table of the paper."""

    title: str
    conditions: Mapping[str, Condition]
    figures: tuple[str, ...] = (PIXELQA_MASKS, PIXELQA_CHOICES)
    """What it is measured by on real data."""
    staged: bool = False
    """Whether the conditions differ in their stages, so that the small world has to train them too."""


def _list_pixelqa_figures(masks: float | None, choices: float | None) -> dict[str, float]:
    given = ((PIXELQA_MASKS, masks), (PIXELQA_CHOICES, choices))
    return {name: value for name, value in given if value is not None}


def _build_staged_condition(name: str, revos: float, referring: float, *stages: str) -> dict[str, Condition]:
    return {name: Condition(published={REVOS: revos, REFERRING: referring}, stages=stages)}


WHOLE = Condition(published=_list_pixelqa_figures(49.0, 68.5))

ABLATIONS: dict[str, Ablation] = {
    "stages": Ablation(
        title="Stages of training",
        conditions={
            **_build_staged_condition("stage 3", 61.0, 71.5, "joint"),
            **_build_staged_condition("stages 1, 3", 61.2, 72.3, "refer", "joint"),
            **_build_staged_condition("stages 2, 3", 61.6, 71.6, "segment", "joint"),
            **_build_staged_condition("stages 1, 2, 3", 62.1, 72.8, "refer", "segment", "joint"),
        },
        figures=(REVOS, REFERRING),
        staged=True,
    ),
    "unify": Ablation(
        title="Referring and segmenting in one model",
        conditions={
            "refer only": Condition(published=_list_pixelqa_figures(None, 64.6), segments=False, recall="pointing"),
            "segment only": Condition(published=_list_pixelqa_figures(47.5, None), answers=False),
            "both": Condition(published=_list_pixelqa_figures(48.2, 67.4), recall="pointing"),
            "both + object memory": WHOLE,
        },
    ),
    "memory": Ablation(
        title="How a question knows of an object",
        conditions={
            "<ref>": Condition(published=_list_pixelqa_figures(46.8, 64.5), recall="pointing"),
            "<ref>, then <seg>": Condition(published=_list_pixelqa_figures(47.8, 64.9), recall="turn"),
            "pooled mask feature": Condition(published=_list_pixelqa_figures(47.5, 66.3), recall="frame"),
            "object memory": WHOLE,
        },
    ),
    "tokens": Ablation(
        title="Hidden tokens per <seg>",
        conditions={
            f"{count}": Condition(published={REVOS: revos}, hidden_tokens=count)
            for count, revos in ((1, 61.6), (2, 62.1), (4, 61.9), (8, 61.8))
        },
        figures=(REVOS,),
    ),
    "time": Ablation(
        title="Code of time of prompts",
        conditions={"without": Condition(published=_list_pixelqa_figures(44.3, None), time_code=False), "with": WHOLE},
    ),
    "propagation": Ablation(
        title="Masks of a clip",
        conditions={
            "frame by frame": Condition(published=_list_pixelqa_figures(46.1, 66.2), propagate=False),
            "propagated": WHOLE,
        },
    ),
}
"""Name -> ablation."""

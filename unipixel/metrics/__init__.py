"""Every figure the project reports, in numpy: masks in, numbers between 0 and 1 out.

    regions     overlap of two masks and what is averaged from it: J, IoU, gIoU, cIoU, mIoU, Prec@X, volume J and Dice
    boundary    F, the boundary measure
    sequences   J and F of whole videos and their statistics; ReVOS
    boxes       boxes from masks, referring comprehension (REC)
    texts       multiple-choice answers; captions against references: CIDEr-D, overlap of words

Masks are ``bool``; other types are refused, because 0/255 arrays compared with 0/1 arrays are a known source of wrong
figures. A prediction and its target have the same size: predictions are brought to source size before scoring.
"""

from unipixel.metrics.boundary import boundary_f, boundary_map, boundary_radius
from unipixel.metrics.boxes import box_from_mask, box_iou, rec_hit
from unipixel.metrics.regions import iou, overlap, overlap_scores, volume_scores
from unipixel.metrics.sequences import (
    FrameScores,
    davis_scores,
    frame_scores,
    mean_scores,
    revos_frame_scores,
    revos_scores,
    statistics,
)
from unipixel.metrics.texts import cider_d, grade_choices, parse_choice, token_f1

__all__ = [
    "FrameScores",
    "boundary_f",
    "boundary_map",
    "boundary_radius",
    "box_from_mask",
    "box_iou",
    "cider_d",
    "davis_scores",
    "frame_scores",
    "grade_choices",
    "iou",
    "mean_scores",
    "overlap",
    "overlap_scores",
    "parse_choice",
    "rec_hit",
    "revos_frame_scores",
    "revos_scores",
    "statistics",
    "token_f1",
    "volume_scores",
]

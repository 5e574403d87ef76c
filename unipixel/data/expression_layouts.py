"""Where the sets of videos with expressions lie, see `unipixel.data.expressions`."""

from __future__ import annotations

from dataclasses import dataclass

from unipixel.sample import QueryKind


@dataclass(frozen=True, kw_only=True)
class ExpressionLayout:
    """Where one split lies, relative to the ``data`` folder, and how it differs from the others."""

    expressions: str
    frames: tuple[str, ...]
    """Folder of the videos' frame folders: the first of these that exists."""
    masks: str | None = None
    """JSON by annotation id, or pickle by running number; None: no masks are given out."""
    foreground: str | None = None
    tests: str | None = None
    """Expression file that, if there, lists videos which are not part of this split."""
    kind: QueryKind = "query"
    questions: bool = False
    """Whether expressions that end with a question mark are sentences."""
    names: bool = False
    """Whether expressions are names of categories, with ``_`` for blanks."""
    training: bool = False
    """Whether expressions without objects are left out and TAO clips cut."""


_YOUTUBE = "ref_youtube_vos/meta_expressions"

LAYOUTS: dict[str, dict[str, ExpressionLayout]] = {
    "revos": {
        "train": ExpressionLayout(
            expressions="revos/meta_expressions_train_.json",
            frames=("revos/JPEGImages", "revos"),
            masks="revos/mask_dict.json",
            questions=True,
            training=True,
        ),
        "valid": ExpressionLayout(
            expressions="revos/meta_expressions_valid_.json",
            frames=("revos/JPEGImages", "revos"),
            masks="revos/mask_dict.json",
            foreground="revos/mask_dict_foreground.json",
            questions=True,
        ),
    },
    "mevis": {
        "train": ExpressionLayout(
            expressions="mevis/train/meta_expressions.json",
            frames=("mevis/train/JPEGImages",),
            masks="mevis/train/mask_dict.json",
            training=True,
        ),
        "valid_u": ExpressionLayout(
            expressions="mevis/valid_u/meta_expressions.json",
            frames=("mevis/valid_u/JPEGImages",),
            masks="mevis/valid_u/mask_dict.json",
        ),
        "valid": ExpressionLayout(expressions="mevis/valid/meta_expressions.json", frames=("mevis/valid/JPEGImages",)),
    },
    "lvvis": {
        "train": ExpressionLayout(
            expressions="lvvis/meta_expressions.json",
            frames=("lvvis/train/JPEGImages",),
            masks="lvvis/mask_dict.json",
            names=True,
            training=True,
        ),
    },
    "ref_youtube_vos": {
        "train": ExpressionLayout(
            expressions=f"{_YOUTUBE}/train/meta_expressions.json",
            frames=("ref_youtube_vos/train/JPEGImages",),
            masks="ref_youtube_vos/mask_dict.pkl",
            training=True,
        ),
        "valid": ExpressionLayout(
            expressions=f"{_YOUTUBE}/valid/meta_expressions.json",
            frames=("ref_youtube_vos/valid/JPEGImages",),
            tests=f"{_YOUTUBE}/test/meta_expressions.json",
        ),
    },
    "ref_davis17": {
        split: ExpressionLayout(
            expressions=f"ref_davis17/meta_expressions/{split}/meta_expressions.json",
            frames=("ref_davis17/DAVIS/JPEGImages/480p",),
            masks=f"ref_davis17/{split}/mask_dict.pkl",
            training=split == "train",
        )
        for split in ("train", "valid")
    },
    "ref_sav": {
        "valid": ExpressionLayout(
            expressions="ref_sav/valid/meta_expressions_valid.json",
            frames=("ref_sav/valid/videos",),
            masks="ref_sav/valid/mask_dict.json",
            kind="description",
        ),
    },
}
"""Dataset -> split -> where it lies."""

"""What every format is read into and written from: the objects of a picture or clip, with names and scores."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, TypeAlias

import numpy as np

from unipixel.errors import DatasetError, MediaError
from unipixel.masks import MaskTrack, Rle, area_rle, fit_outline, mask_to_polygons, polygons_to_mask, union_rles
from unipixel.masks.outlines import MIN_IOU
from unipixel.masks.rle import check_size_hw
from unipixel.media import Media, open_media
from unipixel.media.names import find_file

UNNAMED = "object"
"""What formats that ask for a class call an object without a label."""
Losses: TypeAlias = Counter[str]
"""What a format had no place for: how many of each, by words that go on after the number."""
Shape: TypeAlias = tuple[Hashable, str, Rle, float | None]
"""A mask on one picture: what it has in common with others of the same object (None: nothing), label, mask, score."""
Picture: TypeAlias = tuple[str, tuple[int, int], list[Shape]]
"""Name, height and width, and what is drawn on it."""
_FRAME = re.compile(r"frame_(\d{6,9})")


class Annotations:
    """The objects of one picture, or of one clip frame by frame.

    Args:
        name: of the picture's file, or of the clip.
        size_hw: height and width of every frame.
        tracks: masks by object id.
        labels: what the objects are called, by id; others have no name.
        scores: (T,) in 0..1 by object id; others have none.
        frame_names: file name of every frame; by default ``name`` of a picture, and ``frame_000000.png`` with the
            number in the source of a clip's.
        frame_indices: number of every frame in its source; by default counted from 0.
        fps: frames per second of the source.
        is_video: whether it is a clip, be it of one frame.
        pictures: the frames, or their files.
        subset: the part of a dataset that it belongs to, such as ``train``; empty: none.

    Raises:
        ValueError: masks, scores, names or numbers are not one per frame, or masks of another size.
    """

    def __init__(
        self,
        name: str,
        size_hw: Sequence[int],
        tracks: Mapping[int, MaskTrack],
        labels: Mapping[int, str] | None = None,
        scores: Mapping[int, Sequence[float]] | None = None,
        *,
        frame_names: Sequence[str] = (),
        frame_indices: Sequence[int] | None = None,
        fps: float | None = None,
        is_video: bool = False,
        pictures: Media | Sequence[Path] | None = None,
        subset: str = "",
    ) -> None:
        self.name, self.fps, self.subset = name, fps, subset
        self.size_hw = check_size_hw(tuple(size_hw))
        self.tracks = dict(tracks)
        self.labels = {i: (labels or {}).get(i, "") for i in self.tracks}
        self.scores = {i: tuple(map(float, some)) for i, some in (scores or {}).items() if i in self.tracks}
        lengths = [one.num_frames for one in self.tracks.values()]
        number = len(frame_indices) if frame_indices is not None else len(frame_names) or (lengths or [1])[0]
        self.frame_indices = tuple(range(number)) if frame_indices is None else tuple(map(int, frame_indices))
        self.is_video = is_video or number > 1
        usual = [f"frame_{index:06d}.png" for index in self.frame_indices] if self.is_video else [name]
        self.frame_names = tuple(frame_names or usual)
        self._pictures = pictures
        wrong = next((n for n in (*lengths, len(self.frame_names), *map(len, self.scores.values())) if n != number), 0)
        if wrong or not number:
            raise ValueError(f"{name}: there are {number} frames, but {wrong} masks, names or scores of one object")
        other = next((one.size_hw for one in self.tracks.values() if one.size_hw != self.size_hw), None)
        if other is not None:
            raise ValueError(f"{name}: a mask is {other[0]} x {other[1]}, but its frame {size_hw[0]} x {size_hw[1]}")

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"Annotations({self.name!r}, {len(self.tracks)} objects, {self.num_frames} frames, {height} x {width})"

    @property
    def num_frames(self) -> int:
        """Frames T."""
        return len(self.frame_indices)

    def get_class(self, object_id: int) -> str:
        """The label of an object, or `UNNAMED`."""
        return self.labels[object_id] or UNNAMED

    def get_score(self, object_id: int, t: int) -> float | None:
        """The score of an object on a frame; None where it has none."""
        return self.scores[object_id][t] if object_id in self.scores else None

    def list_shapes(self, t: int) -> Iterator[tuple[int, str, Rle, float | None]]:
        """Id, class, mask and score of every object that is visible on a frame."""
        for object_id, track in self.tracks.items():
            rle = track.rles[t]
            if rle is not None:
                yield object_id, self.get_class(object_id), rle, self.get_score(object_id, t)

    @property
    def has_pictures(self) -> bool:
        """Whether the frames themselves are known, too."""
        return self._pictures is not None

    @property
    def media(self) -> Media:
        """The frames.

        Raises:
            MediaError: they are not known, damaged, or not those that the masks are about.
        """
        if self._pictures is None:
            raise MediaError(f"the pictures of {self.name} are not there; say where they are with --media")
        if not isinstance(self._pictures, Media):
            paths = list(self._pictures)
            self._pictures = open_media(paths if self.is_video else paths[0])
        if self._pictures.size_hw != self.size_hw or self._pictures.num_frames != self.num_frames:
            found = f"{self._pictures.num_frames} frames of {self._pictures.size_hw}"
            raise MediaError(
                f"{self._pictures.source} has {found} (height, width); the masks of {self.name} are "
                f"{self.num_frames} of {self.size_hw}"
            )
        return self._pictures

    def attach(self, pictures: Media | Sequence[Path]) -> None:
        """Say which pictures the objects are on; of longer media the frames that `frame_indices` name are taken.

        Raises:
            MediaError: they are not those that the masks are about.
        """
        if isinstance(pictures, Media) and pictures.num_frames != self.num_frames:
            if max(self.frame_indices) >= pictures.num_frames:
                raise MediaError(
                    f"{pictures.source} has {pictures.num_frames} frames; {self.name} is about frame "
                    f"{max(self.frame_indices)}"
                )
            pictures = pictures.select(self.frame_indices)
        self._pictures = pictures
        _ = self.media

    def drop_pictures(self) -> Annotations:
        """The same without the pictures."""
        return Annotations(
            self.name,
            self.size_hw,
            self.tracks,
            self.labels,
            self.scores,
            frame_names=self.frame_names,
            frame_indices=self.frame_indices,
            fps=self.fps,
            is_video=self.is_video,
            subset=self.subset,
        )

    def find_file(self) -> Path | None:
        """The file of a still picture, if it is one on disk."""
        if self.is_video or self._pictures is None:
            return None
        source = self._pictures.source if isinstance(self._pictures, Media) else self._pictures[0]
        try:
            return Path(source) if Path(source).is_file() else None
        except (OSError, ValueError):
            return None


def fit_parts(mask: np.ndarray, losses: Losses, reader: Literal["opencv", "coco"] = "opencv") -> Iterator[np.ndarray]:
    """An outline (P, 2) of few corners for every part of a mask; those that cover their part badly are counted."""
    for ring in mask_to_polygons(mask):
        corners, iou = fit_outline(polygons_to_mask([ring], (mask.shape[0], mask.shape[1])), reader)
        count_bad_outline(iou, losses)
        yield corners


def count_bad_outline(iou: float, losses: Losses) -> None:
    """Count an outline that covers its mask less well than outlines should."""
    losses[f"outlines cover their mask with an IoU below {MIN_IOU}"] += iou < MIN_IOU


def name_files(sets: Sequence[Annotations]) -> list[str]:
    """A plain name without ending for the one file or folder that each picture or clip becomes.

    Raises:
        DatasetError: two would share a name.
    """
    names = [get_stem(make_file_name(one.name)).replace("/", "_") for one in sets]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise DatasetError(f"two pictures or clips would both be called {twice!r}; rename one")
    return names


def list_classes(sets: Iterable[Annotations], first: Sequence[str] = ()) -> list[str]:
    """Every class once: those that are to come first, with objects or without, then the others as objects have them."""
    return list(dict.fromkeys([*first, *(one.get_class(i) for one in sets for i in one.tracks)]))


def assign_subsets(sets: Sequence[Annotations], shares: Mapping[str, float]) -> None:
    """Divide pictures and clips among the parts of a dataset, always in the same way.

    Which part one goes to depends on its name and on the names of the others alone, so that neighbours in a folder do
    not go the same way. Every part with a share gets at least one, if there are enough.

    Args:
        shares: of each part, such as ``{"train": 80, "val": 10, "test": 10}``; they add up to the whole.

    Raises:
        ValueError: a share is negative, or all are 0.
    """
    whole = sum(shares.values())
    if whole <= 0 or min(shares.values()) < 0:
        raise ValueError(f"the shares of a dataset's parts are {dict(shares)}; none may be negative, and not all 0")
    quotas = {name: len(sets) * share / whole for name, share in shares.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    largest_rests = sorted(quotas, key=lambda name: counts[name] - quotas[name])
    for name in largest_rests[: len(sets) - sum(counts.values())]:
        counts[name] += 1
    for name in [name for name in quotas if shares[name] > 0 and not counts[name]]:
        fullest = max(counts, key=lambda other: counts[other])
        if counts[fullest] > 1:
            counts[fullest], counts[name] = counts[fullest] - 1, 1
    parts = [name for name, count in counts.items() for _ in range(count)]
    shuffled = sorted(sets, key=lambda one: hashlib.sha256(one.name.encode("utf-8", "replace")).digest())
    for one, part in zip(shuffled, parts, strict=True):
        one.subset = part


def group_subsets(sets: Sequence[Annotations]) -> dict[str, list[Annotations]]:
    """Annotations by the part of the dataset that they belong to; one empty part if there are none."""
    groups: dict[str, list[Annotations]] = {}
    for one in sets:
        groups.setdefault(one.subset, []).append(one)
    return groups or {"": []}


def make_file_name(name: str) -> str:
    """A relative path that any system takes: without drives, addresses and ways up; of an absolute path the last part.

    The ending of the file stays.
    """
    is_address = "://" in name[:12] or name[:5].lower() == "data:"
    plain = (name.split("?", 1)[0] if is_address else name).replace("\\", "/")
    parts = [_clean(part) for part in plain.split("/")]
    if is_address or name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
        parts = parts[-1:]
    return "/".join(part for part in parts if part) or "picture"


def get_stem(name: str) -> str:
    """A file name without its ending; its folders stay."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.rpartition('.')[0].rstrip('. ') or last}"


def _clean(part: str) -> str:
    return "".join(c for c in part if c.isprintable() and c not in '<>:"|?*').strip(" .")[:120]


def choose_file_names(sets: Sequence[Annotations]) -> list[list[str]]:
    """What the file of every frame is called; the frames of a clip stand in a folder of its name, if it is not alone.

    Raises:
        DatasetError: two pictures would share a name.
    """
    chosen: list[list[str]] = []
    taken: dict[str, str] = {}
    for one in sets:
        folder = f"{get_stem(make_file_name(one.name))}/" if one.is_video and len(sets) > 1 else ""
        names = [
            folder + make_file_name(name).rpartition("/")[2] if one.is_video else make_file_name(name)
            for name in one.frame_names
        ]
        for name in names:
            stem = get_stem(name).casefold()
            if stem in taken:
                raise DatasetError(
                    f"{taken[stem]!r} and a picture of {one.name!r} would both be called {get_stem(name)!r}; rename one"
                )
            taken[stem] = one.name
        chosen.append(names)
    return chosen


def iterate_pictures(sets: Sequence[Annotations]) -> Iterator[tuple[Annotations, int, str]]:
    """Every frame of all: annotations, t, and the name of its file."""
    for one, names in zip(sets, choose_file_names(sets), strict=True):
        for t, name in enumerate(names):
            yield one, t, name


def count_subsets(sets: Sequence[Annotations], losses: Losses) -> None:
    """Count what belongs to a part of a dataset, for a format that has no parts."""
    reason = "pictures and clips are in one whole, since this format has no parts of a dataset"
    losses[reason] += sum(bool(one.subset) for one in sets)


def count_unkept(
    sets: Sequence[Annotations], losses: Losses, *, scores: bool = False, clips: bool = False, subsets: bool = False
) -> None:
    """Count what a format of pictures has no place for.

    Args:
        scores: whether it holds scores.
        clips: whether it says which pictures are frames of one clip, and when they are shown.
        subsets: whether it divides them among the parts of a dataset.
    """
    if not subsets:
        count_subsets(sets, losses)
    if not scores:
        losses["scores have no place in this format"] += sum(
            rle is not None and score != 1.0
            for one in sets
            for i, some in one.scores.items()
            for rle, score in zip(one.tracks[i].rles, some, strict=True)
        )
    unseen = sum(not one.tracks[i].visible.any() for one in sets for i in one.tracks)
    losses["objects that are seen nowhere are left out"] += unseen
    if not clips:
        losses["clips lose their frame rate, for which this format has no place"] += sum(
            one.is_video and one.fps is not None for one in sets
        )
        losses["clips become single pictures, since their frames are not called frame_000000 and so on"] += sum(
            one.is_video
            and not all(_FRAME.fullmatch(get_stem(make_file_name(name).rpartition("/")[2])) for name in one.frame_names)
            for one in sets
        )


def build_sets(
    pictures: Iterable[Picture], losses: Losses, folders: Sequence[Path] = (), *, grouping: bool = True
) -> list[Annotations]:
    """Pictures with what is drawn on each, as annotations; those called ``frame_000000`` and so on are clips.

    On one picture or clip, shapes of one key and label are one object. A key that is a positive whole number is its
    id, unless another object has it.

    Args:
        folders: where the pictures may lie.
        grouping: whether frames become clips.
    """
    clips: dict[str, list[tuple[int, Picture]]] = {}
    for number, picture in enumerate(pictures):
        folder, _, stem = get_stem(picture[0].replace("\\", "/")).rpartition("/")
        found = _FRAME.fullmatch(stem) if grouping else None
        key = f"clip {folder}" if found else f"picture {number}"
        clips.setdefault(key, []).append((int(found[1]) if found else 0, picture))
    sets = []
    for key, frames in clips.items():
        frames.sort(key=lambda frame: frame[0])
        is_video = key.startswith("clip ")
        indices = [index for index, _ in frames]
        sizes = {picture[1] for _, picture in frames}
        if len(set(indices)) < len(indices) or len(sizes) > 1:  # no clip after all
            sets += [_build_set([frame], False, losses, folders, frame[1][0]) for frame in frames]
        else:
            name = key.removeprefix("clip ") or "clip" if is_video else frames[0][1][0]
            sets.append(_build_set(frames, is_video, losses, folders, name))
    return sets


def _build_set(
    frames: list[tuple[int, Picture]], is_video: bool, losses: Losses, folders: Sequence[Path], name: str
) -> Annotations:
    ids: dict[tuple[Hashable, str], int] = {}
    rles: dict[int, list[Rle | None]] = {}
    scores: dict[int, list[float | None]] = {}
    wished = {key for _, (_, _, shapes) in frames for key, *_ in shapes if isinstance(key, int) and key > 0}
    following = max(wished, default=0) + 1
    for t, (_, (_, _, shapes)) in enumerate(frames):
        for key, label, rle, score in shapes:
            if not area_rle(rle):
                losses["masks without a pixel are left out"] += 1
                continue
            identity: tuple[Hashable, str] = (key, label) if key is not None else (object(), label)
            if identity not in ids:
                if isinstance(key, int) and key > 0 and key not in rles:
                    ids[identity] = key
                else:
                    ids[identity], following = following, following + 1
                rles[ids[identity]], scores[ids[identity]] = [None] * len(frames), [None] * len(frames)
            number = ids[identity]
            before = rles[number][t]
            rles[number][t] = rle if before is None else union_rles([before, rle])
            scores[number][t] = score if before is None else scores[number][t]
    size_hw = frames[0][1][1]
    kept = {
        i: [0.0 if rle is None else 1.0 if s is None else s for s, rle in zip(some, rles[i], strict=True)]
        for i, some in scores.items()
        if any(s is not None for s in some)
    }
    names = [picture[0] for _, picture in frames]
    found = find_pictures(names, folders)
    return Annotations(
        name,
        size_hw,
        {i: MaskTrack(size_hw, tuple(some)) for i, some in rles.items()},
        {number: "" if label == UNNAMED else label for (_, label), number in ids.items()},
        kept,
        frame_names=names,
        frame_indices=[index for index, _ in frames] if is_video else None,
        is_video=is_video,
        pictures=found,
    )


def find_pictures(names: Iterable[str], folders: Sequence[Path]) -> list[Path] | None:
    """The files of pictures below some folders; None unless all of them are found in one."""
    safe = [make_file_name(name) for name in names]
    for folder in folders:
        found = [find_file(folder, name) or find_file(folder, name.replace("/", "_")) for name in safe]
        kept = [path for path in found if path is not None]
        if len(kept) == len(found):
            return kept
    return None


def read_with(where: str, read: Callable[[], Any]) -> Any:
    """The value of a function; what it refuses is said to be wrong with a file.

    Raises:
        DatasetError: the function raised a `ValueError` or a relative of it.
    """
    try:
        return read()
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise DatasetError(f"{where}: {' '.join(text.split())[:300]}") from error


def read_score(value: Any) -> float | None:
    """A score out of a file, if it is one."""
    is_score = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if is_score else None


def read_with_path(path: Path, read: Callable[[Path], Any]) -> Any:
    """`read_with` of a function of the file."""
    return read_with(str(path), partial(read, path))


def compute_scores(one: Annotations, object_id: int) -> float | None:
    """Mean score of the frames on which an object is visible; None where it has none."""
    if object_id not in one.scores:
        return None
    seen = np.array(one.scores[object_id])[one.tracks[object_id].visible]
    return float(seen.mean()) if len(seen) else None

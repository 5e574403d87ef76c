"""Pixels as the two vision towers want them: patches for the language model, squares for SAM.

Both chains reproduce the original's numbers exactly without ``torchvision``: Pillow's bicubic resize per frame (or, as
for some benchmarks, its counterpart on tensors), a repeated last frame where the count is odd, and one fused
rescale-and-normalise for the language model; an antialiased bilinear resize of ``x / 255`` for SAM.

Source: Qwen2.5-VL technical report, section 2.1; UniPixel, appendix on implementation; SAM 2, section C.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unipixel.checks import check_flag, check_integer, check_list, check_mapping, check_number, join_lines
from unipixel.errors import CheckpointError, MediaError
from unipixel.media import Media, sample_indices
from unipixel.model.config import read_json

FILE = "preprocessor_config.json"
VIDEO_FILE = "video_preprocessor_config.json"
NESTED_FILE = "processor_config.json"
"""Where transformers 5 keeps the same, under ``image_processor``."""
PROCESSOR_CLASS = "PatchedQwen2_5_VLProcessor"
"""The original's own processor, which its files name."""
SECTION = "unipixel"
"""Key of our own fields inside ``preprocessor_config.json``."""
MAX_ASPECT = 200
_PLAIN = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std")
"""Fields that an official ``preprocessor_config.json`` states and that we follow. Its ``min_pixels`` and ``max_pixels``
are Qwen2.5-VL's own and not what UniPixel runs with."""


_PROCESSING: dict[str, Any] = {
    "crop_size": None,
    "data_format": "channels_first",
    "default_to_square": True,
    "device": None,
    "do_center_crop": None,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": False,  # frames come resized
    "input_data_format": None,
    "max_pixels": 12845056,
    "min_pixels": 3136,
    "processor_class": PROCESSOR_CLASS,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"longest_edge": 12845056, "shortest_edge": 3136},
}
"""What released processor files say besides."""


_BOUNDS = {
    "patch_size": 256,
    "merge_size": 16,
    "temporal_patch_size": 16,
    "min_pixels": 1 << 26,
    "max_pixels": 1 << 26,
    "budget_frames": 1 << 31,
    "max_frames": 1 << 31,
    "sam_size": 4096,
}
"""Largest values: a frame is resized to whatever a file says."""


RegionRule = Literal["touched", "covered"]
"""See `ImageSettings.region_rule`."""


FEW_FRAMES = 8
"""Frames of a clip that are all seen, also where each fills a temporal step by itself."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How frames are resized, normalised and cut; the defaults are those of the released checkpoints."""

    patch_size: int = 14
    """Side of a patch, pixels."""
    merge_size: int = 2
    """Patches per side of one visual token."""
    temporal_patch_size: int = 2
    """Frames per temporal step."""
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    """Channel means of the language model's frames (CLIP's)."""
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    """Channel deviations of the language model's frames (CLIP's)."""
    min_pixels: int = 128 * 28 * 28
    """Smallest area of a resized frame."""
    max_pixels: int = 256 * 28 * 28
    """Largest area of a resized frame, before `share_budget` is applied. To see all squares at one size, leave room on
    both sides of its area: with limits that equal it, rounding makes some squares a step smaller."""
    share_budget: bool = True
    """Whether a clip shorter than `budget_frames` may use the area of the frames it lacks: the largest area is then
    multiplied by int(budget_frames / T), at least 1. False: every frame has `max_pixels` at any length."""
    budget_frames: int = 16
    """Frames that share the whole budget of a clip."""
    max_frames: int = 16
    """Frames of a clip that the language model sees at most; SAM sees all."""
    still_frames: bool = False
    """Whether each frame of a clip is shown as a picture is, filling a temporal step by itself. Of more than
    `FEW_FRAMES` frames as many are then seen as the steps of `max_frames` hold. False (released): neighbours share a
    step."""
    fps: float = 2.0
    """Frames per second that mRoPE assumes, whatever the source's rate."""
    sam_size: int = 768
    """S: side of SAM's square frames, pixels."""
    sam_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means of SAM's frames (ImageNet's)."""
    sam_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Channel deviations of SAM's frames (ImageNet's)."""
    frame_resize: Literal["pillow", "tensor"] = "pillow"
    """Who resizes the language model's frames by the antialiased bicubic filter: Pillow, which rounds and clips between
    columns and rows, or torch on floats, rounded and clipped at the end."""
    target_rule: Literal["touched", "nearest"] = "touched"
    """How a ground-truth mask becomes S x S: every pixel that the antialiased resize of the mask touches (released), or
    the nearest source pixel (cheaper, and objects keep their area)."""
    region_rule: RegionRule = "touched"
    """Weights of visual tokens in the mean that an object in memory is: 1 for each that the antialiased resize of its
    mask touches (released), or the share of each that it covers, so that what lies around the object counts little."""

    def __post_init__(self) -> None:
        try:
            self._check()
        except (ValueError, TypeError) as error:
            raise CheckpointError(join_lines(error)) from error

    def _check(self) -> None:
        for name, most in _BOUNDS.items():
            check_integer(getattr(self, name), f"image setting {name}", 1, most)
        if self.max_pixels < self.min_pixels:
            raise ValueError(f"max_pixels is {self.max_pixels}, less than min_pixels {self.min_pixels}")
        for name in ("image_mean", "image_std", "sam_mean", "sam_std"):
            for value in check_list(list(getattr(self, name)), f"image setting {name}", 3):
                least = 1e-6 if name.endswith("std") else -1e6
                check_number(value, f"a number of image setting {name}", least, 1e6)
        check_number(self.fps, "image setting fps", 1e-6, 1e6)
        for name in ("share_budget", "still_frames"):
            check_flag(getattr(self, name), f"image setting {name}")
        if self.frame_resize not in ("pillow", "tensor"):
            raise ValueError(f"frame_resize is {self.frame_resize!r}; it must be 'pillow' or 'tensor'")
        if self.target_rule not in ("touched", "nearest"):
            raise ValueError(f"target_rule is {self.target_rule!r}; it must be 'touched' or 'nearest'")
        if self.region_rule not in ("touched", "covered"):
            raise ValueError(f"region_rule is {self.region_rule!r}; it must be 'touched' or 'covered'")

    @property
    def token_side(self) -> int:
        """Pixels per side of one visual token (28)."""
        return self.patch_size * self.merge_size

    @property
    def frame_repeats(self) -> int:
        """How often each frame of a clip is shown."""
        return self.temporal_patch_size if self.still_frames else 1

    @property
    def max_seen_frames(self) -> int:
        """Different frames of a clip that the language model sees at most."""
        return max(min(self.max_frames, FEW_FRAMES), self.max_frames // self.frame_repeats)

    def compute_max_area(self, num_frames: int) -> int:
        """Largest area of each of ``num_frames`` resized frames, pixels."""
        # the original divides by zero above 16 frames; a frame's own share is the least it can get
        return self.max_pixels * (max(1, self.budget_frames // num_frames) if self.share_budget else 1)

    def compute_resized_hw(self, size_hw: tuple[int, int], num_frames: int) -> tuple[int, int]:
        """Height and width at which the language model sees a clip of ``num_frames`` frames."""
        area = self.compute_max_area(num_frames)
        return smart_resize(*size_hw, factor=self.token_side, min_pixels=self.min_pixels, max_pixels=area)

    @classmethod
    def from_folder(cls, folder: str | Path, *, sam_size: int | None = None) -> ImageSettings:
        """Read ``preprocessor_config.json``; released folders have only its plain part, ours a section of their own.

        Args:
            folder: a checkpoint folder.
            sam_size: side of SAM's frames, from the model's config; None keeps what the file or the default says.

        Raises:
            CheckpointError: the file is missing or malformed.
        """
        path = Path(folder) / FILE
        nested = path.with_name(NESTED_FILE)
        if not path.exists() and nested.exists():
            path, tree = nested, read_json(nested).get("image_processor")
            if not isinstance(tree, dict):
                raise CheckpointError(f"{nested} has no image_processor, and there is no {FILE}")
        else:
            tree = read_json(path)
        try:
            settings = cls.from_dict(tree)
            return settings if sam_size is None else replace(settings, sam_size=sam_size)
        except (AttributeError, TypeError, ValueError, CheckpointError) as error:
            raise CheckpointError(f"{path} has a malformed field: {join_lines(error)}") from None

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> ImageSettings:
        """Settings of a parsed ``preprocessor_config.json``."""
        own = check_mapping(tree.get(SECTION, {}), SECTION)
        unknown = set(own) - {field.name for field in fields(cls)}
        if unknown:
            raise CheckpointError(f"{FILE} has unknown fields {', '.join(sorted(unknown))} under {SECTION!r}")
        values = {**{name: tree[name] for name in _PLAIN if name in tree}, **own}
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads, in the form of a released ``preprocessor_config.json``; our section has what differs
        from it."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        plain = {name: values.pop(name) for name in _PLAIN}
        default = {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(ImageSettings()).items()}
        own = {name: value for name, value in values.items() if value != default[name]}
        return {
            **_PROCESSING,
            **plain,
            "disable_grouping": None,
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "return_tensors": None,
            **({SECTION: own} if own else {}),
        }

    def to_video_dict(self) -> dict[str, Any]:
        """A ``video_preprocessor_config.json`` of the released form. Nothing here reads it; the original does."""
        return {
            **_PROCESSING,
            **{name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in _PLAIN},
            "do_pad": None,
            "do_sample_frames": False,
            "fps": None,
            "max_frames": 768,
            "min_frames": 4,
            "num_frames": None,
            "size_divisor": None,
            "video_metadata": None,
            "video_processor_type": "Qwen2VLVideoProcessor",
        }


def smart_resize(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width, multiples of ``factor``, near the given ones, with an area between the two limits.

    Raises:
        MediaError: one side is more than 200 times the other.

    Differs: transformers tests the upper limit first and the lower one only if that held; here, as in the
    original, the upper limit is tested last and therefore wins. No side becomes 0.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MediaError(
            f"the picture is {width} x {height} pixels; one side may be at most {MAX_ASPECT} times the other"
        )
    rows, columns = (max(factor, round(side / factor) * factor) for side in (height, width))
    if rows * columns < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * scale / factor) * factor for side in (height, width))
    if rows * columns > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        rows, columns = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
    return rows, columns


def resize_frame(frame: np.ndarray, size_hw: tuple[int, int], rule: str = "pillow") -> np.ndarray:
    """A frame, uint8 (H, W, 3), at another size by the bicubic filter; the frame itself if it has that size.

    Args:
        rule: see `ImageSettings.frame_resize`.
    """
    if frame.shape[:2] == size_hw:
        return frame
    height, width = size_hw
    if rule == "tensor":
        x = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float()
        x = F.interpolate(x, size=size_hw, mode="bicubic", align_corners=False, antialias=True)
        return x[0].clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def patchify(frames: np.ndarray, settings: ImageSettings) -> tuple[Tensor, tuple[int, int, int]]:
    """Normalised patches of resized frames, in the order of the vision tower (2 x 2 blocks of patches together).

    Args:
        frames: uint8 (T, H, W, 3), H and W multiples of `ImageSettings.token_side`; T of any count, the last frame is
            repeated to fill the last temporal step.

    Returns:
        float32 (t*h*w, 3 * temporal_patch_size * patch_size**2), and the grid (t, h, w).
    """
    p, m, s = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    lacking = -len(frames) % s
    if lacking:
        frames = np.concatenate([frames, np.repeat(frames[-1:], lacking, axis=0)])
    steps, height, width = len(frames) // s, frames.shape[1] // p, frames.shape[2] // p
    x = torch.from_numpy(np.array(frames)).view(steps, s, height // m, m, p, width // m, m, p, 3)
    x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)  # (t, h/m, w/m, m, m, 3, s, p, p)
    x = x.reshape(steps * height * width, 3, s * p * p).float()
    # statistics scaled to 0..255, so that rescaling and normalising are one step and round once
    mean, std = (
        torch.tensor(values)[:, None] * (1.0 / (1 / 255)) for values in (settings.image_mean, settings.image_std)
    )
    return x.sub_(mean).div_(std).flatten(1), (steps, height, width)


def prepare_sam_frames(frames: np.ndarray | Tensor, settings: ImageSettings) -> Tensor:
    """Frames, uint8 (T, H, W, 3), as SAM sees them: float32 (T, 3, S, S), stretched to the square and normalised.

    A tensor is resized where it lies.
    """
    x = frames if isinstance(frames, Tensor) else torch.from_numpy(np.array(frames))
    x = x.permute(0, 3, 1, 2).float().div_(255)
    side = (settings.sam_size, settings.sam_size)
    if x.shape[-2:] != side:
        x = F.interpolate(x, size=side, mode="bilinear", align_corners=False, antialias=True)
    mean, std = (_build_statistics(values, x.device) for values in (settings.sam_mean, settings.sam_std))
    return ((x - mean) / std).contiguous()


@lru_cache(maxsize=16)
def _build_statistics(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1) numbers of the channels; kept, so that they are brought to a device once."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(3, 1, 1)


def _choose_frames(total: int, most: int, wanted: Sequence[int]) -> tuple[int, ...]:
    if total <= most:
        return tuple(range(total))
    if len(wanted) > most:
        raise ValueError(f"{len(wanted)} frames must be seen, but the language model sees at most {most}")
    chosen = set(sample_indices(total, most)) if most > 1 else {0}
    free = chosen - set(wanted)
    for t in wanted:
        if t not in chosen:
            nearest = min(free, key=lambda other: (abs(other - t), other))
            free.discard(nearest)
            chosen = (chosen - {nearest}) | {t}
    return tuple(sorted(chosen))


class VisualInput:
    """What the language model sees of a clip; nothing is decoded before `pixel_values` is asked for.

    Args:
        include: frames t that must be seen, such as one with a prompt; each replaces the nearest choice.

    Attributes:
        llm_frame_indices: frames t of the clip that the language model sees, ascending: all of a short clip, else
            `ImageSettings.max_seen_frames` evenly spread ones.
        shown_frames: the same in the order of its input, which shows some twice where frames are stills.
    """

    def __init__(self, media: Media, settings: ImageSettings, include: Sequence[int] = ()) -> None:
        self.media, self.settings = media, settings
        self.llm_frame_indices = _choose_frames(media.num_frames, settings.max_seen_frames, sorted(set(include)))
        self._repeats = settings.frame_repeats if media.num_frames > 1 else 1  # a picture is padded
        self.shown_frames = tuple(t for t in self.llm_frame_indices for _ in range(self._repeats))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the source, pixels."""
        return self.media.size_hw

    @cached_property
    def input_hw(self) -> tuple[int, int]:
        """Height and width that the language model sees, pixels."""
        return self.settings.compute_resized_hw(self.size_hw, len(self.shown_frames))

    @property
    def num_frames(self) -> int:
        """Frames with the padding of the last temporal step: even."""
        step = self.settings.temporal_patch_size
        return -(-len(self.shown_frames) // step) * step

    @property
    def grid(self) -> tuple[int, int, int]:
        """(t, h, w) in patches."""
        height, width = self.input_hw
        side = self.settings.patch_size
        return self.num_frames // self.settings.temporal_patch_size, height // side, width // side

    @property
    def grid_thw(self) -> Tensor:
        """The grid as the model takes it, int64 (1, 3)."""
        return torch.tensor([self.grid])

    @property
    def second_per_grid(self) -> Tensor:
        """Seconds per temporal step, float32 (1,)."""
        return torch.tensor([self.settings.temporal_patch_size / self.settings.fps])

    @property
    def num_tokens(self) -> int:
        """Visual tokens in the text."""
        t, h, w = self.grid
        return t * h * w // self.settings.merge_size**2

    @cached_property
    def pixel_values(self) -> Tensor:
        """Patches of the chosen frames, float32 (t*h*w, 1176); read on first use."""
        size = self.input_hw
        rule = self.settings.frame_resize
        return self.patchify([resize_frame(frame, size, rule) for frame in self.media.select(self.llm_frame_indices)])

    def patchify(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Patches of the frames of `llm_frame_indices`, uint8 (H, W, 3) each and resized."""
        return patchify(np.stack(frames).repeat(self._repeats, 0), self.settings)[0]

    def find_position(self, t: int) -> int:
        """Where the language model sees frame ``t``, or its nearest neighbour, counted among `shown_frames`."""
        seen = self.shown_frames
        return min(range(len(seen)), key=lambda i: (abs(seen[i] - t), i))

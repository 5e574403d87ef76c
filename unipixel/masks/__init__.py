"""An object's masks: COCO run lengths, brush streams, polygons and palette PNGs to and from ``bool`` arrays.

Between the parts of the package a mask travels as a COCO RLE, ``{"size": [H, W], "counts": str}``, and an object in a
video as a :class:`MaskTrack`, one RLE per frame of the clip. Pixel coordinates are (x, y) with (0, 0) the outer corner
of the top-left pixel, so the centre of the first pixel is (0.5, 0.5) and boxes end one past their last pixel.

Malformed masks raise ``ValueError``: whoever reads them from a file or a request knows which error class to tell.
"""

from unipixel.masks.brush import decode_brush, encode_brush
from unipixel.masks.geometry import (
    find_interior_point,
    jitter_box,
    mask_to_box,
    mask_to_polygons,
    polygons_to_mask,
    rasterize_polygon,
    sample_point,
)
from unipixel.masks.index_png import build_davis_palette, load_annotated_ids, load_index_png, save_davis_png
from unipixel.masks.outlines import draw_outline, fit_outline, join_rings, simplify_polygons
from unipixel.masks.rle import Rle, area_rle, decode_rle, encode_rle, iou_rles, parse_rle, union_rles
from unipixel.masks.track import MaskTrack

__all__ = [
    "MaskTrack",
    "Rle",
    "area_rle",
    "mask_to_box",
    "build_davis_palette",
    "decode_brush",
    "decode_rle",
    "draw_outline",
    "rasterize_polygon",
    "encode_brush",
    "encode_rle",
    "find_interior_point",
    "fit_outline",
    "iou_rles",
    "jitter_box",
    "join_rings",
    "load_annotated_ids",
    "load_index_png",
    "mask_to_polygons",
    "parse_rle",
    "polygons_to_mask",
    "sample_point",
    "save_davis_png",
    "simplify_polygons",
    "union_rles",
]

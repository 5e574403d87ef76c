"""Outlines of a mask along the edges of its pixels, holes included."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class _Loop:
    """One closed walk along pixel edges, the mask always on its right (y points down): outlines run clockwise."""

    corners: list[int]
    """Lattice points in order, y * (W + 1) + x; the first one is the topmost, and of those the leftmost."""
    is_hole: bool
    cuts: dict[int, list[int]] = field(default_factory=dict)
    """Position in ``corners`` -> the hole that is walked from there, once it is joined to this loop."""

    def join_cuts(self) -> list[int]:
        """The walk with its joined holes."""
        walk: list[int] = []
        done = 0
        for position in sorted(self.cuts):
            hole = self.cuts[position]
            walk += self.corners[done : position + 1] + hole + [hole[0], self.corners[position]]
            done = position + 1
        return walk + self.corners[done:]


def trace_polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons x1, y1, x2, y2, ... of a bool (H, W) mask, one per 4-connected part, each hole joined by a cut.

    The cut runs from the top left corner of a hole straight up to the next edge. It lies on the boundary between two
    pixel columns, where no pixel centre can fall into it.
    """
    width = mask.shape[1] + 1  # lattice points per row
    loops, owners = _walk_loops(mask)
    # A hole's cut ends on a loop that starts higher, so going upwards each hole is complete before it is joined.
    for loop in sorted((loop for loop in loops if loop.is_hole), key=lambda loop: -loop.corners[0]):
        y, x = divmod(loop.corners[0], width)
        outside = np.flatnonzero(~mask[:y, x])
        top = int(outside[-1]) + 1 if outside.size else 0
        owner, position = owners[top * width + x]
        loops[owner].cuts[position] = loop.join_cuts()
    return [_drop_straight_points(loop.join_cuts(), width) for loop in loops if not loop.is_hole]


def _walk_loops(mask: np.ndarray) -> tuple[list[_Loop], dict[int, tuple[int, int]]]:
    """All loops in raster order, and for each edge that runs right its start -> (loop, position in it)."""
    padded = np.pad(mask, 1)
    north_west, north_east = padded[:-1, :-1], padded[:-1, 1:]
    south_west, south_east = padded[1:, :-1], padded[1:, 1:]
    # Edges that leave a lattice point: right, down, left, up.
    leaving = [south_east & ~north_east, south_west & ~south_east, north_west & ~south_west, north_east & ~north_west]
    direction_at = np.select(leaving, [0, 1, 2, 3], default=0).ravel().tolist()
    crossing = (np.sum(leaving, axis=0) > 1).ravel().tolist()
    steps = (1, mask.shape[1] + 1, -1, -(mask.shape[1] + 1))
    seen = (bytearray(len(crossing)), bytearray(len(crossing)))
    loops: list[_Loop] = []
    owners: dict[int, tuple[int, int]] = {}
    starts = (leaving[0] | leaving[1]).ravel()
    right, down = leaving[0].ravel(), leaving[1].ravel()
    for start in np.flatnonzero(starts).tolist():
        # The first corner of a loop in raster order is left to the right by an outline, downwards by a hole.
        direction = 0 if right[start] else 1
        if seen[direction][start] or (direction == 1 and not down[start]):
            continue
        corners: list[int] = []
        is_hole, corner = direction == 1, start
        while True:
            if direction < 2:
                if seen[direction][corner]:
                    break
                seen[direction][corner] = 1
                if direction == 0:
                    owners[corner] = (len(loops), len(corners))
            corners.append(corner)
            corner += steps[direction]
            # Where two pixels touch at a corner, turning right stays on the same pixel: parts are 4-connected.
            direction = (direction + 1) % 4 if crossing[corner] else direction_at[corner]
        loops.append(_Loop(corners, is_hole))
    return loops, owners


def _drop_straight_points(walk: list[int], width: int) -> list[float]:
    """The walk as a flat list of x, y with only the points where it turns."""
    points = np.stack(np.divmod(np.array(walk), width)[::-1], axis=1)  # (P, 2) x, y
    ahead = np.sign(np.roll(points, -1, axis=0) - points)
    turns = (ahead != np.roll(ahead, 1, axis=0)).any(axis=1)
    return points[turns].astype(float).ravel().tolist()

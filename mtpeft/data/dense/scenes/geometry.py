"""Labels that follow from a depth map and a map of instances."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

CENTRE = (0.5, 0.5)
"""Row and column at which the first pixel shows the scene, when pixels show what is at their centres."""
DEPTH_JUMP = 0.08
"""A step to a neighbour by more than this share of the depth is a discontinuity."""


def linear_depth(buffer: Array, near: float, far: float) -> Array:
    """Metres along the optical axis from an OpenGL depth buffer (0 at `near`, 1 at `far`)."""
    return np.asarray(far * near / (far - (far - near) * buffer.astype(np.float64)))


def backproject(depth: Array, focal: float, origin: tuple[float, float] = CENTRE) -> Array:
    """(H, W, 3) points in the camera's frame (x right, y down, z forward), metres; `focal` in pixels.

    The principal point is the middle of the image; `origin` is the place (row, column) at which the first pixel shows
    the scene.
    """
    height, width = depth.shape
    v, u = np.mgrid[:height, :width] + np.reshape(origin, (2, 1, 1))
    return np.stack([(u - width / 2) / focal * depth, (v - height / 2) / focal * depth, depth], axis=-1)


def normals(depth: Array, focal: float, surfaces: Array | None = None, origin: tuple[float, float] = CENTRE) -> Array:
    """float32 (H, W, 3) unit normals of the surface a depth map shows: x right, y down, z towards the camera.

    The cross product of two differences of back-projected points. Each difference goes to the neighbour on that side
    (left or right, up or down) whose depth is closer, among the neighbours of the same surface (`surfaces` (H, W),
    any integers); where there is none, or its step is a discontinuity, the normal is zero: invalid. Also zero where
    the depth is not above 0. A scaling of the depth and of nothing else changes no normal.
    """
    valid = np.isfinite(depth) & (depth > 0)
    points = backproject(np.where(valid, depth, 1.0), focal, origin)
    across, fine_across = _difference(points, valid, surfaces, axis=1)
    down, fine_down = _difference(points, valid, surfaces, axis=0)
    normal = np.cross(across, down)
    normal *= np.where((normal * points).sum(axis=-1, keepdims=True) > 0, -1.0, 1.0)  # towards the camera
    normal[..., 2] *= -1.0  # the label's z points to the camera, the frame's z away from it
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    usable = (valid & fine_across & fine_down)[..., None] & (length > 0)
    return np.asarray(np.where(usable, normal / np.where(length > 0, length, 1.0), 0.0), dtype=np.float32)


def edges(depth: Array, instances: Array) -> Array:
    """uint8 (H, W): 1 on boundaries of instances and on depth discontinuities, else 0.

    Of two neighbouring pixels that a boundary parts, the nearer one is marked, so that lines are one pixel wide.
    """
    marked = np.zeros(depth.shape, dtype=np.uint8)
    for axis in (0, 1):
        here, there = _slices(axis)
        step = np.abs(depth[here] - depth[there]) > DEPTH_JUMP * np.minimum(depth[here], depth[there])
        border = (instances[here] != instances[there]) | step
        nearer = depth[here] < depth[there]
        marked[here] |= border & nearer
        marked[there] |= border & ~nearer
    return marked


def border_distance(instances: Array) -> Array:
    """float32 (H, W): 1 in the middle of each object, falling to 0 at its border; 0 where there is no object.

    The Euclidean distance in pixels to the nearest pixel of something else, less one, divided by its maximum over the
    object. `instances` is 0 for the background. The image's border is no border of an object.
    """
    from scipy.ndimage import distance_transform_edt

    result = np.zeros(instances.shape, dtype=np.float32)
    for instance in np.unique(instances):
        if instance == 0:
            continue
        inside = instances == instance
        distance = distance_transform_edt(inside) - 1.0 if not inside.all() else np.ones(inside.shape)
        result[inside] = (distance / max(float(distance[inside].max()), 1.0))[inside]
    return result


def _difference(points: Array, valid: Array, surfaces: Array | None, axis: int) -> tuple[Array, Array]:
    """(H, W, 3) difference along `axis` towards larger coordinates, and where it lies within one surface."""
    here, there = _slices(axis)
    step = points[there] - points[here]
    near = np.minimum(points[here][..., 2], points[there][..., 2])
    fine = valid[here] & valid[there] & (np.abs(step[..., 2]) <= DEPTH_JUMP * near)
    if surfaces is not None:
        fine &= surfaces[here] == surfaces[there]
    cost = np.where(fine, np.abs(step[..., 2]), np.inf)
    forward, backward = np.full(valid.shape, np.inf), np.full(valid.shape, np.inf)
    forward[here], backward[there] = cost, cost
    forward_step, backward_step = np.zeros_like(points), np.zeros_like(points)
    forward_step[here], backward_step[there] = step, step
    chosen = np.where((forward <= backward)[..., None], forward_step, backward_step)
    return chosen, np.isfinite(np.minimum(forward, backward))


def _slices(axis: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Each pixel that has a next neighbour along `axis`, and that neighbour."""
    first, rest, everything = slice(None, -1), slice(1, None), slice(None)
    return ((first, everything), (rest, everything)) if axis == 0 else ((everything, first), (everything, rest))

"""A stage: a pybullet world with a floor, two walls and one robot, on which scene after scene is set up and drawn."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtpeft.data.dense.scenes.catalogue import (
    FAMILIES,
    NUMBERS,
    ROBOTS,
    SHAPES,
    TEXTURES,
    Primitive,
    Robot,
    primitive,
    texture,
)
from mtpeft.data.quiet import silence
from mtpeft.data.rendered import _pybullet

Array = np.ndarray

NEAR, FAR = 0.1, 40.0
FIELD_OF_VIEW = 50.0
PIXEL_ORIGIN = (1.0, 0.0)
"""Row and column at which the renderer's first pixel shows the scene, measured on a floor of known depth."""
BACKDROP = 12.0
"""Half the side of floor and walls, metres."""


class Stage:
    """One world; `close` ends it. Loading a robot takes up to 0.3 s, so it stays for all scenes it appears in."""

    def __init__(self, split: str, robot: int | None) -> None:
        """`robot` is an index into `ROBOTS[split]`, None for scenes without one."""
        self.bullet, self.data = _pybullet()
        self.split = split
        self.client = self.bullet.connect(self.bullet.DIRECT)
        self.textures = self._load_textures()
        self.floor, self.back, self.side = (self._quad() for _ in range(3))
        self.robot: Robot | None = None if robot is None else ROBOTS[split][robot]
        self.robot_body = -1
        if self.robot is not None:
            self.robot_body = self._load(self.robot.urdf, self.robot.scale)
        self.parts = self._robot_parts()

    def close(self) -> None:
        """Leave pybullet."""
        self.bullet.disconnect(self.client)

    def draw(self, rng: np.random.Generator, size: int) -> dict[str, Array]:
        """A random scene: `rgb` uint8 (size, size, 3), `buffer` float (size, size), `body`, `link`, `semseg`, `parts`.

        `body` numbers the objects from 1, 0 for the background; `surface` tells every link and wall from the others.
        """
        placed: list[tuple[int, int, float, float, float]] = []  # body, class, x, y, footprint radius
        added: list[int] = []
        if self.robot is not None:
            radius = self._pose_robot(rng)
            placed.append((self.robot_body, len(SHAPES) + 1 + FAMILIES.index(self.robot.family), 0.0, 0.0, radius))
        count = int(rng.integers(2, 6))
        while len(placed) < count:
            kind = int(rng.integers(len(SHAPES)))
            body, radius = self._add(SHAPES[kind], rng)
            added.append(body)
            x, y = _free_place(rng, placed, radius)
            self._move(body, x, y)
            placed.append((body, kind + 1, x, y, radius))
        try:
            return self._shoot(rng, placed, size)
        finally:
            for body in added:
                self._call("removeBody", body)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(self.bullet, name)(*arguments, physicsClientId=self.client, **options)

    def _load(self, urdf: str, scale: float) -> int:
        with silence():
            return self._call("loadURDF", str(self.data / urdf), useFixedBase=1, globalScaling=scale)

    def _load_textures(self) -> dict[int, int]:
        with tempfile.TemporaryDirectory() as folder:
            loaded = {}
            for number in TEXTURES[self.split]:
                path = Path(folder) / f"texture{number}.png"
                Image.fromarray(texture(number)).save(path)
                loaded[number] = self._call("loadTexture", str(path))
            return loaded

    def _quad(self) -> int:
        """A square in the plane z = 0, one tile of texture to the metre."""
        s = BACKDROP
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quad.obj"
            path.write_text(
                f"v {-s} {-s} 0\nv {s} {-s} 0\nv {s} {s} 0\nv {-s} {s} 0\n"
                f"vt 0 0\nvt {2 * s} 0\nvt {2 * s} {2 * s}\nvt 0 {2 * s}\nvn 0 0 1\n"
                "f 1/1/1 2/2/1 3/3/1\nf 1/1/1 3/3/1 4/4/1\n"
            )
            shape = self._call("createVisualShape", self.bullet.GEOM_MESH, fileName=str(path))
            return self._call("createMultiBody", baseVisualShapeIndex=shape)

    def _robot_parts(self) -> dict[int, int]:
        """The part class of each link of the robot."""
        if self.robot is None:
            return {}
        links = {-1: self._call("getBodyInfo", self.robot_body)[0].decode()}
        for joint in range(self._call("getNumJoints", self.robot_body)):
            links[joint] = self._call("getJointInfo", self.robot_body, joint)[12].decode()
        return {link: self.robot.part(name) for link, name in links.items()}

    def _pose_robot(self, rng: np.random.Generator) -> float:
        """Random joints and colours; the robot stands on the floor around (0, 0). Returns its footprint's radius."""
        robot, body = self.robot, self.robot_body
        assert robot is not None
        palette = [[*rng.uniform(0.15, 1.0, 3), 1.0] for _ in range(2)]
        for link in self.parts:
            self._call("changeVisualShape", body, link, rgbaColor=palette[int(rng.integers(2))])
        low, high = np.zeros(3), np.zeros(3)
        for _ in range(8):  # until no link of an arm reaches far below its base
            self._set_joints(rng)
            self._call("resetBasePositionAndOrientation", body, [0, 0, 0], [0, 0, 0, 1])
            low, high = self._bounds(body)
            if robot.family != "arm" or low[2] > -0.1:
                break
        yaw = rng.uniform(0, 2 * math.pi)
        middle = (low + high)[:2] / 2
        turned = [
            math.cos(yaw) * middle[0] - math.sin(yaw) * middle[1],
            math.sin(yaw) * middle[0] + math.cos(yaw) * middle[1],
        ]
        turn = self.bullet.getQuaternionFromEuler([0, 0, yaw])
        self._call("resetBasePositionAndOrientation", body, [-turned[0], -turned[1], -low[2]], turn)
        return float(np.linalg.norm((high - low)[:2])) / 2

    def _set_joints(self, rng: np.random.Generator) -> None:
        robot, body = self.robot, self.robot_body
        assert robot is not None
        spread = {"arm": 1.3, "quadruped": 0.35, "vehicle": 0.3}[robot.family]
        for joint in range(self._call("getNumJoints", body)):
            info = self._call("getJointInfo", body, joint)
            draw = rng.uniform(-spread, spread)
            if info[2] != self.bullet.JOINT_REVOLUTE:
                continue
            angle = robot.angle(info[12].decode()) + draw
            if info[8] < info[9]:  # else the joint turns without limits
                angle = min(max(angle, info[8]), info[9])
            self._call("resetJointState", body, joint, angle)

    def _bounds(self, body: int) -> tuple[Array, Array]:
        links = range(-1, self._call("getNumJoints", body))
        boxes = np.array([self._call("getAABB", body, link) for link in links])
        filled = np.any(boxes[:, 1] > boxes[:, 0], axis=1)
        return boxes[filled, 0].min(axis=0), boxes[filled, 1].max(axis=0)

    def _add(self, shape: str, rng: np.random.Generator) -> tuple[int, float]:
        """A new object standing or lying on the floor; returns its body and the radius of its footprint."""
        number = int(rng.choice(NUMBERS[self.split]))
        if shape == "object":
            name = f"{number:03d}"
            body = self._load(f"random_urdfs/{name}/{name}.urdf", rng.uniform(4.0, 6.0))
            turn = _random_turn(rng)
            self._call("resetBasePositionAndOrientation", body, [0, 0, 0], turn)
            self._call("changeVisualShape", body, -1, rgbaColor=[*rng.uniform(0.15, 1.0, 3), 1.0])
            low, high = self._bounds(body)
            position, _ = self._call("getBasePositionAndOrientation", body)
            middle = (low + high) / 2
            self._call(
                "resetBasePositionAndOrientation",
                body,
                [position[0] - middle[0], position[1] - middle[1], position[2] - low[2]],
                turn,
            )
            return body, float(np.linalg.norm((high - low)[:2])) / 2 * 0.85
        return self._add_primitive(shape, primitive(shape, number, self.split), rng)

    def _add_primitive(self, shape: str, item: Primitive, rng: np.random.Generator) -> tuple[int, float]:
        bullet = self.bullet
        width, depth, height = item.size
        choices: dict[str, dict[str, Any]] = {
            "box": {"halfExtents": [width / 2, depth / 2, height / 2]},
            "sphere": {"radius": width / 2},
            "cylinder": {"radius": width / 2, "length": height},
            "capsule": {"radius": width / 2, "length": height - width},
        }
        geometry = {
            "box": bullet.GEOM_BOX,
            "sphere": bullet.GEOM_SPHERE,
            "cylinder": bullet.GEOM_CYLINDER,
            "capsule": bullet.GEOM_CAPSULE,
        }[shape]
        visual = self._call("createVisualShape", geometry, rgbaColor=[*item.colour, 1.0], **choices[shape])
        lying = shape in ("cylinder", "capsule") and rng.random() < 0.4
        tilt = math.pi / 2 if lying else 0.0
        turn = bullet.getQuaternionFromEuler([tilt, 0, rng.uniform(0, 2 * math.pi)])
        body = self._call(
            "createMultiBody",
            baseVisualShapeIndex=visual,
            basePosition=[0, 0, (width if lying else height) / 2],
            baseOrientation=turn,
        )
        self._call("changeVisualShape", body, -1, textureUniqueId=self.textures[item.texture])
        return body, math.hypot(width, height if lying else depth) / 2 if shape == "box" or lying else width / 2

    def _move(self, body: int, x: float, y: float) -> None:
        position, turn = self._call("getBasePositionAndOrientation", body)
        self._call("resetBasePositionAndOrientation", body, [position[0] + x, position[1] + y, position[2]], turn)

    def _shoot(self, rng: np.random.Generator, placed: list[Any], size: int) -> dict[str, Array]:
        bullet = self.bullet
        spots = np.array([spot[2:] for spot in placed])
        target = [*np.average(spots[:, :2], axis=0, weights=spots[:, 2]), 0.3]
        reach = float((np.hypot(spots[:, 0] - target[0], spots[:, 1] - target[1]) + spots[:, 2]).max())
        distance = reach * rng.uniform(0.9, 1.25) + 0.6
        yaw, pitch, roll = rng.uniform(0, 360), rng.uniform(-45, -15), rng.normal(0, 3)
        aim = (np.array(target) + rng.normal(0, 0.08, 3)).tolist()
        view = bullet.computeViewMatrixFromYawPitchRoll(aim, distance, yaw, pitch, roll, 2)
        self._set_backdrop(rng, spots, math.radians(yaw))
        projection = bullet.computeProjectionMatrixFOV(FIELD_OF_VIEW, 1, NEAR, FAR)
        _, _, pixels, buffer, segments = self._call(
            "getCameraImage",
            size,
            size,
            view,
            projection,
            lightDirection=[*rng.normal(size=2), rng.uniform(0.5, 2.0)],
            lightColor=rng.uniform(0.85, 1.0, 3).tolist(),
            lightDistance=10.0,
            lightAmbientCoeff=rng.uniform(0.4, 0.65),
            lightDiffuseCoeff=rng.uniform(0.35, 0.6),
            lightSpecularCoeff=rng.uniform(0.0, 0.2),
            shadow=int(rng.integers(2)),
            renderer=bullet.ER_TINY_RENDERER,
            flags=bullet.ER_SEGMENTATION_MASK_OBJECT_AND_LINKINDEX,
        )
        rgb = np.asarray(pixels, dtype=np.uint8).reshape(size, size, 4)[..., :3]
        raw = np.asarray(segments, dtype=np.int64).reshape(size, size)
        return {"rgb": rgb, "buffer": np.asarray(buffer).reshape(size, size), **self._labels(raw, placed)}

    def _labels(self, raw: Array, placed: list[Any]) -> dict[str, Array]:
        """Maps of what each pixel shows, from pybullet's body + (link + 1 << 24)."""
        seen = raw >= 0
        bodies, links = np.where(seen, raw & 0xFFFFFF, -1), np.where(seen, (raw >> 24) - 1, -1)
        body = np.zeros(raw.shape, dtype=np.int64)
        semseg, parts = np.zeros(raw.shape, dtype=np.uint8), np.zeros(raw.shape, dtype=np.uint8)
        for number, (identity, kind, *_) in enumerate(placed, start=1):
            body[bodies == identity] = number
            semseg[bodies == identity] = kind
        for link, part in self.parts.items():
            parts[(bodies == self.robot_body) & (links == link)] = part
        return {"body": body, "semseg": semseg, "parts": parts, "surface": raw}

    def _set_backdrop(self, rng: np.random.Generator, spots: Array, yaw: float) -> None:
        """Floor, a wall behind the objects as the camera sees them, and mostly a second one beside them."""
        forward = yaw + rng.uniform(-0.6, 0.6)  # direction in which the back wall stands: camera yaw 0 looks along y
        away = np.array([-math.sin(forward), math.cos(forward)])
        beside = np.array([away[1], -away[0]]) * (1 if forward > yaw else -1)  # the side on which no camera stands
        self._place_quad(self.floor, [0, 0, 0], [0, 0, 0], rng)
        for body, direction, present in ((self.back, away, True), (self.side, beside, rng.random() < 0.6)):
            clearance = float((spots[:, :2] @ direction + spots[:, 2]).max()) + rng.uniform(0.1, 1.5)
            angle = math.atan2(direction[1], direction[0])
            position = [*(direction * clearance), 0.0 if present else -1000.0]
            # Turned by -90 degrees about y, the square's normal z points along -x; then about z towards the objects.
            self._place_quad(body, position, [0, -math.pi / 2, angle], rng)

    def _place_quad(self, body: int, position: list[float], angles: list[float], rng: np.random.Generator) -> None:
        turn = self.bullet.getQuaternionFromEuler(angles)
        self._call("resetBasePositionAndOrientation", body, position, turn)
        number = int(rng.choice(TEXTURES[self.split]))
        colour = [*(rng.uniform(0.3, 1.0, 3)), 1.0]
        self._call("changeVisualShape", body, -1, textureUniqueId=self.textures[number], rgbaColor=colour)


def _free_place(rng: np.random.Generator, placed: list[Any], radius: float) -> tuple[float, float]:
    """A place on the floor, as near the middle as the objects that stand already allow."""
    reach = 0.1
    while True:
        x, y = rng.uniform(-reach, reach, 2)
        if all(math.hypot(x - spot[2], y - spot[3]) > radius + spot[4] for spot in placed):
            return float(x), float(y)
        reach += 0.03


def _random_turn(rng: np.random.Generator) -> list[float]:
    """A quaternion uniform over all rotations."""
    numbers = rng.normal(size=4)
    return (numbers / np.linalg.norm(numbers)).tolist()

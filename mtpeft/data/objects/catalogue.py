"""Which objects of pybullet_data the data set `Objects` shows: none of those the embedded backbones were trained on."""

from __future__ import annotations

NAMED = {
    "bunny": "bunny.obj",
    "pinion": "differential/diff_pinion.stl",
    "torus": "torus/torus_textured.obj",
    "husky": "husky/husky.urdf",
    "ant": "mjcf/ant.xml",
    "cone": "racecar/meshes/cone.obj",
    "square table": "table_square/table_square.urdf",
    "panda arm": "franka_panda/panda.urdf",
    "shape sorter": "toys/shape_sorter.obj",
    "humanoid": "humanoid/humanoid.urdf",
    "prism": "toys/prism.obj",
    "a1": "a1/a1.urdf",
    "shelf": "kiva_shelf/model.sdf",
    "bracket": "differential/diff_stand.stl",
    "wsg50 gripper": "gripper/wsg50_one_motor_gripper.sdf",
    "vision60": "quadruped/vision60.urdf",
    "cartpole": "cartpole.urdf",
    "gear carrier": "differential/diff_carrier.stl",
    "half cheetah": "mjcf/half_cheetah.xml",
    "stone": "stone.obj",
    "bevel gear": "differential/diff_spider.stl",
    "walker": "mjcf/walker2d.xml",
    "cylinder": "toys/cylinder.obj",
    "spirit40": "quadruped/spirit40.urdf",
    "biped": "biped/biped2d_pybullet.urdf",
    "lever": "differential/diff_arm.stl",
}
"""Class name to file, in the order in which `Objects` takes them."""

BLOBS = tuple(number for number in range(240, 300) if number not in (292, 295, 297))
"""pybullet's random objects that come after the named ones; those left out are mere flat squares or specks."""

FILES = {**NAMED, **{f"blob {number}": f"random_urdfs/{number}/{number}.urdf" for number in BLOBS}}
"""Every class name to its file."""

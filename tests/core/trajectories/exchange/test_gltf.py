"""glTF cameras as programs write them, and files that break the format."""

from __future__ import annotations

import base64
import copy
import json
import math
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mirage_core.errors import CacheFormatError, GeometryError, MirageError, TrajectoryError
from mirage_core.geometry.trajectory import Trajectory, fov_of, intrinsics_from_fov
from mirage_core.trajectories.exchange.camera_file import CameraFile, Wanted
from mirage_core.trajectories.exchange.formats import (
    export_trajectory,
    import_trajectory,
    read_cameras,
)
from mirage_core.trajectories.exchange.gltf_write import write_gltf
from mirage_core.trajectories.presets import preset_trajectory

SIZE = {"width": 96, "height": 64}
KEYS = 25
ASPECT = 1.5


def move_of(path: Path, camera: str = "", animation: str = "") -> CameraFile:
    return read_cameras(path, Wanted(**SIZE, fps=24, camera=camera, animation=animation))


class Scene:
    """A glTF document in the making."""

    def __init__(self, *nodes: dict, yfov: tuple[float, ...] = (0.6,)) -> None:
        self.data = b""
        lenses = [
            {"type": "perspective", "perspective": {"yfov": one, "aspectRatio": ASPECT, "znear": 1}}
            for one in yfov
        ]
        self.document: dict = {
            "asset": {"version": "2.0"}, "nodes": list(nodes), "cameras": lenses,
            "animations": [], "accessors": [], "bufferViews": [],
        }  # fmt: skip

    def accessor(self, values: np.ndarray, **more: object) -> int:
        values = np.asarray(values, "<f4") if values.dtype.kind == "f" else values
        kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[values.shape[-1]]
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": values.nbytes}
        self.data += values.tobytes() + b"\0" * (-values.nbytes % 4)
        self.document["bufferViews"].append(view)
        accessor = {
            "bufferView": len(self.document["bufferViews"]) - 1, "componentType": 5126,
            "count": values.size // values.shape[-1], "type": kind,
        }  # fmt: skip
        self.document["accessors"].append(accessor | more)
        return len(self.document["accessors"]) - 1

    def animate(self, name: str | None, *channels: tuple, times: np.ndarray | None = None) -> Scene:
        """Channels are (target, values) or (target, values, interpolation)."""
        times = np.arange(KEYS) / 24 if times is None else times
        animation: dict = {"samplers": [], "channels": []} | ({"name": name} if name else {})
        for target, values, *mode in channels:
            output = values if isinstance(values, int) else self.accessor(values)
            sampler = {"input": self.accessor(times[:, None].astype("f4")), "output": output}
            animation["samplers"].append(sampler | ({"interpolation": mode[0]} if mode else {}))
            number = len(animation["samplers"]) - 1
            animation["channels"].append({"sampler": number, "target": target})
        self.document["animations"].append(animation)
        return self

    def save(self, folder: Path, document: dict | None = None) -> Path:
        text = base64.b64encode(self.data).decode()
        whole = {
            "buffers": [{
                "byteLength": len(self.data), "uri": f"data:application/octet-stream;base64,{text}",
            }],
        } | (document or self.document)  # fmt: skip
        path = folder / "scene.gltf"
        path.write_text(json.dumps(whole))
        return path


def along(axis: int, step: float = 0.1, keys: int = KEYS) -> np.ndarray:
    """Positions that go along an axis of glTF."""
    places = np.zeros((keys, 3))
    places[:, axis] = np.arange(keys) * step
    return places


def pan(degrees: float, keys: int = KEYS) -> np.ndarray:
    """Quaternions that turn about the upright axis."""
    half = np.radians(np.linspace(0, degrees, keys)) / 2
    zero = np.zeros(keys)
    return np.stack([zero, np.sin(half), zero, np.cos(half)], axis=1)


def node(number: int, path: str) -> dict:
    return {"node": number, "path": path}


def pointer(text: str) -> dict:
    return {"path": "pointer", "extensions": {"KHR_animation_pointer": {"pointer": text}}}


def two_takes() -> Scene:
    scene = Scene({"camera": 0})
    scene.animate("Truck", (node(0, "translation"), along(0)))
    return scene.animate(
        "DollyPan", (node(0, "translation"), -along(2)), (node(0, "rotation"), pan(48))
    )


class TestAnimations:
    def test_channels_of_two_takes_do_not_mix(self, tmp_path: Path) -> None:
        move = move_of(two_takes().save(tmp_path))
        assert "animation 'Truck'; not used: 'DollyPan'" in move.notes
        last = move.trajectory.camera_to_world[-1]
        assert last[:3, 3].tolist() == pytest.approx([2.4, 0.0, 0.0], abs=1e-6)
        torch.testing.assert_close(last[:3, :3], torch.eye(3).double())

    @pytest.mark.parametrize("name", ["DollyPan", "2", " 2 "])
    def test_another_take_can_be_chosen(self, tmp_path: Path, name: str) -> None:
        file = two_takes().save(tmp_path)
        move = move_of(file, animation=name)
        assert "animation 'DollyPan'; not used: 'Truck'" in move.notes
        last = move.trajectory.camera_to_world[-1]
        assert last[:3, 3].tolist() == pytest.approx([0.0, 0.0, 2.4], abs=1e-6)
        # Turned to the left, which is a negative angle about the axis that points down.
        assert math.degrees(math.atan2(-last[0, 2], last[2, 2])) == pytest.approx(48, abs=1e-4)

    def test_what_is_not_there_is_answered_by_what_is(self, tmp_path: Path) -> None:
        file = two_takes().save(tmp_path)
        with pytest.raises(TrajectoryError, match="'Truck', 'DollyPan'"):
            move_of(file, animation="Crane")
        with pytest.raises(TrajectoryError, match="no perspective camera of this name"):
            move_of(file, camera="Crane")
        own = export_trajectory(orbit(), tmp_path / "move", "Mirage JSON")
        with pytest.raises(CacheFormatError, match="one camera without a name"):
            move_of(own, camera="Crane")
        with pytest.raises(TrajectoryError, match="Only glTF"):
            move_of(own, animation="Crane")

    def test_animations_of_a_rig_and_of_its_camera_count_together(self, tmp_path: Path) -> None:
        scene = Scene({"name": "Rig", "children": [1]}, {"name": "Cam", "camera": 0})
        scene.animate("RigAction", (node(0, "translation"), along(0)))
        scene.animate("CamAction", (node(1, "rotation"), pan(30)))
        move = move_of(scene.save(tmp_path))
        assert "animation 'RigAction', 'CamAction'" in move.notes
        last = move.trajectory.camera_to_world[-1]
        assert last[:3, 3].tolist() == pytest.approx([2.4, 0.0, 0.0], abs=1e-6)
        assert math.degrees(math.atan2(-last[0, 2], last[2, 2])) == pytest.approx(30, abs=1e-4)

    def test_a_take_of_rig_and_camera_is_whole(self, tmp_path: Path) -> None:
        """The second take moves the camera too: its rig does not go into the first one."""
        scene = Scene({"name": "Rig", "children": [1]}, {"name": "Cam", "camera": 0})
        scene.animate("A", (node(1, "translation"), along(0)))
        scene.animate("B", (node(0, "translation"), along(1)), (node(1, "rotation"), pan(30)))
        file = scene.save(tmp_path)
        first = import_trajectory(file, **SIZE, fps=24).positions[-1]
        assert first.tolist() == pytest.approx([2.4, 0.0, 0.0], abs=1e-6)
        second = move_of(file, animation="B").trajectory.positions[-1]
        assert second.tolist() == pytest.approx([0.0, -2.4, 0.0], abs=1e-6)

    def test_two_keys_at_one_time_are_named(self, tmp_path: Path) -> None:
        times = np.arange(KEYS) / 24
        times[7] = times[6]
        scene = Scene({"camera": 0})
        scene.animate("a", (node(0, "rotation"), pan(30)), times=times)
        with pytest.raises(CacheFormatError, match="two keys at one time.*keys 6 and 7 at 0.25"):
            import_trajectory(scene.save(tmp_path), **SIZE, fps=24)

    @pytest.mark.parametrize("fps", [23.976, 24, 25, 30, 60])
    @pytest.mark.parametrize("start", [0, 1, 100.5])
    def test_a_step_is_at_its_frame(self, tmp_path: Path, fps: float, start: float) -> None:
        """Keys are stored as float32, which puts many of them behind the frame's own time."""
        places = along(0, 1.0, 48)
        turns = np.zeros((48, 4))
        turns[::2, 3] = turns[1::2, 1] = 1
        scene = Scene({"camera": 0})
        scene.animate(
            "a", (node(0, "translation"), places, "STEP"), (node(0, "rotation"), turns, "STEP"),
            times=start + np.arange(48) / fps,
        )  # fmt: skip
        move = read_cameras(scene.save(tmp_path), Wanted(**SIZE, fps=fps)).trajectory
        assert move.positions[-48:, 0].tolist() == list(range(48))
        assert move.camera_to_world[-48:, 2, 2].tolist() == pytest.approx([1, -1] * 24)

    def test_the_take_that_moves_the_camera_comes_first(self, tmp_path: Path) -> None:
        scene = Scene({"camera": 0})
        scene.animate("Rest", (node(0, "translation"), np.zeros((KEYS, 3))))
        scene.animate("Truck", (node(0, "translation"), along(0)))
        file = scene.save(tmp_path)
        assert float(import_trajectory(file, **SIZE, fps=24).positions[-1, 0]) == pytest.approx(2.4)
        assert not move_of(file, animation="Rest").trajectory.positions.any()

    def test_cubic_curves_pass_through_their_keys_with_their_slope(self, tmp_path: Path) -> None:
        """x = t^3 between two keys, given by its slopes 0 and 3."""
        values = np.zeros((2, 3, 3), "f4")
        values[1] = [[3, 0, 0], [1, 0, 0], [3, 0, 0]]
        turn = np.zeros((2, 3, 4), "f4")
        turn[:, 1] = pan(90, 2)
        scene = Scene({"camera": 0})
        output = scene.accessor(values.reshape(6, 3))
        turns = scene.accessor(turn.reshape(6, 4))
        scene.animate(
            "a", (node(0, "translation"), output, "CUBICSPLINE"),
            (node(0, "rotation"), turns, "CUBICSPLINE"), times=np.array([0.0, 1.0]),
        )  # fmt: skip
        move = import_trajectory(scene.save(tmp_path), **SIZE, fps=24)
        at = torch.arange(25).double() / 24
        torch.testing.assert_close(move.positions[:, 0], at**3, atol=1e-6, rtol=0)
        middle = move.camera_to_world[12]
        assert math.degrees(math.atan2(-middle[0, 2], middle[2, 2])) == pytest.approx(45, abs=1e-4)

    def test_rotations_in_sixteen_bits(self, tmp_path: Path) -> None:
        scene = Scene({"camera": 0})
        whole = np.round(pan(60) * 32767).astype("<i2")
        output = scene.accessor(whole, componentType=5122, normalized=True)
        scene.animate("a", (node(0, "rotation"), output))
        last = import_trajectory(scene.save(tmp_path), **SIZE, fps=24).camera_to_world[-1]
        assert math.degrees(math.atan2(-last[0, 2], last[2, 2])) == pytest.approx(60, abs=0.01)

    def test_values_between_others(self, tmp_path: Path) -> None:
        """Positions that stand beside something else in one buffer, 16 bytes apart."""
        wide = np.concatenate([along(0), np.full((KEYS, 1), 99.0)], axis=1)
        scene = Scene({"camera": 0})
        output = scene.accessor(wide)
        scene.document["accessors"][output]["type"] = "VEC3"
        scene.document["bufferViews"][output]["byteStride"] = 16
        scene.animate("a", (node(0, "translation"), output))
        move = import_trajectory(scene.save(tmp_path), **SIZE, fps=24)
        assert move.positions[-1].tolist() == pytest.approx([2.4, 0, 0], abs=1e-6)


BLENDER = Path(__file__).parents[3] / "data" / "cameras"

SEEN_IN_BLENDER = (
    (0, (0.0, 0.0, 0.0), (0.0, 0.98481, -0.17365), 54.4322),
    (6, (0.21875, 1.0, 0.25), (0.0, 0.99279, -0.11986), 47.9578),
    (12, (1.0, 2.0, 0.5), (0.0, 1.0, 0.0), 37.8493),
    (24, (3.0, 1.0, 0.0), (0.0, 0.98481, 0.17365), 28.8415),
)
"""Frame, place and direction in Blender's world, horizontal angle, as Blender 5.0.1 has them."""


class TestBlender:
    """A rig of twice the size that moves, a camera on it that tilts and zooms, a still camera.

    blender_scene.glb: mode Scene with animation pointers. blender_curves.glb: mode Actions, not
    sampled, which leaves the lens still.
    """

    @pytest.mark.parametrize("name", ["scene", "curves"])
    def test_the_camera_is_where_blender_sees_it(self, name: str) -> None:
        move = read_cameras(BLENDER / f"blender_{name}.glb", Wanted(**SIZE, fps=24))
        names = {"scene": "'Rig', 'Cam', 'Lens'", "curves": "'RigAction', 'CamAction'"}[name]
        assert move.notes == ("camera 'Cam'; also in the file: 'Still'", f"animation {names}")
        assert len(move.trajectory) == 25
        for frame, place, ahead, angle in SEEN_IN_BLENDER:
            pose = move.trajectory.camera_to_world[frame]
            for found, (x, y, z) in ((pose[:3, 3], place), (pose[:3, 2], ahead)):
                assert found.tolist() == pytest.approx([x, -z, y], abs=2e-5)
            angle = angle if name == "scene" else SEEN_IN_BLENDER[0][3]
            assert fov_of(move.trajectory.intrinsics[frame], 96) == pytest.approx(angle, abs=1e-3)


class TestCameras:
    def scene(self) -> Scene:
        scene = Scene(
            {"name": "StillCam", "camera": 0, "translation": [9, 9, 9]},
            {"name": "ShotCam", "camera": 1},
            {"name": "LastCam", "camera": 1},
            yfov=(0.6, 0.4),
        )
        # Exporters write curves of what stands still as well.
        scene.animate("still", (node(0, "translation"), np.full((KEYS, 3), 9.0)))
        scene.animate("shot", (node(1, "translation"), along(0)))
        return scene.animate("last", (node(2, "translation"), along(1)))

    def test_the_camera_that_moves_is_taken(self, tmp_path: Path) -> None:
        move = move_of(self.scene().save(tmp_path))
        assert move.notes == (
            "camera 'ShotCam'; also in the file: 'StillCam', 'LastCam'", "animation 'shot'",
        )  # fmt: skip
        assert move.trajectory.positions[-1].tolist() == pytest.approx([2.4, 0.0, 0.0], abs=1e-6)
        assert float(move.trajectory.intrinsics[0, 1, 1]) == pytest.approx(32 / math.tan(0.2))

    @pytest.mark.parametrize(
        ("name", "place"),
        [("StillCam", [9.0, -9, -9]), ("3", [0.0, -2.4, 0]), ("LastCam", [0.0, -2.4, 0])],
    )
    def test_another_camera_can_be_chosen(self, tmp_path: Path, name: str, place: list) -> None:
        move = move_of(self.scene().save(tmp_path), camera=name)
        assert move.trajectory.positions[-1].tolist() == pytest.approx(place, abs=1e-6)

    def test_the_chosen_animation_decides_the_camera(self, tmp_path: Path) -> None:
        file = self.scene().save(tmp_path)
        move = move_of(file, animation="last")
        assert move.notes[0].startswith("camera 'LastCam'")
        with pytest.raises(TrajectoryError, match="does not move this camera.*'shot'"):
            move_of(file, camera="ShotCam", animation="last")

    @pytest.mark.parametrize("path", ["/cameras/0/perspective/yfov", "both"])
    def test_an_animated_field_of_view_is_read(self, tmp_path: Path, path: str) -> None:
        angles = np.linspace(0.6, 0.3, KEYS)[:, None]
        scene = Scene({"camera": 0})
        scene.animate("move", (node(0, "translation"), along(0)))
        channels = [(pointer("/cameras/0/perspective/yfov"), angles)]
        if path == "both":
            aspect = np.linspace(ASPECT, 3.0, KEYS)[:, None]
            channels.append((pointer("/cameras/0/perspective/aspectRatio"), aspect))
        scene.animate("zoom", *channels)
        move = move_of(scene.save(tmp_path))
        assert "animation 'move', 'zoom'" in move.notes
        wide = np.tan(angles[:, 0] / 2) * (np.linspace(1.5, 3, KEYS) if path == "both" else 1.5)
        np.testing.assert_allclose(move.trajectory.intrinsics[:, 0, 0], 48 / wide, rtol=1e-6)
        assert move.trajectory.positions[-1].tolist() == pytest.approx([2.4, 0.0, 0.0], abs=1e-6)

    def test_pointers_animate_nodes_as_well(self, tmp_path: Path) -> None:
        scene = Scene({"camera": 0})
        scene.animate("a", (pointer("/nodes/0/translation"), along(0)))
        scene.animate("b", (pointer("/nodes/0/rotation"), pan(30)))
        move = move_of(scene.save(tmp_path))
        assert "animation 'a'; not used: 'b'" in move.notes
        assert move.trajectory.positions[-1].tolist() == pytest.approx([2.4, 0, 0], abs=1e-6)

    def test_a_mirrored_camera_is_answered_by_what_an_artist_can_do(self, tmp_path: Path) -> None:
        scene = Scene({"name": "Root", "scale": [-1, 1, 1], "children": [1]}, {"camera": 0})
        scene.animate("a", (node(1, "translation"), along(0)))
        with pytest.raises(GeometryError, match="mirrored.*'Root'.*Apply the scale"):
            import_trajectory(scene.save(tmp_path), **SIZE, fps=24)

    @pytest.mark.parametrize(
        ("scale", "what"), [([0] * 3, "no size"), ([1, 3, 1], "sheared"), ([1e200] * 3, "no size")]
    )
    def test_other_scales_that_no_camera_can_have(self, tmp_path: Path, scale, what) -> None:
        turn = pan(30, 2)[1].tolist()
        tilt = [math.sin(0.3), 0, 0, math.cos(0.3)]
        scene = Scene(
            {"scale": scale, "children": [1]}, {"rotation": tilt, "children": [2]},
            {"rotation": turn, "scale": [1e200] * 3 if scale[0] > 1 else [1, 1, 1], "camera": 0},
        )  # fmt: skip
        with pytest.raises(GeometryError, match=what):
            import_trajectory(scene.save(tmp_path), **SIZE, fps=24)


def orbit() -> Trajectory:
    return preset_trajectory(
        "orbit", KEYS, scene_depth=3.0, intrinsics=intrinsics_from_fov(96, 64, 60),
        width=96, height=64, fps=30,
    )  # fmt: skip


def zoom() -> Trajectory:
    return preset_trajectory(
        "dolly_zoom", KEYS, scene_depth=3.0, intrinsics=intrinsics_from_fov(96, 64, 60),
        width=96, height=64, fps=30,
    )  # fmt: skip


class StrictReader:
    """Reads a binary glTF by the letter of the specification, and nothing else."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        magic, version, total = struct.unpack_from("<4sII", content)
        assert (magic, version, total) == (b"glTF", 2, len(content)) and total % 4 == 0
        size, kind = struct.unpack_from("<I4s", content, 12)
        assert kind == b"JSON" and size % 4 == 0
        self.document = json.loads(content[20 : 20 + size])
        length, kind = struct.unpack_from("<I4s", content, 20 + size)
        assert kind == b"BIN\0" and length % 4 == 0 and 28 + size + length == total
        self.data = content[28 + size :]
        (buffer,) = self.document["buffers"]
        assert 0 <= length - buffer["byteLength"] <= 3 and "uri" not in buffer
        assert self.document["asset"]["version"] == "2.0"

    def accessor(self, number: int) -> np.ndarray:
        accessor = self.document["accessors"][number]
        view = self.document["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        assert accessor["componentType"] == 5126 and view["byteOffset"] % 4 == 0
        assert view["byteLength"] == accessor["count"] * width * 4
        end = view["byteOffset"] + view["byteLength"]
        values = np.frombuffer(self.data[view["byteOffset"] : end], "<f4").reshape(-1, width)
        assert accessor["min"] == values.min(0).tolist()
        assert accessor["max"] == values.max(0).tolist()
        return values

    def channels(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        (animation,) = self.document["animations"]
        found = {}
        for channel in animation["channels"]:
            sampler = animation["samplers"][channel["sampler"]]
            target = channel["target"]
            path = target["path"]
            if path == "pointer":
                assert "KHR_animation_pointer" in self.document["extensionsUsed"]
                assert "node" not in target
                path = target["extensions"]["KHR_animation_pointer"]["pointer"]
            assert sampler["interpolation"] == "LINEAR"
            times = self.accessor(sampler["input"])[:, 0]
            assert (np.diff(times) > 0).all() and times[0] == 0
            found[path] = times, self.accessor(sampler["output"])
        return found


class TestExport:
    """What Blender's importer takes: keys at seconds times the scene's frame rate, yfov."""

    @pytest.mark.parametrize("make", [orbit, zoom])
    def test_another_reader_sees_the_lens_and_the_frame_rate(self, tmp_path: Path, make) -> None:
        move = make()
        reader = StrictReader(write_gltf(move, tmp_path / "move.glb"))
        channels = reader.channels()
        for times, values in channels.values():
            assert len(values) == len(times) == KEYS
            np.testing.assert_allclose(times * 30, np.arange(KEYS), atol=1e-4)
        (lens,) = reader.document["cameras"]
        first = 2 * math.atan(64 / (2 * float(move.intrinsics[0, 1, 1])))
        assert lens["perspective"]["yfov"] == pytest.approx(first, abs=1e-9)
        assert lens["perspective"]["aspectRatio"] == pytest.approx(1.5)
        assert lens["perspective"]["znear"] > 0
        (scene,) = reader.document["scenes"]
        (number,) = scene["nodes"]
        assert reader.document["nodes"][number]["camera"] == 0
        places = move.positions.numpy() * (1, -1, -1)
        np.testing.assert_allclose(channels["translation"][1], places, atol=1e-6)
        turns = channels["rotation"][1]
        np.testing.assert_allclose(np.linalg.norm(turns, axis=1), 1, atol=1e-6)
        assert ((turns[1:] * turns[:-1]).sum(1) > 0).all()
        assert ("/cameras/0/perspective/yfov" in channels) == (make is zoom)
        if make is zoom:
            angles = 2 * np.arctan(32 / move.intrinsics[:, 1, 1].numpy())
            found = channels["/cameras/0/perspective/yfov"][1][:, 0]
            np.testing.assert_allclose(found, angles, rtol=1e-6)

    def test_a_zoom_comes_back_from_a_program_that_drops_extras(self, tmp_path: Path) -> None:
        before = zoom()
        file = write_gltf(before, tmp_path / "move.gltf")
        document = json.loads(file.read_text())
        del document["cameras"][0]["extras"]
        file.write_text(json.dumps(document))
        after = import_trajectory(file, **SIZE, fps=30)
        torch.testing.assert_close(after.intrinsics, before.intrinsics, atol=1e-5, rtol=1e-6)

    def test_a_lens_that_another_program_changed_counts(self, tmp_path: Path) -> None:
        """Blender hands the extras on as they were."""
        file = write_gltf(orbit(), tmp_path / "move.gltf")
        document = json.loads(file.read_text())
        document["cameras"][0]["perspective"]["yfov"] = 0.4
        file.write_text(json.dumps(document))
        lens = import_trajectory(file, **SIZE, fps=30).intrinsics
        np.testing.assert_allclose(lens[:, 1, 1], 32 / math.tan(0.2), rtol=1e-9)


def chain(length: int, *, animated: int = 0, seconds: float = 1.0) -> Scene:
    """A camera that so many objects carry, of which some move."""
    nodes = [{"camera": 0}, *({"children": [number]} for number in range(length - 1))]
    scene = Scene(*nodes)
    for number in range(animated):
        times = np.array([0.0, seconds])
        scene.animate(None, (node(number, "translation"), along(0, keys=2)), times=times)
    return scene


class TestBounds:
    def test_deep_rigs_are_read(self, tmp_path: Path) -> None:
        move = import_trajectory(chain(90, animated=90).save(tmp_path), **SIZE, fps=24)
        assert move.positions[-1].tolist() == pytest.approx([9.0, 0, 0], abs=1e-5)

    @pytest.mark.parametrize(
        ("scene", "what"),
        [
            (chain(200, animated=1, seconds=41_666), "too deep"),
            (chain(2, animated=1, seconds=41_666), "too long"),
            (chain(60, animated=60, seconds=300), "too long"),
            (Scene(*[{"camera": 0}] * 50_001), "times animations"),
            (chain(1, animated=1, seconds=1e38), "too long"),
            (Scene({"camera": 0, "children": [0]}), "hangs on itself"),
            (Scene({"camera": 0, "children": [1]}, {"children": [0]}), "hangs on itself"),
            (Scene({"camera": 0}, {"children": [2]}, {"children": [1, 0]}), "too deep"),
            (Scene({"camera": 0}, {"children": [0]}, {"children": [0]}), "two others"),
        ],
    )
    def test_what_would_take_for_ever_is_refused(self, tmp_path: Path, scene, what: str) -> None:
        with pytest.raises(CacheFormatError, match=what):
            import_trajectory(scene.save(tmp_path), **SIZE, fps=24)

    def test_documents_that_would_fill_the_memory_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "wide.gltf"
        path.write_text('{"nodes": [' + "[]," * 1_000_001 + "0]}")
        with pytest.raises(CacheFormatError, match="lists"):
            import_trajectory(path, **SIZE, fps=24)


BREAKS = {
    "rate": (("cameras", 0, "extras", "mirage", "fps"), float("inf")),
    "rate of zero": (("cameras", 0, "extras", "mirage", "fps"), 0),
    "offset": (("bufferViews", 2, "byteOffset"), 1e308),
    "sampler": (("animations", 0, "channels", 0, "sampler"), True),
    "length": (("bufferViews", 1, "byteLength"), 2**70),
    "stride": (("bufferViews", 1, "byteStride"), 2**62),
    "count": (("accessors", 0, "count"), 2**40),
    "count of values": (("accessors", 1, "count"), 4),
    "beyond": (("accessors", 1, "byteOffset"), 8),
    "sparse": (("accessors", 1, "sparse"), {"count": 1}),
    "type": (("accessors", 2, "type"), "VEC3"),
    "list of types": (("accessors", 2, "type"), ["VEC4"]),
    "component": (("accessors", 2, "componentType"), 5125),
    "lens": (("cameras", 0, "perspective", "yfov"), 0),
    "half turn": (("cameras", 0, "perspective", "yfov"), 4.0),
    "negative camera": (("nodes", 0, "camera"), -1),
    "rotation": (("nodes", 0, "rotation"), [0, 0, 0]),
    "matrix": (("nodes", 0, "matrix"), [1.0] * 16),
    "buffers": (("buffers",), {"0": {}}),
    "uri": (("buffers", 0, "uri"), "file:///etc/passwd"),
    "base64": (("buffers", 0, "uri"), "data:,%%%"),
    "interpolation": (("animations", 0, "samplers", 0, "interpolation"), {}),
}


def broken(document: object, path: tuple, value: object) -> object:
    document = copy.deepcopy(document)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    return json.loads(write_gltf(zoom(), tmp_path_factory.mktemp("gltf") / "move.gltf").read_text())


@pytest.mark.parametrize("name", BREAKS)
def test_broken_parts_are_refused(tmp_path: Path, whole: dict, name: str) -> None:
    text = json.dumps(broken(whole, *BREAKS[name])).replace("Infinity", "1e400")
    (tmp_path / "a.gltf").write_text(text)
    with pytest.raises((CacheFormatError, GeometryError)):
        import_trajectory(tmp_path / "a.gltf", **SIZE, fps=24)


def paths_of(value: object, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key in value:
            found += paths_of(value[key], (*path, key))
    if isinstance(value, list):
        for key in range(min(3, len(value))):
            found += paths_of(value[key], (*path, key))
    return found


ODD = [
    None, True, -1, 0, 1, 5, 2**31, 2**63, 2**200, 0.5, 1e308, "inf", "", "x", [], {}, [[]], [None],
    {"mirage": []}, "data:;base64,AAAA", [0] * 16, [1e308] * 3, [0.0, 0.0, 0.0, 0.0],
]  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_every_mutation_is_read_or_refused_by_a_typed_error(
    tmp_path: Path, whole: dict, seed: int
) -> None:
    choice = random.Random(seed)
    paths = paths_of(whole)
    path = tmp_path / "a.gltf"
    for _ in range(100):
        document = broken(whole, choice.choice(paths), choice.choice(ODD))
        path.write_text(json.dumps(document).replace('"inf"', "1e400"))
        try:
            move = import_trajectory(path, **SIZE, fps=24)
        except MirageError:
            continue
        assert len(move) <= 100_001


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_are_read_or_refused_by_a_typed_error(tmp_path: Path, seed: int) -> None:
    choice = random.Random(seed)
    content = write_gltf(zoom(), tmp_path / "move.glb").read_bytes()
    path = tmp_path / "a.glb"
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(choice.randint(1, 4)):
            damaged[choice.randrange(len(damaged))] = choice.randrange(256)
        path.write_bytes(damaged[: choice.choice([len(damaged), choice.randrange(len(damaged))])])
        try:
            import_trajectory(path, **SIZE, fps=24)
        except MirageError:
            continue

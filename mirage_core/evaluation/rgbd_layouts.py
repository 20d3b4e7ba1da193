"""How RGB-D data sets lay out their recordings: TUM, 7-Scenes, ScanNet, Redwood, ARKitScenes.

What a layout does not store, the lens above all, is what the data set's page says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from ..errors import CacheFormatError
from ..geometry.transform import invert_rigid
from ..trajectories.exchange.axes import poses_of
from ..trajectories.exchange.text_files import read_text
from ..trajectories.rotations import nearest_rigid
from .estimators import described_data
from .rgbd import Files, RecordedFiles, Recording, associated, expect_frames

Lens = tuple[float, float, float, float]
"""Focal lengths and principal point in pixels."""

TUM_LENSES: Final[dict[str, Lens]] = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
TUM_LENS: Final[Lens] = (525.0, 525.0, 319.5, 239.5)
SEVEN_SCENES_LENS: Final[Lens] = (585.0, 585.0, 320.0, 240.0)
REDWOOD_LENS: Final[Lens] = (525.0, 525.0, 319.5, 239.5)
NUMBERED_LENS: Final[Lens] = (518.0, 519.0, 325.5, 253.5)
"""Of the office capture of slambook2; ``lens.txt`` with fx fy cx cy in the folder replaces it."""

KINECT: Final = (640, 480)
TUM_UNIT: Final = 5000.0
NO_READING: Final = 65535
DEPTH_FIRST: Final = 3
"""Folders below the data's own in which recordings are looked for."""

PICTURES: Final = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Layout:
    """How one data set lays out its recordings.

    Attributes:
        name: Of the data set.
        source: Where its data is.
        looks: What a folder of it has.
        mark: A file or folder that is in every recording; a pattern.
        read: From the folder to the recording.
    """

    name: str
    source: str
    looks: str
    mark: str
    read: Callable[[Path], RecordedFiles]


def matrices(lens: Lens, count: int) -> Tensor:
    """(F, 3, 3) float64 intrinsics that are alike."""
    fx, fy, cx, cy = lens
    one = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    return one.repeat(count, 1, 1)


def rows_of(path: Path, columns: int) -> list[list[str]]:
    """Words of the lines of a text file that are no comments.

    Raises:
        CacheFormatError: It is missing, or a line has fewer words.
    """
    lines = (line.split() for line in read_text(path).splitlines())
    rows = [words for words in lines if words and not words[0].startswith("#")]
    if any(len(words) < columns for words in rows):
        raise _malformed(path, f"a line of fewer than {columns} columns")
    return rows


def numbers_of(path: Path, columns: int, *, finite: bool = True) -> np.ndarray:
    """(N, columns) float64 of a text file.

    Raises:
        CacheFormatError: It is missing or malformed.
    """
    try:
        rows = [[float(word) for word in words[:columns]] for words in rows_of(path, columns)]
        values = np.array(rows).reshape(-1, columns)
    except ValueError as error:
        raise _malformed(path, str(error)) from error
    if finite and not np.isfinite(values).all():
        raise _malformed(path, "numbers that are not finite")
    return values


def row_of(path: Path, columns: int) -> np.ndarray:
    """(columns,) float64 of the first line of a text file.

    Raises:
        CacheFormatError: It is missing, empty or malformed.
    """
    rows = numbers_of(path, columns)
    if not len(rows):
        raise _malformed(path, "no numbers")
    row: np.ndarray = rows[0]
    return row


def _malformed(path: Path, why: str) -> CacheFormatError:
    return CacheFormatError(
        f"{path.name} of {path.parent.name} cannot be read", got=why[:200], fix="Fetch it again"
    )


def _numbered(folder: Path, pattern: str, number: Callable[[str], str]) -> dict[str, Path]:
    """Files of a folder by the number in their name, in its order."""
    found = {number(path.stem): path for path in folder.glob(pattern)}
    return {key: found[key] for key in sorted(found, key=lambda key: (len(key), key))}


def _recorded(
    name: str,
    files: Sequence[Files],
    poses: np.ndarray | Tensor,
    intrinsics: Tensor,
    **more: Any,
) -> RecordedFiles:
    """A recording from camera-to-world poses; frames without a finite one are left out."""
    expect_frames(name, len(files))
    camera_to_world = torch.as_tensor(poses, dtype=torch.float64)
    known = camera_to_world.isfinite().flatten(1).all(1).nonzero()[:, 0].tolist()
    expect_frames(name, len(known))
    rigid, _ = nearest_rigid(f"{name}: the pose", camera_to_world[known])
    chosen = [files[number] for number in known]
    return RecordedFiles(name, chosen, invert_rigid(rigid), intrinsics[known], **more)


def read_tum(folder: Path) -> RecordedFiles:
    """``rgb.txt``, ``depth.txt`` and ``groundtruth.txt``, each with a time in every line."""
    pictures, depths = rows_of(folder / "rgb.txt", 2), rows_of(folder / "depth.txt", 2)
    truth = numbers_of(folder / "groundtruth.txt", 8)
    times, depth_times = _times(folder / "rgb.txt"), _times(folder / "depth.txt")
    depth, pose = associated(times, depth_times), associated(times, truth[:, 0])
    kept = [n for n in range(len(times)) if depth[n] >= 0 and pose[n] >= 0]
    files = [Files(folder / pictures[n][1], folder / depths[depth[n]][1]) for n in kept]
    rows = torch.from_numpy(truth[pose[kept]]) if kept else torch.zeros(0, 8)
    lens = next((lens for key, lens in TUM_LENSES.items() if key in folder.name), TUM_LENS)
    return _recorded(
        folder.name, files, poses_of(rows[:, 4:].double(), rows[:, 1:4].double()),
        matrices(lens, len(files)), unit=TUM_UNIT, lens_size=KINECT,
    )  # fmt: skip


def _times(path: Path) -> np.ndarray:
    return numbers_of(path, 1)[:, 0]


def read_seven_scenes(folder: Path) -> RecordedFiles:
    """``frame-000000.color.png``, ``.depth.png`` and ``.pose.txt``, in a folder ``seq-01``."""
    found = sorted(folder.glob("frame-*.color.png"))
    stems = [path.name.removesuffix(".color.png") for path in found]
    files = [Files(p, folder / f"{s}.depth.png") for p, s in zip(found, stems, strict=True)]
    poses = [_pose(folder / f"{stem}.pose.txt") for stem in stems]
    return _recorded(
        folder.name, files, np.stack(poses), matrices(SEVEN_SCENES_LENS, len(files)),
        invalid=NO_READING, lens_size=KINECT,
    )  # fmt: skip


def _pose(path: Path) -> np.ndarray:
    values = numbers_of(path, 4, finite=False)
    if len(values) != 4:  # noqa: PLR2004
        raise _malformed(path, f"{len(values)} lines in place of 4")
    return values


def read_scannet(folder: Path) -> RecordedFiles:
    """``color``, ``depth``, ``pose`` and ``intrinsic`` as ScanNet's SensReader exports them."""
    pictures = _numbered(folder / "color", "*.*", str)
    names = [n for n in pictures if (folder / "depth" / f"{n}.png").is_file()]
    files = [Files(pictures[n], folder / "depth" / f"{n}.png") for n in names]
    expect_frames(folder.name, len(files))
    poses = np.stack([_pose(folder / "pose" / f"{n}.txt") for n in names])
    lens = torch.from_numpy(_pose(folder / "intrinsic" / "intrinsic_color.txt")[:3, :3])
    return _recorded(folder.name, files, poses, lens.repeat(len(files), 1, 1))


def read_redwood(folder: Path) -> RecordedFiles:
    """``depth``, pictures in ``rgb``, ``color`` or ``image``, and a trajectory ``*.log``."""
    places = ("rgb", "color", "image")
    place = next((folder / name for name in places if (folder / name).is_dir()), folder / "rgb")
    pictures = sorted(path for path in place.glob("*") if path.suffix.lower() in PICTURES)
    depths = sorted((folder / "depth").glob("*.png"))
    log = min(folder.glob("*.log"))
    rows = rows_of(log, 3)
    if len(rows) % 5:
        raise _malformed(log, f"{len(rows)} lines, which is no multiple of 5")
    count = min(len(rows) // 5, len(pictures), len(depths))
    try:
        lines = [[float(word) for word in row] for n, row in enumerate(rows[: 5 * count]) if n % 5]
        poses = np.array(lines).reshape(-1, 4, 4)
    except ValueError as error:
        raise _malformed(log, str(error)) from error
    files = [Files(pictures[n], depths[n]) for n in range(count)]
    return _recorded(
        folder.name, files, poses, matrices(REDWOOD_LENS, count), lens_size=KINECT
    )


def read_arkit(folder: Path) -> RecordedFiles:
    """``lowres_wide``, ``lowres_depth``, ``lowres_wide_intrinsics`` and ``lowres_wide.traj``."""
    path = numbers_of(folder / "lowres_wide.traj", 7)
    pictures = _numbered(folder / "lowres_wide", "*.png", _time_in)
    depths = _numbered(folder / "lowres_depth", "*.png", _time_in)
    lenses = _numbered(folder / "lowres_wide_intrinsics", "*.pincam", _time_in)
    names = [n for n in pictures if n in depths and n in lenses]
    expect_frames(folder.name, len(names))
    nearest = associated(np.array([float(name) for name in names]), path[:, 0])
    kept = [n for n in range(len(names)) if nearest[n] >= 0]
    expect_frames(folder.name, len(kept))
    world_to_camera = torch.eye(4, dtype=torch.float64).repeat(len(kept), 1, 1)
    chosen = path[nearest[kept]]
    rotation = Rotation.from_rotvec(chosen[:, 1:4]).as_matrix()
    world_to_camera[:, :3, :3] = torch.from_numpy(rotation)
    world_to_camera[:, :3, 3] = torch.from_numpy(chosen[:, 4:7])
    values = np.stack([row_of(lenses[names[n]], 6) for n in kept])
    intrinsics = torch.cat([matrices((v[2], v[3], v[4], v[5]), 1) for v in values])
    files = [Files(pictures[names[n]], depths[names[n]]) for n in kept]
    size = (int(values[0, 0]), int(values[0, 1]))
    if min(size) < 1:
        raise _malformed(lenses[names[kept[0]]], f"a picture of {size[0]} x {size[1]}")
    return RecordedFiles(folder.name, files, world_to_camera, intrinsics, lens_size=size)


def _time_in(stem: str) -> str:
    """``47333462_100.234`` ends with the seconds."""
    return stem.rpartition("_")[2]


def read_numbered(folder: Path) -> RecordedFiles:
    """``color_1.png``, ``depth_1.png`` and ``pose.txt``, as in the exercises of slambook2."""
    pictures = _numbered(folder, "color_*.png", _time_in)
    files = [Files(path, folder / f"depth_{name}.png") for name, path in pictures.items()]
    expect_frames(folder.name, len(files))
    rows = torch.from_numpy(numbers_of(folder / "pose.txt", 7))
    if len(rows) != len(files):
        raise _malformed(folder / "pose.txt", f"{len(rows)} poses for {len(files)} pictures")
    lens = NUMBERED_LENS
    if (folder / "lens.txt").is_file():
        fx, fy, cx, cy = row_of(folder / "lens.txt", 4).tolist()
        lens = (fx, fy, cx, cy)
    poses = poses_of(rows[:, 3:], rows[:, :3])
    return _recorded(folder.name, files, poses, matrices(lens, len(files)))


LAYOUTS: Final = (
    Layout(
        "TUM", "https://cvg.cit.tum.de/data/datasets/rgbd-dataset",
        "rgb.txt, depth.txt and groundtruth.txt", "groundtruth.txt", read_tum,
    ),
    Layout(
        "7-Scenes", "https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes",
        "frame-000000.color.png, .depth.png and .pose.txt", "frame-*.color.png", read_seven_scenes,
    ),
    Layout(
        "ScanNet", "http://www.scan-net.org", "color, depth, pose and intrinsic from SensReader",
        "intrinsic/intrinsic_color.txt", read_scannet,
    ),
    Layout(
        "Redwood", "http://redwood-data.org/indoor", "rgb, depth and a trajectory *.log",
        "*.log", read_redwood,
    ),
    Layout(
        "ARKitScenes", "https://github.com/apple/ARKitScenes",
        "lowres_wide, lowres_depth, lowres_wide_intrinsics and lowres_wide.traj",
        "lowres_wide.traj", read_arkit,
    ),
    Layout(
        "numbered", "https://github.com/gaoxiang12/slambook2 (ch5/rgbd)",
        "color_1.png, depth_1.png and pose.txt", "color_1.png", read_numbered,
    ),
)  # fmt: skip


def layout_of(folder: Path) -> Layout | None:
    """The layout of a folder that holds one recording; None for other folders."""
    return next((layout for layout in LAYOUTS if any(folder.glob(layout.mark))), None)


def find_recordings(root: Path) -> dict[str, Path]:
    """Folders of recordings by their names: a folder itself, or those below it.

    Raises:
        CacheFormatError: There are none. The message has the layouts and their sources.
    """
    found = {path.relative_to(root.parent).as_posix(): path for path in _below(root, DEPTH_FIRST)}
    if not found:
        known = "; ".join(f"{x.name}: {x.looks} ({x.source})" for x in LAYOUTS)
        raise CacheFormatError(
            "The folder contains no recording of a depth camera",
            got=root,
            expected=known,
            fix="Unpack a recording as it comes, and name its folder or the one above",
        )
    return found


def _below(folder: Path, levels: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    if layout_of(folder) is not None:
        yield folder
    elif levels:
        for path in sorted(folder.iterdir()):
            yield from _below(path, levels - 1)


@dataclass(frozen=True)
class RecordingFolder:
    """All recordings below a folder.

    Attributes:
        root: The folder.
        width: Picture width in pixels, a multiple of 32.
        height: Picture height.
    """

    root: Path
    width: int
    height: int

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        return {"data": described_data(self.root), "size": [self.width, self.height]}

    def items(self) -> tuple[str, ...]:
        """Names of the recordings.

        Raises:
            CacheFormatError: There are none.
        """
        return tuple(find_recordings(self.root))

    def open(self, item: str) -> Recording:
        """One of them.

        Raises:
            CacheFormatError, GeometryError: As `read_recording`.
        """
        return read_recording(self.root.parent / item).sized(self.width, self.height)


def read_recording(folder: Path) -> RecordedFiles:
    """The recording in a folder.

    Raises:
        CacheFormatError: It has no known layout, or is incomplete.
        GeometryError: It has no usable frame, or its cameras are malformed.
    """
    layout = layout_of(folder)
    if layout is None:
        raise CacheFormatError("The folder contains no recording of a depth camera", got=folder)
    return layout.read(folder)

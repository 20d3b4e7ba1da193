"""Furnishes a room from a seed: solids, materials and lamps, all immutable data.

`types` says which axes and face numbers the room uses.
"""

from __future__ import annotations

import random
from typing import Final

from .types import Lamp, Layout, Material, Solid, Span, Vector

WALLS: Final = (0, 1, 4, 5)
"""Face numbers of the room's walls: low x, high x, low z, high z."""

CEILING: Final = 2
FLOOR: Final = 3

PALETTES: Final = (
    ("ede3d0", "8fb3ad", "d9773f", "2f3e46", "b58255", "7a5230"),
    ("f2e8dc", "a3b18a", "bc6c25", "344e41", "c49a6c", "8a5a34"),
    ("f4ece1", "d8a48f", "b0656a", "3d405b", "b88b5e", "6f4e37"),
    ("e9edf0", "7fa3c7", "e0a030", "22344f", "caa472", "8c6239"),
    ("f5efe0", "e9c46a", "e76f51", "264653", "a9743f", "6b4423"),
    ("efe6dd", "9fc0b8", "c8553d", "2d3142", "9c6b43", "5e3c23"),
    ("f1e9e4", "c9ada7", "8a6f8f", "22223b", "b08968", "7f5539"),
    ("eef1e6", "84a98c", "f2b84b", "354f52", "d0a878", "94683f"),
)
"""Pale, middle, accent, deep, light wood and dark wood of a room, as sRGB hex."""

PICTURES: Final = ("hills", "shapes", "blobs")


def furnish(seed: int) -> Layout:
    """Build the room of ``seed``; equal seeds give equal rooms."""
    builder = _RoomBuilder(seed)
    builder.build_room()
    builder.hang_lamp()
    builder.add_window()
    builder.add_island()
    furniture = [
        builder.add_sofa,
        builder.add_bookcase,
        builder.add_cabinet,
        builder.add_crates,
        builder.add_plant,
        builder.add_floor_lamp,
    ]
    builder.rng.shuffle(furniture)
    for add in furniture[: builder.rng.randint(4, 6)]:
        add()
    if builder.rng.random() < 0.5:
        builder.add_pillar()
    for _ in range(builder.rng.randint(4, 7)):
        builder.add_picture()
    return Layout(tuple(builder.solids), tuple(builder.materials), tuple(builder.lamps))


def _linear(colour: str) -> Vector:
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (0, 2, 4))
    return red**2, green**2, blue**2


class _RoomBuilder:
    """Collects the solids of one room while it keeps furniture from overlapping."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.solids: list[Solid] = []
        self.materials: list[Material] = []
        self.lamps: list[Lamp] = []
        self._used: list[tuple[float, float, float, float]] = []
        self._hung: list[tuple[int, float, float]] = []
        palette = [_linear(colour) for colour in self.rng.choice(PALETTES)]
        self.pale, self.middle, self.accent, self.deep, self.light_wood, self.dark_wood = palette
        self.width = self.rng.uniform(4.6, 8.0)
        self.depth = self.rng.uniform(4.6, 8.0)
        self.height = self.rng.uniform(2.6, 3.3)
        woods = self.light_wood, self.dark_wood, self.accent, self.dark_wood
        self.timber = self.paint("wood", *woods, metres=1.1)
        self.post = self.paint("plaster", *woods, metres=0.5)

    def paint(self, family: str, *colours: Vector, metres: float = 0.0) -> int:
        """Register a material and return its number."""
        ground, second, accent, dark = colours
        seed = self.rng.randrange(1 << 30)
        self.materials.append(Material(family, (ground, second, accent, dark), metres, seed))
        return len(self.materials) - 1

    def put(
        self,
        shape: str,
        low: Vector,
        high: Vector,
        material: int,
        *,
        faces: dict[int, int] | None = None,
        opaque: bool = True,
        glow: float = 0.0,
    ) -> None:
        """Add a solid of one material, with other materials on some faces."""
        sides = [material] * 6
        for face, other in (faces or {}).items():
            sides[face] = other
        stretched = self.materials[material].metres == 0
        shift = (0.0, 0.0) if stretched else (self.rng.random(), self.rng.random())
        a, b, c, d, e, f = sides
        self.solids.append(Solid(shape, low, high, (a, b, c, d, e, f), shift, opaque, glow))

    def build_room(self) -> None:
        """Walls, floor and ceiling."""
        pale, middle, accent, deep = self.pale, self.middle, self.accent, self.deep
        plain = self.paint("plaster", pale, middle, accent, deep, metres=2.4)
        feature = self.rng.choice(
            [
                ("stripes", (pale, middle, accent, deep), 1.5),
                ("dots", (middle, pale, accent, deep), 1.6),
                ("bricks", (accent, self.dark_wood, pale, deep), 1.3),
                ("tiles", (middle, pale, accent, deep), 1.2),
                ("plaster", (middle, deep, accent, deep), 2.2),
            ]
        )
        special = self.paint(feature[0], *feature[1], metres=feature[2])
        ground = self.rng.choice(
            [
                ("wood", (self.light_wood, self.dark_wood, accent, self.dark_wood), 1.6),
                ("wood", (self.dark_wood, self.light_wood, accent, self.dark_wood), 1.6),
                ("checker", (pale, deep, middle, deep), 2.4),
                ("terrazzo", (pale, middle, accent, deep), 1.5),
                ("tiles", (pale, middle, deep, deep), 1.6),
            ]
        )
        floor = self.paint(ground[0], *ground[1], metres=ground[2])
        ceiling = self.paint("plaster", pale, self.light_wood, accent, deep, metres=2.8)
        faces = {FLOOR: floor, CEILING: ceiling}
        for wall in self.rng.sample(WALLS, self.rng.randint(1, 2)):
            faces[wall] = special
        x, z = self.width / 2, self.depth / 2
        self.put("box", (-x, -self.height, -z), (x, 0.0, z), plain, faces=faces, opaque=False)

    def hang_lamp(self) -> None:
        """A pendant in the middle of the room."""
        x, z = self.rng.uniform(-0.5, 0.5), self.rng.uniform(-0.5, 0.5)
        top = -self.height
        shade = self.paint("glow", (1.0, 0.86, 0.62), *[self.pale] * 3, metres=0.5)
        low, high = (x - 0.24, top + 0.34, z - 0.24), (x + 0.24, top + 0.58, z + 0.24)
        self.put("drum", low, high, shade, opaque=False, glow=1.5)
        rod = (x - 0.015, top, z - 0.015), (x + 0.015, top + 0.36, z + 0.015)
        self.put("box", *rod, self.timber, opaque=False)
        spread = 0.35
        self.lamps.append(
            Lamp(
                (x - spread, top + 0.62, z - spread),
                (x + spread, top + 0.62, z + spread),
                (2.15, 1.95, 1.65),
            )
        )

    def add_window(self) -> None:
        """A bright window on one wall, which also lights the room."""
        wall = self.rng.choice(WALLS)
        wide, sill, head = self.rng.uniform(1.3, 2.0), -0.95, -min(2.3, self.height - 0.25)
        start = (self._length(wall) - wide) * self.rng.uniform(0.25, 0.75)
        view = self.paint("window", self.pale, self.middle, self.accent, self.deep)
        along = start, start + wide
        low, high = self._against(wall, along, (0.0, 0.03), (head, sill))
        self.put("box", low, high, view, opaque=False, glow=1.25)
        shelf = self._against(
            wall, (along[0] - 0.1, along[1] + 0.1), (0.0, 0.16), (sill, sill + 0.05)
        )
        self.put("box", *shelf, self.timber, opaque=False)
        self._hung.append((wall, *along))
        inner = self._against(wall, along, (0.08, 0.10), (head, sill))
        self.lamps.append(Lamp(*inner, (1.3, 1.5, 1.75)))

    def add_island(self) -> None:
        """A rug with a table and stools near the middle of the room."""
        x, z = self.rng.uniform(-0.6, 0.6), self.rng.uniform(-0.6, 0.6)
        wide, deep = self.rng.uniform(1.0, 1.7), self.rng.uniform(0.7, 1.0)
        if self.rng.random() < 0.5:
            wide, deep = deep, wide
        carpet = self.paint("rug", self.middle, self.accent, self.pale, self.deep)
        border = 0.55
        low = x - wide / 2 - border, -0.012, z - deep / 2 - border
        high = x + wide / 2 + border, 0.0, z + deep / 2 + border
        self.put("box", low, high, carpet, opaque=False)
        tall = self.rng.choice([0.44, 0.74])
        area = (x - wide / 2, x + wide / 2), (z - deep / 2, z + deep / 2)
        self._table(*area, tall)
        self._decorate(*area, -tall)
        self._used.append((*area[0], *area[1]))

    def _table(self, across: Span, along: Span, tall: float) -> None:
        self.put(
            "box", (across[0], -tall, along[0]), (across[1], 0.06 - tall, along[1]), self.timber
        )
        for x in (across[0] + 0.05, across[1] - 0.12):
            for z in (along[0] + 0.05, along[1] - 0.12):
                self.put("box", (x, 0.06 - tall, z), (x + 0.07, 0.0, z + 0.07), self.post)

    def _decorate(self, across: Span, along: Span, top: float) -> None:
        """Put a vase, a ball or a stack of books on a surface."""
        for share in (0.28, 0.72):
            wide_x = across[1] - across[0] >= along[1] - along[0]
            x = across[0] + (across[1] - across[0]) * (share if wide_x else 0.5)
            z = along[0] + (along[1] - along[0]) * (0.5 if wide_x else share)
            radius = self.rng.uniform(0.09, 0.15)
            low, high = (x - radius, top - 2 * radius, z - radius), (x + radius, top, z + radius)
            kind = self.rng.choice(("ball", "drum", "books", "none"))
            glaze = self.rng.choice(("terrazzo", "stripes", "dots", "checker"))
            if kind in ("ball", "drum"):
                colours = self.accent, self.pale, self.deep, self.deep
                self.put(kind, low, high, self.paint(glaze, *colours, metres=0.5))
            elif kind == "books":
                cover = self.paint(
                    "fabric", self.accent, self.pale, self.deep, self.deep, metres=0.4
                )
                self.put("box", (x - 0.16, top - 0.05, z - 0.11), (x + 0.16, top, z + 0.11), cover)
                cover = self.paint(
                    "fabric", self.deep, self.middle, self.pale, self.deep, metres=0.4
                )
                low = x - 0.13, top - 0.10, z - 0.1
                self.put("box", low, (x + 0.12, top - 0.05, z + 0.09), cover)

    def add_sofa(self) -> None:
        """A sofa with its back to a wall."""
        wide, deep = self.rng.uniform(1.6, 2.3), 0.9
        place = self._find_place(wide, deep)
        if place is None:
            return
        wall, start = place
        end = start + wide
        tone = self.rng.choice((self.middle, self.accent, self.deep))
        cloth = self.paint("fabric", tone, self.pale, self.accent, self.deep, metres=0.9)
        pillow = self.paint("dots", self.pale, self.accent, self.deep, self.deep, metres=0.5)
        parts = [
            ((start + 0.18, end - 0.18), (0.05, deep), (-0.42, -0.06)),
            ((start, end), (0.02, 0.24), (-0.86, -0.06)),
            ((start, start + 0.2), (0.2, deep), (-0.62, 0.0)),
            ((end - 0.2, end), (0.2, deep), (-0.62, 0.0)),
        ]
        for part in parts:
            self.put("box", *self._against(wall, *part), cloth)
        for x in (start + 0.24, end - 0.66):
            bounds = self._against(wall, (x, x + 0.42), (0.24, 0.4), (-0.8, -0.42))
            self.put("box", *bounds, pillow)

    def add_bookcase(self) -> None:
        """A tall case full of books."""
        wide, tall = self.rng.uniform(0.9, 1.4), self.rng.uniform(1.7, 2.1)
        place = self._find_place(wide, 0.34)
        if place is None:
            return
        wall, start = place
        spines = self.paint("books", self.pale, self.middle, self.accent, self.deep)
        bounds = self._against(wall, (start, start + wide), (0.0, 0.34), (-tall, 0.0))
        self.put("box", *bounds, self.timber, faces={wall ^ 1: spines})
        self._hung.append((wall, start, start + wide))

    def add_cabinet(self) -> None:
        """A low cabinet with two doors and something on it."""
        wide, deep, tall = self.rng.uniform(1.0, 1.7), 0.46, self.rng.uniform(0.7, 0.95)
        place = self._find_place(wide, deep)
        if place is None:
            return
        wall, start = place
        doors = self.paint("front", self.light_wood, self.middle, self.accent, self.dark_wood)
        low, high = self._against(wall, (start, start + wide), (0.0, deep), (-tall, 0.0))
        self.put("box", low, high, self.timber, faces={wall ^ 1: doors})
        self._decorate((low[0], high[0]), (low[2], high[2]), -tall)

    def add_crates(self) -> None:
        """A stack of two crates."""
        place = self._find_place(0.8, 0.7)
        if place is None:
            return
        wall, start = place
        front = self.paint("tiles", self.accent, self.pale, self.deep, self.deep, metres=0.8)
        part = (start, start + 0.75), (0.03, 0.68), (-0.55, 0.0)
        self.put("box", *self._against(wall, *part), self.timber)
        part = (start + 0.1, start + 0.6), (0.08, 0.55), (-0.95, -0.55)
        self.put("box", *self._against(wall, *part), front)

    def add_plant(self) -> None:
        """A bushy plant in a pot."""
        place = self._find_place(0.7, 0.7)
        if place is None:
            return
        (x, _, z), _ = self._against(place[0], (place[1] + 0.35,) * 2, (0.36, 0.36), (0.0, 0.0))
        pot = self.paint("stripes", self.accent, self.pale, self.deep, self.deep, metres=0.6)
        green = self.paint(
            "leaves", _linear("4f7d3a"), _linear("9cc15a"), self.pale, self.deep, metres=0.6
        )
        self.put("drum", (x - 0.19, -0.4, z - 0.19), (x + 0.19, 0.0, z + 0.19), pot)
        for dx, dz, up, radius in ((0.0, 0.0, 0.7, 0.33), (0.1, -0.08, 1.08, 0.25)):
            low = x + dx - radius, -up - radius, z + dz - radius
            self.put("ball", low, (x + dx + radius, radius - up, z + dz + radius), green)

    def add_floor_lamp(self) -> None:
        """A standing lamp with a glowing shade."""
        place = self._find_place(0.5, 0.5)
        if place is None:
            return
        (x, _, z), _ = self._against(place[0], (place[1] + 0.25,) * 2, (0.3, 0.3), (0.0, 0.0))
        shade = self.paint("glow", (1.0, 0.8, 0.5), *[self.pale] * 3, metres=0.4)
        self.put("drum", (x - 0.16, -0.03, z - 0.16), (x + 0.16, 0.0, z + 0.16), self.timber)
        self.put("drum", (x - 0.025, -1.5, z - 0.025), (x + 0.025, 0.0, z + 0.025), self.post)
        low, high = (x - 0.21, -1.72, z - 0.21), (x + 0.21, -1.4, z + 0.21)
        self.put("drum", low, high, shade, opaque=False, glow=1.35)
        spread = 0.12
        corners = (x - spread, -1.36, z - spread), (x + spread, -1.36, z + spread)
        self.lamps.append(Lamp(*corners, (0.5, 0.4, 0.26)))

    def add_pillar(self) -> None:
        """A round column, or a wall that reaches into the room."""
        if self.rng.random() < 0.5:
            place = self._find_place(0.8, 1.1)
            if place is None:
                return
            clay = self.paint(
                "terrazzo", self.pale, self.middle, self.accent, self.deep, metres=1.0
            )
            (x, _, z), _ = self._against(place[0], (place[1] + 0.4,) * 2, (0.75, 0.75), (0.0, 0.0))
            radius = self.rng.uniform(0.16, 0.24)
            low, high = (x - radius, -self.height, z - radius), (x + radius, 0.0, z + radius)
            self.put("drum", low, high, clay)
            return
        place = self._find_place(0.16, 1.3)
        if place is None:
            return
        wall, start = place
        bricks = self.paint("bricks", self.accent, self.dark_wood, self.pale, self.deep, metres=1.2)
        part = (start, start + 0.16), (0.0, 1.25), (-self.height, 0.0)
        self.put("box", *self._against(wall, *part), bricks)
        self._hung.append((wall, start, start + 0.16))

    def add_picture(self) -> None:
        """A framed picture on a free stretch of wall."""
        for _ in range(20):
            wall = self.rng.choice(WALLS)
            wide, tall = self.rng.uniform(0.5, 1.1), self.rng.uniform(0.5, 0.95)
            start = self.rng.uniform(0.25, self._length(wall) - wide - 0.25)
            if self._wall_is_free(wall, start - 0.12, start + wide + 0.12):
                break
        else:
            return
        family = self.rng.choice(PICTURES)
        colours = [self.pale, self.middle, self.accent, self.deep]
        art = self.paint(family, *colours)
        middle = -1.62 + self.rng.uniform(-0.08, 0.08)
        part = (start, start + wide), (0.0, 0.035), (middle - tall / 2, middle + tall / 2)
        self.put("box", *self._against(wall, *part), art, opaque=False)
        self._hung.append((wall, start, start + wide))

    def _length(self, wall: int) -> float:
        return self.depth if wall < CEILING else self.width

    def _wall_is_free(self, wall: int, start: float, end: float) -> bool:
        return all(
            other != wall or end < left or start > right for other, left, right in self._hung
        )

    def _against(self, wall: int, along: Span, away: Span, heights: Span) -> tuple[Vector, Vector]:
        """Bounds of a box given along a wall and by its distance from the wall."""
        reach = (self.width if wall < CEILING else self.depth) / 2
        near, far = (away[0] - reach, away[1] - reach)
        if wall % 2:
            near, far = -far, -near
        half = self._length(wall) / 2
        left, right = along[0] - half, along[1] - half
        if wall < CEILING:
            return (near, heights[0], left), (far, heights[1], right)
        return (left, heights[0], near), (right, heights[1], far)

    def _find_place(self, wide: float, deep: float) -> tuple[int, float] | None:
        """A wall and a position along it where nothing stands yet; None in a full room."""
        for _ in range(30):
            wall = self.rng.choice(WALLS)
            start = self.rng.uniform(0.05, self._length(wall) - wide - 0.05)
            low, high = self._against(wall, (start, start + wide), (0.0, deep), (0.0, 0.0))
            area = low[0], high[0], low[2], high[2]
            if not any(_overlap(area, other) for other in self._used):
                self._used.append(area)
                return wall, start
        return None


def _overlap(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> bool:
    """Whether two floor areas come closer than a hand's breadth."""
    gap = 0.1
    return (
        first[0] < second[1] + gap
        and second[0] < first[1] + gap
        and first[2] < second[3] + gap
        and second[2] < first[3] + gap
    )

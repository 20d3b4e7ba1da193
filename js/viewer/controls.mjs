/** Cameras of a viewport: orbiting, from above, from the side, or the camera of the shot. */

import {
  IDENTITY, add, clamp, forwardOf, multiply, norm, rotate, rotationAbout, scale, subtract, unrotate,
} from "./math.mjs";

export const VIEWS = Object.freeze(["orbit", "top", "side", "camera"]);

const FOV = (50 * Math.PI) / 180;
const ORTHOGRAPHIC = { top: rotationAbout(0, -Math.PI / 2), side: rotationAbout(1, -Math.PI / 2) };

/** The camera of a viewport and its navigation. Pixels are those of the canvas. */
export class OrbitControls {
  constructor() {
    this.view = "orbit";
    this.yaw = -0.6;
    this.pitch = -0.45;
    /** The point that the camera orbits about, and its distance from it. */
    this.target = [0, 0, 1];
    this.distance = 3;
    this.width = 1;
    this.height = 1;
    /** @type {{rotation: number[], position: number[], focal: number} | null} the shot's camera */
    this.camera = null;
    this.scene = null;
    /** @type {0 | 1 | null} the half of the view that the shot's picture is in; null for all of it */
    this.side = null;
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
  }

  /** Place the camera so that a sphere around `centre` fills the view. */
  frame(centre, radius) {
    this.target = [...centre];
    this.distance = Math.max(radius, 1e-3) / Math.sin(FOV / 2);
  }

  get orthographic() {
    return this.view === "top" || this.view === "side";
  }

  /** Camera-to-world rotation of the view. */
  get rotation() {
    if (this.view === "camera" && this.camera) return this.camera.rotation;
    if (this.orthographic) return ORTHOGRAPHIC[this.view];
    return multiply(rotationAbout(1, this.yaw), rotationAbout(0, this.pitch));
  }

  get position() {
    if (this.view === "camera" && this.camera) return this.camera.position;
    return subtract(this.target, scale(forwardOf(this.rotation), this.distance));
  }

  /** Focal lengths and centre of the view in pixels; the shot's picture is fitted into it. */
  get lens() {
    if (this.view === "camera" && this.camera && this.scene) {
      const [left, top, width] = this.picture;
      const fit = width / this.scene.width;
      const [fx, fy, cx, cy] = this.scene.intrinsics;
      const focal = this.camera.focal * fit;
      return { fx: fx * focal, fy: fy * focal, cx: left + cx * fit, cy: top + cy * fit };
    }
    const focal = Math.min(this.width, this.height) / 2 / Math.tan(FOV / 2);
    return { fx: focal, fy: focal, cx: this.width / 2, cy: this.height / 2 };
  }

  /** Rectangle of the shot's picture in the view, in camera view. */
  get picture() {
    return this.#pictureOn(this.side);
  }

  /** Rectangles of all pictures in camera view, from left to right. */
  get pictures() {
    return this.side === null ? [this.picture] : [this.#pictureOn(0), this.#pictureOn(1)];
  }

  #pictureOn(side) {
    const { width, height } = this.scene;
    const room = side === null ? this.width : this.width / 2;
    const fit = Math.min(room / width, this.height / height);
    const left = (side ?? 0) * room + (room - width * fit) / 2;
    return [left, (this.height - height * fit) / 2, width * fit, height * fit];
  }

  /** Pixels per scene unit at the target; the scale of the whole view when orthographic. */
  get zoom() {
    return this.lens.fx / this.distance;
  }

  /** Projection of a world point: x and y in pixels, and view-space depth; z <= 0 is behind. */
  project(point) {
    const [x, y, z] = unrotate(this.rotation, subtract(point, this.position));
    const { fx, fy, cx, cy } = this.lens;
    if (this.orthographic) return [cx + x * this.zoom, cy + y * this.zoom, Math.max(z, 1e-6)];
    return [cx + (x / z) * fx, cy + (y / z) * fy, z];
  }

  /** The world point at pixels (x, y) in the view-parallel plane through `through`. */
  unproject(x, y, through) {
    const { fx, fy, cx, cy } = this.lens;
    const z = unrotate(this.rotation, subtract(through, this.position))[2];
    const ray = this.orthographic
      ? [(x - cx) / this.zoom, (y - cy) / this.zoom, z]
      : [((x - cx) / fx) * z, ((y - cy) / fy) * z, z];
    return add(this.position, rotate(this.rotation, ray));
  }

  /** The world point at pixels (x, y) in a horizontal plane; null above the horizon. */
  onLevel(x, y, height) {
    const { fx, fy, cx, cy } = this.lens;
    if (this.orthographic) {
      const point = this.unproject(x, y, this.target);
      return this.view === "top" ? [point[0], height, point[2]] : null;
    }
    const ray = rotate(this.rotation, [(x - cx) / fx, (y - cy) / fy, 1]);
    const reach = (height - this.position[1]) / ray[1];
    if (!(reach > 0) || reach * norm(ray) > 40 * this.distance) return null;
    return add(this.position, scale(ray, reach));
  }

  /** Turn about the target by a drag in pixels. */
  orbit(dx, dy) {
    this.view = "orbit";
    this.yaw += (dx / Math.max(1, this.height)) * 3;
    this.pitch = clamp(this.pitch - (dy / Math.max(1, this.height)) * 3, -1.55, 1.55);
  }

  /** Move sideways by a drag in pixels. */
  pan(dx, dy) {
    if (this.view === "camera") return;
    const shift = rotate(this.rotation, [-dx / this.zoom, -dy / this.zoom, 0]);
    this.target = add(this.target, shift);
  }

  /** Scale the distance to the target; factors below 1 move closer. */
  dolly(factor) {
    if (this.view === "camera") return;
    this.distance = clamp(this.distance * factor, 1e-3, 1e6);
  }

  /** Look in the direction of another camera, keeping the target. */
  follow(rotation) {
    const forward = forwardOf(rotation ?? IDENTITY);
    this.yaw = Math.atan2(forward[0], forward[2]);
    this.pitch = Math.asin(clamp(-forward[1], -1, 1));
  }

  /** 4 x 4 matrix in column-major order for WebGL, and the size of a point at distance 1. */
  matrix() {
    const { fx, fy, cx, cy } = this.lens;
    const { rotation: r, position: p, width: w, height: h } = this;
    const right = [r[0], r[3], r[6]];
    const down = [r[1], r[4], r[7]];
    const ahead = [r[2], r[5], r[8]];
    const at = (axis) => -(axis[0] * p[0] + axis[1] * p[1] + axis[2] * p[2]);
    const row = (axis) => [...axis, at(axis)];
    const [x, y, z] = [row(right), row(down), row(ahead)];
    const rows = this.orthographic
      ? this.#orthographic(x, y, z)
      : this.#perspective(x, y, z, fx, fy, cx, cy);
    const size = this.orthographic ? this.zoom : fx;
    const columns = [0, 1, 2, 3].flatMap((i) => rows.map((values) => values[i]));
    return { matrix: new Float32Array(columns), size, width: w, height: h };
  }

  #perspective(x, y, z, fx, fy, cx, cy) {
    const [near, far] = [this.distance * 1e-3, this.distance * 1e3];
    const mix = (axis, a, b) => axis.map((value, i) => value * a + z[i] * b);
    const depth = (far + near) / (far - near);
    const rows = [
      mix(x, (2 * fx) / this.width, (2 * cx) / this.width - 1),
      mix(y, (-2 * fy) / this.height, 1 - (2 * cy) / this.height),
      z.map((value) => value * depth),
      z,
    ];
    rows[2][3] -= (2 * far * near) / (far - near);
    return rows;
  }

  #orthographic(x, y, z) {
    const reach = this.distance * 50;
    const rows = [
      x.map((value) => (value * 2 * this.zoom) / this.width),
      y.map((value) => (-value * 2 * this.zoom) / this.height),
      z.map((value) => value / reach),
      [0, 0, 0, 1],
    ];
    rows[2][3] -= this.distance / reach;
    return rows;
  }
}

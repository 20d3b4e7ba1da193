/** What a camera of the shot sees: surfels, or dots, or flat cells; drawn again only when it changed. */

import { Choice } from "./best_view.mjs";
import { sharedRenderer } from "./renderer.mjs";
import { gridOf } from "./scene.mjs";
import { Grid, readGrid } from "./zbuffer.mjs";

/** Two shades of stripes that mark what is unknown, unlike anything in a picture. */
const HOLE = [
  [96, 30, 84, 255],
  [168, 60, 140, 255],
];
const UNMARKED = [32, 32, 32, 255];
/** CSS pixels of a stripe. */
const STRIPE = 6;

/**
 * @typedef {object} Shot what is looked at, and how
 * @property {import("./points.mjs").PointSet} points
 * @property {"colour" | "feature" | "plain"} colouring
 * @property {import("./math.mjs").Pose & {focal: number}} camera
 * @property {import("./scene.mjs").Scene} scene
 * @property {import("./points.mjs").PointSet} [still] those of the points that are known background
 */

export class CameraPicture {
  constructor() {
    this.layer = document.createElement("canvas");
    this.context = this.layer.getContext("2d");
    this.choice = new Choice();
    this.grid = new Grid(0, 0);
    this.cells = document.createElement("canvas");
    this.key = "";
    this.points = null;
    /** @type {"surfels" | "dots" | "cells"} how it was drawn last */
    this.kind = "cells";
    /** How often something was drawn. */
    this.drawings = 0;
  }

  /**
   * Draw a camera's picture.
   *
   * @param {CanvasRenderingContext2D} context where to
   * @param {number[]} place left, top, width and height there
   * @param {Shot} shot
   * @param {number} ratio canvas pixels per CSS pixel
   */
  draw(context, [left, top, width, height], shot, ratio = 1) {
    const size = [width, height].map((side) => Math.max(1, Math.round(side)));
    const kind = kindOf(shot.points);
    const { camera, scene } = shot;
    const key = [
      kind, sharedRenderer()?.age, shot.colouring, ratio, ...size, ...camera.rotation, ...camera.position,
      camera.focal, scene.width, scene.height, ...scene.intrinsics,
    ].join();
    if (key !== this.key || shot.points !== this.points) {
      [this.key, this.points, this.kind] = [key, shot.points, kind];
      this.drawings += 1;
      this.#draw(shot, size, ratio);
    }
    context.drawImage(this.layer, left, top, width, height);
  }

  #draw(shot, [width, height], ratio) {
    const { layer, context } = this;
    if (layer.width !== width) layer.width = width;
    if (layer.height !== height) layer.height = height;
    if (this.kind === "surfels") this.#surfels(shot, ratio);
    else if (this.kind === "dots") this.#dots(shot, ratio);
    else paintCells(context, this.cells, this.#read(shot), shot);
  }

  #surfels({ points, colouring, camera, scene }, ratio) {
    const { surfels } = points;
    this.choice.drawn(surfels, camera, scene);
    sharedRenderer().drawSurfels(this.context, surfels, this.choice, {
      camera, scene,
      colours: colouring === "feature" ? surfels.feature : surfels.colour,
      textured: colouring !== "feature",
      marks: colouring !== "plain",
      stripe: STRIPE * ratio,
    });
  }

  /** Pixels of a picture as dots of their size, over what is unknown. */
  #dots(shot, ratio) {
    const { points, colouring, camera, scene } = shot;
    const { layer, context } = this;
    stripes(context, colouring !== "plain", STRIPE * ratio);
    const colours = colouring === "feature" ? points.feature : points.colour;
    const [matrix, size] = dotMatrix(camera, scene, layer.width, layer.height);
    sharedRenderer().draw(context, points, colours, { matrix, size, least: 1 });
  }

  #read({ points, camera, scene }) {
    const { rows, columns } = gridOf(scene);
    if (this.grid.rows !== rows || this.grid.columns !== columns) this.grid = new Grid(rows, columns);
    return readGrid(points, camera, scene, this.grid);
  }
}

/** How points can be drawn here and now. */
export function kindOf(points) {
  const renderer = sharedRenderer();
  if (!renderer || renderer.gl.isContextLost()) return "cells";
  if (!points.surfels) return "dots";
  return renderer.drawsSurfels ? "surfels" : "cells";
}

/** The readout itself, one square for each latent cell. */
function paintCells(context, small, grid, { points, colouring }) {
  const { winner, rows, columns } = grid;
  [small.width, small.height] = [columns, rows];
  const colours = colouring === "feature" ? points.feature : points.colour;
  const holes = colouring === "plain" ? [UNMARKED, UNMARKED] : HOLE;
  const pixels = new ImageData(columns, rows);
  for (let cell = 0; cell < winner.length; cell++) {
    const point = winner[cell];
    const stripe = (((cell % columns) + Math.floor(cell / columns)) >> 1) % 2;
    pixels.data.set(point >= 0 ? colours.subarray(4 * point, 4 * point + 4) : holes[stripe], 4 * cell);
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
}

function stripes(context, marked, width) {
  const { canvas } = context;
  const [dark, light] = (marked ? HOLE : [UNMARKED, UNMARKED]).map(([r, g, b]) => `rgb(${r} ${g} ${b})`);
  context.fillStyle = dark;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = light;
  context.lineWidth = width / Math.SQRT2;
  context.beginPath();
  for (let x = -canvas.height; x < canvas.width; x += 2 * width) {
    context.moveTo(x, 0);
    context.lineTo(x + canvas.height, canvas.height);
  }
  context.stroke();
}

/** 4 x 4 matrix in column order that draws a camera's whole picture, and pixels of a unit at distance 1. */
function dotMatrix(camera, scene, width, height) {
  const { rotation: r, position: p, focal } = camera;
  const [fx, fy, cx, cy] = scene.intrinsics;
  const axes = [0, 1, 2].map((k) => [r[k], r[3 + k], r[6 + k]]);
  const [x, y, z] = axes.map((axis) => [...axis, -(axis[0] * p[0] + axis[1] * p[1] + axis[2] * p[2])]);
  const mix = (axis, a, b) => axis.map((value, i) => value * a + z[i] * b);
  const near = scene.depth * 1e-3;
  const rows = [
    mix(x, (2 * fx * focal) / scene.width, (2 * cx) / scene.width - 1),
    mix(y, (-2 * fy * focal) / scene.height, 1 - (2 * cy) / scene.height),
    z.map((value, i) => value - (i === 3 ? 2 * near : 0)),
    z,
  ];
  const columns = [0, 1, 2, 3].flatMap((i) => rows.map((values) => values[i]));
  return [new Float32Array(columns), (fx * focal * Math.max(width / scene.width, height / scene.height))];
}

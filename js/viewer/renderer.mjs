/** Points and surfels drawn by WebGL: one context for all widgets of a page. */

import { SurfelPainter } from "./surfels.mjs";

const VERTEX = `#version 300 es
layout(location = 0) in vec3 position;
layout(location = 1) in vec4 colour;
layout(location = 2) in float width;
uniform mat4 project;
uniform vec2 size;  // pixels of a unit at distance 1, least size in pixels
out vec3 shade;
void main() {
  gl_Position = project * vec4(position, 1.0);
  gl_PointSize = clamp(1.2 * size.x * width / max(gl_Position.w, 1e-6), size.y, 40.0);
  shade = colour.rgb;
}`;

const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 shade;
out vec4 pixel;
void main() { pixel = vec4(shade, 1.0); }`;

/** @type {Renderer | null | undefined} undefined until the first use, null without WebGL2 */
let shared;

/** Called when the context was lost, and when it is back. */
const changes = new EventTarget();

/** The page's renderer; null where the browser has no WebGL2. */
export function sharedRenderer() {
  if (shared === undefined) {
    const canvas = document.createElement("canvas");
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: true });
    shared = gl ? new Renderer(canvas, gl) : null;
  }
  return shared;
}

/**
 * Call back when what was drawn has to be drawn again, since the graphics went or came back.
 *
 * @returns {() => void} stops it
 */
export function onGraphics(listener) {
  changes.addEventListener("change", listener);
  return () => changes.removeEventListener("change", listener);
}

class Renderer {
  constructor(canvas, gl) {
    this.canvas = canvas;
    this.gl = gl;
    /** @type {WeakMap<Uint8Array, {array: WebGLVertexArrayObject, buffers: WebGLBuffer[]}>} */
    this.uploads = new WeakMap();
    this.program = null;
    /** @type {SurfelPainter | null | undefined} undefined until the first use */
    this.surfels = undefined;
    /** Counts losses of the context: what was drawn before one is another drawing. */
    this.age = 0;
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.#forget();
    });
    canvas.addEventListener("webglcontextrestored", () => this.#forget());
    // Buffers are freed when no widget references their colours any more.
    this.finished = new FinalizationRegistry(({ array, buffers }) => {
      gl.deleteVertexArray(array);
      for (const buffer of buffers) gl.deleteBuffer(buffer);
    });
  }

  #forget() {
    this.uploads = new WeakMap();
    this.program = null;
    this.surfels = undefined;
    this.age += 1;
    changes.dispatchEvent(new Event("change"));
  }

  /** Whether surfels can be drawn now. */
  get drawsSurfels() {
    if (this.gl.isContextLost()) return false;
    this.surfels ??= this.surfels === undefined ? SurfelPainter.on(this.gl) : null;
    return this.surfels !== null;
  }

  /**
   * Draw surfels and copy the picture to a canvas, over all of it; see `SurfelPainter.draw`.
   *
   * @param {CanvasRenderingContext2D} context where to
   * @param {import("./surfel_set.mjs").SurfelSet} set
   * @param {import("./best_view.mjs").Choice} choice
   * @param {object} shot
   */
  drawSurfels(context, set, choice, shot) {
    const { width, height } = context.canvas;
    this.#hold(width, height);
    this.surfels.draw(set, choice, shot, [width, height]);
    this.#copy(context, width, height);
  }

  /** Make the canvas large enough: it only grows, since widgets of different sizes take turns. */
  #hold(width, height) {
    const { canvas } = this;
    if (canvas.width < width) canvas.width = width;
    if (canvas.height < height) canvas.height = height;
  }

  /** Copy the lower left corner of the canvas. */
  #copy(context, width, height) {
    const { canvas } = this;
    context.drawImage(canvas, 0, canvas.height - height, width, height, 0, 0, width, height);
  }

  /**
   * Draw points on a transparent background and copy them to a canvas.
   *
   * @param {CanvasRenderingContext2D} context where to
   * @param {import("./points.mjs").PointSet} points
   * @param {Uint8Array} colours 4 per point
   * @param {{matrix: Float32Array, size: number, least: number}} view
   */
  draw(context, points, colours, { matrix, size, least }) {
    const { gl } = this;
    const { width, height } = context.canvas;
    if (gl.isContextLost() || !width || !height) return;
    this.#hold(width, height);
    this.program ??= this.#link();
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.enable(gl.DEPTH_TEST);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(this.program.handle);
    gl.uniformMatrix4fv(this.program.project, false, matrix);
    gl.uniform2f(this.program.size, size, least);
    gl.bindVertexArray(this.#upload(points, colours));
    gl.drawArrays(gl.POINTS, 0, points.count);
    gl.bindVertexArray(null);
    this.#copy(context, width, height);
  }

  /** Free what was uploaded of points that are shown no more. */
  release(points) {
    for (const colours of [points.colour, points.feature]) {
      const known = this.uploads.get(colours);
      if (!known) continue;
      this.gl.deleteVertexArray(known.array);
      for (const buffer of known.buffers) this.gl.deleteBuffer(buffer);
      this.uploads.delete(colours);
    }
    if (points.surfels) this.surfels?.release(points.surfels);
  }

  #link() {
    const { gl } = this;
    const handle = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(handle, shader);
    }
    gl.linkProgram(handle);
    return {
      handle,
      project: gl.getUniformLocation(handle, "project"),
      size: gl.getUniformLocation(handle, "size"),
    };
  }

  /** The vertex array of the points, uploaded at first use. */
  #upload(points, colours) {
    const { gl } = this;
    const known = this.uploads.get(colours);
    if (known) return known.array;
    const array = gl.createVertexArray();
    const buffers = [gl.createBuffer(), gl.createBuffer(), gl.createBuffer()];
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[0]);
    gl.bufferData(gl.ARRAY_BUFFER, points.position, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[1]);
    gl.bufferData(gl.ARRAY_BUFFER, colours, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 4, gl.UNSIGNED_BYTE, true, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[2]);
    gl.bufferData(gl.ARRAY_BUFFER, points.size, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(2);
    gl.vertexAttribPointer(2, 1, gl.FLOAT, false, 0, 0);
    this.uploads.set(colours, { array, buffers });
    this.finished.register(colours, { array, buffers });
    return array;
  }
}

/** Surfels drawn by WebGL: the front surface first, then what lies on it, mixed by how well it was seen. */

import { maskCentre } from "./surfel_set.mjs";
import { FINISH, FRONT, MIX, ROW, SCREEN, VERTEX } from "./surfel_shaders.mjs";

/** Surfels mix where their inverse depths differ by less than this share. */
const SAME_SURFACE = 1.08;

/** What unknown and soft parts look like; the second kind leaves the picture as it is. */
const MARKS = {
  shown: { holes: [96, 30, 84, 168, 60, 140], tint: [232 / 255, 176 / 255, 64 / 255, 0.35] },
  hidden: { holes: [32, 32, 32, 32, 32, 32], tint: [0, 0, 0, 0] },
};

/** Draws surfels into the canvas of a context; made anew when the context was lost. */
export class SurfelPainter {
  /**
   * @param {WebGL2RenderingContext} gl
   * @returns {SurfelPainter | null} null where sums cannot be kept with enough digits
   */
  static on(gl) {
    const floats = gl.getExtension("EXT_color_buffer_float") ?? gl.getExtension("EXT_color_buffer_half_float");
    return floats ? new SurfelPainter(gl) : null;
  }

  constructor(gl) {
    this.gl = gl;
    this.front = program(gl, VERTEX, FRONT);
    this.mix = program(gl, VERTEX, MIX);
    this.finish = program(gl, SCREEN, FINISH);
    /** @type {WeakMap<object, WebGLTexture>} of surfels, their colours, and pictures */
    this.textures = new WeakMap();
    this.finished = new FinalizationRegistry((texture) => gl.deleteTexture(texture));
    this.vertices = gl.createBuffer();
    this.corners = gl.createBuffer();
    /** Surfels for which there are corners. */
    this.room = 0;
    this.array = this.#layOut();
    this.target = gl.createFramebuffer();
    [this.width, this.height] = [0, 0];
    this.data = new ArrayBuffer(0);
  }

  /**
   * Draw the picture of a camera into the lower left corner of the canvas.
   *
   * @param {import("./surfel_set.mjs").SurfelSet} set
   * @param {import("./best_view.mjs").Choice} choice what is shown
   * @param {object} shot
   * @param {import("./math.mjs").Pose & {focal: number}} shot.camera
   * @param {import("./scene.mjs").Scene} shot.scene
   * @param {Uint8Array} shot.colours 4 for each surfel
   * @param {boolean} shot.textured draw pictures where there are some
   * @param {boolean} shot.marks tell what is unknown and what is soft
   * @param {number} shot.stripe width of the stripes of what is unknown, in pixels
   * @param {[number, number]} size of the picture in pixels
   */
  draw(set, choice, shot, [width, height]) {
    const { gl } = this;
    this.#resize(width, height);
    const groups = this.#fill(set, choice, shot.textured);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.viewport(0, 0, width, height);
    gl.disable(gl.BLEND);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
    gl.depthMask(true);
    gl.colorMask(true, true, true, true);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const near = 0.3 * Math.min(choice.nearest, shot.scene.depth * 1e3);
    this.#use(this.front, set, shot, [width, height], [near, 1]);
    gl.colorMask(false, false, false, false);
    gl.drawElements(gl.TRIANGLES, 6 * choice.count, gl.UNSIGNED_INT, 0);
    gl.colorMask(true, true, true, true);
    gl.depthMask(false);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE);
    this.#use(this.mix, set, shot, [width, height], [near, SAME_SURFACE]);
    const marks = shot.marks ? MARKS.shown : MARKS.hidden;
    gl.uniform4f(this.mix.at("tint"), ...marks.tint);
    for (const { atlas, first, count } of groups) this.#mixGroup(set, shot, width, atlas, first, count);
    gl.disable(gl.BLEND);
    gl.depthMask(true);
    this.#finish(marks, shot.stripe, width, height);
  }

  #use(used, set, { camera, scene, colours }, [width, height], [near, factor]) {
    const { gl } = this;
    const scale = width / scene.width;
    const [fx, fy, cx, cy] = scene.intrinsics;
    gl.useProgram(used.handle);
    this.#bind(0, this.#geometry(set));
    this.#bind(1, this.#colours(colours, set.count));
    gl.uniform1i(used.at("geometry"), 0);
    gl.uniform1i(used.at("colours"), 1);
    // Rows of camera to world, taken as columns, are the columns of the way back.
    gl.uniformMatrix3fv(used.at("back"), false, camera.rotation);
    gl.uniform3fv(used.at("eye"), camera.position);
    const vertical = height / scene.height;
    gl.uniform4f(used.at("lens"), fx * camera.focal * scale, fy * camera.focal * vertical, cx * scale, cy * vertical);
    gl.uniform2f(used.at("size"), width, height);
    gl.uniform3f(used.at("depth"), near, factor, set.released ? 0.5 * set.stride * scale : 0);
    gl.uniform3f(used.at("square"), 0, 1, 0.5 * set.stride * scale);
  }

  #mixGroup(set, { scene }, width, atlas, first, count) {
    const { gl, mix } = this;
    const half = (0.5 * set.stride * width) / scene.width;
    this.#bind(2, atlas ? this.#picture(atlas) : this.#geometry(set));
    gl.uniform1i(mix.at("atlas"), 2);
    gl.uniform2f(mix.at("atlasSize"), atlas?.image.width ?? 0, atlas?.image.height ?? 0);
    gl.uniform3f(mix.at("square"), atlas?.side ?? 1, atlas?.columns ?? 1, half);
    gl.drawElements(gl.TRIANGLES, 6 * count, gl.UNSIGNED_INT, 24 * first);
  }

  #finish(marks, stripe, width, height) {
    const { gl, finish } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(finish.handle);
    this.#bind(0, this.mixed);
    gl.uniform1i(finish.at("mixed"), 0);
    gl.uniform3fv(finish.at("holes"), marks.holes.map((value) => value / 255));
    gl.uniform1f(finish.at("stripe"), stripe);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.enable(gl.DEPTH_TEST);
    gl.bindVertexArray(null);
  }

  /** Numbers and shares of what is shown, those of one picture together. */
  #fill(set, choice, textured) {
    const { gl } = this;
    const { chosen, count } = choice;
    gl.bindVertexArray(this.array);
    this.#makeRoom(count);
    const [numbers, shares] = [new Uint32Array(this.data), new Float32Array(this.data)];
    const ends = new Uint32Array(set.atlases.length + 2);
    const groupOf = (i) => (textured ? set.atlas[i] : 0);
    for (let n = 0; n < count; n++) ends[groupOf(chosen[n]) + 1]++;
    for (let g = 1; g < ends.length; g++) ends[g] += ends[g - 1];
    const next = ends.slice();
    for (let n = 0; n < count; n++) {
      const at = 8 * next[groupOf(chosen[n])]++;
      const share = choice.share(chosen[n]);
      for (let k = at; k < at + 8; k += 2) {
        numbers[k] = chosen[n];
        shares[k + 1] = share;
      }
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, this.vertices);
    gl.bufferData(gl.ARRAY_BUFFER, numbers.subarray(0, 8 * count), gl.DYNAMIC_DRAW);
    const groups = [null, ...set.atlases];
    return groups
      .map((atlas, g) => ({ atlas, first: ends[g], count: ends[g + 1] - ends[g] }))
      .filter((group) => group.count);
  }

  /** Four vertices for each surfel: software draws instances one by one, and slowly. */
  #layOut() {
    const { gl } = this;
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.vertices);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribIPointer(0, 1, gl.UNSIGNED_INT, 8, 0);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 1, gl.FLOAT, false, 8, 4);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.corners);
    gl.bindVertexArray(null);
    return array;
  }

  #makeRoom(count) {
    const { gl } = this;
    if (count <= this.room) return;
    this.room = 2 * count;
    this.data = new ArrayBuffer(32 * this.room);
    const corners = new Uint32Array(6 * this.room);
    for (let n = 0; n < this.room; n++) corners.set([0, 1, 2, 2, 1, 3].map((k) => 4 * n + k), 6 * n);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
  }

  #bind(unit, texture) {
    const { gl } = this;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, texture);
  }

  /** The texture of something, made at first use and freed with it. */
  #texture(owner, fill) {
    const known = this.textures.get(owner);
    if (known) return known;
    const { gl } = this;
    const texture = gl.createTexture();
    this.#bind(3, texture);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    fill(gl);
    this.textures.set(owner, texture);
    this.finished.register(owner, texture);
    return texture;
  }

  /** Free what was uploaded of surfels that are shown no more; pictures stay. */
  release(set) {
    for (const owner of [set, set.colour, set.feature]) {
      this.gl.deleteTexture(this.textures.get(owner) ?? null);
      this.textures.delete(owner);
    }
  }

  #geometry(set) {
    return this.#texture(set, (gl) => {
      const rows = Math.max(1, Math.ceil(set.count / ROW));
      const texels = new Float32Array(rows * ROW * 12);
      for (let i = 0; i < set.count; i++) {
        const [x, y] = maskCentre(set.mask[i]);
        for (let k = 0; k < 3; k++) {
          const [a, b] = [set.across[3 * i + k], set.down[3 * i + k]];
          texels[12 * i + k] = set.position[3 * i + k] - x * a - y * b;
          texels[12 * i + 4 + k] = a;
          texels[12 * i + 8 + k] = b;
        }
        texels[12 * i + 3] = set.tile[i];
        texels[12 * i + 7] = set.mask[i];
      }
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, 3 * ROW, rows, 0, gl.RGBA, gl.FLOAT, texels);
    });
  }

  #colours(colours, count) {
    return this.#texture(colours, (gl) => {
      const rows = Math.max(1, Math.ceil(count / ROW));
      const texels = new Uint8Array(rows * ROW * 4);
      texels.set(colours.subarray(0, 4 * count));
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, ROW, rows, 0, gl.RGBA, gl.UNSIGNED_BYTE, texels);
    });
  }

  #picture(atlas) {
    return this.#texture(atlas, (gl) => {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, atlas.image);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAX_LEVEL, Math.log2(atlas.side));
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_NEAREST);
      gl.generateMipmap(gl.TEXTURE_2D);
    });
  }

  #resize(width, height) {
    if (this.width === width && this.height === height) return;
    const { gl } = this;
    [this.width, this.height] = [width, height];
    gl.deleteTexture(this.mixed ?? null);
    gl.deleteRenderbuffer(this.depth ?? null);
    this.mixed = gl.createTexture();
    this.#bind(3, this.mixed);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA16F, width, height);
    this.depth = gl.createRenderbuffer();
    gl.bindRenderbuffer(gl.RENDERBUFFER, this.depth);
    gl.renderbufferStorage(gl.RENDERBUFFER, gl.DEPTH_COMPONENT24, width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.mixed, 0);
    gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.RENDERBUFFER, this.depth);
  }
}

/** A linked program, and where its inputs are. */
function program(gl, vertex, fragment) {
  const handle = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(handle, shader);
  }
  gl.linkProgram(handle);
  const places = new Map();
  return {
    handle,
    at(name) {
      if (!places.has(name)) places.set(name, gl.getUniformLocation(handle, name));
      return places.get(name);
    },
  };
}

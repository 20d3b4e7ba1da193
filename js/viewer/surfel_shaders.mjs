/** What the graphics card runs to draw surfels. */

import { SOFT } from "./seen.mjs";
import { WHOLE } from "./surfel_set.mjs";

/** Surfels beside each other in a texture; each has 3 texels of geometry. */
export const ROW = 1024;
/** Half-width of a drawn surfel in its own half-widths, and the part with its full weight. */
const SUPPORT = 1.15;
const FLAT = 0.85;
/** Half-width in pixels below which cracks would open. */
const LEAST_HALF_WIDTH = 0.615;
/** Times `SOFT` at which the mark of what is soft is full. */
const FULLY_SOFT = 1.3;

export const VERTEX = `#version 300 es
precision highp float;
precision highp sampler2D;
layout(location = 0) in uint number;
layout(location = 1) in float share;
uniform sampler2D geometry, colours;
uniform mat3 back;
uniform vec3 eye;
uniform vec4 lens;
uniform vec2 size;
uniform vec3 depth;   // near plane, factor of inverse depth, pixels of the released offset
uniform vec3 square;  // texels, columns, drawn pixels of a cell that is not stretched
out vec2 local;
flat out vec3 shade;
flat out float weight, level, soft;
flat out vec2 corner;
flat out int mask;

vec2 onPicture(vec3 q) { return lens.xy * q.xy / q.z + lens.zw; }

void main() {
  int i = int(number);
  ivec2 at = ivec2(i % ${ROW} * 3, i / ${ROW});
  vec4 centre = texelFetch(geometry, at, 0);
  vec4 right = texelFetch(geometry, at + ivec2(1, 0), 0);
  vec3 middle = back * (centre.xyz - eye);
  vec3 a = middle + back * right.xyz;
  vec3 b = middle + back * texelFetch(geometry, at + ivec2(2, 0), 0).xyz;
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  if (min(middle.z, min(a.z, b.z)) < depth.x) return;
  vec2 place = onPicture(middle);
  vec2 across = onPicture(a) - place;
  vec2 down = onPicture(b) - place;
  float inverse = 1.0 / middle.z;
  vec2 lean = vec2(1.0 / a.z, 1.0 / b.z) - inverse;
  float longest = max(length(across), length(down));
  soft = smoothstep(${SOFT.toFixed(1)}, ${(SOFT * FULLY_SOFT).toFixed(1)}, longest / square.z);
  // What is thinner than a pixel still covers the one in which it lies.
  if (abs(across.x * down.y - across.y * down.x) < ${(LEAST_HALF_WIDTH ** 2).toFixed(4)}) {
    bool first = length(across) >= length(down);
    vec2 along = (first ? across : down) / max(longest, 1e-6);
    float wide = max(longest, ${LEAST_HALF_WIDTH});
    lean = vec2((first ? lean.x : lean.y) * wide / max(longest, 1e-6), 0.0);
    across = along * wide;
    down = vec2(-along.y, along.x) * ${LEAST_HALF_WIDTH};
  }
  local = (vec2(gl_VertexID & 1, gl_VertexID >> 1 & 1) * 2.0 - 1.0) * ${SUPPORT};
  vec2 pixel = place + depth.z + across * local.x + down * local.y;
  inverse += dot(lean, local);
  gl_Position = vec4(2.0 * pixel / size - 1.0, 1.0 - 2.0 * depth.x * inverse * depth.y, 1.0);
  gl_Position.y = -gl_Position.y;
  shade = texelFetch(colours, ivec2(i % ${ROW}, i / ${ROW}), 0).rgb;
  weight = share;
  mask = int(right.w);
  int tile = int(centre.w);
  int columns = max(1, int(square.y));
  corner = vec2(tile % columns, tile / columns) * square.x;
  float texels = square.x / max(1.0, 2.0 * sqrt(length(across) * length(down)));
  level = clamp(floor(log2(max(texels, 1.0)) + 0.5), 0.0, log2(max(square.x, 1.0)));
}`;

const INSIDE = `
bool outside() {
  if (mask == ${WHOLE}) return false;
  ivec2 place = clamp(ivec2(floor((local + 1.0) * 2.0)), 0, 3);
  return (mask >> (place.y * 4 + place.x) & 1) == 0;
}`;

const INPUTS = `#version 300 es
precision highp float;
precision highp int;
in vec2 local;
flat in vec3 shade;
flat in float weight, level, soft;
flat in vec2 corner;
flat in int mask;
out vec4 pixel;`;

export const FRONT = `${INPUTS}
${INSIDE}
void main() {
  if (outside()) discard;
  pixel = vec4(0.0);
}`;

export const MIX = `${INPUTS}
uniform sampler2D atlas;
uniform vec2 atlasSize;
uniform vec3 square;
uniform vec4 tint;
${INSIDE}
void main() {
  if (outside()) discard;
  vec3 colour = shade;
  if (atlasSize.x > 0.0) {
    float edge = 0.5 * exp2(level);
    vec2 place = clamp((local + 1.0) * 0.5 * square.x, edge, square.x - edge);
    colour = textureLod(atlas, (corner + place) / atlasSize, level).rgb;
  }
  colour = mix(colour, tint.rgb, tint.a * soft);
  vec2 rim = clamp((${SUPPORT} - abs(local)) / ${(SUPPORT - FLAT).toFixed(2)}, 0.0, 1.0);
  float share = weight * rim.x * rim.y;
  pixel = vec4(colour * share, share);
}`;

export const SCREEN = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

export const FINISH = `#version 300 es
precision highp float;
precision highp sampler2D;
uniform sampler2D mixed;
uniform vec3 holes[2];
uniform float stripe;
out vec4 pixel;
void main() {
  vec4 sum = texelFetch(mixed, ivec2(gl_FragCoord.xy), 0);
  int which = int(floor((gl_FragCoord.x - gl_FragCoord.y) / stripe)) & 1;
  pixel = vec4(sum.a > 0.0 ? sum.rgb / sum.a : holes[which], 1.0);
}`;

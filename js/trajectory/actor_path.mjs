/** The path of an actor: the keyframes of Mirage Place Actor, and where it is at a frame. */

import { add, cross, dot, norm, scale, subtract } from "../viewer/math.mjs";

/**
 * A keyframe of an actor.
 *
 * @typedef {object} Stop
 * @property {number} frame
 * @property {number[]} place x and z, or x, y and z, in scene units
 * @property {number | null} heading degrees: 0 along z, 90 along x; null faces the way ahead
 * @property {boolean} timed true where the document has seconds in place of frames
 */

/**
 * What actors stand on.
 *
 * @typedef {object} Ground
 * @property {number[]} up unit vector away from it
 * @property {number | null} height `up` times its points; null where no floor was found
 */

const MAX_STOPS = 10_000;
const MAX_FRAME = 10_000_000;
const MAX_PLACE = 1e6;
const MAX_HEADING = 36_000;
const KNOWN = new Set(["frame", "time", "place", "heading"]);
/** Significant digits of what is written. */
const DIGITS = 6;
const TURN = 2 * Math.PI;

const radians = (degrees) => (degrees * Math.PI) / 180;
export const degrees = (angle) => (angle * 180) / Math.PI;

const within = (value, low, high) =>
  typeof value === "number" && Number.isFinite(value) && value >= low && value <= high;

/**
 * Read a path as the server does.
 *
 * @param {string} text
 * @param {number} fps of keyframes in seconds
 * @returns {Stop[] | null} in order of time; null where the server would refuse the text
 */
export function parseStops(text, fps) {
  if (!text.trim()) return [];
  let items;
  try {
    items = JSON.parse(text);
  } catch {
    return null;
  }
  if (!Array.isArray(items) || !items.length || items.length > MAX_STOPS) return null;
  const stops = items.map((item) => stopOf(item, fps));
  if (stops.includes(null)) return null;
  stops.sort((a, b) => a.frame - b.frame);
  return stops.some(({ frame }, i) => i && frame === stops[i - 1].frame) ? null : stops;
}

function stopOf(item, fps) {
  if (!item || typeof item !== "object" || !Object.keys(item).every((name) => KNOWN.has(name))) return null;
  const { frame, time, place, heading = null } = item;
  const timed = time !== undefined;
  if (timed === (frame !== undefined)) return null;
  if (!(timed ? within(time, 0, MAX_FRAME / fps) : within(frame, 0, MAX_FRAME))) return null;
  if (!Array.isArray(place) || ![2, 3].includes(place.length)) return null;
  if (!place.every((value) => within(value, -MAX_PLACE, MAX_PLACE))) return null;
  if (heading !== null && !within(heading, -MAX_HEADING, MAX_HEADING)) return null;
  return { frame: roundHalfEven(timed ? time * fps : frame), place: [...place], heading, timed };
}

const rounded = (value) => Number(value.toPrecision(DIGITS));

/** Write a path, one keyframe a line. */
export function writeStops(stops, fps) {
  const lines = stops.map(({ frame, place, heading, timed }) =>
    JSON.stringify({
      ...(timed ? { time: rounded(frame / fps) } : { frame }),
      place: place.map(rounded),
      ...(heading === null ? {} : { heading: rounded(heading) }),
    }));
  return stops.length ? `[${lines.join(",\n ")}]` : "";
}

/** The point of the ground that a place means. */
export function pointOf(place, { up, height }, level = 0) {
  const [x, y, z] = place.length > 2 ? place : [place[0], 0, place[1]];
  const point = [x, y, z];
  if (height === null && place.length > 2) return point;
  return add(point, scale(up, (height ?? level) - dot(point, up)));
}

/** The place, x and z, whose point of the ground this is. */
export function placeOf(point, { up }) {
  const away = -point[1] / up[1];
  return [point[0] + away * up[0], point[2] + away * up[2]];
}

/** Unit vectors of the ground: the direction of heading 0, and that of a quarter turn. */
export function groundAxes(up) {
  const down = scale(up, -1);
  const laid = (axis) => subtract(axis, scale(down, dot(axis, down)));
  let ahead = laid([0, 0, 1]);
  // The world's z stands on the ground: y lies on it.
  if (norm(ahead) < 0.1) ahead = laid([0, 1, 0]);
  ahead = scale(ahead, 1 / norm(ahead));
  return { ahead, right: cross(down, ahead) };
}

/** Heading in radians of a direction. */
export function headingOf(direction, up) {
  const { ahead, right } = groundAxes(up);
  return Math.atan2(dot(direction, right), dot(direction, ahead));
}

/** The direction along the ground of a heading in radians. */
export function wayOfHeading(heading, up) {
  const { ahead, right } = groundAxes(up);
  return add(scale(ahead, Math.cos(heading)), scale(right, Math.sin(heading)));
}

/** Axes of what stands upright and faces a heading in radians, as columns, at its place. */
export function standOf({ point, heading }, up) {
  const [front, down] = [wayOfHeading(heading, up), scale(up, -1)];
  const across = cross(down, front);
  return { rotation: [0, 1, 2].flatMap((i) => [across[i], down[i], front[i]]), position: point };
}

/**
 * A path that can be asked for places.
 *
 * @param {Stop[]} stops one or more
 * @param {Ground} ground
 * @param {object} [options]
 * @param {number} [options.level] height of places of two numbers where there is no floor
 * @param {number | null} [options.facing] heading in radians of stops without one; null faces ahead
 * @returns {(frame: number) => {point: number[], heading: number}} heading in radians
 */
export function trackOf(stops, ground, { level = 0, facing = null } = {}) {
  const points = stops.map(({ place }) => pointOf(place, ground, level));
  const headings = headingsOf(stops, points, ground.up, facing);
  return (frame) => {
    const later = stops.findIndex((stop) => stop.frame > frame);
    const last = later < 0 ? stops.length - 1 : Math.max(0, later - 1);
    const next = later < 0 ? last : later;
    const span = stops[next].frame - stops[last].frame;
    const share = span ? Math.min(1, Math.max(0, (frame - stops[last].frame) / span)) : 0;
    const way = subtract(points[next], points[last]);
    return {
      point: add(points[last], scale(way, share)),
      heading: headings[last] + share * (headings[next] - headings[last]),
    };
  };
}

/** A number rounded as the server does: a half goes to the even side. */
function roundHalfEven(value) {
  const low = Math.floor(value);
  const over = value - low;
  return over < 0.5 || (over === 0.5 && low % 2 === 0) ? low : low + 1;
}

/** Headings in radians, each within half a turn of the one before. */
function headingsOf(stops, points, up, facing) {
  const given = stops.map(({ heading }, i) => {
    if (heading !== null) return radians(heading);
    const [from, to] = i + 1 < points.length ? [i, i + 1] : [Math.max(0, i - 1), i];
    return facing ?? headingOf(subtract(points[to], points[from]), up);
  });
  let turns = 0;
  return given.map((heading, i) => {
    if (i) turns += roundHalfEven((heading - given[i - 1]) / TURN);
    return heading - turns * TURN;
  });
}

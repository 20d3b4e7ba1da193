/** A camera held by hand: the server's noise, number for number. */

import { add, multiply, rotate, rotationAbout, scale } from "../viewer/math.mjs";
import { cameraAt, setCamera } from "../viewer/scene.mjs";

/**
 * @typedef {object} Shake
 * @property {number} seed 0 to 2^32 - 1
 * @property {number} degrees turns at most, to each side; rolls half of it
 * @property {number} distance moves at most along each axis of the camera, in scene depths
 * @property {number} hz swings a second, about
 */

/** Odd factors that spread seed, channel and place over 32 bits. */
const LATTICE = [0x9e3779b1, 0x85ebca77, 0xc2b2ae3d];
/** Times as fast as the first is the second layer of noise, which is half as strong. */
const OCTAVE = 2.17;
const CHANNELS = 6;
/** Part of the amplitude that rolls: hands hold the horizon better than the direction. */
const ROLL = 0.5;

/** 32 bits that have nothing to do with those of neighbours (lowbias32). */
function hash(seed, channel, place) {
  let mixed = Math.imul(seed, LATTICE[0]) ^ Math.imul(channel, LATTICE[1]) ^ Math.imul(place, LATTICE[2]);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x7feb352d);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x846ca68b);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

function gradient(seed, channel, at) {
  const place = Math.floor(at);
  const share = at - place;
  const [before, after] = [0, 1].map((side) => hash(seed, channel, place + side) / 2 ** 31 - 1);
  const blend = share * share * share * (share * (share * 6 - 15) + 10);
  const [rising, falling] = [before * share, after * (share - 1)];
  return rising + (falling - rising) * blend;
}

/** Smooth noise, -1 to 1; 0 at 0, so that a shot begins where it would without. */
export function noise(seed, channel, at) {
  const fine = gradient(seed, channel + CHANNELS, at * OCTAVE);
  return (gradient(seed, channel, at) + 0.5 * fine) * (4 / 3);
}

/**
 * Shake a path; its first camera stays where it is.
 *
 * @param {import("../viewer/scene.mjs").Path} path is changed
 * @param {Shake} shake
 * @param {import("../viewer/scene.mjs").Scene} scene
 * @param {number} fps
 */
export function shakePath(path, { seed, degrees, distance, hz }, scene, fps) {
  const most = (degrees * Math.PI) / 180;
  for (let frame = 1; frame < path.length; frame++) {
    const at = (frame / fps) * hz;
    const [yaw, pitch, roll, ...moved] = [0, 1, 2, 3, 4, 5].map((channel) => noise(seed, channel, at));
    const camera = cameraAt(path, frame);
    const turned = multiply(rotationAbout(1, most * yaw), rotationAbout(0, most * pitch));
    const rotation = multiply(camera.rotation, multiply(turned, rotationAbout(2, most * ROLL * roll)));
    const shift = rotate(camera.rotation, scale(moved, distance * scene.depth));
    setCamera(path, frame, rotation, add(camera.position, shift), camera.focal);
  }
}

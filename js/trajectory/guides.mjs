/** Lines over the scene that help to frame and to compare. */

import { paintFrustum, polyline, wayOf } from "../viewer/paint.mjs";
import { cameraAt } from "../viewer/scene.mjs";

/** Aspect ratios that can be masked, by their names. */
export const ASPECTS = Object.freeze({ "16:9": 16 / 9, "2.39": 2.39, "9:16": 9 / 16, "1:1": 1 });

/** Parts of the picture within which action and titles are safe. */
const SAFE = [0.93, 0.9];
const MASK = "rgb(0 0 0 / 72%)";

/** The rectangle of an aspect ratio in the middle of another: left, top, width, height. */
export function fitted([left, top, width, height], aspect) {
  const [w, h] = width / height > aspect ? [height * aspect, height] : [width, width / aspect];
  return [left + (width - w) / 2, top + (height - h) / 2, w, h];
}

/**
 * Thirds and safe frames, and what an aspect ratio leaves out.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {number[]} picture left, top, width, height
 * @param {{guides: boolean, aspect: string}} aids
 */
export function paintGuides(context, picture, { guides, aspect }, theme, ratio) {
  const frame = aspect in ASPECTS ? fitted(picture, ASPECTS[aspect]) : picture;
  if (aspect in ASPECTS) {
    context.fillStyle = MASK;
    context.beginPath();
    context.rect(...picture);
    context.rect(...frame);
    context.fill("evenodd");
  }
  if (!guides) return;
  const [left, top, width, height] = frame;
  context.strokeStyle = theme.selected;
  context.lineWidth = ratio;
  context.globalAlpha = 0.6;
  context.beginPath();
  for (const third of [1 / 3, 2 / 3]) {
    context.moveTo(left + third * width, top);
    context.lineTo(left + third * width, top + height);
    context.moveTo(left, top + third * height);
    context.lineTo(left + width, top + third * height);
  }
  for (const part of SAFE) {
    const edge = (1 - part) / 2;
    context.rect(left + edge * width, top + edge * height, part * width, part * height);
  }
  context.stroke();
  context.globalAlpha = 1;
}

/** The path as it was before the last edit, and its camera. */
export function paintGhost(context, controls, ghost, frame, scene, theme, ratio) {
  context.strokeStyle = theme.muted;
  context.lineWidth = 2 * ratio;
  context.setLineDash([6 * ratio, 5 * ratio]);
  polyline(context, controls, wayOf(ghost));
  paintFrustum(context, controls, cameraAt(ghost, frame), scene, 0.12 * scene.depth);
  context.setLineDash([]);
}

/** The line over the scene: what there is to do, or what is wrong. */

import { kindOf } from "../viewer/picture.mjs";

/** @param {object} widget the trajectory widget */
export function noteOf({ model, text, walk, editor, directing, near, points }) {
  if (walk.active) return walk.note;
  if (editor.drawing) return text("drawing");
  if (editor.director.picking) return text("picking");
  if (directing.on && directing.note) return directing.note;
  if (model.linked) return text("linked");
  if (model.problem) return text(`problem_${model.problem}`);
  if (!model.scene.known) return text("noScene");
  if (near) return text(`near_${near.kind}`, near);
  return points.count && kindOf(points) === "cells" ? text("lensCells") : "";
}

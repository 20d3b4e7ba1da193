/** How the trajectory widget is looked at: what outlives the widget, and is no value of the node. */

/** The state of a widget's view. */
export function lookOf({ viewport, model, editor, panel, comparison, directing, colouring, lensShown, unseen }) {
  const { view, yaw, pitch, target, distance } = viewport.controls;
  return {
    controls: { view, yaw, pitch, target, distance },
    frame: model.frame, selected: model.selected, camera: model.camera,
    colouring, lensShown, unseen, aids: { ...editor.director.aids },
    beside: [comparison.on, comparison.wish], panel: !panel.element.hidden,
    actors: { on: directing.on, chosen: directing.actors.chosen },
  };
}

/** Give a new widget the view of the one before. */
export function lookAgain(widget, look) {
  const { controls, frame, selected, camera, colouring, lensShown, aids, beside, actors } = look;
  const { viewport, model, editor, comparison, directing } = widget;
  Object.assign(viewport.controls, structuredClone(controls));
  Object.assign(model, { frame, selected, camera });
  Object.assign(widget, { colouring, lensShown });
  widget.colours.value = colouring;
  Object.assign(editor.director.aids, aids);
  [comparison.on, comparison.wish] = beside;
  directing.actors.chosen = actors.chosen;
  directing.show(actors.on);
}

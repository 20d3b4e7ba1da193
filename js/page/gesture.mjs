/** A pointer that is held down: followed until it is released, or Escape takes back what it did. */

/**
 * What a held pointer does.
 *
 * @typedef {object} Held
 * @property {(event: PointerEvent) => void} move
 * @property {() => void} [end] it was released
 * @property {() => void} [cancel] put everything back to where it was
 */

/**
 * Follow the pointer of an event until it is released.
 *
 * @param {HTMLElement} target
 * @param {PointerEvent} event that pressed it
 * @param {Held} held
 */
export function follow(target, event, { move, end = () => {}, cancel = () => {} }) {
  const listening = new AbortController();
  const stop = (finish) => {
    listening.abort();
    finish();
  };
  // The window hears all, and first: ComfyUI may move the target to another place of the page, or
  // remove it, and has an Escape of its own.
  const listen = (name, heard) =>
    window.addEventListener(name, heard, { signal: listening.signal, capture: true });
  const pointer = (name, heard) =>
    listen(name, (now) => now.pointerId === event.pointerId && heard(now));
  target.setPointerCapture(event.pointerId);
  pointer("pointermove", (moved) => {
    moved.stopPropagation();
    // Released where no page hears it.
    if (moved.buttons) move(moved);
    else stop(end);
  });
  pointer("pointerup", () => stop(end));
  pointer("pointercancel", () => stop(end));
  listen("keydown", (pressed) => {
    if (pressed.key !== "Escape") return;
    pressed.preventDefault();
    pressed.stopPropagation();
    stop(cancel);
  });
}

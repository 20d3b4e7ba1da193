/** Elements with text, never markup: what a workflow holds cannot become part of the page. */

const SVG = "http://www.w3.org/2000/svg";

/** Outlines of 16 x 16 icons. */
const ICONS = {
  play: "M4 2.5v11l9-5.5z",
  pause: "M4 2.5h3v11H4zM9 2.5h3v11H9z",
  start: "M3 2.5h2v11H3zM13 2.5v11L6 8z",
  add: "M7 2.5h2V7h4.5v2H9v4.5H7V9H2.5V7H7z",
  remove: "M2.5 7h11v2h-11z",
  draw: "M2 14c4-1 2-6 5-8 2-1.4 4 1 7-3l-.8-.7C10.8 5 9 3.3 6.5 4.8 3 7 5.5 12 1.7 13z",
  walk: "M8 1l3 4H9v4h4V7l3 2.5-3 2.5v-2H9v3h2l-3 3-3-3h2v-3H3v2L0 9.5 3 7v2h4V5H5z",
  fit: "M2 2h4v1.5H3.5V6H2zM10 2h4v4h-1.5V3.5H10zM2 10h1.5v2.5H6V14H2zM12.5 10H14v4h-4v-1.5h2.5z",
  lens: "M1 3.5h14v9H1zM2.5 5v6h11V5z",
  shot: "M2 3.2h7v1.6H2zM11 2h2v4h-2zM2 7.2h2v1.6H2zM5 6h2v4H5zM8 7.2h6v1.6H8zM2 11.2h6v1.6H2zM10 10h2v4h-2z",
  actors: "M8 1.5a2 2 0 100 4 2 2 0 000-4zM5.5 6.5h5l1 4.5h-1.5v3.5h-4V11H4.5z",
  record: "M8 3a5 5 0 100 10A5 5 0 008 3z",
};

/**
 * @param {string} tag
 * @param {Record<string, unknown>} attributes `text`, `class`, event listeners as `onclick`, the
 *   rest as attributes
 * @param {...(Node | string)} children
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/** An icon that screen readers pass over. */
function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const outline = document.createElementNS(SVG, "path");
  outline.setAttribute("d", ICONS[name]);
  outline.setAttribute("fill-rule", "evenodd");
  svg.append(outline);
  return svg;
}

/** A button with an icon and a name for screen readers and the tooltip. */
export function iconButton(name, label, onclick, attributes = {}) {
  const button = element("button", {
    type: "button", class: "mirage-button", "aria-label": label, title: label, onclick, ...attributes,
  });
  button.append(icon(name));
  return button;
}

/** Replace the icon and the name of a button. */
export function relabel(button, name, label) {
  if (button.title === label) return;
  button.replaceChildren(icon(name));
  button.title = label;
  button.setAttribute("aria-label", label);
}

/**
 * A drop-down list.
 *
 * @param {string} label
 * @param {[string, string][]} options values and texts
 * @param {(value: string) => void} onchange
 */
export function select(label, options, onchange) {
  const list = element("select", {
    class: "mirage-select", "aria-label": label, title: label,
    onchange: () => onchange(list.value),
  });
  for (const [value, text] of options) list.append(element("option", { value, text }));
  return list;
}

/** A row of buttons of which one is chosen. */
export class Choice {
  /**
   * @param {string} label
   * @param {[string, string][]} options
   * @param {(value: string) => void} onchoose
   */
  constructor(label, options, onchoose) {
    this.buttons = new Map();
    this.element = element("div", { class: "mirage-choice", role: "group", "aria-label": label });
    for (const [value, text] of options) {
      const button = element("button", { type: "button", text, onclick: () => onchoose(value) });
      this.buttons.set(value, button);
      this.element.append(button);
    }
  }

  show(chosen) {
    for (const [value, button] of this.buttons) {
      button.setAttribute("aria-pressed", String(value === chosen));
    }
  }
}

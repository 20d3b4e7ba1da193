/** What the widgets need of ComfyUI's page: changes of a node, and what outlives one. */

/** Sent by the server after every chunk of a rollout. */
const CHUNK_EVENT = "mirage.chunk";

/** What is looked at, by node: undo makes nodes anew, and their widgets with them. */
const looks = new Map();
const MAX_LOOKS = 200;

const keyOf = ({ graph, id }) => `${graph?.rootGraph?.id}:${graph?.id}:${id}`;

/** Keep something that belongs to the view of a node and not to its value. */
export function remember(node, name, value) {
  if (!node.graph) return;
  const key = keyOf(node);
  const kept = looks.get(key) ?? {};
  looks.delete(key);
  looks.set(key, { ...kept, [name]: value });
  if (looks.size > MAX_LOOKS) looks.delete(looks.keys().next().value);
}

/** What was kept for a node. */
export const recall = (node) => looks.get(keyOf(node)) ?? {};

/** Frames of the display within which a renderer has put a new widget where it belongs. */
const PATIENCE = 120;

/**
 * Keep a widget where its node is seen.
 *
 * When undo or loading makes a node anew under its old id, Nodes 2.0 may go on to show the element
 * that the old node had: then the content moves in there, until the element of its own is shown.
 *
 * @param {object} node
 * @param {{app: object}} bridge
 * @param {HTMLElement} place the element that the node's widget has
 * @param {HTMLElement} content what is seen in it
 * @returns {() => void} ends it
 */
export function settleIn(node, { app }, place, content) {
  let left = 0;
  const home = () => {
    if (node.graph?.getNodeById(node.id) !== node) return null;
    if (place.isConnected) return place;
    if (node.graph !== app.canvas?.graph) return null;
    return document.querySelector(`[data-node-id="${CSS.escape(node.id)}"] .${place.classList[0]}`);
  };
  const look = () => {
    if (left <= 0) return;
    const here = home();
    if (here && content.parentElement !== here) here.replaceChildren(content);
    left -= 1;
    requestAnimationFrame(look);
  };
  const start = () => {
    const idle = left <= 0;
    left = PATIENCE;
    if (idle) look();
  };
  place.replaceChildren(content);
  // What is taken out of the page has no size any more.
  const sizes = new ResizeObserver(start);
  sizes.observe(content);
  return () => {
    left = 0;
    sizes.disconnect();
  };
}

/** Prompts of the server's history that are looked through. */
const MAX_PROMPTS = 16;
/** Milliseconds for which a look at the history is good. */
const KEPT = 250;
/** How often the history is looked at again for a prompt that has just finished. */
const MAX_LOOKS_BACK = 10;

/** @type {Promise<object> | null} one look at the history for all widgets that ask at a time */
let looking = null;

function history(api) {
  looking ??= api
    .fetchApi(`/history?max_items=${MAX_PROMPTS}`)
    .then((response) => (response.ok ? response.json() : {}))
    .finally(() => setTimeout(() => (looking = null), KEPT));
  return looking;
}

/** The newest prompts first, once the history has one that has finished: it is told of before. */
async function promptsWith(api, finished) {
  for (let left = MAX_LOOKS_BACK; ; left--) {
    const found = await history(api);
    if (!finished || finished in found || !left) return Object.values(found).reverse();
    await new Promise((resolve) => setTimeout(resolve, 2 * KEPT));
  }
}

/** What a node of a prompt is made from: class and inputs of it and of every node before it. */
function origin(prompt, key) {
  const found = new Map();
  const waiting = [key];
  while (waiting.length) {
    const next = String(waiting.pop());
    const node = prompt?.[next];
    if (!node || found.has(next)) continue;
    found.set(next, [node.class_type, node.inputs]);
    for (const value of Object.values(node.inputs ?? {})) if (Array.isArray(value)) waiting.push(value[0]);
  }
  return JSON.stringify([...found]);
}

/** Key of a node among those of a prompt, where a subgraph's are preceded by where it stands. */
function keyIn(nodes, node, root) {
  const inside = `:${node.id}`;
  const fits = (id) => (node.graph === root ? id === String(node.id) : id.endsWith(inside));
  return Object.keys(nodes ?? {}).find(fits);
}

/**
 * What a node reported when it last ran, from the server's history.
 *
 * A page that was reloaded did not hear it, and the server does not repeat it for nodes that need
 * not run again, be it because another workflow ran the same ones. The history and the temporary
 * files live as long as the server does.
 *
 * @param {object} node
 * @param {{api: object}} bridge
 * @param {string} name of the report
 * @param {string} [finished] id of a prompt that is, or soon will be, in the history
 */
export async function lastReport(node, { api }, name, finished) {
  const root = node.graph?.rootGraph ?? node.graph;
  if (!root) return null;
  const prompts = await promptsWith(api, finished);
  const own = prompts.filter(({ prompt }) => prompt?.[3]?.extra_pnginfo?.workflow?.id === root.id);
  for (const { outputs } of own) {
    const found = outputs?.[keyIn(outputs, node, root)]?.[name]?.[0];
    if (found) return found;
  }
  const nodes = own[0]?.prompt[2];
  const key = keyIn(nodes, node, root);
  if (!key) return null;
  const same = ({ prompt, outputs }) =>
    outputs?.[key]?.[name]?.[0] && origin(prompt?.[2], key) === origin(nodes, key);
  return prompts.find(same)?.outputs[key][name][0] ?? null;
}

/** Node classes whose memory grows with every chunk. */
const GROWS = new Set(["MirageLoopOpen", "MirageLoopClose", "MirageCacheUpdate", "MirageRolloutResult"]);

const grows = (node) =>
  GROWS.has(node.comfyClass) || Boolean(node.subgraph?.nodes?.some((inner) => grows(inner)));

/**
 * Whether what a node gets comes out of a rollout, so that it changes while one runs.
 *
 * @param {object} node
 * @returns {boolean}
 */
export function fedByRollout(node) {
  const waiting = [node];
  const seen = new Set();
  while (waiting.length) {
    const next = waiting.pop();
    if (!next || seen.has(next)) continue;
    if (grows(next)) return true;
    seen.add(next);
    (next.inputs ?? []).forEach((_, slot) => waiting.push(next.getInputNode?.(slot)));
  }
  return false;
}

/** Add the stylesheet once. */
export function useStyle() {
  const href = new URL("./widget.css", import.meta.url).href;
  if (document.querySelector(`link[href="${href}"]`)) return;
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = href;
  document.head.append(link);
}

/**
 * Call back on what happens to a node.
 *
 * @param {object} node
 * @param {{api: object}} bridge
 * @param {object} handlers
 * @param {() => void} [handlers.onInput] an input has another value
 * @param {(output: object) => void} [handlers.onOutput] the node has run
 * @param {(prompt?: string) => void} [handlers.onFinished] a prompt has run; the node may not have
 *   had to
 * @param {(news: object) => void} [handlers.onChunk] a chunk of some rollout is finished
 * @param {() => void} [handlers.onRemoved]
 * @returns {() => void} ends what outlives the node
 */
export function followNode(node, { api }, { onInput, onOutput, onFinished, onChunk, onRemoved }) {
  if (onInput) {
    for (const widget of node.widgets ?? []) chain(widget, "callback", onInput);
    chain(node, "onConfigure", onInput);
    chain(node, "onConnectionsChange", onInput);
  }
  if (onOutput) chain(node, "onExecuted", onOutput);
  if (onRemoved) chain(node, "onRemoved", onRemoved);
  const heard = [
    [CHUNK_EVENT, (event) => onChunk?.(event.detail)],
    ["execution_success", (event) => onFinished?.(event.detail?.prompt_id)],
  ];
  for (const [name, listen] of heard) api.addEventListener(name, listen);
  return () => heard.forEach(([name, listen]) => api.removeEventListener(name, listen));
}

/** Call a function after the one that is there. */
function chain(owner, name, added) {
  const before = owner[name];
  owner[name] = function (...values) {
    const result = before?.apply(this, values);
    added(...values);
    return result;
  };
}

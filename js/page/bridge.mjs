/** What the widgets need from ComfyUI's page: events of a node, and state that outlives it. */

/** Sent by the server after every chunk of a rollout. */
const CHUNK_EVENT = "mirage.chunk";

/** View state by node: undo creates nodes again, and their widgets with them. */
const viewStates = new Map();
const MAX_VIEW_STATES = 200;

/** Entry of a workflow's `extra` that tells apart those opened from one template. */
const OPENED = "mirage_opened";

const openedAs = (workflow) => workflow?.extra?.[OPENED];

const keyOf = ({ graph, id }) =>
  [graph?.rootGraph?.id, openedAs(graph?.rootGraph), graph?.id, id].join(":");

const holdsOurs = ({ nodes = [], definitions }) =>
  nodes.some(({ type }) => String(type).startsWith("Mirage")) ||
  (definitions?.subgraphs ?? []).some(holdsOurs);

/**
 * Tell a workflow that is being opened from others with its id: copies of a template share that.
 *
 * Undo opens workflows too; one that had no mark gets none then, which would be an edit.
 *
 * @param {object} workflow the graph as it is saved
 * @param {{app: object}} bridge
 */
export function markOpened(workflow, { app }) {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  if (openedAs(workflow) || tracker?._restoringState || !holdsOurs(workflow)) return;
  const parts = crypto.getRandomValues(new Uint32Array(2));
  workflow.extra = { ...workflow.extra, [OPENED]: Array.from(parts, (n) => n.toString(36)).join("") };
}

/** Keep something that belongs to the view of a node and not to its value. */
export function remember(node, name, value) {
  if (!node.graph) return;
  const key = keyOf(node);
  const kept = viewStates.get(key) ?? {};
  viewStates.delete(key);
  viewStates.set(key, { ...kept, [name]: value });
  if (viewStates.size > MAX_VIEW_STATES) viewStates.delete(viewStates.keys().next().value);
}

/** What was kept for a node. */
export const recall = (node) => viewStates.get(keyOf(node)) ?? {};

/** Display frames within which a renderer has attached a new widget to the page. */
const SETTLE_FRAMES = 120;

/**
 * Keep a widget's content in the element that is shown for its node.
 *
 * When undo or loading creates a node again under its old id, Nodes 2.0 may keep showing the
 * element of the old node: then the content moves there, until the node's own element is shown.
 *
 * @param {object} node
 * @param {{app: object}} bridge
 * @param {HTMLElement} container the element of the node's widget
 * @param {HTMLElement} content what is shown in it
 * @returns {() => void} stops it
 */
export function settleIn(node, { app }, container, content) {
  let left = 0;
  const shownElement = () => {
    if (node.graph?.getNodeById(node.id) !== node) return null;
    if (container.isConnected) return container;
    if (node.graph !== app.canvas?.graph) return null;
    const [name] = container.classList;
    return document.querySelector(`[data-node-id="${CSS.escape(node.id)}"] .${name}`);
  };
  const look = () => {
    if (left <= 0) return;
    const shown = shownElement();
    if (shown && content.parentElement !== shown) shown.replaceChildren(content);
    left -= 1;
    requestAnimationFrame(look);
  };
  const start = () => {
    const idle = left <= 0;
    left = SETTLE_FRAMES;
    if (idle) look();
  };
  container.replaceChildren(content);
  // An element that is removed from the page has no size.
  const sizes = new ResizeObserver(start);
  sizes.observe(content);
  return () => {
    left = 0;
    sizes.disconnect();
  };
}

/** Prompts of the server's history that are searched. */
const MAX_PROMPTS = 16;
/** Milliseconds for which a fetched history is reused. */
const HISTORY_MS = 250;
/** How often the history is fetched again for a prompt that has just finished. */
const MAX_RETRIES = 10;

/** @type {Promise<object> | null} one request for all widgets that ask at the same time */
let pendingHistory = null;

function history(api) {
  pendingHistory ??= api
    .fetchApi(`/history?max_items=${MAX_PROMPTS}`)
    .then((response) => (response.ok ? response.json() : {}))
    .finally(() => setTimeout(() => (pendingHistory = null), HISTORY_MS));
  return pendingHistory;
}

/** Newest prompts first; waits for a finished prompt, which is announced before it is in there. */
async function promptsWith(api, finished) {
  for (let left = MAX_RETRIES; ; left--) {
    const found = await history(api);
    if (!finished || finished in found || !left) return Object.values(found).reverse();
    await new Promise((resolve) => setTimeout(resolve, 2 * HISTORY_MS));
  }
}

/** Class and inputs of a node of a prompt and of every node upstream, to compare two prompts. */
function provenance(prompt, key) {
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

/** Key of a node in a prompt; keys of nodes in a subgraph begin with the subgraph's own key. */
function keyIn(nodes, node, root) {
  const inside = `:${node.id}`;
  const fits = (id) => (node.graph === root ? id === String(node.id) : id.endsWith(inside));
  return Object.keys(nodes ?? {}).find(fits);
}

/**
 * What a node reported when it last ran, from the server's history.
 *
 * A reloaded page missed it, and the server does not repeat it for cached nodes, even if a
 * different workflow ran them. The history and the temporary files live as long as the server.
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
  const own = prompts.filter(({ prompt }) => {
    const workflow = prompt?.[3]?.extra_pnginfo?.workflow;
    const opened = openedAs(workflow);
    // A workflow that was begun on an empty page has no mark until it is opened again.
    return workflow?.id === root.id && (!opened || opened === openedAs(root));
  });
  for (const { outputs } of own) {
    const found = outputs?.[keyIn(outputs, node, root)]?.[name]?.[0];
    if (found) return found;
  }
  const nodes = own[0]?.prompt[2];
  const key = keyIn(nodes, node, root);
  if (!key) return null;
  const same = ({ prompt, outputs }) =>
    outputs?.[key]?.[name]?.[0] && provenance(prompt?.[2], key) === provenance(nodes, key);
  return prompts.find(same)?.outputs[key][name][0] ?? null;
}

/** Node classes whose memory grows with every chunk. */
const GROWS = new Set(["MirageLoopOpen", "MirageLoopClose", "MirageCacheUpdate", "MirageRolloutResult"]);

const grows = (node) =>
  GROWS.has(node.comfyClass) || Boolean(node.subgraph?.nodes?.some((inner) => grows(inner)));

/**
 * Whether a node is downstream of a rollout, so that its input changes while one runs.
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
 * @returns {() => void} removes the listeners that outlive the node
 */
export function followNode(node, { api }, { onInput, onOutput, onFinished, onChunk, onRemoved }) {
  if (onInput) {
    followWidgets(node, onInput);
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

/** Give a widget of a node another value, as a person does. */
export function setWidget(node, widget, value) {
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value);
  node.graph?.setDirtyCanvas?.(true, true);
}

/** Call back when a value of a node is set. */
export function followWidgets(node, onInput) {
  for (const widget of node.widgets ?? []) chain(widget, "callback", onInput);
}

/** Call a function after the existing one. */
function chain(owner, name, added) {
  const before = owner[name];
  owner[name] = function (...values) {
    const result = before?.apply(this, values);
    added(...values);
    return result;
  };
}

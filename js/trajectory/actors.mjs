/** The actors of a shot: found at the nodes that place them, and directed by keyframes there. */

import { followWidgets, setWidget } from "../page/bridge.mjs";
import { add, forwardOf, scale } from "../viewer/math.mjs";
import { fpsOf, linked, nameOf, placingNodes, valueOf, widgetOf } from "./actor_nodes.mjs";
import { degrees, parseStops, placeOf, pointOf, standOf, trackOf, writeStops } from "./actor_path.mjs";
import { freeFrame } from "./keyframes.mjs";

/** The behaviour that follows a path, and that without one. */
const PATH = "path";
const STAY = "stay";
/** What stands for the floor and an actor's size until the node has run, in scene depths. */
const EYE_LEVEL = 0.35;
const GUESSED_SIZE = [0.12, 0.3, 0.12];
const UPRIGHT = [0, -1, 0];

const areNumbers = (values, count) =>
  Array.isArray(values) && values.length === count && values.every(Number.isFinite);

/**
 * What the server told of an actor.
 *
 * @typedef {object} Report
 * @property {string} name
 * @property {number[]} size width, height and length in scene units
 * @property {number} level height of its places of two numbers where there is no floor
 * @property {number | null} facing heading in radians that it keeps unless told
 * @property {number[]} frames at which its places are told
 * @property {(number[] | null)[]} places x, y, z and heading in radians; null where it is nowhere
 * @property {number[] | null} stands such a place, at which its points are
 */

/** @returns {Report | null} */
function reportOf(item) {
  const complete =
    typeof item?.name === "string" && areNumbers(item.size, 3) && Number.isFinite(item.level) &&
    Array.isArray(item.frames) && areNumbers(item.frames, item.frames.length) && Array.isArray(item.places) &&
    item.places.length === item.frames.length && item.frames.length > 0 &&
    item.places.every((place) => place === null || areNumbers(place, 4));
  if (!complete) return null;
  const { facing, stands } = item;
  return { ...item, facing: Number.isFinite(facing) ? facing : null, stands: areNumbers(stands, 4) ? stands : null };
}

/**
 * An actor of the shot.
 *
 * @typedef {object} Actor
 * @property {string} name
 * @property {object | null} node that places it; null where it is only in the memory
 * @property {Report | null} report
 * @property {import("./actor_path.mjs").Stop[] | null} stops null where the path cannot be read
 */

/** Actors of one trajectory node; has what the timeline asks of keyframes. */
export class Actors {
  /** @param {import("./model.mjs").TrajectoryModel} model */
  constructor(model) {
    this.model = model;
    /** @type {Actor[]} */
    this.all = [];
    /** Name of the actor that is directed. */
    this.chosen = "";
    this.selected = -1;
    this.beside = new Set();
    /** @type {import("./actor_path.mjs").Ground | null} */
    this.floor = null;
    /** @type {Report[]} */
    this.reports = [];
    /** @type {{changed: boolean} | null} while something is dragged */
    this.held = null;
    /** @type {WeakMap<object, {text: string, fps: number, stops: import("./actor_path.mjs").Stop[]}>} */
    this.parsed = new WeakMap();
    /** @type {WeakMap<object, string>} name under which the server told of a node's actor */
    this.told = new WeakMap();
    this.onEdit = () => {};
  }

  get frame() {
    return this.model.frame;
  }

  get path() {
    return this.model.path;
  }

  get frames() {
    return this.model.frames;
  }

  get current() {
    return this.all.find(({ name }) => name === this.chosen) ?? this.all[0] ?? null;
  }

  get keyframes() {
    return this.current?.stops ?? [];
  }

  get editable() {
    const { current } = this;
    return Boolean(current?.node && current.stops && !linked(current.node, ["path", "behaviour"]));
  }

  /** True when a keyframe is selected: without any the actor does as it did before. */
  get removable() {
    return this.selected >= 0;
  }

  /** What actors stand on: the floor, or one below the start camera until that is known. */
  get ground() {
    const { start, depth } = this.model.scene;
    return this.floor ?? { up: UPRIGHT, height: -(start.position[1] + EYE_LEVEL * depth) };
  }

  /** Use what the node last reported of its memory. */
  describe(view) {
    const { up, height = null } = view?.ground ?? {};
    const known = areNumbers(up, 3) && Math.abs(up[1]) > 0.1 && (height === null || Number.isFinite(height));
    this.floor = known ? { up, height } : null;
    this.reports = (Array.isArray(view?.cast) ? view.cast : []).map(reportOf).filter(Boolean);
    this.read();
  }

  /** Find the actors again, and read their paths. */
  read() {
    if (this.held) return;
    const { current } = this;
    const nodes = placingNodes(this.model.node);
    const placed = nodes.map((node) => {
      const known = nameOf(node);
      const report = this.#reportOn(node, known);
      return { name: known ?? String(node.title), known, node, report, stops: this.#stopsOf(node) };
    });
    // Of one name the memory keeps the actor that was placed last.
    const last = [...new Map(placed.map((actor) => [actor.name, actor])).values()];
    const others = this.reports.filter((each) => !last.some(({ report }) => report === each));
    const unmatched = last.filter(({ known, report }) => known === null && !report);
    // What it is called may be known to the server alone.
    if (unmatched.length === 1 && others.length === 1) [unmatched[0].report] = others.splice(0);
    this.all = [...last, ...others.map((report) => ({ name: report.name, node: null, report, stops: [] }))];
    this.#stayWith(current);
  }

  /** What was told of a node's actor, by its name now, or else by that which it had then. */
  #reportOn(node, name) {
    const named = (wanted) => this.reports.find((report) => report.name === wanted);
    const report = named(name) ?? named(this.told.get(node));
    if (report) this.told.set(node, report.name);
    return report ?? null;
  }

  /** Go on with the actor that was directed, whatever it is called now. */
  #stayWith(before) {
    const same = before?.node && this.all.find(({ node }) => node === before.node);
    if (same) this.chosen = same.name;
    else if (this.current?.name !== before?.name) this.selected = -1;
    if (this.selected >= this.keyframes.length) this.selected = -1;
  }

  /** The keyframes of a node: the same objects as long as its value is the same. */
  #stopsOf(node) {
    const known = this.parsed.get(node);
    // Hear of it when somebody types into the node.
    if (!known) followWidgets(node, () => this.writing || this.onEdit());
    const [text, fps] = [String(valueOf(node, "path") ?? ""), fpsOf(node)];
    if (known?.text === text && known.fps === fps) return known.stops;
    const stops = parseStops(text, fps);
    this.parsed.set(node, { text, fps, stops });
    return stops;
  }

  /** Direct another actor. */
  choose(name) {
    this.chosen = name;
    this.selected = -1;
    this.onEdit();
  }

  get behaviour() {
    const { current } = this;
    return current?.node ? String(valueOf(current.node, "behaviour")) : "";
  }

  /** Let the actor do something else when nobody looks. */
  behave(name) {
    this.#set("behaviour", name);
    this.model.bridge.capture();
    this.onEdit();
  }

  /**
   * Where an actor is, as far as that is known here.
   *
   * @param {Actor} actor
   * @returns {((frame: number) => {point: number[], heading: number} | null)}
   */
  trackOf(actor) {
    const { stops, report, node } = actor;
    const level = report?.level ?? 0;
    const dragged = this.held?.changed && actor === this.current;
    const follows = node && (dragged || valueOf(node, "behaviour") === PATH);
    if (stops?.length && follows) {
      return trackOf(stops, this.ground, { level, facing: report?.facing ?? null });
    }
    if (!report) return () => null;
    const { frames, places } = report;
    return (frame) => {
      const after = frames.findIndex((at) => at >= frame);
      const place = places[after < 0 ? frames.length - 1 : after];
      return place && { point: place.slice(0, 3), heading: place[3] };
    };
  }

  /** Where actors are at the shown frame, and where their points are, by the names of these. */
  get moves() {
    const { up } = this.ground;
    const stand = ([x, y, z, heading]) => standOf({ point: [x, y, z], heading }, up);
    return new Map(this.all.filter(({ report }) => report?.stands).map((actor) => {
      const now = this.trackOf(actor)(this.frame);
      return [actor.report.name, { from: stand(actor.report.stands), to: now && standOf(now, up) }];
    }));
  }

  /** Width, height and length of an actor in scene units. */
  sizeOf({ report, node }) {
    const size = report?.size ?? GUESSED_SIZE.map((side) => side * this.model.scene.depth);
    const height = node ? Number(valueOf(node, "height")) : 0;
    return height > 0 && size[1] > 0 ? size.map((side) => (side * height) / size[1]) : size;
  }

  /** The point of the ground of a keyframe of the chosen actor. */
  pointOf({ place }) {
    return pointOf(place, this.ground, this.current?.report?.level ?? 0);
  }

  /** Where the chosen actor is at a frame; ahead of the start camera where nobody knows. */
  at(frame) {
    const { start, depth } = this.model.scene;
    const ahead = add(start.position, scale(forwardOf(start.rotation), depth));
    return this.trackOf(this.current)(frame) ?? { point: pointOf(ahead, this.ground), heading: Math.PI };
  }

  /** Go to the keyframe before or after the shown frame. @param {-1 | 1} side */
  jump(side) {
    const frames = this.keyframes.map(({ frame }) => frame);
    const index = side > 0
      ? frames.findIndex((frame) => frame > this.frame)
      : frames.findLastIndex((frame) => frame < this.frame);
    if (index >= 0) this.select(index);
  }

  /** Select a keyframe, and show its frame. */
  select(index) {
    this.selected = index;
    if (index >= 0) this.model.scrub(this.keyframes[index].frame);
    else this.onEdit();
  }

  /**
   * Change keyframes; the actor follows its path from then on. The node's value, and undo, follow
   * at the end of a gesture if there is one.
   *
   * @param {(stops: import("./actor_path.mjs").Stop[]) => void} change
   */
  edit(change) {
    if (!this.editable) return;
    const stops = this.keyframes;
    const selected = stops[this.selected];
    change(stops);
    stops.sort((a, b) => a.frame - b.frame);
    this.selected = selected ? stops.indexOf(selected) : this.selected;
    if (this.held) this.held.changed = true;
    else this.commit();
    this.onEdit();
  }

  /** Begin a gesture. @returns {{end: () => void, cancel: () => void}} one of them is to be called */
  begin() {
    const held = { changed: false };
    const { frame, selected } = this;
    this.held = held;
    const finish = (keep) => {
      if (this.held !== held) return;
      this.held = null;
      if (held.changed && keep) this.commit();
      if (!keep) {
        this.parsed.set(this.current.node, {});
        this.read();
        this.selected = selected;
        this.model.scrub(frame);
      }
      this.onEdit();
    };
    return { end: () => finish(true), cancel: () => finish(false) };
  }

  /** Write the path to the node, which follows it from then on. */
  commit() {
    const { node, stops } = this.current;
    const fps = fpsOf(node);
    const text = writeStops(stops, fps);
    this.parsed.set(node, { text, fps, stops });
    this.#set("path", text);
    // Without a path there is none to follow.
    if (stops.length || this.behaviour === PATH) this.#set("behaviour", stops.length ? PATH : STAY);
    this.model.bridge.capture();
  }

  /** A keyframe where the actor is at a frame; the one that is there already is selected. */
  addKeyframe(frame = this.frame) {
    if (!this.editable) return;
    const there = this.keyframes.findIndex((stop) => stop.frame === frame);
    if (there < 0) {
      const stop = this.#stopHere(frame);
      this.edit((stops) => stops.push(stop));
      this.select(this.keyframes.indexOf(stop));
    } else this.select(there);
  }

  #stopHere(frame) {
    const { point, heading } = this.at(frame);
    const stops = this.keyframes;
    const told = [stops.findLast((stop) => stop.frame < frame), stops.find((stop) => stop.frame > frame)]
      .some((stop) => stop && stop.heading !== null);
    return {
      frame, place: placeOf(point, this.ground), heading: told ? degrees(heading) : null,
      timed: stops.length > 0 && stops.every(({ timed }) => timed),
    };
  }

  /** Delete a keyframe; without any the actor does as it did before there was a path. */
  removeKeyframe(index = this.selected) {
    if (!this.editable || !this.keyframes[index]) return;
    this.selected = -1;
    this.edit((stops) => stops.splice(index, 1));
    if (this.keyframes.length) this.select(Math.min(index, this.keyframes.length - 1));
  }

  /** Move a keyframe in time, past its neighbours too; it is selected, since its index changes. */
  retime(index, frame, from = this.keyframes[index].frame) {
    if (!this.editable) return;
    this.selected = index;
    const stop = this.keyframes[index];
    const wish = Math.min(this.frames - 1, Math.max(0, Math.round(frame)));
    const to = freeFrame(this.keyframes, stop, wish, wish < from ? -1 : 1, this.frames);
    this.edit(() => (stop.frame = to));
    this.model.scrub(to);
  }

  /** Put a keyframe at a point of the ground. */
  move(stop, point) {
    this.edit(() => (stop.place = placeOf(point, this.ground)));
  }

  /** Turn a keyframe. @param {number | null} heading in degrees; null faces the way ahead */
  turn(stop, heading) {
    this.edit(() => (stop.heading = heading));
  }

  #set(name, value) {
    const { node } = this.current;
    this.writing = true;
    try {
      setWidget(node, widgetOf(node, name), value);
    } finally {
      this.writing = false;
    }
  }
}

/** A film of what the shot's camera shows, recorded by the browser. */

/** The first is the quickest to encode: the film is made while it plays. */
const TYPES = ["video/webm;codecs=vp8", "video/webm;codecs=vp9", "video/webm"];
const MAX_WIDTH = 1280;
/** Milliseconds between parts of the film, and for which a slow encoder is waited for. */
const PART_MS = 10;
const PATIENCE_MS = 2000;
/** Whether this browser records films. */
export const canRecord = () =>
  typeof MediaRecorder !== "undefined" && TYPES.some((type) => MediaRecorder.isTypeSupported(type));

/** Let pass so many milliseconds, and what the page has to draw. */
const pass = (milliseconds) =>
  new Promise((resolve) => setTimeout(() => requestAnimationFrame(resolve), milliseconds));

/**
 * Record frames of a canvas, one after the other, each for its time.
 *
 * The recorder rests while a frame is drawn: a slow machine takes longer, and the film is the same.
 *
 * @param {object} options
 * @param {number} options.frames
 * @param {number} options.fps
 * @param {number} options.aspect width in heights
 * @param {(frame: number, context: CanvasRenderingContext2D) => void} options.draw
 * @param {AbortSignal} options.signal stops it early
 * @returns {Promise<Blob>} WebM; empty where the encoder gave nothing
 */
export async function recordFilm({ frames, fps, aspect, draw, signal }) {
  const canvas = document.createElement("canvas");
  canvas.width = MAX_WIDTH;
  // Encoders want even sides.
  canvas.height = 2 * Math.round(MAX_WIDTH / aspect / 2);
  const context = canvas.getContext("2d");
  draw(0, context);
  const stream = canvas.captureStream(0);
  const [track] = stream.getVideoTracks();
  const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
  const recorder = new MediaRecorder(stream, { mimeType, videoBitsPerSecond: 8e6 });
  const parts = [];
  let encoded = () => {};
  recorder.ondataavailable = ({ data }) => {
    if (!data.size) return;
    parts.push(data);
    encoded();
  };
  const stopped = new Promise((resolve, reject) => {
    recorder.onstop = resolve;
    recorder.onerror = ({ error }) => reject(error);
  });
  recorder.start(PART_MS);
  for (let frame = 0; frame < frames && !signal.aborted; frame++) {
    if (frame) {
      recorder.pause();
      draw(frame, context);
      recorder.resume();
    }
    // What is still on its way when the recorder rests is lost.
    const arrived = new Promise((resolve) => (encoded = resolve));
    track.requestFrame();
    await Promise.all([pass(1000 / fps), Promise.race([arrived, pass(PATIENCE_MS)])]);
  }
  recorder.stop();
  await stopped;
  track.stop();
  return new Blob(parts, { type: "video/webm" });
}

/** Hand a file to the person at the page. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** The key and the button that record the shot of a trajectory widget. */
export class Playblast {
  /** @param {object} widget the trajectory widget */
  constructor(widget) {
    this.widget = widget;
    /** @type {AbortController | null} while it records */
    this.recording = null;
  }

  stop() {
    this.recording?.abort();
  }

  /** Record the shot from its first frame; again, to stop. */
  async toggle() {
    if (this.recording) {
      this.stop();
      return;
    }
    const { viewport, model, panel, note, text } = this.widget;
    if (!canRecord()) {
      note.textContent = text("noFilm");
      return;
    }
    const { view } = viewport.controls;
    const [before, { width, height }] = [model.frame, model.scene];
    this.recording = new AbortController();
    const { signal } = this.recording;
    panel.record.setAttribute("aria-pressed", "true");
    viewport.setView("camera");
    const draw = (frame, context) => {
      model.scrub(frame);
      viewport.render();
      const { canvas } = context;
      context.fillStyle = "black";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(viewport.canvas, ...viewport.controls.picture, 0, 0, canvas.width, canvas.height);
    };
    let film = null;
    try {
      film = await recordFilm({
        frames: model.path.length, fps: model.fps, aspect: width / height, draw, signal,
      });
      if (!signal.aborted && film.size) download(film, "mirage_playblast.webm");
    } finally {
      this.recording = null;
      panel.record.setAttribute("aria-pressed", "false");
      viewport.setView(view);
      model.scrub(before);
      if (!signal.aborted && !film?.size) note.textContent = text("noFilm");
    }
  }
}

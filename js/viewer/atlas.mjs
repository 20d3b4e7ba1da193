/** What points show, a square for each: pictures that are fetched once. */

/**
 * @typedef {object} Atlas
 * @property {string} name of its file
 * @property {ImageBitmap} image
 * @property {number} side pixels along each side of a square
 * @property {number} columns squares beside each other
 */

/** Pixels of pictures that all widgets of a page hold, and a memory shows; 4 bytes each. */
const MAX_PIXELS = 48e6;

const isName = (name) => typeof name === "string" && /^patches_\w+\.webp$/.test(name);
const isCount = (value, most) => Number.isInteger(value) && value >= 1 && value <= most;

export class AtlasStore {
  constructor() {
    /** @type {Map<string, Promise<Atlas | null>>} */
    this.cached = new Map();
    this.pixels = new Map();
  }

  /**
   * The pictures of some blocks; null where there is none, where it cannot be had, and for what
   * does not fit any more.
   *
   * @param {{patches: unknown, points: unknown}[]} blocks as the node reported them
   * @param {(path: string) => Promise<Response>} fetchFile
   * @returns {Promise<(Atlas | null)[]>}
   */
  async load(blocks, fetchFile) {
    let room = MAX_PIXELS;
    const wanted = blocks.map(({ patches, points }) => {
      const isOne = isName(patches?.filename) && isCount(patches.side, 64) && isCount(patches.columns, 4096);
      const size = isOne && isCount(points, 1e8) ? points * patches.side ** 2 : Infinity;
      if (size > room) return null;
      room -= size;
      return patches;
    });
    const found = await Promise.all(wanted.map((patches) => patches && this.#one(patches, fetchFile)));
    this.#trim(new Set(found.map((atlas) => atlas?.name)));
    return found;
  }

  #one({ filename, side, columns }, fetchFile) {
    let pending = this.cached.get(filename);
    if (!pending) {
      pending = fetchAtlas(filename, side, columns, fetchFile).catch(() => null);
      pending.then((atlas) => {
        if (atlas) this.pixels.set(filename, atlas.image.width * atlas.image.height);
        else this.cached.delete(filename);
      });
    }
    // Deleted and set again: a Map keeps insertion order, so the most recently used is last.
    this.cached.delete(filename);
    this.cached.set(filename, pending);
    return pending;
  }

  #trim(inUse) {
    let total = [...this.pixels.values()].reduce((sum, pixels) => sum + pixels, 0);
    for (const name of [...this.cached.keys()]) {
      if (total <= MAX_PIXELS) return;
      if (inUse.has(name) || !this.pixels.has(name)) continue;
      total -= this.pixels.get(name);
      this.pixels.delete(name);
      this.cached.delete(name);
    }
  }
}

async function fetchAtlas(name, side, columns, fetchFile) {
  const query = new URLSearchParams({ filename: name, subfolder: "mirage", type: "temp" });
  const response = await fetchFile(`/view?${query}`);
  if (!response.ok) return null;
  const image = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
  return image.width === side * columns && image.height % side === 0 ? { name, image, side, columns } : null;
}

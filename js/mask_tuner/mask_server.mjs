// @ts-check
/**
 * Questions to nodes/mask_routes.py, and scene presets in ComfyUI's user folder, through the host's own door to it.
 *
 * @typedef {{ node: string, version: number, frames: number, image_size: [number, number], size: [number, number],
 *   sources: string[], notes: string[] }} Told what the newest run of a node worked on
 * @typedef {import("./rules_state.mjs").Tuning} Tuning
 */

const FOLDER = "mirage/mask_presets";

export class MaskServer {
  /** @param {any} api of the host */
  constructor(api) {
    this.api = api;
  }

  /** @returns {Promise<import("./rules_state.mjs").Described>} */
  async rules() {
    return (await checked(await this.api.fetchApi("/mirage/mask_rules", { cache: "no-store" }))).json();
  }

  /** The newest run of a node, also of one inside of a subgraph. @param {string} id @returns {Promise<Told | undefined>} */
  async newest(id) {
    const all = await (await checked(await this.api.fetchApi("/mirage/masks", { cache: "no-store" }))).json();
    const own = all.filter((/** @type {Told} */ one) => isNode(one.node, id));
    return own.sort((/** @type {Told} */ one, /** @type {Told} */ other) => other.version - one.version)[0];
  }

  /** @param {string} node @param {Tuning} tuning @param {number} frame @param {string} view */
  async picture(node, tuning, frame, view) {
    const body = JSON.stringify({ node, tuning, frame, view });
    const headers = { "Content-Type": "application/json" };
    const answer = await checked(await this.api.fetchApi("/mirage/mask", { method: "POST", headers, body }));
    return { picture: await answer.blob(), shares: JSON.parse(answer.headers.get("X-Mirage-Shares") ?? "{}"), frame };
  }

  /** @returns {Promise<string[]>} names of the saved scene presets */
  async savedNames() {
    const files = await this.api.listUserDataFullInfo(FOLDER).catch(() => []);
    return files.map((/** @type {any} */ file) => file.path.split("/").pop()).filter((/** @type {string} */ name) => name.endsWith(".json"))
      .map((/** @type {string} */ name) => name.slice(0, -5)).sort();
  }

  /** @param {string} name @param {Tuning} tuning */
  async save(name, tuning) {
    const answer = await this.api.storeUserData(`${FOLDER}/${name}.json`, tuning, { overwrite: true, stringify: true, throwOnError: false });
    if (!answer.ok) throw new Error(`ComfyUI could not save "${name}" (${answer.status}). Choose another name.`);
  }

  /** @param {string} name */
  async load(name) {
    const answer = await this.api.getUserData(`${FOLDER}/${name}.json`);
    if (!answer.ok) throw new Error(`There is no scene preset "${name}" any more.`);
    return answer.json();
  }
}

/** True when a display id of the server is the node with this id on its canvas. @param {string} told @param {string} id */
export function isNode(told, id) {
  return told === id || told.endsWith(`:${id}`);
}

/** @param {Response} answer */
async function checked(answer) {
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error ?? `The server answered ${answer.status}; restart ComfyUI if Mirage was just updated.`);
}

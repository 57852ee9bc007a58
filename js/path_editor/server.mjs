// @ts-check
/**
 * Questions to nodes/scene_routes.py. An answer of the server that is an error becomes an Error with its sentence.
 *
 * @typedef {{ node: string, version: number, points: number, segments_done: number, unit_length: number,
 *   image_size: [number, number], fov_degrees: number, here: number[], is_edited: boolean }} Scene
 *   here: camera to world of the newest filmed frame, 16 numbers
 * @typedef {{ scene: string | null, from_here: boolean }} Place where a path begins: at the first picture, or there
 * @typedef {{ path: import("./path_state.mjs").Path, cam2world: number[][], fov_degrees: number[],
 *   scene_fov_degrees: number, fov_source: "scene" | "node" | "assumed", image_size: [number, number], fps: number,
 *   whole_frames: number, segments: [number, number][] }} Sampled
 * @typedef {{ known: number[], levels: ("green" | "amber" | "red")[], level: string, suggestion: string }} Checked
 * @typedef {{ count: number, positions: Float32Array, footprints: Float32Array, colors: Uint8Array }} Points
 * @typedef {{ fetchApi: (route: string, options?: RequestInit) => Promise<Response>, clientId?: string | null }} Api
 */

export class SceneServer {
  /** @param {Api} api of the host */
  constructor(api) {
    this.api = api;
  }

  /** This page, as the host knows it: its own scenes go before those of other pages. */
  get client() {
    return encodeURIComponent(this.api.clientId ?? "");
  }

  /** @returns {Promise<Scene[]>} newest first */
  async scenes() {
    return (await this.get(`/mirage/scenes?client=${this.client}`)).json();
  }

  /** @param {string} scene @param {string} [color] @param {"before" | "after"} [stage] of a node that edits @returns {Promise<Points>} */
  async points(scene, color = "preview", stage = "after") {
    const asked = `scene=${encodeURIComponent(scene)}&color=${color}&stage=${stage}&client=${this.client}`;
    const bytes = await (await this.get(`/mirage/points?${asked}`)).arrayBuffer();
    const count = new DataView(bytes).getUint32(0, true);
    return {
      count,
      positions: new Float32Array(bytes, 4, 3 * count),
      footprints: new Float32Array(bytes, 4 + 12 * count, count),
      colors: new Uint8Array(bytes, 4 + 16 * count, 3 * count),
    };
  }

  /** @param {object} settings @param {Place} place @returns {Promise<Sampled>} */
  async path(settings, place) {
    return (await this.post("/mirage/path", { settings, ...place })).json();
  }

  /** @param {object} settings @param {Place} place @param {number} frame */
  async view(settings, place, frame) {
    const answer = await this.post("/mirage/view", { settings, ...place, frame });
    return { picture: await answer.blob(), coverage: Number(answer.headers.get("X-Mirage-Coverage")), frame };
  }

  /** @param {object} settings @param {Place} place */
  async preflight(settings, place) {
    return (await this.post("/mirage/preflight", { settings, ...place })).json();
  }

  /** @param {string} route */
  async get(route) {
    return checked(await this.api.fetchApi(route, { cache: "no-store" }));
  }

  /** @param {string} route @param {object} question */
  async post(route, question) {
    const headers = { "Content-Type": "application/json" };
    return checked(await this.api.fetchApi(route, { method: "POST", headers, body: JSON.stringify({ client: this.api.clientId ?? "", ...question }) }));
  }
}

/** @param {Response} answer */
async function checked(answer) {
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error ?? `The server answered ${answer.status}; restart ComfyUI if Mirage was just updated.`);
}

/**
 * One question at a time: while one is on its way only the newest of those that follow is kept.
 * @template T
 * @param {(...given: any[]) => Promise<T>} ask
 * @param {(answer: T) => void} take
 * @param {(error: Error) => void} fail
 */
export function newestOnly(ask, take, fail) {
  let isAsking = false;
  /** @type {any[] | null} */
  let waiting = null;
  const question = async (/** @type {any[]} */ ...given) => {
    waiting = given;
    if (isAsking) return;
    isAsking = true;
    while (waiting) {
      const asked = /** @type {any[]} */ (waiting);
      waiting = null;
      await ask(...asked).then(take, fail);
    }
    isAsking = false;
  };
  return Object.assign(question, { isBusy: () => isAsking });
}

// @ts-check
/**
 * Names the segment and the node when something inside an unrolled Segment Loop fails.
 *
 * The host reports every error inside the loop as one of Segment Loop End. The nodes of segment k run under ids like
 * "5.0.0.i2.7" (segment 3, canvas node 7), which the last "executing" event tells.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

/** @type {{ node: string, display_node?: string } | null} */
let running = null;

/**
 * @param {string} id of a node in an unrolled loop
 * @returns {{ segment: number, node: string } | null}
 */
export function placeInLoop(id) {
  const match = /\.i(\d+)\.(.+)$/.exec(id);
  return match ? { segment: Number(match[1]) + 1, node: match[2] } : null;
}

/** @param {string} id */
function titleOf(id) {
  const node = app.graph.getNodeById(Number(id)) ?? app.graph.getNodeById(id);
  return node?.title ?? `node ${id}`;
}

app.registerExtension({
  name: "mirage.loopErrors",
  setup() {
    api.addEventListener("progress_state", (/** @type {any} */ event) => {
      const nodes = Object.values(event.detail?.nodes ?? {});
      const active = /** @type {any} */ (nodes.find((/** @type {any} */ node) => node.state === "running" && placeInLoop(node.node_id)));
      if (active) running = { node: active.node_id, display_node: active.display_node_id };
    });
    api.addEventListener("execution_start", () => {
      running = null;
    });
    api.addEventListener("execution_error", (/** @type {any} */ event) => {
      const place = running && placeInLoop(running.node);
      if (!place || event.detail?.node_type !== "MirageLoopEnd") return;
      app.extensionManager.toast.add({
        severity: "error",
        summary: `Segment ${place.segment}, ${titleOf(running?.display_node ?? place.node)}`,
        detail: event.detail.exception_message,
        life: 30000,
      });
    });
  },
});

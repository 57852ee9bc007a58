// @ts-check
/**
 * Puts the path editor on Camera Path: a button that opens it inside the node. The value stays the node's own text
 * "keyframes"; without this file the node works from that text and from its presets.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OPEN = "mirage_path_editor_open"; // node property, so that a saved workflow opens as it was
const DOOR_HEIGHT = 28;
const EDITOR_HEIGHT = 480;
const EDITOR_WIDTH = 760;
const SETTINGS = ["preset", "amount", "out_move", "length", "speed", "easing", "fov", "width", "height", "fps", "keyframes"];

/** @param {any} node @param {string} name */
function widgetOf(node, name) {
  return node.widgets?.find((/** @type {any} */ widget) => widget.name === name);
}

/** What the editor may know of the host and its node. @param {any} node */
function hostOf(node) {
  return {
    api,
    settings: () => Object.fromEntries(SETTINGS.map((name) => [name, widgetOf(node, name)?.value]).filter(([, value]) => value !== undefined)),
    write(/** @type {string} */ text) {
      const widget = widgetOf(node, "keyframes");
      widget.value = text;
      widget.callback?.(text);
      node.graph?.setDirtyCanvas(true, true);
    },
    remember: () => app.extensionManager.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.(),
    linked: () => (node.inputs ?? []).filter((/** @type {any} */ input) => input.link != null).map((/** @type {any} */ input) => input.name),
    fedNodes: () => (node.outputs?.[0]?.links ?? []).map((/** @type {any} */ link) => String(node.graph?.links.get(link)?.target_id)),
  };
}

function addStyle() {
  if (document.getElementById("mirage-path-editor-style")) return;
  const href = new URL("./path_editor/path_editor.css", import.meta.url).href;
  document.head.append(Object.assign(document.createElement("link"), { id: "mirage-path-editor-style", rel: "stylesheet", href }));
}

/** @param {any} node */
function addEditor(node) {
  const frame = document.createElement("div");
  const door = Object.assign(document.createElement("button"), { type: "button", className: "mirage-path-door" });
  frame.append(door);
  /** @type {any} */
  let editor = null;
  const height = () => DOOR_HEIGHT + (node.properties[OPEN] ? EDITOR_HEIGHT : 0);
  const widget = node.addDOMWidget("path_editor", "mirage_path_editor", frame, {
    serialize: false, getValue: () => "", setValue() {}, getMinHeight: height, getMaxHeight: () => (node.properties[OPEN] ? 4000 : DOOR_HEIGHT) });
  widget.serialize = false;
  Object.assign(frame.style, { display: "flex", flexDirection: "column", gap: "4px" });

  async function show() {
    const isOpen = Boolean(node.properties[OPEN]);
    const text = widgetOf(node, "keyframes");
    // The editor shows what the text says. Nodes 2.0 would never show it again: it notes once what is hidden.
    text.hidden = isOpen && !(/** @type {any} */ (window).LiteGraph?.vueNodesMode);
    door.textContent = isOpen ? "Close path editor" : "Edit path in the scene";
    door.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen) {
      editor?.dispose();
      editor = null;
    } else if (!editor) {
      editor = "opening";
      const { PathEditor } = await import("./path_editor/editor.mjs");
      if (!node.properties[OPEN]) return void (editor = null);
      editor = new PathEditor(hostOf(node));
      frame.append(editor.root);
      /** @type {any} */ (frame).pathEditor = editor;
    }
  }

  door.addEventListener("click", async () => {
    const before = node.properties[OPEN];
    node.properties[OPEN] = before ? false : [...node.size];
    const [width, tall] = before || node.size;
    node.setSize(before ? [width, tall] : [Math.max(width, EDITOR_WIDTH), tall + EDITOR_HEIGHT]);
    await show();
    node.graph?.setDirtyCanvas(true, true);
  });
  const configured = node.onConfigure;
  node.onConfigure = function (/** @type {any[]} */ ...given) {
    configured?.apply(this, given);
    show();
  };
  const removed = node.onRemoved;
  node.onRemoved = function (/** @type {any[]} */ ...given) {
    removed?.apply(this, given);
    editor?.dispose?.();
    editor = null;
  };
  show();
}

app.registerExtension({
  name: "mirage.pathEditor",
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass !== "MirageCameraPath") return;
    addStyle();
    addEditor(node);
  },
});

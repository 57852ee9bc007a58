// @ts-check
/** A button on a node that opens a view inside of it, and closes it again. Used by every editor and viewer here. */

const DOOR_HEIGHT = 28;
const TALLEST = 4000;

/**
 * @typedef {{ root: HTMLElement, dispose?: () => void }} View
 * @typedef {object} Door
 * @property {string} property of the node, which keeps the door open in a saved workflow
 * @property {[string, string]} words on the button: to open, to close
 * @property {string} className of the button
 * @property {[number, number]} size width that the open node needs, height that the view adds
 * @property {() => Promise<() => View>} load brings the code, then gives what makes the view
 * @property {string} handle name under which the frame keeps the view, for tests
 * @property {[string, string]} widget name and type
 * @property {object} [value] getValue and setValue of a widget that has one; it is saved with the workflow
 * @property {(isOpen: boolean) => void} [shown] told whenever the door was opened or closed
 */

/** @param {string} id @param {string} file beside this one; a style that is there already is left alone */
export function addStyle(id, file) {
  if (document.getElementById(id)) return;
  const href = new URL(file, import.meta.url).href;
  document.head.append(Object.assign(document.createElement("link"), { id, rel: "stylesheet", href }));
}

/** @param {any} node @param {string} name */
export function widgetOf(node, name) {
  return node.widgets?.find((/** @type {any} */ widget) => widget.name === name);
}

/** @param {any} node @param {Door} door @returns {{ widget: any, view: () => any }} the view, while it is open */
export function addDoor(node, door) {
  const frame = document.createElement("div");
  const button = Object.assign(document.createElement("button"), { type: "button", className: door.className });
  frame.append(button);
  Object.assign(frame.style, { display: "flex", flexDirection: "column", gap: "4px" });
  /** @type {any} */
  let view = null;
  const isOpen = () => Boolean(node.properties?.[door.property]);
  const height = () => DOOR_HEIGHT + (isOpen() ? door.size[1] : 0);
  const [name, type] = door.widget;
  const widget = node.addDOMWidget(name, type, frame, {
    ...(door.value ?? { serialize: false, getValue: () => "", setValue() {} }),
    getMinHeight: height,
    getMaxHeight: () => (isOpen() ? TALLEST : DOOR_HEIGHT),
  });
  if (door.value) frame.style.height = "100%";
  else widget.serialize = false;

  function close() {
    view?.dispose?.(); // "opening" has none
    view = null;
  }

  async function show() {
    door.shown?.(isOpen());
    button.textContent = door.words[isOpen() ? 1 : 0];
    button.setAttribute("aria-expanded", String(isOpen()));
    if (!isOpen()) return close();
    if (view) return;
    view = "opening";
    const make = await door.load();
    if (view !== "opening") return; // closed meanwhile, or opened again and quicker
    view = make();
    frame.append(view.root);
    Object.assign(frame, { [door.handle]: view });
  }

  button.addEventListener("click", async () => {
    const before = node.properties[door.property];
    node.properties[door.property] = before ? false : [...node.size];
    const [width, tall] = before || node.size;
    node.setSize(before ? [width, tall] : [Math.max(width, door.size[0]), tall + door.size[1]]);
    await show();
    node.graph?.setDirtyCanvas(true, true);
  });
  const { onConfigure, onRemoved } = node;
  node.onConfigure = function (/** @type {any[]} */ ...given) {
    onConfigure?.apply(this, given);
    show();
  };
  node.onRemoved = function (/** @type {any[]} */ ...given) {
    onRemoved?.apply(this, given);
    close();
  };
  show();
  return { widget, view: () => view };
}

// @ts-check
/**
 * The rules of Dynamic/Sky Mask as plain JSON, free of any page. What is allowed is told by Python (mask_rules.py).
 *
 * @typedef {Record<string, any> & { weights?: Record<string, number> }} Tuning what differs from the defaults, or all
 * @typedef {{ min: number, max: number, step: number, tooltip: string }} Limit
 * @typedef {{ limits: Record<string, Limit>, sources: Record<string, { kind: string, label: string }>,
 *   kinds: string[], max_weight: number, priorities: string[], presets: Record<string, Tuning> }} Described
 */

/** All settings, those that `tuning` lacks from the defaults. @param {Described} described @param {Tuning} tuning */
export function complete(described, tuning) {
  const defaults = described.presets.balanced;
  return { ...defaults, ...tuning, weights: { ...defaults.weights, ...(tuning.weights ?? {}) } };
}

/**
 * The tuning with one setting changed; "weights.x" is the weight of source x. Nothing given is changed in place.
 * @param {Described} described @param {Tuning} tuning @param {string} name @param {number | string} value
 */
export function changed(described, tuning, name, value) {
  const whole = complete(described, tuning);
  if (!name.startsWith("weights.")) return { ...whole, [name]: within(described.limits[name], value) };
  const source = name.slice("weights.".length);
  const limit = { min: 0, max: described.max_weight, step: 0.05, tooltip: "" };
  return { ...whole, weights: { ...whole.weights, [source]: within(limit, value) } };
}

/** The name of the preset that a tuning is, or "". @param {Record<string, Tuning>} presets @param {Tuning} whole */
export function presetOf(presets, whole) {
  const text = ordered(whole);
  return Object.keys(presets).find((name) => ordered(presets[name]) === text) ?? "";
}

/** What of a file is known here; a file may be older than this version. @param {Described} described @param {any} file */
export function known(described, file) {
  if (typeof file !== "object" || file === null || Array.isArray(file)) throw new Error("The file holds no scene preset.");
  const names = Object.keys(described.presets.balanced);
  const kept = Object.fromEntries(Object.entries(file).filter(([name]) => names.includes(name)));
  const weights = Object.entries(file.weights ?? {}).filter(([name]) => name in described.sources);
  return complete(described, { ...kept, weights: Object.fromEntries(weights) });
}

/** A name a preset file may have, or "". @param {string} typed */
export function presetName(typed) {
  const name = typed.trim();
  return /^[\p{L}\p{N}][\p{L}\p{N} _.()+-]{0,59}$/u.test(name) && !name.includes("..") ? name.replace(/\.+$/, "") : "";
}

/** @param {Limit | undefined} limit @param {number | string} value */
function within(limit, value) {
  if (!limit || typeof value !== "number") return value;
  const rounded = Math.round(value / limit.step) * limit.step;
  return Number(Math.min(limit.max, Math.max(limit.min, rounded)).toFixed(4));
}

/** @param {any} value @returns {string} */
function ordered(value) {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((name) => `${name}:${ordered(value[name])}`).join()}}`;
}

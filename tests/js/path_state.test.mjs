import assert from "node:assert/strict";
import test from "node:test";
import { identity, placedAt } from "../../js/path_editor/camera_math.mjs";
import { History, MIN_GAP, readPath, withChange, withKey, withoutKey, withTime, writePath } from "../../js/path_editor/path_state.mjs";

const key = (time, x = time) => ({ time, cam2world: placedAt(identity(), [x, 0, 0]), fov_degrees: null });
const path = (...times) => ({ format: "mirage camera path", version: 1, unit: "median_depth", easing: "linear", interpolation: "smooth", keyframes: times.map((time) => key(time)) });
const times = (one) => one.keyframes.map((key) => key.time);
const places = (one) => one.keyframes.map((key) => key.cam2world[0][3]);

function random(seed) {
  return () => ((seed = (seed * 1103515245 + 12345) % 2 ** 31) / 2 ** 31);
}

test("a path survives being written and read", () => {
  const one = path(0, 1 / 3, 1);
  assert.deepEqual(readPath(writePath(one)), one);
});

test("what is left out of a path takes its default", () => {
  const read = readPath(JSON.stringify({ keyframes: [{ time: 0, cam2world: identity() }, { time: 1, cam2world: identity() }] }));
  assert.deepEqual([read.unit, read.easing, read.interpolation, read.keyframes[0].fov_degrees], ["median_depth", "ease", "smooth", null]);
});

test("what is no path is refused", () => {
  for (const text of ["", "{}", "[]", "{\"keyframes\": [1, 2]}", "null"]) assert.throws(() => readPath(text));
});

test("after any edits times rise from 0 to 1 and the first keyframe is the first picture", () => {
  const next = random(7);
  let one = path(0, 0.5, 1);
  for (let i = 0; i < 2000; i++) {
    const index = Math.floor(next() * one.keyframes.length);
    const edits = [
      () => withKey(one, key(next(), 5)).path,
      () => withoutKey(one, index).path,
      () => withTime(one, index, next() * 1.4 - 0.2).path,
      () => withChange(one, index, { cam2world: placedAt(identity(), [next(), next(), next()]) }),
      () => withTime(one, index, one.keyframes[Math.floor(next() * one.keyframes.length)].time).path,
    ];
    one = edits[Math.floor(next() * edits.length)]();
    const all = times(one);
    assert.equal(all[0], 0);
    assert.equal(all.at(-1), 1);
    for (let j = 1; j < all.length; j++) assert.ok(all[j] > all[j - 1], `${all}`);
    assert.deepEqual(one.keyframes[0].cam2world, identity());
  }
});

test("edits leave the path they were given as it is", () => {
  const one = path(0, 0.5, 1);
  const before = writePath(one);
  withKey(one, key(0.2)); withoutKey(one, 1); withTime(one, 1, 0.9); withChange(one, 1, { fov_degrees: 20 });
  assert.equal(writePath(one), before);
});

test("a keyframe goes where its time is", () => {
  const { path: more, selected } = withKey(path(0, 0.5, 1), key(0.7, 9));
  assert.deepEqual([times(more), selected], [[0, 0.5, 0.7, 1], 2]);
});

test("a keyframe moved past its neighbour changes the order", () => {
  const { path: moved, selected } = withTime(path(0, 0.3, 0.6, 1), 1, 0.8);
  assert.deepEqual([times(moved), places(moved), selected], [[0, 0.6, 0.8, 1], [0, 0.6, 0.3, 1], 2]);
});

test("a keyframe moved onto another stays behind or before it", () => {
  const { path: moved } = withTime(path(0, 0.3, 0.6, 1), 1, 0.6);
  assert.ok(Math.abs(times(moved)[1] - (0.6 - MIN_GAP)) < 1e-12);
});

test("a keyframe moved into a crowd finds a place", () => {
  const crowd = path(0, MIN_GAP, 2 * MIN_GAP, 0.5, 1);
  for (const time of [0, MIN_GAP, 1]) {
    const all = times(withTime(crowd, 3, time).path);
    for (let j = 1; j < all.length; j++) assert.ok(all[j] > all[j - 1], `${all}`);
  }
});

test("the ends stay in time and the first stays in place", () => {
  const one = path(0, 0.5, 1);
  assert.equal(withTime(one, 0, 0.4).path, one);
  assert.equal(withTime(one, 2, 0.4).path, one);
  assert.equal(withoutKey(one, 0).path, one);
  assert.equal(withChange(one, 0, { fov_degrees: 30 }).keyframes[0].fov_degrees, 30);
});

test("without the last keyframe the one before it becomes the end", () => {
  assert.deepEqual(places(withoutKey(path(0, 0.5, 1), 2).path), [0, 0.5]);
  assert.deepEqual(times(withoutKey(path(0, 0.5, 1), 2).path), [0, 1]);
  const two = path(0, 1);
  assert.equal(withoutKey(two, 1).path, two);
});

test("undo and redo walk the same way", () => {
  const history = new History({ path: null, selected: -1 });
  const moments = [1, 2, 3].map((selected) => ({ path: path(0, 1), selected }));
  moments.forEach((moment) => history.commit(moment));
  assert.ok(history.undo() && history.undo());
  assert.equal(history.now, moments[0]);
  assert.ok(history.redo());
  assert.equal(history.now, moments[1]);
  history.commit(moments[0]);
  assert.equal(history.redo(), false);
});

test("a drag is one step and the next drag another", () => {
  const history = new History({ path: null, selected: -1 });
  for (const selected of [1, 2, 3]) history.commit({ path: null, selected }, "drag 1");
  history.settle();
  for (const selected of [4, 5]) history.commit({ path: null, selected }, "drag 1");
  history.undo();
  assert.equal(history.now.selected, 3);
  history.undo();
  assert.equal(history.now.selected, -1);
  assert.equal(history.undo(), false);
});

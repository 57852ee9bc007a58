import assert from "node:assert/strict";
import test from "node:test";
import { edgesOf, extentOf, pointsIn, readBox, writeBox } from "../../js/memory_viewer/box.mjs";

const BOX = { low: [-1, -0.5, 0], high: [1, 0.25, 3] };

test("a box that is written is read again", () => {
  assert.deepEqual(readBox(writeBox(BOX)), BOX);
});

test("a face through points keeps them when it is written", () => {
  const [low, high] = [-1.2345678, 5.984375];
  const box = readBox(writeBox({ low: [low, low, 0], high: [high, high, 1] }));
  assert.ok(box && box.low[0] <= low && box.high[0] >= high);
  assert.ok(low - box.low[0] < 1e-4 && box.high[0] - high < 1e-4);
  assert.deepEqual(box.low[2], 0);
});

test("corners may come in any order and apart by commas", () => {
  assert.deepEqual(readBox("1, 0.25, 3; -1 -0.5 0"), BOX);
});

test("texts that are no box are null", () => {
  for (const text of ["", "1 2 3", "a b c d e f", "1 2 3 4 5 NaN", "1 2 3 4 5 6 7"]) assert.equal(readBox(text), null);
});

test("faces belong to the box and nothing outside does", () => {
  const points = new Float32Array([-1, -0.5, 0, 1, 0.25, 3, 0, 0, 1, 1.01, 0, 1, 0, 0.3, 1, 0, 0, -0.01]);
  assert.deepEqual([...pointsIn(points, BOX)], [1, 1, 1, 0, 0, 0]);
});

test("a box has twelve edges, each along one axis and none twice", () => {
  const ends = edgesOf(BOX);
  assert.equal(ends.length, 24);
  const edges = new Set();
  for (let i = 0; i < 24; i += 2) {
    const differing = [0, 1, 2].filter((axis) => ends[i][axis] !== ends[i + 1][axis]);
    assert.equal(differing.length, 1);
    edges.add(JSON.stringify([ends[i], ends[i + 1]]));
  }
  assert.equal(edges.size, 12);
});

test("a few stray points do not stretch the extent", () => {
  const points = Float32Array.from({ length: 3000 }, (_, i) => (i % 3) + (Math.floor(i / 3) % 10) / 10);
  points.set([1e6, 1e6, 1e6]);
  assert.ok(extentOf(points).high.every((value) => value < 4));
  assert.deepEqual(extentOf(new Float32Array()), { low: [-1, -1, -1], high: [1, 1, 1] });
});

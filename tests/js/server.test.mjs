import assert from "node:assert/strict";
import test from "node:test";
import { newestOnly } from "../../js/path_editor/server.mjs";

const rest = () => new Promise((resolve) => setTimeout(resolve, 5));

test("of questions that come too fast the first and the newest are asked", async () => {
  const [asked, answers] = [[], []];
  const ask = newestOnly(async (value) => (asked.push(value), await rest(), value), (answer) => answers.push(answer), assert.fail);
  for (let i = 0; i < 10; i++) ask(i);
  await rest();
  await rest();
  await rest();
  assert.deepEqual([asked, answers], [[0, 9], [0, 9]]);
});

test("after an error the next question is asked", async () => {
  const heard = [];
  const ask = newestOnly(async (value) => {
    if (value < 0) throw new Error("below 0");
    return value;
  }, (answer) => heard.push(answer), (error) => heard.push(error.message));
  await ask(-1);
  await ask(2);
  assert.deepEqual(heard, ["below 0", 2]);
});

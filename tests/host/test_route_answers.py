"""How Mirage's routes answer when something goes wrong, or too many questions come at once."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request


@pytest.fixture
def answers(pack):
    return pack("route_answers")


def run(coroutine):
    """asyncio.run() in a thread of its own: in this one a browser of other tests may have left a loop running."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def answer_of(answers, question) -> tuple[int, dict]:
    """(status, JSON) of a route that asks `question`."""
    request = make_mocked_request("GET", "/mirage/view", headers={"Host": "here:8188"})
    response = run(answers.answered(question)(request))
    return response.status, json.loads(response.body)


def raising(error):
    async def question(request):
        raise error

    return question


@pytest.mark.parametrize("error", [TypeError("secret"), RuntimeError("secret"), OSError("secret"), KeyError("secret")])
def test_what_nobody_foresaw_is_one_sentence_of_json_and_in_the_log(answers, error, caplog):
    status, told = answer_of(answers, raising(error))
    assert status == 500 and type(error).__name__ in told["error"] and "secret" not in told["error"]
    assert "Traceback" in caplog.text and "secret" in caplog.text and "/mirage/view" in caplog.text


def test_a_wrong_question_is_told_what_is_wrong(answers):
    assert answer_of(answers, raising(ValueError("frame is 9."))) == (400, {"error": "frame is 9."})


def test_answers_of_the_web_server_itself_are_left_alone(answers):
    with pytest.raises(web.HTTPNotFound):
        answer_of(answers, raising(web.HTTPNotFound()))


def test_only_so_many_questions_wait_and_the_next_ones_are_answered_again(answers):
    worker, go_on = answers.Worker("test", limit=3), threading.Event()

    async def question(request):
        return web.json_response(await worker.run(go_on.wait, 30))

    async def many():
        request = make_mocked_request("GET", "/mirage/view", headers={"Host": "here:8188"})
        ask = answers.answered(question)
        waiting = [asyncio.ensure_future(ask(request)) for _ in range(3)]
        await asyncio.sleep(0)
        refused = await ask(request)
        go_on.set()
        answered = [(await one).status for one in waiting]
        return refused, [*answered, (await ask(request)).status]

    refused, statuses = run(many())
    assert refused.status == 503 and "3 questions wait" in json.loads(refused.body)["error"]
    assert statuses == [200] * 4


def test_work_that_fails_gives_its_place_back(answers):
    worker = answers.Worker("test", limit=1)

    def fails():
        raise ValueError("no")

    async def twice():
        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                await worker.run(fails)

    run(twice())

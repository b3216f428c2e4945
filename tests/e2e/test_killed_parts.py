"""Parts are killed, shut down and added while tasks run."""

import httpx

from tests.support.stack import Api, Process, Stack, until

LONG = {"steps": 150, "num_images": 4}
"""The miniatures draw one size, so more images make a long task."""


def test_a_runner_killed_mid_task_costs_one_attempt_and_the_task_ends_once(api: Api, sd_runner: Process):
    task = api.submit(image_params=LONG)
    api.stepping(task)
    sd_runner.kill()
    sd_runner.start().wait_until_ready()
    status = api.reached(task, "completed", "failed", seconds=120)
    assert status["status"] == "completed", status
    assert status["attempt"] >= 2
    assert api.image(task).status_code == 200


def test_a_consumer_killed_mid_task_loses_nothing(api: Api, consumer: Process):
    task = api.submit(image_params=LONG)
    waiting = [api.submit(image_params={"steps": 2}, user_id="later") for _ in range(3)]
    api.stepping(task)
    consumer.kill()
    meanwhile = api.submit(image_params={"steps": 2})
    consumer.start().wait_until_ready()
    for task_id in (task, *waiting, meanwhile):
        assert api.reached(task_id, "completed", "failed", seconds=120)["status"] == "completed"


def test_a_cancel_stops_an_attempt_of_a_consumer_process_that_shuts_down(api: Api, consumer: Process):
    task = api.submit(image_params=LONG)
    api.stepping(task)
    consumer.ask_to_end()
    until(lambda: httpx.get(f"{consumer.url}/readyz").status_code == 503, what="the consumer ending")
    assert api.cancel(task).status_code == 202
    assert api.reached(task, "canceled", "completed", seconds=30)["status"] == "canceled"
    assert consumer.wait_until_ended(30) == 0
    consumer.start().wait_until_ready()


def test_a_second_consumer_that_joins_and_leaves_mid_task_runs_no_task_twice(
    api: Api, stack: Stack, consumer: Process, sd_runner: Process, flux_runner: Process
):
    tasks = [
        api.submit(model, image_params={"steps": 60}, user_id=f"user-{index}")
        for index in range(4)
        for model in ("sd-mini", "flux-mini")
    ]
    second = stack.consumer(sd_runner, flux_runner).wait_until_ready()
    tasks += [api.submit(model, image_params={"steps": 20}) for model in ("sd-mini", "flux-mini")]
    done = [api.reached(task, "completed", "failed", seconds=120) for task in tasks]
    assert [status["attempt"] for status in done] == [1] * len(tasks)
    assert {status["status"] for status in done} == {"completed"}
    second.terminate(40)
    task = api.submit(image_params={"steps": 2})
    assert api.reached(task, "completed")["attempt"] == 1

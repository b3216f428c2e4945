"""The time between the end of one task and the first step of the next, with a backlog and room for one image."""

import statistics

import httpx

from infra.local.process import until
from tools.bench.stage import quantiles, row, stack, title

TASKS = 60
STEPS = 6
_BODY = {
    "model_name": "sd-mini",
    "prompt": "a red circle on a blue background",
    "image_params": {"steps": STEPS},
}


def measure() -> None:
    """Print the table."""
    with stack() as built:
        budget = str(64 * 64)
        runner = built.python(
            "traced", "-m", "tools.bench.traced_runner", MODEL_NAME="sd-mini", RUNNER_PIXEL_BUDGET=budget
        ).wait_until_ready()
        warm_up = len(httpx.get(f"{runner.url}/trace").json()["ticks"])
        consumer, gateway = built.consumer(runner), built.gateway()
        consumer.wait_until_ready()
        gateway.wait_until_ready()
        for _ in range(TASKS):
            answer = httpx.post(f"{gateway.url}/generate_image", json=_BODY, timeout=90)
            assert answer.status_code == 202, answer.text
        steps_in_all = warm_up + TASKS * STEPS
        until(lambda: len(httpx.get(f"{runner.url}/trace").json()["ticks"]) >= steps_in_all, 180, "every step")
        trace = httpx.get(f"{runner.url}/trace").json()
    ticks = trace["ticks"][warm_up:]
    decodes, encodes = trace["decode"][-TASKS:], trace["encode"][-TASKS:]
    # The first tasks ran while others were still being submitted, so there was no backlog yet.
    later = range(TASKS // 4, TASKS - 1)
    gaps = [ticks[(n + 1) * STEPS][0] - ticks[(n + 1) * STEPS - 1][1] for n in later]
    decoding = [decodes[n][1] - decodes[n][0] for n in later]
    encoding = [
        encodes[n + 1][1] - encodes[n + 1][0] if encodes[n + 1][0] > ticks[(n + 1) * STEPS - 1][1] else 0.0
        for n in later
    ]
    idle = [gap - decode - encode for gap, decode, encode in zip(gaps, decoding, encoding, strict=True)]
    title("end of one task to the first step of the next, backlog, real sd-mini runner (goal <= 5 ms median)")
    row("", "p50", "p99", "gaps")
    quantiles("model idle in between", idle)
    quantiles("last step to the next task's first step, all included", gaps)
    quantiles("  of which the image's decode", decoding)
    quantiles("  of which the next prompt's encoding", encoding)
    row("one step, median", f"{statistics.median(end - begin for begin, end in ticks) * 1e3:.2f} ms")

"""The judge of a soak finds each broken promise: a run without problems, changed in one place."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runners.encoding import SOFTWARE
from tasks.events import Outcome, Released, Started, StoredImage, TaskFailure
from tasks.task import Task, TaskRecord
from tests.proofs.soak.evidence import ApiAnswer, Evidence, TopicRecords
from tests.proofs.soak.judge import OWNER_GONE, broken_promises, left_over, longest_stall, starts_beyond_the_first
from tests.proofs.soak.ledger import Ledger
from tests.proofs.soak.pictures import PictureComparison

A, B = "a" * 32, "b" * 32
LANE = "ai_image_gen.online_task"


def body(prompt: str = "a red circle") -> dict[str, Any]:
    params = {"width": 64, "height": 64, "steps": 2, "seed": 3, "num_images": 1}
    return {"model_name": "sd-mini", "prompt": prompt, "image_params": params, "loras": []}


def picture(task_id: str, colour: str = "red", **fields: Any) -> bytes:
    request = body() | body()["image_params"] | {"task_id": task_id} | fields
    info = PngInfo()
    info.add_itxt(SOFTWARE, json.dumps({"task_id": task_id, "model": "sd-mini", "request": request, "seed": 3}))
    out = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def outcome(task_id: str, status: str = "completed", **more: Any) -> Outcome:
    params = body()["image_params"] | {"guidance_scale": 3.0, "format": "png", "scheduler": "ddim"}
    task = Task.model_validate({**body(), "image_params": params, "task_id": task_id, "topic": LANE, "created_at": 1.0})
    image = StoredImage(
        key=f"tasks/{task_id}/1-x-0.png", content_type="image/png", size=9, sha256="", width=64, height=64, seed=3
    )
    images = (image,) if status == "completed" else ()
    return Outcome(task_id=task_id, at=5.0, status=status, tries=1, task=task, images=images, **more)


def log(*events: tuple[float, Any], tasks: tuple[str, ...] = (A, B)) -> TopicRecords:
    records = {task: (1.0, TaskRecord.model_validate({**body(), "task_id": task})) for task in tasks}
    return TopicRecords(records, list(events), 0, {(LANE, 0): 0})


def faultless_run() -> tuple[Evidence, Ledger]:
    ends = {task: outcome(task) for task in (A, B)}
    answers = {task: ApiAnswer({"status": "completed"}, [picture(task)]) for task in ends}
    stored = {image.key for end in ends.values() for image in end.images}
    evidence = Evidence(log(*((5.0, end) for end in ends.values())), ends, stored, answers, [])
    return evidence, Ledger(accepted={A: body()}, ends={A: "completed"})


def judged(change: Callable[[Evidence, Ledger], Evidence | None]) -> list[str]:
    evidence, ledger = faultless_run()
    return broken_promises(change(evidence, ledger) or evidence, ledger, PictureComparison())


def test_a_run_without_problems_breaks_no_promise():
    assert judged(lambda evidence, ledger: None) == []


@pytest.mark.parametrize(
    ("sentence", "change"),
    [
        ("was accepted and is not in the log", lambda left, ledger: ledger.accept("c" * 32, body())),
        ("has no outcome.json", lambda left, ledger: replace(left, outcomes={A: left.outcomes[A]})),
        ("has 0 different outcomes", lambda left, ledger: replace(left, log=log((5.0, left.outcomes[A])))),
        ("has 2 different outcomes", lambda left, ledger: left.log.events.append((6.0, outcome(A, "canceled")))),
        ("and is stored as", lambda left, ledger: replace(left, outcomes={**left.outcomes, A: outcome(A, "canceled")})),
        (
            "and the API says",
            lambda left, ledger: replace(left, answers={**left.answers, A: ApiAnswer({"status": "queued"}, [])}),
        ),
        (
            "does not open",
            lambda left, ledger: replace(
                left, answers={**left.answers, B: ApiAnswer({"status": "completed"}, [b"no"])}
            ),
        ),
        (
            "is not its own",
            lambda left, ledger: replace(
                left, answers={**left.answers, A: ApiAnswer({"status": "completed"}, [picture(A, prompt="a cat")])}
            ),
        ),
        (
            "is not its own",
            lambda left, ledger: replace(
                left, answers={**left.answers, A: ApiAnswer({"status": "completed"}, [picture(B)])}
            ),
        ),
        (
            "differs by 255",
            lambda left, ledger: replace(
                left, answers={**left.answers, B: ApiAnswer({"status": "completed"}, [picture(B, "blue")])}
            ),
        ),
        ("was reported as canceled and is completed", lambda left, ledger: ledger.ends.update({A: "canceled"})),
        ("records behind its end", lambda left, ledger: replace(left, log=replace(left.log, behind={(LANE, 0): 2}))),
        ("are dead letters", lambda left, ledger: replace(left, log=replace(left.log, dead_letters=1))),
        ("was never requested", lambda left, ledger: replace(left, log=log(*left.log.events, tasks=(A,)))),
        ("not idle", lambda left, ledger: replace(left, busy=["a runner has 1 waiting"])),
    ],
)
def test_a_broken_promise_is_found(sentence: str, change: Callable[[Evidence, Ledger], Evidence | None]):
    assert any(sentence in problem for problem in judged(change))


def test_the_failure_of_a_valid_request_is_found():
    end = outcome(A, "failed", error=TaskFailure(code="invalid_request", message="loras.0: no"))
    evidence, _ = faultless_run()
    changed = replace(
        evidence,
        log=log((5.0, end), (5.0, evidence.outcomes[B])),
        outcomes={**evidence.outcomes, A: end},
        answers={**evidence.answers, A: ApiAnswer({"status": "failed"}, [])},
    )
    assert any(
        "although its request was valid" in problem
        for problem in broken_promises(changed, Ledger(), PictureComparison())
    )


def test_two_contradictory_answers_are_found():
    ledger = Ledger()
    ledger.accept(A, body())
    ledger.accept(A, body("another"))
    assert ledger.report(A, "completed")
    assert not ledger.report(A, "running")
    assert len(ledger.problems) == 2


def test_the_longest_stall_counts_only_while_a_task_waits():
    records = log((2.0, outcome(A)), (102.0, outcome(B)), tasks=())
    tasks = {
        A: (1.0, TaskRecord.model_validate({**body(), "task_id": A})),
        B: (90.0, TaskRecord.model_validate({**body(), "task_id": B})),
    }
    assert longest_stall(replace(records, tasks=tasks)).seconds == 12.0


def test_a_repeated_start_is_counted_under_the_reason_of_the_earlier_end():
    def started(attempt: int) -> Started:
        return Started(task_id=A, at=1.0, attempt=attempt, owner="a")

    released = Released(task_id=A, at=2.0, attempt=1, owner="a", code="runner_lost")
    counted = starts_beyond_the_first(log((1, started(1)), (2, released), (3, started(2)), (9, started(3))))
    assert counted == {"runner_lost": 1, OWNER_GONE: 1}


def test_a_picture_no_outcome_names_is_counted():
    evidence, _ = faultless_run()
    assert left_over(evidence) == 0
    assert left_over(replace(evidence, stored={*evidence.stored, "tasks/x/2-y-0.png"})) == 1

"""A part is killed with all it started, also in the instant it is born."""

from pathlib import Path

from infra.local.supervisor import Part
from tests.proofs.soak.parts import Process, marked
from tests.support.stack import until

LEAVES_ITS_SESSION = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); time.sleep(60)"
)


def test_a_part_killed_the_instant_it_was_started_is_gone(tmp_path: Path):
    process = Process(Part("p", ("python", "-c", LEAVES_ITS_SESSION)), f"soak-test/{tmp_path}", tmp_path / "p.txt")
    for _ in range(30):
        process.start()
        process.kill()
        assert not list(marked(process.mark))


def test_a_child_in_a_session_of_its_own_is_killed_with_its_part(tmp_path: Path):
    process = Process(Part("p", ("python", "-c", LEAVES_ITS_SESSION)), f"soak-test/{tmp_path}", tmp_path / "p.txt")
    process.start()
    until(lambda: len(list(marked(process.mark))) == 2, what="both there")
    process.kill()
    assert not list(marked(process.mark))


def test_a_part_that_ends_by_itself_is_noticed_and_one_that_was_killed_is_not(tmp_path: Path):
    process = Process(Part("p", ("python", "-c", "raise SystemExit(3)")), f"soak-test/{tmp_path}", tmp_path / "p.txt")
    process.start()
    until(process.died, what="it has died")
    assert process.died() == "with exit code 3"
    process.start()
    process.kill()
    assert process.died() is None

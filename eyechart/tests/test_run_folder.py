"""A folder has one writer, who replaces and deletes only what runs wrote; results appear together or not at all."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from eyechart import files, lock, manifest
from eyechart.exits import guarded
from eyechart.files import atomic, remove, write_atomic
from eyechart.lock import LockedError, locked
from eyechart.manifest import MANIFEST
from eyechart.run_folder import RESULTS, Kinds, RunFolder, writing

NAMES = re.compile(r"log\.jsonl|data_\d+\.bin|a\.txt|b\.txt|c\.txt")
KINDS = Kinds(NAMES, lambda path: path.read_bytes()[:4] == b"OURS")


def in_a_child(action: Callable[[], object]) -> int:
    """The exit code of a forked process that does `action`; minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = guarded(lambda: int(bool(action())))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


_KEPT: list[object] = []


def entered(block: AbstractContextManager[object]) -> bool:
    """Enter a block that is never left."""
    _KEPT.append(block)
    block.__enter__()
    return True


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_second_process_is_refused_with_pid_host_and_command_of_the_first(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with writing(tmp_path, KINDS):
        assert in_a_child(lambda: entered(writing(tmp_path, KINDS))) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert f"error: the folder {tmp_path} is being written by process {os.getpid()} on {socket.gethostname()} (`" in (
        said
    )
    assert "pytest" in said and "choose another folder" in said
    assert in_a_child(lambda: entered(writing(tmp_path, KINDS))) == 1, "the lock is free again"
    assert names(tmp_path) == {".lock"}, "the child ended without leaving its block"


def test_a_second_thread_is_refused_and_a_block_inside_a_block_is_not(tmp_path: Path) -> None:
    found: list[str] = []

    def other() -> None:
        try:
            with writing(tmp_path, KINDS):
                found.append("in")
        except LockedError as error:
            found.append(str(error))

    with writing(tmp_path, KINDS) as outer, writing(tmp_path, KINDS) as inner:
        assert inner is outer
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(found) == 1 and f"process {os.getpid()} " in found[0]


def test_the_lock_of_a_killed_process_is_free_and_a_worker_that_outlives_it_does_not_keep_it(tmp_path: Path) -> None:
    reading, writing_end = os.pipe()

    def lock_fork_and_die() -> None:
        with writing(tmp_path, KINDS):
            if os.fork() == 0:
                os.write(writing_end, b"%d" % os.getpid())
                time.sleep(30)
                os._exit(0)
            killed()

    assert in_a_child(lock_fork_and_die) == -signal.SIGKILL
    worker = int(os.read(reading, 20))
    try:
        assert (tmp_path / ".lock").exists()
        with writing(tmp_path, KINDS):
            pass
        assert names(tmp_path) == set()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_folder_in_which_nothing_was_written_is_removed_again(tmp_path: Path) -> None:
    with writing(tmp_path / "new" / "run", KINDS):
        assert (tmp_path / "new" / "run" / ".lock").is_file()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("dead", [False, True])
def test_without_record_locks_the_existence_of_a_file_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    path = tmp_path / ".lock"
    if dead:
        assert in_a_child(lambda: (entered(locked(path, "it")), killed())) == -signal.SIGKILL
        assert (tmp_path / ".lock.exists").exists()
    with locked(path, "it"):
        assert in_a_child(lambda: entered(locked(path, "it"))) == 2
    assert names(tmp_path) == set()


def test_a_lock_by_existence_of_another_machine_is_named_with_the_file_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    holder = {"pid": 1, "host": "elsewhere", "command": "train", "since": "today"}
    (tmp_path / ".lock.exists").write_text(json.dumps(holder))
    with pytest.raises(LockedError, match=r"process 1 on elsewhere .*if that process has ended, delete .*\.exists"):
        entered(locked(tmp_path / ".lock", "it"))


def test_two_hundred_processes_that_count_in_a_file_lose_no_count(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")

    def count() -> None:
        for _ in range(20):
            with locked(tmp_path / ".lock", "it", wait=60):
                number = int((tmp_path / "count").read_text())
                time.sleep(0.0005)
                (tmp_path / "count").write_text(str(number + 1))

    pids = []
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                count()
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "count").read_text() == "200"


def test_a_users_file_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("mine")
    with writing(tmp_path, KINDS) as opened:
        with pytest.raises(ValueError, match=r"log\.jsonl was not written by a run, so it is neither replaced nor del"):
            opened.require_ours()
        with pytest.raises(ValueError, match="was not written by a run"):
            write_atomic(tmp_path / "log.jsonl", "ours")
        assert not remove(tmp_path / "log.jsonl")
        opened.delete_all()
    assert (tmp_path / "log.jsonl").read_text() == "mine"


def test_a_file_of_a_run_is_replaced_and_removed_until_a_user_changes_it(tmp_path: Path) -> None:
    with writing(tmp_path, KINDS):
        write_atomic(tmp_path / "a.txt", "one")
        write_atomic(tmp_path / "a.txt", "two")
        write_atomic(tmp_path / "b.txt", "two")
    with writing(tmp_path, KINDS) as opened:
        opened.require_ours()
        assert remove(tmp_path / "b.txt")
    (tmp_path / "a.txt").write_text("changed by hand")
    (tmp_path / "b.txt").write_text("another")
    with writing(tmp_path, KINDS) as opened:
        with pytest.raises(ValueError, match=r"a\.txt was changed after a run wrote it"):
            opened.require_ours()
        opened.delete_all()
    assert names(tmp_path) == {"a.txt", "b.txt", MANIFEST}


def test_only_files_that_the_manifest_lists_are_deleted_with_a_run(tmp_path: Path) -> None:
    with writing(tmp_path, KINDS):
        write_atomic(tmp_path / "data_1.bin", "x")
        write_atomic(tmp_path / "data_2.bin", "x")
    for name in ("data_best.bin", "notes.txt"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "tracker").mkdir()
    (tmp_path / "tracker" / "thesis.tex").write_text("mine")
    with writing(tmp_path, KINDS) as opened:
        opened.require_ours()
        opened.delete_all()
    assert names(tmp_path) == {"data_best.bin", "notes.txt", "tracker", MANIFEST}
    assert names(tmp_path / "tracker") == {"thesis.tex"}


def test_files_that_a_library_wrote_are_listed_and_deleted_with_their_folder(tmp_path: Path) -> None:
    with writing(tmp_path, KINDS) as opened:
        (tmp_path / "tracker" / "in").mkdir(parents=True)
        (tmp_path / "tracker" / "in" / "events").write_text("1")
        opened.register([tmp_path / "tracker" / "in" / "events"])
        (tmp_path / "tracker" / "in" / "events").write_text("1 2")
        opened.delete_all()
    assert names(tmp_path) == {MANIFEST}


def test_files_of_an_earlier_version_are_recognised_by_content_also_after_the_first_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data_1.bin").write_text("OURS, of an earlier version")
    (tmp_path / "data_2.bin").write_text("OURS, of an earlier version")
    with writing(tmp_path, KINDS) as opened:
        opened.require_ours()
        write_atomic(tmp_path / "data_1.bin", "new")
    assert "has no run.json, so it is of an earlier version; its files were recognised" in capsys.readouterr().err
    (tmp_path / "data_3.bin").write_text("OURS, but copied in later")
    with writing(tmp_path, KINDS) as opened:
        assert [opened.is_ours(tmp_path / f"data_{n}.bin") for n in (1, 2, 3)] == [True, True, False]
    assert capsys.readouterr().err == ""


def test_a_kill_between_manifest_and_rename_leaves_a_file_that_is_still_a_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(tmp_path, KINDS):
        write_atomic(tmp_path / "a.txt", "old")

    def die_before_the_rename() -> None:
        save = RunFolder._save
        monkeypatch.setattr(RunFolder, "_save", lambda self, *coming: (save(self, *coming), killed()))
        with writing(tmp_path, KINDS):
            write_atomic(tmp_path / "a.txt", "new")

    assert in_a_child(die_before_the_rename) == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"
    assert any(name.startswith(".a.txt.") for name in names(tmp_path))
    with writing(tmp_path, KINDS) as opened:
        opened.require_ours()
        assert names(tmp_path) == {"a.txt", MANIFEST, ".lock"}, "the draft was swept"


def test_drafts_of_killed_processes_are_swept_and_a_users_hidden_files_are_not(tmp_path: Path) -> None:
    assert in_a_child(lambda: (entered(atomic(tmp_path / "log.jsonl")), killed())) == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    users = {".log.jsonl.swp", ".log.jsonl.original", ".notes.txt.abcdefgh"}
    for name in users:
        (tmp_path / name).write_text("mine")
    handle = os.open(tmp_path / ".a.txt.ab12cd_9", os.O_CREAT | os.O_WRONLY, 0o600)  # what earlier versions left
    os.close(handle)
    (tmp_path / f".{RESULTS}-abcdefgh.draft").mkdir()
    with writing(tmp_path, KINDS):
        assert names(tmp_path) == users | {".lock"}


def results(folder: Path, *wanted: str, text: str = "new") -> None:
    with writing(folder, KINDS) as opened, opened.together(RESULTS) as draft:
        for name in wanted:
            write_atomic(draft / name, text)


def test_results_replace_all_files_of_earlier_results(tmp_path: Path) -> None:
    results(tmp_path, "a.txt", "b.txt", text="old")
    results(tmp_path, "b.txt", "c.txt")
    assert names(tmp_path) == {"b.txt", "c.txt", MANIFEST}
    assert (tmp_path / "b.txt").read_text() == "new"


def test_results_do_not_appear_where_one_of_them_would_replace_a_users_file(tmp_path: Path) -> None:
    results(tmp_path, "a.txt", "b.txt", text="old")
    (tmp_path / "c.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"c\.txt was not written by a run"):
        results(tmp_path, "a.txt", "b.txt", "c.txt")
    assert {n: (tmp_path / n).read_text() for n in ("a.txt", "b.txt", "c.txt")} == {
        "a.txt": "old",
        "b.txt": "old",
        "c.txt": "mine",
    }
    assert names(tmp_path) == {"a.txt", "b.txt", "c.txt", MANIFEST}


@pytest.mark.parametrize("moment", range(8))
def test_a_kill_at_any_moment_leaves_all_old_results_or_all_new_ones_for_the_next_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    results(tmp_path, "a.txt", "b.txt", text="old")

    def die() -> None:
        renames = [0]
        replace = Path.replace

        def counted(self: Path, target: Path) -> Path:
            if renames[0] == moment:
                killed()
            renames[0] += 1
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", counted)
        results(tmp_path, "b.txt", "c.txt")

    code = in_a_child(die)
    assert code in (0, -signal.SIGKILL)
    mixed = (tmp_path / "c.txt").exists() != ((tmp_path / "b.txt").read_text() == "new")
    if mixed or (tmp_path / "c.txt").exists() and (tmp_path / "a.txt").exists():
        with pytest.raises(ValueError, match="its results are not all in their places"):
            manifest.require_settled(tmp_path)
    with writing(tmp_path, KINDS) as opened:
        opened.require_ours()
    there = {name: (tmp_path / name).read_text() for name in names(tmp_path) - {MANIFEST}}
    assert there in ({"a.txt": "old", "b.txt": "old"}, {"b.txt": "new", "c.txt": "new"})


def test_a_manifest_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"my": "file"}')
    with pytest.raises(ValueError, match=r"run\.json: not the manifest of a run .* move it away"):
        entered(writing(tmp_path, KINDS))
    assert names(tmp_path) == {MANIFEST}


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("a symbolic link", lambda path: path.symlink_to(path.with_name("target"))),
        ("a named pipe", os.mkfifo),
        ("a folder", Path.mkdir),
        ("a socket", lambda path: socket.socket(socket.AF_UNIX).bind(str(path))),
    ],
)
def test_a_write_never_replaces(tmp_path: Path, kind: str, make: Callable[[Path], None]) -> None:
    (tmp_path / "target").write_text("mine")
    path = tmp_path / "out"
    make(path)
    before = path.lstat()
    with pytest.raises(ValueError, match=f"expected a file or nothing there, got {kind}; it is not replaced"):
        write_atomic(path, "new")
    assert path.lstat().st_ino == before.st_ino and (tmp_path / "target").read_text() == "mine"
    assert names(tmp_path) == {"target", "out"}


def test_a_write_never_replaces_a_device() -> None:
    with pytest.raises(ValueError, match="/dev/null: expected a file or nothing there, got a device"):
        write_atomic(Path("/dev/null"), "new")


def test_a_lock_file_that_is_a_link_or_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("pipe", "link"):
        with pytest.raises(ValueError, match="expected a lock file or nothing there"):
            entered(locked(tmp_path / name, "it"))
    assert names(tmp_path) == {"pipe", "link"}


def test_lines_of_a_log_have_the_id_of_the_run_that_wrote_them(tmp_path: Path) -> None:
    log = files.Log("log.jsonl", "a number", dict, lambda item: int(item["step"]))
    log.append(tmp_path, {"step": 1})
    with writing(tmp_path / "held", KINDS) as opened:
        opened.start("first")
        log.append(tmp_path / "held", {"step": 1})
        opened.start("second")
        log.append(tmp_path / "held", {"step": 2})
    assert (log.runs(tmp_path), log.runs(tmp_path / "held")) == (set(), {"first", "second"})
    assert log.read(tmp_path / "held") == [{"step": 1}, {"step": 2}]

"""The chain of an audit log, and its files: each cut, change and removal is found, and no crash is taken for one."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import ConfigError
from gofer_plugin_audit.chain import GENESIS, Verification, line_of, read_line
from gofer_plugin_audit.log import AuditLog, files_in
from support.commands import run_gofer


def opened(directory: Path, **more: Any) -> AuditLog:
    log = AuditLog(directory, **{"max_size": 1 << 20, "keep": None, "sync": 0.0, **more})
    log.open(host="here")
    return log


def written(directory: Path, count: int = 5, **more: Any) -> list[Path]:
    log = opened(directory, **more)
    for number in range(count):
        log.write("call", durable=True, sn=f"sn-{number}", called="Dog.bark")
    log.close()
    return files_in(directory)


def verified(*files: Path, expect: tuple[int, str] | None = None) -> Verification:
    looked = Verification(expect)
    for file in files:
        with file.open("rb") as lines:
            looked.read(file.name, lines)
        if looked.finding is not None:
            return looked
    looked.end(files[-1].name)
    return looked


def test_a_line_is_read_only_as_it_was_written() -> None:
    line, digest = line_of(7, GENESIS, "call", {"sn": "x", "who": 'a"\n\ud800', "n": [1, None]})
    record = read_line(line)
    assert record is not None
    assert (record.seq, record.event, record.hash, record.fields["who"]) == (7, "call", digest, 'a"\n\ud800')
    assert read_line(line[:-1]) == record  # only its end lacks
    for at in range(len(line) - 1):
        changed = bytearray(line)
        changed[at] ^= 1
        assert read_line(bytes(changed)) is None, at
        assert read_line(line[:at]) is None, at
    for other in (b"", b"\n", b"{}", b'{"seq":1}\n', line + line, b"\0" * 300):
        assert read_line(other) is None


def test_a_log_that_is_whole_fits(tmp_path: Path) -> None:
    (file,) = written(tmp_path)
    looked = verified(file)
    assert (looked.finding, looked.records, looked.notes) == (None, 7, [])
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [one["event"] for one in records] == ["start", *["call"] * 5, "stop"]
    assert [one["seq"] for one in records] == list(range(1, 8))
    assert (records[0]["prev"], records[3]["prev"]) == (GENESIS, records[2]["hash"])
    assert os.stat(file).st_mode & 0o777 == 0o600


CHANGES: list[tuple[str, Callable[[list[bytes]], list[bytes]], str, int]] = [
    ("a byte", lambda lines: [*lines[:3], lines[3].replace(b"sn-2", b"sn-9"), *lines[4:]], "changed", 4),
    ("the first", lambda lines: [lines[0].replace(b"here", b"hera"), *lines[1:]], "changed", 1),
    ("one removed", lambda lines: [*lines[:3], *lines[4:]], "missing", 4),
    ("two removed", lambda lines: [*lines[:2], *lines[4:]], "missing", 3),
    ("the first removed", lambda lines: lines[1:], "missing", 1),
    ("two exchanged", lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "missing", 3),
    ("one twice", lambda lines: [*lines[:3], lines[2], *lines[3:]], "changed", 4),
    ("a line added", lambda lines: [*lines[:3], b"{}\n", *lines[3:]], "changed", 4),
    ("made anew", lambda lines: [*lines[:3], line_of(4, "1" * 64, "call", {})[0], *lines[4:]], "changed", 4),
    ("a chained one made anew", lambda lines: _anew(lines, 3), "changed", 5),
    ("cut within a line", lambda lines: [*lines[:4], lines[4][:30]], "truncated", 5),
    ("two lines in one", lambda lines: [*lines[:3], lines[3][:-1] + lines[4], *lines[5:]], "changed", 4),
    ("nul bytes", lambda lines: [*lines, b"\0" * 100 + b"\n"], "changed", 8),
]


def _anew(lines: list[bytes], at: int) -> list[bytes]:
    before = read_line(lines[at - 1])
    assert before is not None
    return [*lines[:at], line_of(at + 1, before.hash, "call", {"sn": "forged"})[0], *lines[at + 1 :]]


@pytest.mark.parametrize(("what", "change", "kind", "line"), CHANGES, ids=[one[0] for one in CHANGES])
def test_the_first_line_that_does_not_fit_is_named(
    tmp_path: Path, what: str, change: Callable[[list[bytes]], list[bytes]], kind: str, line: int
) -> None:
    (file,) = written(tmp_path)
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))
    finding = verified(file).finding
    assert finding is not None
    assert (finding.kind, finding.line) == (kind, line), finding
    done = run_gofer("audit", "verify", str(tmp_path))
    assert (done.returncode, f"{kind}: {file}, line {line}: " in done.stdout) == (1, True), done


def test_an_end_that_is_cut_off_is_found_by_a_record_that_is_known(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for number in range(5):
        log.write("call", n=number)
    known = log.where
    log.close()
    (file,) = files_in(tmp_path)
    whole = file.read_bytes().splitlines(keepends=True)
    done = run_gofer("audit", "verify", "--expect", known, str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("7 records fit; last record 7:")
    file.write_bytes(b"".join(whole[:4]))
    done = run_gofer("audit", "verify", str(file))
    assert (done.returncode, "the end is cut off" in done.stderr) == (0, True)
    done = run_gofer("audit", "verify", "--expect", known, str(file))
    assert (done.returncode, done.stdout[:10]) == (1, "truncated:")
    assert "ends with record 4, and record 6" in done.stdout
    # All of it made anew, as one can who may write the file: that record is another one.
    prev, lines = GENESIS, []
    for seq in range(1, 8):
        line, prev = line_of(seq, prev, "start" if seq == 1 else "call", {"forged": True})
        lines.append(line)
    file.write_bytes(b"".join(lines))
    assert run_gofer("audit", "verify", str(file)).returncode == 0
    done = run_gofer("audit", "verify", "--expect", known, str(file))
    assert (done.returncode, "line 6: record 6 is not the one with the expected hash" in done.stdout) == (1, True)
    assert run_gofer("audit", "verify", "--expect", "6", str(file)).returncode == 2
    assert run_gofer("audit", "verify", str(tmp_path / "none")).returncode == 2
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing").touch()
    os.mkfifo(tmp_path / "fifo")
    done = run_gofer("audit", "verify", str(tmp_path / "nothing"))
    assert (done.returncode, "there is no record" in done.stdout) == (1, True)
    assert run_gofer("audit", "verify", str(tmp_path / "fifo")).returncode == 2
    assert run_gofer("audit", "verify", str(tmp_path / "empty")).returncode == 2


def test_a_crash_within_a_line_is_recovered_and_reported(tmp_path: Path) -> None:
    (file,) = written(tmp_path)
    whole = file.read_bytes()
    begins = whole.rindex(b'{"seq":7')
    for cut in range(begins, len(whole) + 1):
        file.write_bytes(whole[:cut])
        log = opened(tmp_path)
        log.write("call", sn="after")
        log.close()
        looked = verified(file)
        torn = begins < cut < len(whole) - 1
        assert looked.finding is None, (cut, looked.finding)
        assert [one for one in looked.notes if "cut short" in one] == looked.notes
        assert len(looked.notes) == torn
        assert file.read_bytes().startswith(whole[:cut])  # nothing is taken away
        events = [one.event for line in file.read_bytes().splitlines() if (one := read_line(line))]
        assert events[-4 if torn else -3 :] == [*["recovered"] * torn, "start", "call", "stop"]


def test_a_crash_while_a_crash_is_recovered_is_reported_too(tmp_path: Path) -> None:
    (file,) = written(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    opened(tmp_path).close()
    again = file.read_bytes()
    first = len(whole) - 40
    for cut in range(first, again.index(b"\n", first + 1) + 1, 7):
        file.write_bytes(again[:cut])
        opened(tmp_path).close()
        assert verified(file).finding is None, cut


def test_what_a_crash_left_is_no_pretext_for_a_change(tmp_path: Path) -> None:
    (file,) = written(tmp_path)
    file.write_bytes(file.read_bytes()[:-40])
    opened(tmp_path).close()
    assert verified(file).finding is None
    lines = file.read_bytes().splitlines(keepends=True)
    for at in (5, 6):  # another text instead, and one more before
        changed = list(lines)
        changed[at : at + (at == 6)] = [b"torn\n"]
        file.write_bytes(b"".join(changed))
        finding = verified(file).finding
        assert (finding.kind if finding else "") == "changed"


def test_rotation_keeps_the_chain_and_a_missing_file_is_found(tmp_path: Path) -> None:
    files = written(tmp_path, 300, max_size=1 << 13)
    assert len(files) > 5
    looked = verified(*files)
    assert (looked.finding, looked.notes) == (None, [])
    for file in files:
        first = read_line(file.read_bytes().splitlines()[0])
        assert first is not None
        assert (first.seq, first.event) == (int(file.stem[6:]), "start" if file == files[0] else "continued")
    finding = verified(*files[:2], *files[3:]).finding
    assert (finding and (finding.kind, finding.file, finding.line)) == ("missing", files[3].name, 1)
    finding = verified(files[1], files[0]).finding
    assert (finding.kind if finding else "") == "changed"
    files[2].write_bytes(b"".join(files[2].read_bytes().splitlines(keepends=True)[:-1]))
    finding = verified(*files).finding
    assert (finding and (finding.kind, finding.file, finding.line)) == ("missing", files[3].name, 1)
    looked = verified(*files[3:])
    assert looked.finding is None
    assert "those before it are not looked at" in looked.notes[0]


def test_only_so_many_files_are_kept_and_the_log_says_which_went(tmp_path: Path) -> None:
    files = written(tmp_path, 300, max_size=1 << 13, keep=3)
    assert len(files) == 3
    assert verified(*files).finding is None
    dropped = [name for file in files for name in json.loads(file.read_text().splitlines()[0])["dropped"]]
    assert len(dropped) == 3


def test_a_log_is_continued_after_a_stop_and_after_an_empty_new_file(tmp_path: Path) -> None:
    (file,) = written(tmp_path)
    assert written(tmp_path) == [file]
    looked = verified(file)
    assert (looked.finding, looked.records) == (None, 14)
    (tmp_path / "audit-000000000015.jsonl").touch(0o600)  # as a crash leaves it that comes in between
    files = written(tmp_path)
    assert len(files) == 2
    assert (verified(*files).finding, verified(*files).records) == (None, 21)


def test_two_cannot_write_one_log_and_no_log_is_not_overwritten(tmp_path: Path) -> None:
    log = opened(tmp_path)
    with pytest.raises(ConfigError, match="another process writes this audit log"):
        opened(tmp_path)
    log.close()
    (file,) = files_in(tmp_path)
    before = file.read_bytes() + b"x" * (2 << 20)
    file.write_bytes(before)
    for _ in range(2):  # the first has let go of what it held
        with pytest.raises(ConfigError, match="is no audit log; verify it"):
            opened(tmp_path)
    assert file.read_bytes() == before
    with pytest.raises(OSError, match="closed"):
        log.write("call")


FULL = """
import resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from gofer_plugin_audit.log import AuditLog

log = AuditLog(Path(sys.argv[1]), max_size=1 << 20, keep=None, sync=0.0)
log.open()
refused = 0
for number in range(2000):
    size = sum(path.stat().st_size for path in Path(sys.argv[1]).iterdir())
    if number % 40 == 0:
        # Room for so many bytes more, which ends somewhere within a record, or right behind one.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + number * 7 % 997, resource.RLIM_INFINITY))
    if number % 40 == 20:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        log.write("call", number=number)
    except OSError:
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.close()
print(refused)
"""


def test_a_full_disk_leaves_a_log_that_fits_and_has_exactly_what_was_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    refused = int(done.stdout)
    looked = verified(*files_in(tmp_path))
    assert looked.finding is None
    numbers = [json.loads(line).get("number") for file in files_in(tmp_path) for line in _whole(file)]
    numbers = [one for one in numbers if one is not None]
    assert refused > 500
    assert (len(numbers), len(set(numbers)), sorted(numbers)) == (2000 - refused, 2000 - refused, numbers)
    assert len([one for one in looked.notes if "cut short" in one]) > 20


def _whole(file: Path) -> list[bytes]:
    return [line for line in file.read_bytes().splitlines() if read_line(line)]


def test_what_did_not_reach_the_disk_ends_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(tmp_path)

    def broken(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:  # no disk breaks when it is told to
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="Input/output"):
            log.write("call", durable=True)
    with pytest.raises(OSError, match="Input/output"):
        log.write("call")  # whether the one before is there, nobody knows
    log.close()

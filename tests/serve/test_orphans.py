"""Workers of a server that is killed: they end, however busy, and take its private files along."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.waiting import until

LOADER = """
class Loader:
    def __call__(self):
        return Task()

class Task:
    facts = None

    def __call__(self, x, explain):
        while True:
            pass
"""

SERVER = """
import asyncio
from pathlib import Path

import numpy as np
from gradgeo.serve.workers import Pool
from spinning import Loader

async def main():
    pool = Pool(Loader(), size=2, timeout=300, folder=Path("private"))
    await pool.start()
    asyncio.create_task(pool(np.zeros((1, 2, 3), "f4"), False))  # one is busy for ever, the other idle
    await asyncio.sleep(0.5)
    print(*pool.pids, flush=True)
    await asyncio.sleep(300)

if __name__ == "__main__":
    asyncio.run(main())
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_killed_server_leaves_no_worker_and_no_private_files(tmp_path: Path) -> None:
    (tmp_path / "spinning.py").write_text(LOADER)
    (tmp_path / "main.py").write_text(SERVER)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "0-d.gradgeo").write_text("a copy")
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    server = subprocess.Popen(
        [sys.executable, "main.py"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert server.stdout is not None
    with server, server.stdout:
        workers = [int(pid) for pid in server.stdout.readline().split()]
        assert len(workers) == 2
        assert all(runs(pid) for pid in workers)
        server.kill()
    until(lambda: not any(runs(pid) for pid in workers), 10)
    assert not (tmp_path / "private").exists()
    assert (tmp_path / "main.py").exists()

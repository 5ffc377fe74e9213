# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The encrypted data path, proven on machines with a kernel that can encrypt.

The other tests' machines share the kernel of the machine around them, which may have no IPsec; then their overlay is in clear.
Here a master and a hospital run under QEMU, emulated (TCG, no hardware support is needed), each with Debian's cloud kernel, a
systemd and a Docker engine of its own, on a bridge in a network namespace of its own. The real `mipfed deploy` makes the
federation. The path between the machines carries ESP packets of up to 1400 bytes and says nothing about larger ones, as behind
many a hospital's firewall, so that the measured MTU is proven as well.

    pytest -s tests/esp                  prints the evidence as it goes
    MIPFED_ESP_KEEP=1 …                  leaves the folder with consoles, logs and the reports of mipfed when all passed, too
    MIPFED_ESP_WORKERS=2 …               with two hospitals; a pair that is well stands beside the broken one then

Needs root, 4 GB of memory and, besides what a lab needs, the Debian packages qemu-system-x86 and e2fsprogs. The disk is made from
a base of the lab with linux-image-cloud-amd64 and kept below /var/cache/mip-lab by its content. Nothing listens outside of the
namespace, and nothing is left: machines, namespace, registry and files end with the run, also when it fails. After a failure the
folder with the consoles and logs stays, and its name is printed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from emulated import TOOLS, Failure, machines
from federation import NARROW, Federation

#: The test that failed first; the others go on from what the ones before them have left.
broken: list[str] = []
WORKERS = int(os.environ.get("MIPFED_ESP_WORKERS", "1"))
NAMES = ("esp-ms", *(f"esp-wk-{number}" for number in range(1, WORKERS + 1)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail at once what cannot work any more: a federation that is not there proves nothing."""
    if broken and item.path.parent == Path(__file__).resolve().parent:
        pytest.fail(f"not tried: {broken[0]} failed", pytrace=False)


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Take note of a failure."""
    if call.excinfo and item.path.parent == Path(__file__).resolve().parent:
        broken.append(item.name)


@pytest.fixture(scope="session")
def federation() -> Iterator[Federation]:
    """Machines that run, images that are there, nothing deployed."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing or os.geteuid():
        raise Failure(f"this needs root and {', '.join(missing) or 'nothing else'}; bin/test esp installs what is missing")
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)

    folder = Path(tempfile.mkdtemp(prefix="mip-esp-"))
    made: list[Federation] = []
    try:
        with machines(folder, NAMES, say) as start:
            made.append(Federation(folder, start.network, start.machines, say))
            # while the machines boot
            made[0].images()
            say("images are there")
            start.wait()
            made[0].write_inventory()
            made[0].seed()
            made[0].swarm()
            start.network.filter(NARROW)
            yield made[0]
            if broken:
                say(made[0].state())
    finally:
        for federation in made:
            federation.close()
        for private in (*folder.glob("id_ed25519"), *folder.glob("*.tar"), *folder.glob("esp/ssh/id_ed25519")):
            private.unlink()
        if broken or not made or os.environ.get("MIPFED_ESP_KEEP"):
            say(f"consoles, logs and reports: {folder}")
        else:
            shutil.rmtree(folder)
        say("machines are gone")
